"""Box regression: the whole extent of the object that a cell answers for."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax import boxes as box_ops
from mtl_jax.structures import Batch
from mtl_jax.tasks.targets import STRIDE, Targets

_BASE_SIZE = 4 * STRIDE  # width and height, in pixels, that an output of zero stands for
_MAX_LOG_SIZE = 5.0  # e^5 * 16 = 2,375 pixels; keeps the exponential finite


def to_boxes(
    outputs: Float[Array, "*n 4"], columns: Float[Array, "*n"], rows: Float[Array, "*n"]
) -> Float[Array, "*n 4"]:
    """Turns the head's outputs at given cells into boxes in input pixels.

    `center = (cell + 1/2 + o_xy) * stride`, `size = base * exp(o_wh)`.

    Args:
        outputs: The head's four channels.
        columns: Column of each cell.
        rows: Row of each cell.
    """
    cell = jnp.stack([columns, rows], axis=-1) + 0.5
    size = _BASE_SIZE * jnp.exp(jnp.clip(outputs[..., 2:], -_MAX_LOG_SIZE, _MAX_LOG_SIZE))
    return box_ops.from_center_size((cell + outputs[..., :2]) * STRIDE, size)


def loss(
    outputs: Float[Array, "batch time height width 4"], batch: Batch, targets: Targets
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Generalised-IoU loss, `1 - GIoU`, averaged over each object's cells by their Gaussian weights.

    Returns:
        Sum over objects, and their number.
    """
    height, width = outputs.shape[2:4]
    rows, columns = jnp.meshgrid(
        jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij"
    )

    def one_frame(outputs: Array, boxes: Array, targets: Targets) -> Array:
        distance = 1 - box_ops.giou(to_boxes(outputs, columns, rows), boxes[targets.assignment])
        return jnp.sum(targets.weight * distance)

    sums = jax.vmap(jax.vmap(one_frame))(outputs, batch.boxes, targets)
    return jnp.sum(sums), jnp.sum(batch.mask).astype(jnp.float32)
