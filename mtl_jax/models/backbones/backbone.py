"""What all backbones have in common: an entry, and stages of blocks that can be run one by one."""

import abc
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.layers import Norm

Block = Callable[
    [Float[Array, "batch height width inputs"], bool], Float[Array, "batch rows columns outputs"]
]


class Backbone(nn.Module, abc.ABC):
    """A network from images to feature maps, in stages, so that sharing architectures can work between them.

    Attributes:
        norm: Kind of normalisation; see `layers.normalization`.
        dtype: Type of the activations.
        remat: What the backward pass computes anew: nothing, all but what comes out of each block, or of each stage.

    Example:
        >>> backbone = build_backbone("resnet18")
        >>> features = backbone.apply(variables, images)  # all stages; or, inside of a module, one by one:
        >>> x = backbone.entry(images, None, None, train)
        >>> x = backbone.stage(0, x, train)
    """

    norm: Norm = "batch"
    dtype: Any = jnp.float32
    remat: Literal["none", "blocks", "stages"] = "none"
    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None = None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """Returns feature maps at strides 4, 8, 16 (and 32).

        Args:
            images: RGB pixels.
            previous_images: The frames before, or None.
            previous_heatmap: Objects in the frames before, rendered at stride 4, or None.
            train: Normalise by the batch's statistics.
        """
        x = self.entry(images, previous_images, previous_heatmap, train)
        outputs = []
        for index in range(self.num_stages):
            x = self.stage(index, x, train)
            outputs.append(x)
        return self.pyramid(outputs, train)

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self.blocks())

    @abc.abstractmethod
    def entry(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None,
        train: bool,
    ) -> Float[Array, "batch _rows _columns channels"]:
        """Returns what the first stage starts from: all that is seen, brought together."""

    @abc.abstractmethod
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Returns the blocks of each stage, each a function of a feature map and of `train`."""

    def stage(
        self, index: int, x: Float[Array, "batch height width inputs"], train: bool
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns a stage's feature map from that of the stage before, or from the entry's."""

        def run(backbone: Backbone, x: Array) -> Array:
            for place in range(len(backbone.blocks()[index])):
                x = backbone.block(index, place, x, train)
            return x

        return (nn.remat(run) if self.remat == "stages" else run)(self, x)

    def block(
        self, stage: int, place: int, x: Float[Array, "batch height width inputs"], train: bool
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the feature map after one block of a stage."""

        def run(backbone: Backbone, x: Array) -> Array:
            return backbone.blocks()[stage][place](x, train)

        with jax.named_scope(f"stage{stage}"):  # for profiles, and for pictures of the network
            return (nn.remat(run) if self.remat == "blocks" else run)(self, x)

    def pyramid(
        self, outputs: list[Float[Array, "batch _height _width _channels"]], train: bool
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """Returns the feature maps at strides 4, 8, 16 (and 32) from those of the stages: the same, in most."""
        return tuple(outputs)

    def normalized(
        self, images: UInt8[Array, "batch height width 3"] | None
    ) -> Float[Array, "batch height width 3"] | None:
        """Returns pixels less the mean colour, over its standard deviation; None for None."""
        if images is None:
            return None
        pixels = (images.astype(jnp.float32) - jnp.array(self.mean)) / jnp.array(self.std)
        return pixels.astype(self.dtype)
