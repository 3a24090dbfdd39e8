"""Batch norm that keeps no more for its backward pass than what went in.

Automatic differentiation keeps the normalised feature map, in float32, beside the input; derived by hand, the backward
pass needs the input as it is, in bfloat16 where the network computes in that, and two numbers for each channel.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Batch norm with the parameters and statistics of `flax.linen.BatchNorm`, and its results.

    Attributes:
        use_running_average: Normalise by the running averages instead of the batch's statistics.
        momentum: Share of the old running average in the new one.
        epsilon: Added to the variance.
        scale_init: Initialiser of the scale.
        dtype: Type of the result.
        relu: Cut the result off at zero.

    Example:
        >>> norm = BatchNorm(use_running_average=False)
        >>> y, updates = norm.apply(variables, x, mutable=["batch_stats"])

    Reference: Ioffe & Szegedy, "Batch Normalization", ICML 2015 (arXiv:1502.03167).
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones
    dtype: Any = jnp.float32
    relu: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Returns the feature map, normalised."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if self.use_running_average:
            y = scaled(x, running_mean.value, running_var.value, scale, bias, self.epsilon, self.dtype)
            return nn.relu(y) if self.relu else y
        y, mean, var = normalize_batch(x, scale, bias, self.epsilon, self.dtype, self.relu)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y


def scaled(
    x: Float[Array, "*places channels"],
    mean: Float[ArrayLike, "channels"],
    var: Float[ArrayLike, "channels"],
    scale: Float[ArrayLike, "channels"],
    bias: Float[ArrayLike, "channels"],
    epsilon: float,
    dtype: Any,
) -> Float[Array, "*places channels"]:
    """Returns `scale (x - mean) / sqrt(var + epsilon) + bias`, computed in float32 and returned as `dtype`."""
    return ((x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def normalize_batch(
    x: Float[Array, "*places channels"],
    scale: Float[ArrayLike, "channels"],
    bias: Float[ArrayLike, "channels"],
    epsilon: float,
    dtype: Any,
    relu: bool = False,
) -> tuple[Float[Array, "*places channels"], Float[Array, "channels"], Float[Array, "channels"]]:
    """Returns `x` normalised by its own statistics over all places, and these.

    One pass over `x` finds both statistics, in float32. They have no derivative of their own: what comes out for them
    is for running averages.

    Args:
        x: Feature maps.
        scale: Standard deviation of the result.
        bias: Mean of the result.
        epsilon: Added to the variance.
        dtype: Type of the result.
        relu: Cut the result off at zero.

    Returns:
        The result, the mean, and the variance.
    """
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axes)
    var = jnp.maximum(jnp.mean(wide * wide, axes) - mean * mean, 0)
    y = scaled(x, mean, var, scale, bias, epsilon, dtype)
    return (jnp.maximum(y, 0) if relu else y), mean, var


def _forward(x, scale, bias, epsilon, dtype, relu):
    y, mean, var = normalize_batch(x, scale, bias, epsilon, dtype, relu)
    return (y, mean, var), (x, mean, var, scale, bias)


def _backward(epsilon, dtype, relu, residuals, gradients):
    x, mean, var, scale, bias = residuals
    gradient = gradients[0].astype(jnp.float32)
    if relu:  # Found again rather than kept: the input must be read anyway.
        gradient = jnp.where(scaled(x, mean, var, scale, bias, epsilon, dtype) > 0, gradient, 0)
    axes, places = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    inverse = jax.lax.rsqrt(var + epsilon)
    unit = (x - mean) * inverse
    of_bias = jnp.sum(gradient, axes)
    of_scale = jnp.sum(gradient * unit, axes)
    of_x = scale * inverse * (gradient - (of_bias + unit * of_scale) / places)
    return of_x.astype(x.dtype), of_scale, of_bias


normalize_batch.defvjp(_forward, _backward)
