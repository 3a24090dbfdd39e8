"""NDDR-CNN: after each stage, all tasks' features are concatenated and reduced to each task's by a 1×1 convolution."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mtl_jax.models.layers import Conv, normalization
from mtl_jax.models.sharing.cross_stitch import mixture
from mtl_jax.models.sharing.parallel import Parallel


class NDDR(Parallel):
    """`x_i ← ReLU(norm(W_i [x_1; ...; x_K]))` after each stage.

    Attributes:
        own: Initial weight of a task's own features, channel by channel; the others share the rest.

    Reference: Gao et al., "NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative
    Dimensionality Reduction", CVPR 2019 (arXiv:1801.08297).
    """

    own: float = 0.9

    def mix(
        self, stage: int, x: dict[str, Float[Array, "batch rows columns channels"]], train: bool
    ) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns the reductions."""
        together = jnp.concatenate(list(x.values()), axis=-1)
        weights = mixture(len(x), self.own)

        def fuse(i: int, task: str) -> Array:
            channels = x[task].shape[-1]

            def init(_: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
                kernel = weights[i][:, None, None] * jnp.eye(channels)
                return kernel.reshape(shape).astype(dtype)

            name = f"fuse{stage}_{task}"
            y = Conv(channels, (1, 1), use_bias=False, kernel_init=init, dtype=self.dtype, name=name)(
                together
            )
            norm = normalization(self.norm, train, epsilon=1e-5, dtype=self.dtype, name=f"{name}_norm")
            return nn.relu(norm(y))

        return {task: fuse(i, task) for i, task in enumerate(x)}
