"""DLA, layer by layer that of timm."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.backbones.backbone import Backbone, Block
from mtl_jax.models.backbones.resnet import ResidualBlock
from mtl_jax.models.convolution import max_pool
from mtl_jax.models.layers import ConvNorm, HeatmapStem, Norm, Stem, centered
from mtl_jax.models.necks.fpn import upsample


class DLA(Backbone):
    """Residual blocks whose outputs are aggregated in trees, to stride 32; without deformable convolutions.

    CenterNet and CenterTrack bring the stages together with deformable convolutions; here the neck does that.

    Attributes:
        channels: Channels at strides 1 to 32.
        depths: Depths of the trees at strides 4 to 32.

    Reference: Yu et al., "Deep Layer Aggregation", CVPR 2018 (arXiv:1707.06484).
    """

    channels: tuple[int, int, int, int, int, int] = (16, 32, 64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (1, 2, 2, 1)

    def setup(self) -> None:
        """Makes the layers."""
        options: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        self.base_layer = Stem(self.channels[0], 7, 1, centered(7), **options)
        self.level0 = ConvNorm(self.channels[0], **options)
        self.level1 = ConvNorm(self.channels[1], 3, 2, centered(3), **options)
        self.heatmap_stem = HeatmapStem(self.dtype)
        for i, depth in enumerate(self.depths):
            setattr(self, f"level{i + 2}", Tree(self.channels[i + 2], depth, 2, keep_input=i > 0, **options))

    def entry(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None,
        train: bool,
    ) -> Float[Array, "batch _rows _columns channels"]:
        """Returns features of both frames and of the heat map at stride 2: the first tree leads to stride 4."""
        x = self.base_layer(self.normalized(images), self.normalized(previous_images), train)
        x = self.level1(self.level0(x, train), train)
        return self.heatmap_stem(x, None if previous_heatmap is None else upsample(previous_heatmap))

    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Returns a tree for each stage."""
        return tuple((getattr(self, f"level{i + 2}"),) for i in range(len(self.depths)))


class Tree(nn.Module):
    """A binary tree over residual blocks in a row, whose root sees the outputs along the way to it.

    Attributes:
        channels: Output channels.
        depth: 1: two blocks and their root; otherwise two trees one behind the other.
        stride: Step of the first block.
        norm: Kind of normalisation; see `layers.normalization`.
        dtype: Type of the activations.
        keep_input: The root sees the input, too.
    """

    channels: int
    depth: int
    stride: int
    norm: Norm
    dtype: Any
    keep_input: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width inputs"],
        train: bool,
        others: tuple[Float[Array, "batch rows columns _"], ...] = (),
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the feature map, smaller by the stride.

        Args:
            x: Feature map.
            train: Normalise by the batch's statistics.
            others: What else the root sees.
        """
        options: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        shortcut = x if self.stride == 1 else max_pool(x, self.stride, self.stride, padding=0)
        if self.keep_input:
            others = (*others, shortcut)
        if self.depth > 1:
            x = Tree(self.channels, self.depth - 1, self.stride, **options, name="tree1")(x, train)
            root = Tree(self.channels, self.depth - 1, 1, **options, name="tree2")
            return root(x, train, (*others, x))
        if x.shape[-1] != self.channels:
            shortcut = ConvNorm(self.channels, 1, activation=None, **options, name="project")(shortcut, train)
        block = ResidualBlock(self.channels, self.stride, bottleneck=False, **options, name="tree1")
        first = block(x, train, shortcut)
        second = ResidualBlock(self.channels, 1, bottleneck=False, **options, name="tree2")(first, train)
        together = jnp.concatenate([second, first, *others], axis=-1)
        return ConvNorm(self.channels, 1, **options, name="root")(together, train)
