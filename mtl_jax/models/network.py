"""The multi-task network: a trunk that all tasks share, and a head for each."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, UInt8

from mtl_jax.config import ModelConfig, Task
from mtl_jax.errors import UserError
from mtl_jax.models.backbones import build_backbone
from mtl_jax.models.heads import Heads
from mtl_jax.models.necks.fpn import FPN

STRIDE = 4
"""Pixels from one cell of the network's output to the next."""


class MultiTaskNetwork(nn.Module):
    """Backbone, neck, and a head for each task (hard parameter sharing).

    Attributes:
        backbone: From images to feature maps.
        neck: From feature maps to the one at stride 4.
        heads: From that to predictions.
        inputs: What is looked at; see `ModelConfig.inputs`.

    Example:
        >>> network = build_network(ModelConfig(), ("box", "classification"), num_classes=3)
        >>> variables = initialize(network, jax.random.key(0))
        >>> outputs = network.apply(variables, images, previous_images, previous_heatmap)
        >>> outputs["classification"].shape  # images: (8, 96, 128, 3)
        (8, 24, 32, 3)

        In two halves, where gradients at the shared features are wanted:

        >>> features = network.apply(variables, images, previous_images, previous_heatmap, method="trunk")
        >>> outputs = network.apply(variables, features, method="predict")
    """

    backbone: nn.Module
    neck: nn.Module
    heads: nn.Module
    inputs: Literal["frame", "pair", "pair_heatmap"] = "frame"

    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None = None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None = None,
        train: bool = False,
    ) -> dict[str, Float[Array, "batch rows columns _"]]:
        """Returns each task's prediction, float32, at stride 4.

        Args:
            images: RGB pixels; height and width divisible by 32.
            previous_images: The frames before; None where `inputs` is "frame".
            previous_heatmap: Objects in the frames before, of all classes, rendered at stride 4, 0 to 1; None where
                `inputs` is not "pair_heatmap".
            train: Normalise by the batch's statistics and update the running averages (collection "batch_stats").

        Raises:
            UserError: Height or width does not fit.
            ValueError: What is given is not what `inputs` says.
        """
        return self.predict(self.trunk(images, previous_images, previous_heatmap, train))

    def trunk(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None = None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch rows columns channels"]:
        """Returns the features that all heads see; arguments as of a call."""
        given = (previous_images is not None, previous_heatmap is not None)
        if given != (self.inputs != "frame", self.inputs == "pair_heatmap"):
            raise ValueError(f"inputs {self.inputs!r}: previous image and heat map given or not: {given}")
        height, width = images.shape[1:3]
        if height % 32 or width % 32:
            raise UserError(
                f"data.image_size: ({height}, {width}) is not divisible by 32 in both; choose one that is"
            )
        return self.neck(self.backbone(images, previous_images, previous_heatmap, train), train)

    def predict(
        self, features: Float[Array, "batch rows columns channels"]
    ) -> dict[str, Float[Array, "batch rows columns _"]]:
        """Returns each task's prediction from the trunk's features."""
        return self.heads(features)


def build_network(config: ModelConfig, tasks: tuple[Task, ...], num_classes: int) -> MultiTaskNetwork:
    """Returns the network that a configuration describes.

    Args:
        config: The network's part of the configuration.
        tasks: Tasks that get a head.
        num_classes: Classes of objects.

    Raises:
        UserError: There is no such backbone.
    """
    channels = {"classification": num_classes, "box": 4, "motion": 4, "identity": config.embedding_dim}
    return MultiTaskNetwork(
        backbone=build_backbone(config.backbone, config.norm, config.dtype),
        # Nobody has statistics for a neck: where those of the backbone are frozen, it normalises each image.
        neck=FPN(config.neck_channels, "group" if config.norm == "frozen" else config.norm, config.dtype),
        heads=Heads({task: channels[task] for task in tasks}, config.head_channels, config.dtype),
        inputs=config.inputs,
    )


def initialize(network: MultiTaskNetwork, key: PRNGKeyArray) -> dict[str, Any]:
    """Returns new variables of a network: "params" and, with batch norm, "batch_stats"."""
    image = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    previous_image = None if network.inputs == "frame" else image
    heatmap = jnp.zeros((1, 32 // STRIDE, 32 // STRIDE, 1)) if network.inputs == "pair_heatmap" else None
    return jax.jit(network.init)(key, image, previous_image, heatmap)


def shared_mask(params: dict[str, Any]) -> PyTree[bool]:
    """Returns a tree like `params`: True on parameters that tasks share (backbone and neck), False on heads."""
    return jax.tree.map_with_path(lambda path, _: is_shared(path[0].key), params)


def is_shared(path: str) -> bool:
    """Whether tasks share the parameter of this path, such as `neck/output/kernel`: all but the heads'."""
    return path.split("/")[0] != "heads"
