"""Motion: the way back to the object's place in the previous frame, and its velocity."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from mtl_jax import boxes as box_ops
from mtl_jax.structures import Batch
from mtl_jax.tasks.targets import STRIDE, Targets


def previous_displacement(
    boxes: Float[ArrayLike, "*batch time objects 4"],
    track_ids: Int[ArrayLike, "*batch time objects"],
    mask: Bool[ArrayLike, "*batch time objects"],
) -> tuple[Float[Array, "*batch time objects 2"], Bool[Array, "*batch time objects"]]:
    """Returns each object's displacement to the frame before, and whether it is known.

    The displacement is `centre(previous) - centre(now)`, in the boxes' pixels; it is known for objects with an
    identity that is also in the frame before, so never in the first one.
    """
    centers = box_ops.centers(jnp.asarray(boxes))
    ids = jnp.where(mask, track_ids, -1)
    same = (ids[..., 1:, :, None] == ids[..., :-1, None, :]) & (ids[..., 1:, :, None] >= 0)
    previous = jnp.take_along_axis(centers[..., :-1, :, :], jnp.argmax(same, axis=-1)[..., None], axis=-2)
    known = jnp.any(same, axis=-1)
    displacement = jnp.where(known[..., None], previous - centers[..., 1:, :, :], 0)

    first = [(0, 0)] * (known.ndim - 2) + [(1, 0), (0, 0)]
    return jnp.pad(displacement, [*first, (0, 0)]), jnp.pad(known, first)


def loss(
    outputs: Float[Array, "batch time height width 4"], batch: Batch, targets: Targets
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L1 distance of displacement and of velocity, in pixels, averaged over each object's cells.

    Channels 0 and 1 are the displacement to the previous frame of the clip, 2 and 3 the velocity per video frame; the
    outputs count in cells.
    An object whose displacement is unknown still teaches its velocity; one without identity teaches nothing.

    Returns:
        Sum over labelled vectors, and their number.
    """
    displacement, displacement_known = previous_displacement(batch.boxes, batch.track_ids, batch.mask)
    velocity_known = batch.mask & (batch.track_ids >= 0)
    target = jnp.concatenate([displacement, batch.velocity], axis=-1)
    known = jnp.stack([displacement_known, velocity_known], axis=-1).astype(jnp.float32)

    def one_frame(outputs: Array, target: Array, known: Array, targets: Targets) -> Array:
        error = jnp.abs(outputs * STRIDE - target[targets.assignment])
        vectors = jnp.stack([error[..., :2].sum(-1), error[..., 2:].sum(-1)], axis=-1)
        return jnp.sum(targets.weight[..., None] * known[targets.assignment] * vectors)

    sums = jax.vmap(jax.vmap(one_frame))(outputs, target, known, targets)
    return jnp.sum(sums), jnp.sum(known)
