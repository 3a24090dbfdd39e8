"""MMoE: experts for all tasks, and a gate for each task that says how much each expert counts."""

import flax.linen as nn
from jaxtyping import Array, Float

from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.experts import Experts, mix


class MMoE(Experts):
    """Multi-gate mixture of experts: `x_k = Σ_e g_ke(x) f_e(x)`.

    With one expert it is hard sharing.

    Attributes:
        experts: Number of experts.

    Reference: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD
    2018.
    """

    experts: int = 4

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's mixture."""
        outputs = self.shared(frames, train)
        found = [self.expert(f"expert{i}", outputs, train) for i in range(self.experts)]
        return {task: mix(self.gate(task, outputs[-1], self.experts), found) for task in self.tasks}
