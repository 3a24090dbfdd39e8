"""CGC and PLE: experts for all tasks beside experts of each task's own, in one level or in several."""

import flax.linen as nn
from jaxtyping import Array, Float

from mtl_jax.models.layers import ConvNorm
from mtl_jax.models.network import Frames
from mtl_jax.models.sharing.experts import Experts, mix


class PLE(Experts):
    """Progressive layered extraction.

    A task mixes its own experts and the common ones by a gate of its own. In all levels but the last, what is common
    goes on too: all experts, mixed by a gate. The next level's experts, 3×3 convolutions, start from these mixtures.

    Attributes:
        common_experts: Experts for all tasks, in each level.
        own_experts: Experts of each task, in each level.
        levels: Number of levels.

    Reference: Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for
    Personalized Recommendations", RecSys 2020.
    """

    common_experts: int = 2
    own_experts: int = 1
    levels: int = 2

    @nn.compact
    def share(self, frames: Frames, train: bool) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns each task's mixture in the last level."""
        outputs = self.shared(frames, train)
        features: dict[str, Array] = {}
        for level in range(self.levels):
            last = level == self.levels - 1
            found = {
                owner: [
                    self.expert(f"expert{i}_{owner}", outputs, train)
                    if level == 0
                    else ConvNorm(
                        self.channels,
                        norm=self.norm,
                        dtype=self.dtype,
                        name=f"level{level}_expert{i}_{owner}",
                    )(features[owner], train)
                    for i in range(self.common_experts if owner == "common" else self.own_experts)
                ]
                for owner in (*self.tasks, "common")
            }
            seen = {task: found[task] + found["common"] for task in self.tasks}
            if not last:
                seen["common"] = [x for experts in found.values() for x in experts]
            features = {
                owner: mix(
                    self.gate(f"{level}_{owner}", features.get(owner, outputs[-1]), len(experts)), experts
                )
                for owner, experts in seen.items()
            }
        return features


class CGC(PLE):
    """Customized gate control: PLE of one level."""

    levels: int = 1
