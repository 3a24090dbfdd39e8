"""Classification: which cell is the centre of an object of which class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.structures import Batch
from mtl_jax.tasks.targets import Targets, at_cells

_FOCUS = 2.0  # alpha of the paper: easy cells count less
_FORGIVENESS = 4.0  # beta: cells near a centre count less as background


def loss(
    logits: Float[Array, "batch time height width classes"], batch: Batch, targets: Targets
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Penalty-reduced focal loss over the heat map, and cross entropy between the classes at the centres.

    With `p` the predicted probability and `y` the Gaussian target: `-(1 - p)^2 log p` at centres (`y = 1`),
    `-(1 - y)^4 p^2 log(1 - p)` elsewhere; nothing in ignore regions, unless a centre lies there. This finds objects,
    but is slow to tell classes apart, for a wrong class is weighed by its small `p^2`; so `-log softmax(logits)[class]`
    is added at each object's centre. It vanishes where there is one class.

    Returns:
        Sum over all cells, classes and objects, and the number of objects (at least 1 for each frame, as an empty
        frame has background to learn).

    Reference: Law & Deng, "CornerNet", ECCV 2018 (arXiv:1808.01244), equation 1, for the focal loss.
    """
    probability = jax.nn.sigmoid(logits)
    center = targets.heatmap == 1
    counted = targets.counted[..., None]
    positive = (1 - probability) ** _FOCUS * jax.nn.softplus(-logits)
    negative = (1 - targets.heatmap) ** _FORGIVENESS * probability**_FOCUS * jax.nn.softplus(logits)
    focal = jnp.sum(jnp.where(center, positive, counted * negative))

    at_centers = jax.nn.log_softmax(jax.vmap(jax.vmap(at_cells))(logits, targets.cells))
    of_class = jnp.take_along_axis(at_centers, batch.classes[..., None], axis=-1)[..., 0]
    objects = jnp.maximum(jnp.sum(batch.mask, axis=-1), 1)
    return focal - jnp.sum(jnp.where(batch.mask, of_class, 0)), jnp.sum(objects).astype(jnp.float32)
