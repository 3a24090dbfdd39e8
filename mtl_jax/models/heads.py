"""Heads: from a feature map to what each task predicts at each of its cells."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.models.layers import Conv

PRIOR = 0.1
"""Probability of an object's centre that the classification head starts from, in every cell."""


class Heads(nn.Module):
    """One head for each task: 3×3 convolution, leaky ReLU, 1×1 convolution.

    Leaky, because the large first errors of a regression leave many plain ReLUs dead for good: of 32 hidden units of
    the motion head 20 were, after 1200 steps on synthetic video, and motion was not learned.

    Attributes:
        outputs: Output channels of each task.
        channels: Channels of the hidden layer.
        dtype: Type of the activations; results are float32.
    """

    outputs: Mapping[str, int]
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Mapping[str, Float[Array, "batch height width _"]]
    ) -> dict[str, Float[Array, "batch height width _"]]:
        """Returns the prediction of each task from its feature map."""
        return {task: self._head(task, channels, features[task]) for task, channels in self.outputs.items()}

    def _head(self, task: str, channels: int, x: Array) -> Array:
        hidden = Conv(self.channels, (3, 3), dtype=self.dtype, name=f"{task}_hidden")(x)
        output = Conv(channels, (1, 1), dtype=self.dtype, name=f"{task}_output", **output_init(task))
        return output(nn.leaky_relu(hidden, 0.1)).astype(jnp.float32)


def output_init(task: str) -> dict[str, Any]:
    """Returns how a task's last layer starts, as arguments of `Conv`."""
    if task != "classification":
        return {}
    # Objects are rare: without the prior the loss of the many empty cells drowns the rest at first (Lin et al., "Focal
    # Loss for Dense Object Detection", arXiv:1708.02002).
    bias = nn.initializers.constant(math.log(PRIOR / (1 - PRIOR)))
    return {"kernel_init": nn.initializers.zeros, "bias_init": bias}
