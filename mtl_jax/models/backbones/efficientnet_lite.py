"""EfficientNet-lite0 to 4; of the first, `mtl_jax.models.pretrained` finds ImageNet weights in a package."""

import itertools
import math
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


class StageSpec(NamedTuple):
    """A run of blocks of lite0: how many, and what is alike in them; only the first has the stride."""

    depth: int
    kernel_size: int
    stride: int
    expand: int
    channels: int


STAGES = (
    StageSpec(1, 3, 1, 1, 16),
    StageSpec(2, 3, 2, 6, 24),
    StageSpec(2, 5, 2, 6, 40),
    StageSpec(3, 3, 2, 6, 80),
    StageSpec(3, 5, 1, 6, 112),
    StageSpec(4, 5, 2, 6, 192),
    StageSpec(1, 3, 1, 6, 320),
)
EPSILON = 1e-3


def stage_specs(width: float, depth: float) -> tuple[tuple[BlockSpec, ...], ...]:
    """Returns the blocks of each stage of a network that is lite0 scaled.

    Args:
        width: Factor of channels, which are rounded to a multiple of 8, and by at most a tenth downwards.
        depth: Factor of blocks, rounded up; the first and the last stage keep their one.
    """
    stages = []
    for i, stage in enumerate(STAGES):
        scaled = width * stage.channels
        channels = int(scaled + 4) // 8 * 8
        if channels < 0.9 * scaled:
            channels += 8
        repeats = stage.depth if i in (0, len(STAGES) - 1) else math.ceil(depth * stage.depth)
        first = BlockSpec(stage.kernel_size, stage.stride, stage.expand, channels)
        stages.append((first, *[first._replace(stride=1)] * (repeats - 1)))
    return tuple(stages)


class EfficientNetLite(Backbone):
    """Inverted residual blocks to stride 32: ReLU6, TensorFlow's padding, no squeeze and excitation.

    Attributes:
        width: Factor of channels beside lite0; see `stage_specs`.
        depth: Factor of blocks.

    Reference: Tan and Le, "EfficientNet", ICML 2019 (arXiv:1905.11946); the lite variant is from
    github.com/tensorflow/tpu, `models/official/efficientnet/lite`.
    """

    width: float = 1.0
    depth: float = 1.0
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def setup(self) -> None:
        """Makes the layers."""
        # The stem is as wide in all of them.
        self.stem = Stem(32, 3, 2, norm=self.norm, epsilon=EPSILON, activation=nn.relu6, dtype=self.dtype)
        self.heatmap_stem = HeatmapStem(self.dtype)
        self.specs = tuple(itertools.chain(*stage_specs(self.width, self.depth)))
        for i, spec in enumerate(self.specs):
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
        for i in range(self._entry_blocks()):
            x = getattr(self, f"block{i}")(x, train)
        return self.heatmap_stem(x, previous_heatmap)

    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Returns the other blocks, by stride."""
        first = self._entry_blocks()
        later = (i for i, spec in enumerate(self.specs) if spec.stride == 2 and i > first)
        starts = [first, *later, len(self.specs)]
        return tuple(
            tuple(getattr(self, f"block{i}") for i in range(*ends)) for ends in itertools.pairwise(starts)
        )

    def _entry_blocks(self) -> int:
        """Returns the number of blocks up to the first at stride 4, that one included."""
        return 1 + next(i for i, spec in enumerate(self.specs) if spec.stride == 2)


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
