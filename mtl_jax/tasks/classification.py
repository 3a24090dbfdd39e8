"""Classification: which cell is the centre of an object of which class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.structures import Batch
from mtl_jax.tasks.targets import Targets

_FOCUS = 2.0  # alpha of the paper: easy cells count less
_FORGIVENESS = 4.0  # beta: cells near a centre count less as background


def loss(
    logits: Float[Array, "batch time height width classes"], batch: Batch, targets: Targets
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Penalty-reduced focal loss over the heat map.

    With `p` the predicted probability and `y` the Gaussian target:
    `-(1 - p)^2 log p` at centres (`y = 1`), `-(1 - y)^4 p^2 log(1 - p)` elsewhere; nothing in ignore regions, unless
    a centre lies there.

    Returns:
        Sum over all cells and classes, and the number of objects (at least 1 for each frame, as an empty frame has
        background to learn).

    Reference: Law & Deng, "CornerNet", ECCV 2018 (arXiv:1808.01244), equation 1.
    """
    probability = jax.nn.sigmoid(logits)
    center = targets.heatmap == 1
    counted = targets.counted[..., None]
    positive = (1 - probability) ** _FOCUS * jax.nn.softplus(-logits)
    negative = (1 - targets.heatmap) ** _FORGIVENESS * probability**_FOCUS * jax.nn.softplus(logits)
    objects = jnp.maximum(jnp.sum(batch.mask, axis=-1), 1)
    return jnp.sum(jnp.where(center, positive, counted * negative)), jnp.sum(objects).astype(jnp.float32)
