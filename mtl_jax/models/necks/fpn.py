"""Feature pyramid, brought together at its finest level."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.models.layers import Conv, ConvNorm, Norm


class FPN(nn.Module):
    """Adds the feature maps from the coarsest to the finest and smooths the sum.

    `y_i = W_i x_i + upsample(y_{i+1})`, then one 3×3 convolution on the finest, normalised and without activation. Only
    that level is used, centre-based detection asks for no other, so the others have no output convolution.

    Attributes:
        channels: Output channels.
        norm: Kind of normalisation of the output; see `layers.normalization`.
        dtype: Type of the activations.

    Reference: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017 (arXiv:1612.03144).
    """

    channels: int
    norm: Norm = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Float[Array, "batch _height _width _channels"], ...], train: bool
    ) -> Float[Array, "batch height width channels"]:
        """Returns the feature map at the stride of the first of `features`; each is half the size of the one before."""
        finest, *coarser = (
            Conv(self.channels, (1, 1), dtype=self.dtype, name=f"lateral{i}")(x)
            for i, x in enumerate(features)
        )
        total = coarser.pop()
        for x in reversed(coarser):
            total = x + upsample(total)
        total = finest + upsample(total)
        output = ConvNorm(self.channels, activation=None, norm=self.norm, dtype=self.dtype, name="output")
        return output(total, train)


def upsample(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """Returns a feature map twice as high and wide: each value four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
