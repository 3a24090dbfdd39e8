"""ResNet, layer by layer that of torchvision."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.convolution import max_pool
from mtl_jax.models.layers import ConvNorm, HeatmapStem, Norm, Stem, normalize_images


class ResNet(nn.Module):
    """Residual network to stride 32.

    Module names, paddings and the place of the strides are torchvision's: `layer1_0.conv1.conv` here is
    `layer1.0.conv1` there, `layer1_0.conv1.norm` is `layer1.0.bn1`, `downsample` holds `downsample.0` and `.1`.

    Attributes:
        blocks: Residual blocks at strides 4, 8, 16 and 32.
        bottleneck: Blocks of 1×1, 3×3 and 1×1 convolutions, four times as wide, in place of two 3×3.
        norm: Kind of normalisation; see `layers.normalization`.
        dtype: Type of the activations.

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385).
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = False
    norm: Norm = "batch"
    dtype: Any = jnp.float32
    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    @nn.compact
    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None = None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """Returns feature maps at strides 4, 8, 16 and 32."""
        current, previous = (
            normalize_images(frame, self.mean, self.std, self.dtype) for frame in (images, previous_images)
        )
        x = Stem(64, 7, 2, [(3, 3), (3, 3)], norm=self.norm, dtype=self.dtype, name="conv1")(
            current, previous, train
        )
        x = max_pool(x, size=3, stride=2, padding=1)
        x = HeatmapStem(self.dtype, name="heatmap_stem")(x, previous_heatmap)
        features = []
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                block = ResidualBlock(
                    64 * 2**stage,
                    stride,
                    self.bottleneck,
                    self.norm,
                    self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )
                x = block(x, train)
            features.append(x)
        return tuple(features)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, or a bottleneck of three, beside the identity.

    Attributes:
        channels: Channels inside the block.
        stride: Step of the (first) 3×3 convolution.
        bottleneck: 1×1, 3×3, 1×1 with four times the channels at the end, in place of two 3×3.
        norm: Kind of normalisation; see `layers.normalization`.
        dtype: Type of the activations.
    """

    channels: int
    stride: int
    bottleneck: bool
    norm: Norm
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"], train: bool
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the feature map, smaller by the stride."""

        def conv(name: str, channels: int, size: int, stride: int, **options: Any) -> ConvNorm:
            padding = [(size // 2, size // 2)] * 2
            return ConvNorm(
                channels, size, stride, padding, norm=self.norm, dtype=self.dtype, name=name, **options
            )

        # The block starts as the identity: its last scale is zero (Goyal et al., arXiv:1706.02677).
        last = {"activation": None, "scale_init": nn.initializers.zeros}
        if self.bottleneck:
            outputs = 4 * self.channels
            y = conv("conv1", self.channels, 1, 1)(x, train)
            y = conv("conv2", self.channels, 3, self.stride)(y, train)
            y = conv("conv3", outputs, 1, 1, **last)(y, train)
        else:
            outputs = self.channels
            y = conv("conv1", self.channels, 3, self.stride)(x, train)
            y = conv("conv2", outputs, 3, 1, **last)(y, train)
        if x.shape != y.shape:
            x = conv("downsample", outputs, 1, self.stride, activation=None)(x, train)
        return nn.relu(x + y)
