"""Building blocks that backbones, neck and heads share."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mtl_jax.models.batch_norm import BatchNorm
from mtl_jax.models.convolution import convolution

Norm = Literal["batch", "local", "group", "layer", "frozen"]
Padding = str | Sequence[tuple[int, int]]


def he_normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    """Returns a kernel, its last axis the outputs, from the normal distribution of variance `2 / inputs`.

    Drawn as a vector: XLA's CPU backend takes a second or more to compile the drawing of each four-dimensional kernel.
    """
    deviation = math.sqrt(2 / math.prod(shape[:-1]))
    return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


Conv = functools.partial(nn.Conv, kernel_init=he_normal, conv_general_dilated=convolution)
"""`flax.linen.Conv` in the form that is fast on the backend, initialised for a ReLU to follow."""

MOMENTUM = 0.9
"""Share of the old running average in the new one, in batch norm."""

PREVIOUS_IMAGE = "previous_image"
PREVIOUS_HEATMAP = "previous_heatmap"
"""Names of the layers through which a backbone sees the previous frame and its objects."""


def centered(kernel_size: int) -> Padding:
    """Returns the padding of half a kernel on all sides: PyTorch's, and, with a stride, not TensorFlow's "SAME"."""
    return [(kernel_size // 2, kernel_size // 2)] * 2


def normalization(
    kind: Norm,
    train: bool,
    *,
    epsilon: float,
    dtype: Any,
    scale_init: Callable = nn.initializers.ones,
    name: str,
    **batch_options: Any,
) -> nn.Module:
    """Returns the layer that normalises a feature map; its parameters and statistics are float32.

    Under `jax.jit` with a batch sharded over devices, "batch" normalises over the global batch: one device and many
    compute the same. "local" normalises over each device's share and spares the communication; what is computed then
    depends on the number of devices.

    Args:
        kind: "batch": by the batch's statistics in training, by their running averages otherwise. "local": the same,
            but by the statistics of each device's share of the batch; see `LocalBatchNorm`. "group": by the statistics
            of eight neighbouring channels of each image. "layer": by those of all channels at each place. "frozen": by
            the stored averages, always.
        train: True while training.
        epsilon: Added to the variance.
        dtype: Type of the result.
        scale_init: Initialiser of the scale.
        name: Name of the layer.
        **batch_options: What else `BatchNorm` takes; for "batch" and "frozen".
    """
    options = {"epsilon": epsilon, "dtype": dtype, "scale_init": scale_init, "name": name}
    if kind == "group":
        return nn.GroupNorm(num_groups=None, group_size=8, **options)
    if kind == "layer":
        return nn.LayerNorm(**options)
    if kind == "local":
        return LocalBatchNorm(use_running_average=not train, momentum=MOMENTUM, **options)
    return BatchNorm(
        use_running_average=kind == "frozen" or not train, momentum=MOMENTUM, **options, **batch_options
    )


def normalized(
    x: Float[Array, "batch height width channels"],
    kind: Norm,
    train: bool,
    activation: Callable[[Array], Array] | None,
    **options: Any,
) -> Float[Array, "batch height width channels"]:
    """Returns a feature map through a layer of `normalization`, whose options these are, and an activation, if any."""
    if activation is nn.relu and kind in ("batch", "frozen"):
        return normalization(kind, train, relu=True, **options)(x)
    x = normalization(kind, train, **options)(x)
    return x if activation is None else activation(x)


class LocalBatchNorm(nn.Module):
    """Batch norm by the statistics of each device's share of the batch, with the parameters of `flax.linen.BatchNorm`.

    The batch counts as split into equal parts, in order, over the devices of the mesh that `jax.set_mesh` has set;
    without a mesh it is one part. The running averages are of the mean over devices.

    Attributes:
        use_running_average: Normalise by the running averages instead.
        momentum: Share of the old running average in the new one.
        epsilon: Added to the variance.
        scale_init: Initialiser of the scale.
        dtype: Type of the result.

    Example:
        >>> with jax.set_mesh(mesh):
        ...     outputs, updates = jax.jit(apply)(variables, batch)

    Reference: Goyal et al., "Accurate, Large Minibatch SGD" (arXiv:1706.02677), section 2.3.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    scale_init: Callable
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Returns the feature map, normalised.

        Raises:
            ValueError: The batch does not divide over the devices.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if self.use_running_average:
            return self._scaled(x, running_mean.value, running_var.value, scale, bias)
        devices = math.prod(jax.sharding.get_abstract_mesh().shape.values())
        if x.shape[0] % devices:
            raise ValueError(f"norm 'local': a batch of {x.shape[0]} does not divide over {devices} devices")
        shares = x.reshape(devices, -1, *x.shape[1:])
        # In float32, and the variance about the mean: the mean of squares less the square of the mean loses digits.
        mean = jnp.mean(shares, (1, 2, 3), jnp.float32, keepdims=True)
        var = jnp.mean((shares - mean) ** 2, (1, 2, 3), keepdims=True)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                average = new.mean(0).reshape(channels)
                running.value = self.momentum * running.value + (1 - self.momentum) * average
        return self._scaled(shares, mean, var, scale, bias).reshape(x.shape)

    def _scaled(self, x: Array, mean: Array, var: Array, scale: Array, bias: Array) -> Array:
        return ((x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)


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
        options = {"epsilon": self.epsilon, "dtype": self.dtype, "scale_init": self.scale_init}
        return normalized(x, self.norm, train, self.activation, **options, name="norm")


class Stem(nn.Module):
    """First layer of a backbone: a convolution over each frame, their sum, then normalisation and activation, if any.

    The previous frame has weights of its own, so that weights pretrained on stills stay valid. Trained from scratch
    they must start at random like the others: from zero, motion is not learned for hundreds of steps.

    Attributes:
        features: Output channels.
        kernel_size: Height and width of the kernel.
        stride: Step along height and width.
        padding: "SAME" (as TensorFlow pads), or (before, after) along height and width.
        use_bias: Add a bias.
        norm: Kind of normalisation, see `normalization`; None: none.
        epsilon: Added to the variance.
        activation: What follows; None: nothing.
        dtype: Type of the activations.

    Reference: Zhou et al., "Tracking Objects as Points", ECCV 2020 (arXiv:2004.01177).
    """

    features: int
    kernel_size: int
    stride: int
    padding: Padding = "SAME"
    use_bias: bool = False
    norm: Norm | None = "batch"
    epsilon: float = 1e-5
    activation: Callable[[Array], Array] | None = nn.relu
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
            dtype=self.dtype,
        )
        x = conv(use_bias=self.use_bias, name="conv")(image)
        if previous_image is not None:
            x += conv(use_bias=False, name=PREVIOUS_IMAGE)(previous_image)
        if self.norm is None:
            return x if self.activation is None else self.activation(x)
        options = {"epsilon": self.epsilon, "dtype": self.dtype}
        return normalized(x, self.norm, train, self.activation, **options, name="norm")


class HeatmapStem(nn.Module):
    """Adds what was found in the previous frame, a heat map at stride 4, to a feature map of that stride.

    Attributes:
        dtype: Type of the activations.
        patch: Heat map's cells along a side of one of the feature map's, where that is coarser.
    """

    dtype: Any = jnp.float32
    patch: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        previous_heatmap: Float[Array, "batch rows columns 1"] | None,
    ) -> Float[Array, "batch height width channels"]:
        """Returns `x`, unchanged where there is no heat map."""
        if previous_heatmap is None:
            return x
        size = 3 if self.patch == 1 else self.patch
        conv = Conv(
            x.shape[-1], (size, size), self.patch, use_bias=False, dtype=self.dtype, name=PREVIOUS_HEATMAP
        )
        return x + conv(previous_heatmap)
