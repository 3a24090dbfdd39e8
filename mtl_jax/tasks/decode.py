"""From the heads' outputs to detections, on the device, with a fixed number of rows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_jax.structures import Detections
from mtl_jax.tasks import box
from mtl_jax.tasks.identity import normalize
from mtl_jax.tasks.targets import STRIDE, at_cells


def decode(outputs: dict[str, Float[Array, "height width _"]], capacity: int) -> Detections:
    """Returns the `capacity` best detections of one frame, best first.

    A detection is a local maximum (3 by 3 cells) of one class's heat map; the other tasks are read at its cell. Tasks
    that the network does not have are None.

    Args:
        outputs: Each head's output; `classification` and `box` are needed.
        capacity: Number of rows.

    Reference: Zhou et al., "Objects as Points", 2019 (arXiv:1904.07850), section 4.1.
    """
    scores = jax.nn.sigmoid(outputs["classification"].astype(jnp.float32))
    _, width, num_classes = scores.shape
    neighborhood = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, (3, 3, 1), (1, 1, 1), "SAME")
    peaks = jnp.where(scores == neighborhood, scores, 0)

    best, index = jax.lax.top_k(peaks.reshape(-1), min(capacity, peaks.size))
    best, index = (jnp.pad(x, (0, capacity - len(best))) for x in (best, index))
    cell, classes = index // num_classes, index % num_classes
    cells = jnp.stack([cell % width, cell // width], axis=-1)

    at = {task: at_cells(output.astype(jnp.float32), cells) for task, output in outputs.items()}
    columns, rows = cells.astype(jnp.float32).T
    motion = at["motion"] * STRIDE if "motion" in at else None
    return Detections(
        boxes=box.to_boxes(at["box"], columns, rows),
        scores=best,
        classes=classes,
        mask=best > 0,
        embeddings=normalize(at["identity"]) if "identity" in at else None,
        displacement=motion[:, :2] if motion is not None else None,
        velocity=motion[:, 2:] if motion is not None else None,
    )
