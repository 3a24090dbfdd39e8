"""ConvNeXt-T, layer by layer that of torchvision."""

import functools
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.backbones.backbone import Backbone, Block
from mtl_jax.models.layers import Conv, HeatmapStem, Stem, normalization

EPSILON = 1e-6


class ConvNeXt(Backbone):
    """Depthwise 7×7 convolutions and pointwise layers, residual, to stride 32.

    It normalises by layer norm, whatever `norm` is: that is part of the architecture.

    Attributes:
        channels: Channels at strides 4, 8, 16 and 32.
        depths: Blocks at each.

    Reference: Liu et al., "A ConvNet for the 2020s", CVPR 2022 (arXiv:2201.03545).
    """

    channels: tuple[int, int, int, int] = (96, 192, 384, 768)
    depths: tuple[int, int, int, int] = (3, 3, 9, 3)

    def setup(self) -> None:
        """Makes the layers."""
        self.stem = Stem(
            self.channels[0],
            4,
            4,
            use_bias=True,
            norm="layer",
            epsilon=EPSILON,
            activation=None,
            dtype=self.dtype,
        )
        self.heatmap_stem = HeatmapStem(self.dtype)
        for stage, (channels, depth) in enumerate(zip(self.channels, self.depths, strict=True)):
            if stage > 0:
                setattr(self, f"downsample{stage}", Downsample(channels, self.dtype))
            for i in range(depth):
                setattr(self, f"stage{stage}_block{i}", ConvNeXtBlock(self.dtype))

    def entry(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None,
        train: bool,
    ) -> Float[Array, "batch _rows _columns channels"]:
        """Returns features of both frames and of the heat map at stride 4."""
        x = self.stem(self.normalized(images), self.normalized(previous_images), train)
        return self.heatmap_stem(x, previous_heatmap)

    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Returns the blocks of each stage, after a reduction in all but the first."""
        return tuple(
            tuple(
                getattr(self, name)
                for name in (
                    *([f"downsample{stage}"] if stage > 0 else []),
                    *(f"stage{stage}_block{i}" for i in range(depth)),
                )
            )
            for stage, depth in enumerate(self.depths)
        )


class Downsample(nn.Module):
    """Layer norm and a convolution over patches of 2×2.

    Attributes:
        channels: Output channels.
        dtype: Type of the activations.
    """

    channels: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"], train: bool
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the feature map at half the size."""
        x = normalization("layer", train, epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        return Conv(self.channels, (2, 2), 2, dtype=self.dtype, name="conv")(x)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm, two pointwise layers; scaled by channel and added to the input.

    Attributes:
        dtype: Type of the activations.
    """

    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        """Returns the feature map."""
        channels = x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        y = Conv(channels, (7, 7), feature_group_count=channels, dtype=self.dtype, name="depthwise")(x)
        y = normalization("layer", train, epsilon=EPSILON, dtype=self.dtype, name="norm")(y)
        y = nn.gelu(dense(4 * channels, name="expand")(y), approximate=False)
        y = dense(channels, name="project")(y)
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (channels,))
        return x + y * scale.astype(self.dtype)
