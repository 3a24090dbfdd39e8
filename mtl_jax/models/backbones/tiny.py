"""A small backbone that trains in minutes on a CPU."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.layers import ConvNorm, HeatmapStem, Norm, Stem, normalize_images


class Tiny(nn.Module):
    """Plain 3×3 convolutions with residual blocks, to stride 16.

    Attributes:
        channels: Channels at strides 2, 4, 8 and 16.
        norm: Kind of normalisation; see `layers.normalization`.
        dtype: Type of the activations.
    """

    channels: tuple[int, int, int, int] = (16, 32, 64, 96)
    norm: Norm = "batch"
    dtype: Any = jnp.float32
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    @nn.compact
    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None = None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """Returns feature maps at strides 4, 8 and 16."""
        options = {"norm": self.norm, "dtype": self.dtype}
        current, previous = (
            normalize_images(frame, self.mean, self.std, self.dtype) for frame in (images, previous_images)
        )
        x = Stem(self.channels[0], **options, name="stem")(current, previous, train)
        features = []
        for i, channels in enumerate(self.channels[1:]):
            x = ConvNorm(channels, stride=2, **options, name=f"stage{i}_reduce")(x, train)
            if i == 0:
                x = HeatmapStem(self.dtype, name="heatmap_stem")(x, previous_heatmap)
            y = ConvNorm(channels, **options, name=f"stage{i}_conv0")(x, train)
            y = ConvNorm(channels, activation=None, **options, name=f"stage{i}_conv1")(y, train)
            x = nn.relu(x + y)
            features.append(x)
        return tuple(features)
