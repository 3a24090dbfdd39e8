"""What architectures have in common in which tasks predict on the way, and see what others predicted."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.models.heads import output_init
from mtl_jax.models.layers import Conv, ConvNorm
from mtl_jax.models.network import MultiTaskNetwork


class Stages(NamedTuple):
    """Features of all tasks, and what they predicted on the way.

    Attributes:
        features: Each task's feature map.
        early: Each task's early predictions.
    """

    features: dict[str, Float[Array, "batch rows columns channels"]]
    early: dict[str, tuple[Float[Array, "batch rows columns _"], ...]]


class Early(MultiTaskNetwork):
    """A network with early predictions, trained with the task's own loss beside the final one."""

    @nn.nowrap
    def features_of(self, features: Stages, task: str) -> Float[Array, "batch rows columns channels"]:
        """Returns a task's feature map."""
        return features.features[task]

    @nn.nowrap
    def early_predictions(
        self, features: Stages, task: str
    ) -> tuple[Float[Array, "batch rows columns _"], ...]:
        """Returns a task's early predictions."""
        return features.early.get(task, ())

    def conv(self, name: str, x: Float[Array, "batch rows columns inputs"], train: bool) -> Array:
        """Returns a 3×3 convolution of the width of the neck, normalised, after a ReLU."""
        return ConvNorm(self.channels, norm=self.norm, dtype=self.dtype, name=name)(x, train)

    def predict_early(self, name: str, task: str, x: Float[Array, "batch rows columns channels"]) -> Array:
        """Returns a prediction for a task, from a 1×1 convolution."""
        outputs: Any = self.heads
        conv = Conv(outputs.outputs[task], (1, 1), dtype=self.dtype, name=name, **output_init(task))
        return conv(x).astype(jnp.float32)

    def distil(
        self, name: str, features: dict[str, Float[Array, "batch rows columns channels"]]
    ) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's features with what it takes from the others': `F_k + Σ_j σ(A_k F_k) ⊙ W_kj F_j`."""

        def conv(suffix: str, x: Array) -> Array:
            return Conv(x.shape[-1], (3, 3), dtype=self.dtype, name=f"{name}_{suffix}")(x)

        result = {}
        for task, own in features.items():
            gate = jax.nn.sigmoid(conv(f"gate_{task}", own))
            messages = [
                gate * conv(f"{other}_to_{task}", x) for other, x in features.items() if other != task
            ]
            result[task] = sum(messages, start=own)
        return result
