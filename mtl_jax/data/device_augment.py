"""Augmentation of colour and sharpness, on the device: what the host draws for each clip is applied inside the step.

Pixels go to the device as they were decoded, and the host's cores are left to decode. All numbers come with the batch,
so that what is seen depends on the seed and the number of the clip only, as in `mtl_jax.data.transforms`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mtl_jax.structures import Batch


def augment(batch: Batch) -> Batch:
    """Applies the changes of colour and the blur that a batch carries; none of them is left to be done."""
    images = batch.images
    if batch.color is None and batch.blur is None:
        return batch
    pixels = images.astype(jnp.float32)
    if batch.color is not None:
        pixels = change_color(pixels, batch.color)
    if batch.blur is not None:
        pixels = blur(pixels, batch.blur)
    return batch._replace(images=_to_bytes(pixels), color=None, blur=None)


def change_color(
    pixels: Float[Array, "clips time height width 3"], changes: Float[Array, "clips changes"]
) -> Float[Array, "clips time height width 3"]:
    """Changes brightness and contrast, and then saturation and hue as HSV has them.

    Args:
        pixels: RGB, 0 to 255.
        changes: Factors of brightness and of contrast about 128; and, if there are four, the factor of saturation and
            the turn of hue, as a fraction of the colour circle.
    """
    brightness, contrast, *rest = (column[:, None, None, None, None] for column in changes.T)
    pixels = jnp.clip((pixels * brightness - 128) * contrast + 128, 0, 255)
    if not rest:
        return pixels
    saturation, turn = (column[..., 0] for column in rest)
    red, green, blue = (pixels[..., i] for i in range(3))
    value = pixels.max(axis=-1)
    chroma = value - pixels.min(axis=-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    hue = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )  # in sixths of the circle
    chroma = jnp.minimum(chroma * saturation, value)
    channels = []
    for shift in (5, 3, 1):
        away = (hue + 6 * turn + shift) % 6
        channels.append(value - chroma * jnp.clip(jnp.minimum(away, 4 - away), 0, 1))
    return jnp.stack(channels, axis=-1)


def blur(
    pixels: Float[Array, "clips time height width 3"], weights: Float[Array, "clips taps"]
) -> Float[Array, "clips time height width 3"]:
    """Blurs along both axes; beyond its edges the picture is mirrored.

    Args:
        pixels: RGB.
        weights: Weights of a pixel and of those 1, 2, ... pixels beside it, on each side.
    """
    radius = weights.shape[1] - 1
    weights = weights[..., None, None, None, None]
    for axis in (2, 3):
        length = pixels.shape[axis]
        padding = [(radius, radius) if i == axis else (0, 0) for i in range(pixels.ndim)]
        padded = jnp.pad(pixels, padding, mode="reflect")
        beside = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(2 * radius + 1)]
        pixels = weights[:, 0] * pixels
        for i in range(1, radius + 1):
            pixels += weights[:, i] * (beside[radius - i] + beside[radius + i])
    return pixels


def _to_bytes(pixels: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
