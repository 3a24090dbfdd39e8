"""Building blocks that backbones, neck and heads share."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mtl_jax.models.convolution import convolution

Norm = Literal["batch", "group", "frozen"]
Padding = str | Sequence[tuple[int, int]]


def he_normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    """Returns a kernel, its last axis the outputs, from the normal distribution of variance `2 / inputs`.

    Drawn as a vector: XLA's CPU backend takes a second or more to compile the drawing of each four-dimensional kernel.
    """
    deviation = math.sqrt(2 / math.prod(shape[:-1]))
    return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


Conv = functools.partial(nn.Conv, kernel_init=he_normal, conv_general_dilated=convolution)
"""`flax.linen.Conv` in the form that is fast on the backend, initialised for a ReLU to follow."""

PREVIOUS_IMAGE = "previous_image"
PREVIOUS_HEATMAP = "previous_heatmap"
"""Names of the layers through which a backbone sees the previous frame and its objects."""


def normalization(
    kind: Norm,
    train: bool,
    *,
    epsilon: float,
    dtype: Any,
    scale_init: Callable = nn.initializers.ones,
    name: str,
) -> nn.Module:
    """Returns the layer that normalises a feature map; its parameters and statistics are float32.

    Under `jax.jit` with a batch sharded over devices, "batch" normalises over the global batch: one device and many
    compute the same.

    Args:
        kind: "batch": by the batch's statistics in training, by their running averages otherwise. "group": by the
            statistics of eight neighbouring channels of each image. "frozen": by the stored averages, always.
        train: True while training.
        epsilon: Added to the variance.
        dtype: Type of the result.
        scale_init: Initialiser of the scale.
        name: Name of the layer.
    """
    options = {"epsilon": epsilon, "dtype": dtype, "scale_init": scale_init, "name": name}
    if kind == "group":
        return nn.GroupNorm(num_groups=None, group_size=8, **options)
    return nn.BatchNorm(use_running_average=kind == "frozen" or not train, momentum=0.9, **options)


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation, activation.

    Attributes:
        features: Output channels.
        kernel_size: Height and width of the kernel.
        stride: Step along height and width.
        padding: "SAME" (as TensorFlow pads), or (before, after) along height and width.
        depthwise: Convolve each channel by itself; `features` must equal the input channels.
        norm: Kind of normalisation; see `normalization`.
        epsilon: Added to the variance.
        activation: What follows; None: nothing.
        scale_init: Initialiser of the normalisation's scale.
        dtype: Type of the activations.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Padding = "SAME"
    depthwise: bool = False
    norm: Norm = "batch"
    epsilon: float = 1e-5
    activation: Callable[[Array], Array] | None = nn.relu
    scale_init: Callable = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"], train: bool
    ) -> Float[Array, "batch rows columns features"]:
        """Returns the feature map, smaller by the stride."""
        x = Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            self.stride,
            self.padding,
            feature_group_count=self.features if self.depthwise else 1,
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = normalization(
            self.norm, train, epsilon=self.epsilon, dtype=self.dtype, scale_init=self.scale_init, name="norm"
        )(x)
        return x if self.activation is None else self.activation(x)


class Stem(nn.Module):
    """First layer of a backbone: a convolution over each frame, their sum, normalisation, activation.

    The previous frame has weights of its own, so that weights pretrained on stills stay valid. Trained from scratch
    they must start at random like the others: from zero, motion is not learned for hundreds of steps.

    Attributes:
        features: Output channels.
        kernel_size: Height and width of the kernel.
        stride: Step along height and width.
        padding: "SAME" (as TensorFlow pads), or (before, after) along height and width.
        norm: Kind of normalisation; see `normalization`.
        epsilon: Added to the variance.
        activation: What follows.
        dtype: Type of the activations.

    Reference: Zhou et al., "Tracking Objects as Points", ECCV 2020 (arXiv:2004.01177).
    """

    features: int
    kernel_size: int
    stride: int
    padding: Padding = "SAME"
    norm: Norm = "batch"
    epsilon: float = 1e-5
    activation: Callable[[Array], Array] = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width 3"],
        previous_image: Float[Array, "batch height width 3"] | None,
        train: bool,
    ) -> Float[Array, "batch rows columns features"]:
        """Returns features of both frames together; the previous one may be None."""
        conv = functools.partial(
            Conv,
            self.features,
            (self.kernel_size, self.kernel_size),
            self.stride,
            self.padding,
            use_bias=False,
            dtype=self.dtype,
        )
        x = conv(name="conv")(image)
        if previous_image is not None:
            x += conv(name=PREVIOUS_IMAGE)(previous_image)
        x = normalization(self.norm, train, epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        return self.activation(x)


class HeatmapStem(nn.Module):
    """Adds what was found in the previous frame, a heat map at stride 4, to a feature map of that stride.

    Attributes:
        dtype: Type of the activations.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        previous_heatmap: Float[Array, "batch height width 1"] | None,
    ) -> Float[Array, "batch height width channels"]:
        """Returns `x`, unchanged where there is no heat map."""
        if previous_heatmap is None:
            return x
        conv = Conv(x.shape[-1], (3, 3), use_bias=False, dtype=self.dtype, name=PREVIOUS_HEATMAP)
        return x + conv(previous_heatmap)
