"""EfficientNet-lite0, the network of the ImageNet weights that `mtl_jax.models.pretrained` reads."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.layers import ConvNorm, HeatmapStem, Norm, Stem, normalize_images


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


class EfficientNetLite0(nn.Module):
    """Inverted residual blocks to stride 32: ReLU6, TensorFlow's padding, no squeeze and excitation.

    Attributes:
        norm: Kind of normalisation; see `layers.normalization`.
        dtype: Type of the activations.

    Reference: Tan and Le, "EfficientNet", ICML 2019 (arXiv:1905.11946); the lite variant is from
    github.com/tensorflow/tpu, `models/official/efficientnet/lite`.
    """

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
        """Returns feature maps at strides 4, 8, 16 and 32."""
        options = {"norm": self.norm, "dtype": self.dtype}
        current, previous = (
            normalize_images(frame, self.mean, self.std, self.dtype) for frame in (images, previous_images)
        )
        stem = Stem(32, 3, 2, epsilon=EPSILON, activation=nn.relu6, **options, name="stem")
        x = stem(current, previous, train)
        features = []
        for i, spec in enumerate(BLOCKS):
            if spec.stride == 2 and i > 1:
                features.append(x)
            x = InvertedResidual(spec, **options, name=f"block{i}")(x, train)
            if i == 1:
                x = HeatmapStem(self.dtype, name="heatmap_stem")(x, previous_heatmap)
        return (*features, x)


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
