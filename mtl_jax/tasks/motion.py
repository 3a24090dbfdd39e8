"""Motion: the way back to the object's place in the previous frame, and its velocity."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_jax import boxes as box_ops
from mtl_jax.structures import Batch
from mtl_jax.tasks.targets import STRIDE, Targets


def previous_displacement(
    batch: Batch,
) -> tuple[Float[Array, "batch time objects 2"], Bool[Array, "batch time objects"]]:
    """Returns each object's displacement to the clip's previous frame, and whether it is known.

    The displacement is `centre(previous) - centre(now)` in input pixels; it is known for objects with an identity
    that is also in the previous frame, so never in the first frame of a clip.
    """
    centers = box_ops.centers(batch.boxes)
    identified = batch.mask & (batch.track_ids >= 0)
    same = batch.track_ids[:, 1:, :, None] == batch.track_ids[:, :-1, None, :]
    same &= identified[:, 1:, :, None] & identified[:, :-1, None, :]
    match = jnp.argmax(same, axis=-1)
    previous = jnp.take_along_axis(centers[:, :-1], match[..., None], axis=2)
    displacement = jnp.where(jnp.any(same, axis=-1)[..., None], previous - centers[:, 1:], 0)

    def after_first(x: Array) -> Array:
        return jnp.concatenate([jnp.zeros_like(x[:, :1]), x], axis=1)

    return after_first(displacement), after_first(jnp.any(same, axis=-1))


def loss(
    outputs: Float[Array, "batch time height width 4"], batch: Batch, targets: Targets
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L1 distance of displacement and of velocity, in cells, averaged over each object's cells.

    Channels 0 and 1 are the displacement to the previous frame of the clip, 2 and 3 the velocity per video frame.
    An object whose displacement is unknown still teaches its velocity; one without identity teaches nothing.

    Returns:
        Sum over labelled vectors, and their number.
    """
    displacement, displacement_known = previous_displacement(batch)
    velocity_known = batch.mask & (batch.track_ids >= 0)
    target = jnp.concatenate([displacement, batch.velocity], axis=-1) / STRIDE
    known = jnp.stack([displacement_known, velocity_known], axis=-1).astype(jnp.float32)

    def one_frame(outputs: Array, target: Array, known: Array, targets: Targets) -> Array:
        error = jnp.abs(outputs - target[targets.assignment])
        vectors = jnp.stack([error[..., :2].sum(-1), error[..., 2:].sum(-1)], axis=-1)
        return jnp.sum(targets.weight[..., None] * known[targets.assignment] * vectors)

    sums = jax.vmap(jax.vmap(one_frame))(outputs, target, known, targets)
    return jnp.sum(sums), jnp.sum(known)
