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
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Batch norm with the parameters and statistics of `flax.linen.BatchNorm`, and its results.

    Attributes:
        use_running_average: Normalise by the running averages instead of the batch's statistics.
        momentum: Share of the old running average in the new one.
        epsilon: Added to the variance.
        scale_init: Initialiser of the scale.
        dtype: Type of the result.

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
            return scaled(x, running_mean.value, running_var.value, scale, bias, self.epsilon, self.dtype)
        y, mean, var = normalize_batch(x, scale, bias, self.epsilon, self.dtype)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y


def scaled(
    x: Float[Array, "*places channels"],
    mean: Float[Array, "channels"],
    var: Float[Array, "channels"],
    scale: Float[Array, "channels"],
    bias: Float[Array, "channels"],
    epsilon: float,
    dtype: Any,
) -> Float[Array, "*places channels"]:
    """Returns `scale (x - mean) / sqrt(var + epsilon) + bias`, computed in float32 and returned as `dtype`."""
    return ((x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_batch(
    x: Float[Array, "*places channels"],
    scale: Float[Array, "channels"],
    bias: Float[Array, "channels"],
    epsilon: float,
    dtype: Any,
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

    Returns:
        The result, the mean, and the variance.
    """
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axes)
    var = jnp.maximum(jnp.mean(wide * wide, axes) - mean * mean, 0)
    return scaled(x, mean, var, scale, bias, epsilon, dtype), mean, var


def _forward(x, scale, bias, epsilon, dtype):
    y, mean, var = normalize_batch(x, scale, bias, epsilon, dtype)
    return (y, mean, var), (x, mean, jax.lax.rsqrt(var + epsilon), scale)


def _backward(epsilon, dtype, residuals, gradients):
    x, mean, inverse, scale = residuals
    gradient = gradients[0].astype(jnp.float32)
    axes, places = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    unit = (x - mean) * inverse
    of_bias = jnp.sum(gradient, axes)
    of_scale = jnp.sum(gradient * unit, axes)
    of_x = scale * inverse * (gradient - (of_bias + unit * of_scale) / places)
    return of_x.astype(x.dtype), of_scale, of_bias


normalize_batch.defvjp(_forward, _backward)
