"""Which detection belongs to which object: shared by the scores that need pairs."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from mtl_jax import boxes as box_lib
from mtl_jax.structures import Detections


class Labels(NamedTuple):
    """Ground truth of frames, padded to a fixed number of rows; fields as in `mtl_jax.structures.Batch`.

    Attributes:
        boxes: Boxes in pixels.
        classes: Class index.
        track_ids: Identity, unique over all frames; -1 where it is not labelled.
        velocity: Motion of the centre, in pixels per frame.
        mask: True on rows that hold an object.
        ignore: True on rows that hold an ignore region.
    """

    boxes: Float[np.ndarray, "frames objects 4"]
    classes: Int[np.ndarray, "frames objects"]
    track_ids: Int[np.ndarray, "frames objects"]
    velocity: Float[np.ndarray, "frames objects 2"]
    mask: Bool[np.ndarray, "frames objects"]
    ignore: Bool[np.ndarray, "frames objects"]


class Pairs(NamedTuple):
    """Objects with their detections.

    Attributes:
        frames: Index of the frame.
        objects: Row of the object.
        detections: Row of the detection.
    """

    frames: Int[np.ndarray, "pairs"]
    objects: Int[np.ndarray, "pairs"]
    detections: Int[np.ndarray, "pairs"]


def match(labels: Labels, detections: Detections, min_iou: float = 0.5) -> Pairs:
    """Pairs objects with detections frame by frame, so that the summed overlap of the pairs is the largest possible.

    Args:
        labels: Ground truth.
        detections: Detections of the same frames.
        min_iou: Least overlap of a pair. Classes play no part.
    """
    objects, found = jnp.asarray(labels.boxes), jnp.asarray(detections.boxes)
    overlap = np.asarray(box_lib.iou(objects[:, :, None], found[:, None]))
    allowed = (
        np.asarray(labels.mask)[:, :, None] & np.asarray(detections.mask)[:, None] & (overlap >= min_iou)
    )
    worth = np.where(allowed, overlap, 0)
    pairs = []
    for frame in np.flatnonzero(allowed.any(axis=(1, 2))):
        rows, columns = linear_sum_assignment(worth[frame], maximize=True)
        paired = allowed[frame, rows, columns]
        pairs.append(np.stack([np.full(paired.sum(), frame), rows[paired], columns[paired]]))
    return Pairs(*np.concatenate([np.zeros((3, 0), int), *pairs], axis=1))
