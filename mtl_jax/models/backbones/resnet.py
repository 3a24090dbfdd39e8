"""ResNet, layer by layer that of torchvision."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.backbones.backbone import Backbone, Block
from mtl_jax.models.convolution import max_pool
from mtl_jax.models.layers import ConvNorm, HeatmapStem, Norm, Stem, centered


class ResNet(Backbone):
    """Residual network to stride 32.

    Module names, paddings and the place of the strides are torchvision's: `layer1_0.conv1.conv` here is
    `layer1.0.conv1` there, `layer1_0.conv1.norm` is `layer1.0.bn1`, `downsample` holds `downsample.0` and `.1`.

    Attributes:
        depths: Residual blocks at strides 4, 8, 16 and 32.
        bottleneck: Blocks of 1×1, 3×3 and 1×1 convolutions, four times as wide, in place of two 3×3.

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385).
    """

    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    bottleneck: bool = False

    def setup(self) -> None:
        """Makes the layers."""
        self.conv1 = Stem(64, 7, 2, centered(7), norm=self.norm, dtype=self.dtype)
        self.heatmap_stem = HeatmapStem(self.dtype)
        for stage, depth in enumerate(self.depths):
            layer = [
                ResidualBlock(
                    64 * 2**stage, 2 if stage > 0 and i == 0 else 1, self.bottleneck, self.norm, self.dtype
                )
                for i in range(depth)
            ]
            setattr(self, f"layer{stage + 1}", layer)

    def entry(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None,
        train: bool,
    ) -> Float[Array, "batch _rows _columns channels"]:
        """Returns features of both frames and of the heat map at stride 4."""
        x = self.conv1(self.normalized(images), self.normalized(previous_images), train)
        return self.heatmap_stem(max_pool(x, size=3, stride=2, padding=1), previous_heatmap)

    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Returns the residual blocks of each stage."""
        return tuple(tuple(getattr(self, f"layer{stage + 1}")) for stage in range(len(self.depths)))


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
        self,
        x: Float[Array, "batch height width inputs"],
        train: bool,
        shortcut: Float[Array, "batch rows columns outputs"] | None = None,
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the feature map, smaller by the stride.

        Args:
            x: Feature map.
            train: Normalise by the batch's statistics.
            shortcut: What the convolutions' result is added to; None: `x`, through a 1×1 convolution where it does not
                fit.
        """

        def conv(name: str, channels: int, size: int, stride: int, **options: Any) -> ConvNorm:
            return ConvNorm(
                channels, size, stride, centered(size), norm=self.norm, dtype=self.dtype, name=name, **options
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
        if shortcut is None and x.shape == y.shape:
            shortcut = x
        elif shortcut is None:
            shortcut = conv("downsample", outputs, 1, self.stride, activation=None)(x, train)
        return nn.relu(shortcut + y)
