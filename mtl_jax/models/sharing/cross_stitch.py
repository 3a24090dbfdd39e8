"""Cross-stitch networks: after each stage, every task's features become a learned mixture of all tasks'."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mtl_jax.models.sharing.parallel import Parallel


class CrossStitch(Parallel):
    """`x_i ← Σ_j α_ij x_j` after each stage, with an α for each channel.

    Attributes:
        own: Initial weight of a task's own features; the others share the rest. 1: single-task networks at first.

    Reference: Misra et al., "Cross-Stitch Networks for Multi-task Learning", CVPR 2016 (arXiv:1604.03539).
    """

    own: float = 0.9

    def mix(
        self, stage: int, x: dict[str, Float[Array, "batch rows columns channels"]], train: bool
    ) -> dict[str, Float[Array, "batch rows columns channels"]]:
        """Returns the mixtures."""
        number, channels = len(x), next(iter(x.values())).shape[-1]

        def init(_: PRNGKeyArray) -> Float[Array, "tasks tasks channels"]:
            return jnp.broadcast_to(mixture(number, self.own)[..., None], (number, number, channels))

        stitch = self.param(f"stitch{stage}", init)
        return {
            task: sum(weight * y for weight, y in zip(row, x.values(), strict=True)).astype(x[task].dtype)
            for task, row in zip(x, stitch, strict=True)
        }


def mixture(number: int, own: float) -> Float[Array, "tasks tasks"]:
    """Returns rows that add up to one: `own` on the diagonal, the rest in equal parts."""
    if number == 1:
        return jnp.ones((1, 1))
    other = (1 - own) / (number - 1)
    return jnp.full((number, number), other) + (own - other) * jnp.eye(number)
