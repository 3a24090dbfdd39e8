"""EfficientNet-lite0, the network of the ImageNet weights that `mtl_jax.models.pretrained` reads."""

import itertools
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.backbones.backbone import Backbone, Block
from mtl_jax.models.layers import ConvNorm, HeatmapStem, Norm, Stem


class BlockSpec(NamedTuple):
    """One block: kernel size, stride, factor by which channels are expanded inside, output channels."""

    kernel_size: int
    stride: int
    expand: int
    channels: int


BLOCKS = (
    BlockSpec(3, 1, 1, 16),
    BlockSpec(3, 2, 6, 24),
    BlockSpec(3, 1, 6, 24),
    BlockSpec(5, 2, 6, 40),
    BlockSpec(5, 1, 6, 40),
    BlockSpec(3, 2, 6, 80),
    BlockSpec(3, 1, 6, 80),
    BlockSpec(3, 1, 6, 80),
    BlockSpec(5, 1, 6, 112),
    BlockSpec(5, 1, 6, 112),
    BlockSpec(5, 1, 6, 112),
    BlockSpec(5, 2, 6, 192),
    BlockSpec(5, 1, 6, 192),
    BlockSpec(5, 1, 6, 192),
    BlockSpec(5, 1, 6, 192),
    BlockSpec(3, 1, 6, 320),
)
EPSILON = 1e-3


class EfficientNetLite0(Backbone):
    """Inverted residual blocks to stride 32: ReLU6, TensorFlow's padding, no squeeze and excitation.

    Reference: Tan and Le, "EfficientNet", ICML 2019 (arXiv:1905.11946); the lite variant is from
    github.com/tensorflow/tpu, `models/official/efficientnet/lite`.
    """

    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def setup(self) -> None:
        """Makes the layers."""
        self.stem = Stem(32, 3, 2, norm=self.norm, epsilon=EPSILON, activation=nn.relu6, dtype=self.dtype)
        self.heatmap_stem = HeatmapStem(self.dtype)
        for i, spec in enumerate(BLOCKS):
            setattr(self, f"block{i}", InvertedResidual(spec, self.norm, self.dtype))

    def entry(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None,
        train: bool,
    ) -> Float[Array, "batch _rows _columns channels"]:
        """Returns features of both frames and of the heat map at stride 4."""
        x = self.stem(self.normalized(images), self.normalized(previous_images), train)
        x = self.block1(self.block0(x, train), train)
        return self.heatmap_stem(x, previous_heatmap)

    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Returns the other blocks, by stride."""
        starts = [2, *(i for i, spec in enumerate(BLOCKS) if spec.stride == 2 and i > 2), len(BLOCKS)]
        return tuple(
            tuple(getattr(self, f"block{i}") for i in range(*ends)) for ends in itertools.pairwise(starts)
        )


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, 1×1 projection without activation; the input is added where it fits.

    Attributes:
        spec: Sizes.
        norm: Kind of normalisation; see `layers.normalization`.
        dtype: Type of the activations.
    """

    spec: BlockSpec
    norm: Norm
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"], train: bool
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the feature map, smaller by the stride."""
        kernel_size, stride, expand, channels = self.spec
        options = {"epsilon": EPSILON, "norm": self.norm, "dtype": self.dtype}
        wide = expand * x.shape[-1]
        y = x
        if expand > 1:
            y = ConvNorm(wide, 1, activation=nn.relu6, **options, name="expand")(y, train)
        y = ConvNorm(
            wide, kernel_size, stride, depthwise=True, activation=nn.relu6, **options, name="depthwise"
        )(y, train)
        y = ConvNorm(channels, 1, activation=None, **options, name="project")(y, train)
        return x + y if x.shape == y.shape else y
