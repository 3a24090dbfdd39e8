"""The multi-task network: a trunk that says what tasks share, and a head for each task."""

import abc
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from mtl_jax.errors import UserError
from mtl_jax.models.backbones import Backbone
from mtl_jax.models.layers import Norm

STRIDE = 4
"""Pixels from one cell of the network's output to the next."""

Features = Any
"""What a trunk hands to the heads: one feature map for all tasks, or a dictionary of feature maps."""

Frames = tuple[Array, Array | None, Array | None]
"""Images, previous images and previous heat map, as a backbone takes them."""


class MultiTaskNetwork(nn.Module, abc.ABC):
    """From images to features, and from those to one prediction for each task.

    What stands between is a sharing architecture: a subclass in `mtl_jax.models.sharing`, which defines `share`, and
    `features_of` where that does not return a dictionary with an entry for each task.

    Attributes:
        tasks: Names of the tasks.
        make_backbone: Returns a new backbone; takes its name.
        make_neck: Returns a new neck, from feature maps to the one at stride 4; takes its name.
        heads: From the feature map of each task to its prediction.
        inputs: What is looked at; see `ModelConfig.inputs`.
        clip_length: Frames in a clip; clips come whole, one after the other, in training.
        channels: Channels of the feature maps that necks make.
        norm: Kind of normalisation in the architecture's own layers; see `layers.normalization`.
        dtype: Type of the activations.

    Example:
        >>> network = build_network(ModelConfig(), ("box", "classification"), num_classes=3)
        >>> variables = initialize(network, jax.random.key(0))
        >>> outputs = network.apply(variables, images, previous_images, previous_heatmap)
        >>> outputs["classification"].shape  # images: (8, 96, 128, 3)
        (8, 24, 32, 3)

        In two halves, where gradients at the features are wanted:

        >>> features = network.apply(variables, images, previous_images, previous_heatmap, method="trunk")
        >>> outputs = network.apply(variables, features, method="predict")
    """

    tasks: tuple[str, ...]
    make_backbone: Callable[..., Backbone]
    make_neck: Callable[..., nn.Module]
    heads: nn.Module
    inputs: Literal["frame", "pair", "pair_heatmap"] = "frame"
    clip_length: int = 1
    channels: int = 32
    norm: Norm = "batch"
    dtype: Any = jnp.float32

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
    ) -> Features:
        """Returns the features that the heads see; arguments as of a call."""
        given = (previous_images is not None, previous_heatmap is not None)
        if given != (self.inputs != "frame", self.inputs == "pair_heatmap"):
            raise ValueError(f"inputs {self.inputs!r}: previous image and heat map given or not: {given}")
        height, width = images.shape[1:3]
        if height % 32 or width % 32:
            raise UserError(
                f"data.image_size: ({height}, {width}) is not divisible by 32 in both; choose one that is"
            )
        return self.share((images, previous_images, previous_heatmap), train)

    def predict(self, features: Features) -> dict[str, Float[Array, "batch rows columns _"]]:
        """Returns each task's prediction from the trunk's features."""
        return self.heads({task: self.features_of(features, task) for task in self.tasks})

    def all_predictions(
        self, features: Features
    ) -> dict[str, tuple[Float[Array, "batch rows columns _"], ...]]:
        """Returns each task's prediction, followed by those on the way to it, as they are trained."""
        outputs = self.predict(features)
        return {task: (outputs[task], *self.early_predictions(features, task)) for task in self.tasks}

    @abc.abstractmethod
    def share(self, frames: Frames, train: bool) -> Features:
        """Returns the features that the heads see."""

    @nn.nowrap
    def features_of(self, features: Features, task: str) -> Float[Array, "batch rows columns channels"]:
        """Returns a task's part of the features."""
        return features[task]

    @nn.nowrap
    def early_predictions(
        self, features: Features, task: str
    ) -> tuple[Float[Array, "batch rows columns _"], ...]:
        """Returns what is predicted for a task on the way, and is trained like its prediction; most predict nothing."""
        return ()

    @nn.nowrap
    def penalty(self, params: dict[str, Any]) -> Float[Array, ""] | None:
        """Returns what is added to the weighted losses, whatever the weighting; most add nothing."""
        return None


def initialize(network: MultiTaskNetwork, key: PRNGKeyArray) -> dict[str, Any]:
    """Returns new variables of a network: "params" and, with batch norm, "batch_stats"."""
    return jax.jit(network.init)(key, *example_inputs(network))


def initial_memory(network: MultiTaskNetwork, variables: dict[str, Any], inputs: Frames) -> Any:
    """Returns what a network remembers before the first frame of a video: nothing, but for some architectures.

    Args:
        network: The network.
        variables: Its variables.
        inputs: A frame, of the size of those to come.
    """
    _, updated = jax.eval_shape(lambda: network.apply(variables, *inputs, mutable=["memory"], method="trunk"))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), updated.get("memory", {}))


def example_inputs(network: MultiTaskNetwork, size: tuple[int, int] = (32, 32)) -> Frames:
    """Returns inputs for a clip of zeros."""
    image = jnp.zeros((network.clip_length, *size, 3), jnp.uint8)
    previous_image = None if network.inputs == "frame" else image
    shape = (network.clip_length, size[0] // STRIDE, size[1] // STRIDE, 1)
    return image, previous_image, jnp.zeros(shape) if network.inputs == "pair_heatmap" else None
