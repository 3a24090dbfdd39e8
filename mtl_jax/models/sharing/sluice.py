"""Sluice networks: what is shared between subspaces of the tasks' layers, and which layers a task looks at."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mtl_jax.models.sharing.cross_stitch import mixture
from mtl_jax.models.sharing.parallel import Parallel


class Sluice(Parallel):
    """Each stage's channels fall into subspaces; after it, each of a task's becomes a mixture of all tasks' (α).

    Each task's neck then sees its stages weighed (β, one for each, 1 at first), where the paper, whose stages are all
    of one size, adds them up. A penalty keeps subspaces apart, `strength Σ ‖W_aᵀ W_b‖²` over the kernels of the
    backbones, with the outputs of subspaces a ≠ b as columns.

    Attributes:
        own: Initial weight of a task's own subspace; all others share the rest.
        subspaces: Into how many parts the channels are divided.
        strength: Weight of the penalty beside the losses.

    Reference: Ruder et al., "Latent Multi-task Architecture Learning", AAAI 2019 (arXiv:1705.08142).
    """

    own: float = 0.9
    subspaces: int = 2
    strength: float = 1e-4

    def mix(
        self, stage: int, x: dict[str, Float[Array, "batch rows columns channels"]], train: bool
    ) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns the mixtures."""
        number = len(x) * self.subspaces
        alpha = self.param(f"alpha{stage}", lambda _: mixture(number, self.own))
        parts = [part for y in x.values() for part in jnp.array_split(y, self.subspaces, axis=-1)]
        mixed = [
            sum(weight * part for weight, part in zip(row, parts, strict=True)).astype(parts[i].dtype)
            for i, row in enumerate(alpha)
        ]
        return {
            task: jnp.concatenate(mixed[i * self.subspaces : (i + 1) * self.subspaces], axis=-1)
            for i, task in enumerate(x)
        }

    def weigh(self, task: str, levels: tuple[Array, ...]) -> tuple[Array, ...]:
        """Returns a task's stages, each times its weight."""

        def init(_: PRNGKeyArray) -> Float[Array, "levels"]:
            return jnp.ones(len(levels))

        beta = self.param(f"beta_{task}", init)
        return tuple((weight * x).astype(x.dtype) for weight, x in zip(beta, levels, strict=True))

    @nn.nowrap
    def penalty(self, params: dict[str, Any]) -> Float[Array, ""]:
        """Returns the penalty."""

        def overlap(kernel: Array) -> Array:
            columns = kernel.reshape(-1, kernel.shape[-1])
            parts = jnp.array_split(columns, self.subspaces, axis=-1)
            pairs = [jnp.sum((a.T @ b) ** 2) for i, a in enumerate(parts) for b in parts[:i]]
            return sum(pairs, start=jnp.zeros(()))

        kernels = [leaf for leaf in jax.tree.leaves(self.trunks(params)) if leaf.ndim > 1]
        return self.strength * sum(map(overlap, kernels), start=jnp.zeros(()))
