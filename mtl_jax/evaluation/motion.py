"""How far predicted motion is from the objects' own."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from mtl_jax import boxes as box_lib
from mtl_jax.evaluation.matching import Labels, Pairs
from mtl_jax.structures import Detections


def evaluate_motion(labels: Labels, detections: Detections, pairs: Pairs) -> dict[str, float | None]:
    """Measures the error of displacement and velocity of detections that were paired with an object.

    The error is the length of the difference of the two vectors, in pixels.

    Args:
        labels: Ground truth of neighbouring frames in time order. Frames of several videos may follow each other:
            identities tell that no object moved from one into the other.
        detections: Detections of the same frames, with displacement and velocity.
        pairs: Objects with their detections, from `matching.match`.

    Returns:
        `displacement_mean`, `displacement_median`, over objects that were there in the frame before;
        `velocity_mean`, `velocity_median`, over objects with an identity. None where there is nothing to measure.
    """
    moved, known = _displacement(labels)
    objects = pairs.frames, pairs.objects
    found = pairs.frames, pairs.detections
    displacement = np.linalg.norm(np.asarray(detections.displacement)[found] - moved[objects], axis=-1)
    velocity = np.linalg.norm(
        np.asarray(detections.velocity)[found] - np.asarray(labels.velocity)[objects], axis=-1
    )
    identified = np.asarray(labels.track_ids)[objects] >= 0
    return _summary("displacement", displacement[known[objects]]) | _summary("velocity", velocity[identified])


def _displacement(
    labels: Labels,
) -> tuple[Float[np.ndarray, "frames objects 2"], Bool[np.ndarray, "frames objects"]]:
    """Returns the way from each object's centre to its centre in the frame before, and where there is one."""
    centers = np.asarray(box_lib.centers(jnp.asarray(labels.boxes)))
    ids = np.where(labels.mask, labels.track_ids, -1)
    same = (ids[1:, :, None] == ids[:-1, None, :]) & (ids[1:, :, None] >= 0)
    before = np.take_along_axis(centers[:-1], same.argmax(axis=2)[..., None], axis=1)
    moved, known = np.zeros_like(centers), np.zeros(ids.shape, bool)
    moved[1:] = before - centers[1:]
    known[1:] = same.any(axis=2)
    return moved, known


def _summary(name: str, errors: Float[np.ndarray, "pairs"]) -> dict[str, float | None]:
    if not errors.size:
        return {f"{name}_mean": None, f"{name}_median": None}
    return {f"{name}_mean": float(errors.mean()), f"{name}_median": float(np.median(errors))}
