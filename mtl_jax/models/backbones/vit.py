"""ViT-S/16, layer by layer that of timm, with a simple feature pyramid."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mtl_jax.models.backbones.backbone import Backbone, Block
from mtl_jax.models.convolution import max_pool
from mtl_jax.models.layers import HeatmapStem, Stem, normalization

EPSILON = 1e-6
STAGES = 4
PYRAMID = "pyramid"
"""How the names of the layers begin that make the pyramid, which no published weights hold."""


class ViT(Backbone):
    """Transformer over patches of 16×16 pixels, and from its last feature map a pyramid of strides 4, 8, 16 and 32.

    All stages are at stride 16; they are four only so that sharing architectures can work between them. There is no
    class token: detection does not ask for one, and what travels between stages is a feature map. The learned embedding
    of positions is resampled to the image's size. It normalises by layer norm, whatever `norm` is: that is part of the
    architecture.

    Attributes:
        channels: Channels at stride 16; there are a quarter and half of it at strides 4 and 8.
        depth: Blocks, a multiple of four.
        heads: Attention heads.
        grid: Rows and columns of patches for which the embedding of positions is kept.

    Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (arXiv:2010.11929). Li et al., "Exploring
    Plain Vision Transformer Backbones for Object Detection", ECCV 2022 (arXiv:2203.16527), with attention over the
    whole image in all blocks.
    """

    channels: int = 384
    depth: int = 12
    heads: int = 6
    grid: tuple[int, int] = (14, 14)
    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def setup(self) -> None:
        """Makes the layers."""
        self.patch_embed = Stem(
            self.channels, 16, 16, use_bias=True, norm=None, activation=None, dtype=self.dtype
        )
        self.position_embedding = self.param(
            "position_embedding", nn.initializers.normal(0.02), (*self.grid, self.channels)
        )
        self.heatmap_stem = HeatmapStem(self.dtype, patch=4)
        for i in range(self.depth):
            setattr(self, f"block{i}", TransformerBlock(self.heads, self.dtype))
        self.final_norm = nn.LayerNorm(EPSILON, self.dtype)
        # Their names begin with PYRAMID.
        self.pyramid8 = Enlarge(self.channels // 2, self.dtype)
        self.pyramid4_norm = nn.LayerNorm(EPSILON, self.dtype)
        self.pyramid4 = Enlarge(self.channels // 4, self.dtype)

    def entry(
        self,
        images: UInt8[Array, "batch height width 3"],
        previous_images: UInt8[Array, "batch height width 3"] | None,
        previous_heatmap: Float[Array, "batch rows columns 1"] | None,
        train: bool,
    ) -> Float[Array, "batch _rows _columns channels"]:
        """Returns embeddings of the patches of both frames, of the heat map, and of positions, at stride 16."""
        x = self.patch_embed(self.normalized(images), self.normalized(previous_images), train)
        return self.heatmap_stem(x + self.positions(*x.shape[1:3]).astype(self.dtype), previous_heatmap)

    def positions(self, rows: int, columns: int) -> Float[Array, "{rows} {columns} channels"]:
        """Returns the embedding of the positions of an image's patches."""
        return jax.image.resize(self.position_embedding, (rows, columns, self.channels), "bicubic")

    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Returns the blocks, in equal parts."""
        size = self.depth // STAGES
        return tuple(
            tuple(getattr(self, f"block{stage * size + i}") for i in range(size)) for stage in range(STAGES)
        )

    def pyramid(
        self, outputs: list[Float[Array, "batch _height _width _channels"]], train: bool
    ) -> tuple[Float[Array, "batch _height _width _channels"], ...]:
        """Returns the feature maps at strides 4, 8, 16 and 32, all made from the last stage's."""
        x = self.final_norm(outputs[-1])
        stride8 = self.pyramid8(x)
        stride4 = self.pyramid4(nn.gelu(self.pyramid4_norm(stride8)))
        return stride4, stride8, x, max_pool(x, size=2, stride=2, padding=0)


class Enlarge(nn.Module):
    """Doubles height and width by a transposed convolution over patches of 2×2, which is a matrix product.

    Attributes:
        channels: Output channels.
        dtype: Type of the activations.
    """

    channels: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch rows columns outputs"]:
        """Returns the feature map at twice the size."""
        batch, height, width, _ = x.shape
        patches = nn.Dense(4 * self.channels, dtype=self.dtype, name="dense")(x)
        patches = patches.reshape(batch, height, width, 2, 2, self.channels).swapaxes(2, 3)
        return patches.reshape(batch, 2 * height, 2 * width, self.channels)


class TransformerBlock(nn.Module):
    """Self-attention over all places of a feature map, then two pointwise layers, each after layer norm and residual.

    Attributes:
        heads: Attention heads.
        dtype: Type of the activations.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        """Returns the feature map."""
        batch, height, width, channels = x.shape
        norm = functools.partial(normalization, "layer", train, epsilon=EPSILON, dtype=self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        qkv = dense(3 * channels, name="qkv")(norm(name="norm1")(x))
        qkv = qkv.reshape(batch, height * width, 3, self.heads, channels // self.heads)
        y = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0)).reshape(x.shape)
        x += dense(channels, name="attention_output")(y)
        y = nn.gelu(dense(4 * channels, name="expand")(norm(name="norm2")(x)), approximate=False)
        return x + dense(channels, name="project")(y)
