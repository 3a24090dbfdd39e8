"""How far predicted motion is from the objects' own."""

import numpy as np
from jaxtyping import Float

from mtl_jax.evaluation.matching import Labels, Pairs
from mtl_jax.structures import Detections
from mtl_jax.tasks.motion import previous_displacement


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
    moved, known = (np.asarray(x) for x in previous_displacement(labels.boxes, labels.track_ids, labels.mask))
    objects = pairs.frames, pairs.objects
    found = pairs.frames, pairs.detections
    displacement = np.linalg.norm(np.asarray(detections.displacement)[found] - moved[objects], axis=-1)
    velocity = np.linalg.norm(
        np.asarray(detections.velocity)[found] - np.asarray(labels.velocity)[objects], axis=-1
    )
    identified = np.asarray(labels.track_ids)[objects] >= 0
    return _summary("displacement", displacement[known[objects]]) | _summary("velocity", velocity[identified])


def _summary(name: str, errors: Float[np.ndarray, "pairs"]) -> dict[str, float | None]:
    if not errors.size:
        return {f"{name}_mean": None, f"{name}_median": None}
    return {f"{name}_mean": float(errors.mean()), f"{name}_median": float(np.median(errors))}
