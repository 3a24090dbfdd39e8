"""Convolution and pooling in the form that compiles to fast code on the backend at hand.

XLA's CPU backend has a good k×k convolution, but its depthwise convolution is many times slower than the arithmetic
asks for, and so are the gradients of its 1×1 convolution. Both have equivalent forms that it compiles well: on two
cores, a training step of EfficientNet-lite0 takes a quarter of the time. The parameters are those of
`flax.linen.Conv` in any case, so that a checkpoint moves freely between devices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def convolution(
    inputs: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kernel_height kernel_width inputs_per_group outputs"],
    window_strides: tuple[int, int],
    padding: Any,
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> Float[Array, "batch rows columns outputs"]:
    """Convolves, as `jax.lax.conv_general_dilated` does, whose arguments it takes.

    Meant for `flax.linen.Conv(..., conv_general_dilated=convolution)`. The choice is made when the function is traced.

    Args:
        inputs: Feature map.
        kernel: Weights.
        window_strides: Strides along height and width.
        padding: "SAME", "VALID", or (before, after) along height and width.
        feature_group_count: Groups into which the channels are divided.
        **options: What else `lax.conv_general_dilated` takes; the fast forms expect no dilation.

    Returns:
        The feature map, convolved.
    """
    if jax.default_backend() == "cpu":
        size, strides = kernel.shape[:2], tuple(window_strides)
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(inputs.shape[1:3], size, strides, padding)
        padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
        if feature_group_count == 1 and size == (1, 1):
            return patchwise(padded[:, :: strides[0], :: strides[1]], kernel)
        if feature_group_count == 1 and size == strides:
            return patchwise(padded, kernel)
        if feature_group_count == inputs.shape[-1] == kernel.shape[-1]:
            return depthwise(padded, kernel, strides)
    return lax.conv_general_dilated(
        inputs, kernel, window_strides, padding, feature_group_count=feature_group_count, **options
    )


def patchwise(
    inputs: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kernel_height kernel_width inputs outputs"],
) -> Float[Array, "batch rows columns outputs"]:
    """Computes a convolution whose stride is the size of its kernel, as one matrix product over all patches."""
    kernel_height, kernel_width, channels, outputs = kernel.shape
    batch, height, width, _ = inputs.shape
    rows, columns = height // kernel_height, width // kernel_width
    inputs = inputs[:, : rows * kernel_height, : columns * kernel_width]
    patches = inputs.reshape(batch, rows, kernel_height, columns, kernel_width, channels).swapaxes(2, 3)
    # Flattened by hand: with several contracted axes the gradient of the kernel is several times slower.
    flat = patches.reshape(batch * rows * columns, -1) @ kernel.reshape(-1, outputs)
    return flat.reshape(batch, rows, columns, outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width 1 channels"],
    strides: tuple[int, int] = (1, 1),
) -> Float[Array, "batch rows columns channels"]:
    """Computes a depthwise convolution, without padding, as one multiply-add for each position of the kernel."""
    windows = _windows(inputs, kernel.shape[:2], strides)
    weights = kernel.reshape(-1, kernel.shape[-1])
    return sum(window * weight for window, weight in zip(windows, weights, strict=True))


def _depthwise_forward(inputs, kernel, strides):
    return depthwise(inputs, kernel, strides), (inputs, kernel)


def _depthwise_backward(strides, residuals, gradient):
    inputs, kernel = residuals
    # The gradient of the inputs is the convolution of the spread-out gradient with the kernel turned round. What
    # automatic differentiation makes of it, a sum of k² padded arrays, is two to five times slower for k = 5.
    rows, columns = (
        (extent - 1, length - stride * (size - 1) - 1, stride - 1)
        for length, extent, size, stride in zip(
            inputs.shape[1:3], kernel.shape[:2], gradient.shape[1:3], strides, strict=True
        )
    )
    spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
    inputs_gradient = depthwise.fun(spread, kernel[::-1, ::-1], (1, 1))
    # All entries of the kernel's gradient in one pass over the data. One sum for each, which is what automatic
    # differentiation makes of it, reads the data k² times. Columns first: over rows and columns at once is up to five
    # times slower on large maps.
    products = [
        (window * gradient).astype(jnp.float32) for window in _windows(inputs, kernel.shape[:2], strides)
    ]
    sums = lax.reduce(
        products,
        [jnp.float32(0)] * len(products),
        lambda a, b: [x + y for x, y in zip(a, b, strict=True)],
        (2,),
    )
    kernel_gradient = jnp.stack([jnp.sum(s, axis=(0, 1)) for s in sums])
    return inputs_gradient, kernel_gradient.reshape(kernel.shape).astype(kernel.dtype)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def max_pool(
    inputs: Float[Array, "batch height width channels"], size: int, stride: int, padding: int
) -> Float[Array, "batch rows columns channels"]:
    """Returns the maximum over windows, computed as `size²` maxima, whose gradient is fast on every backend."""
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(inputs, pads, constant_values=-jnp.inf)
    return functools.reduce(jnp.maximum, _windows(padded, (size, size), (stride, stride)))


def _windows(inputs: Array, size: tuple[int, int], strides: tuple[int, int]) -> list[Array]:
    """Returns, for each position in a window, the inputs at that position in all windows."""
    rows, columns = (
        stride * ((length - extent) // stride) + 1
        for length, extent, stride in zip(inputs.shape[1:3], size, strides, strict=True)
    )
    return [
        inputs[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(size[0])
        for j in range(size[1])
    ]
