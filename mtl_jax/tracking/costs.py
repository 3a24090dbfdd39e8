"""How alike a track and a detection are: one matrix for each cue, tracks in rows and detections in columns."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_jax import boxes as box_lib


def overlap(
    tracks: Float[Array, "tracks 4"], detections: Float[Array, "detections 4"]
) -> Float[Array, "tracks detections"]:
    """Returns the intersection over union of every track's box with every detection's."""
    return box_lib.iou(tracks[:, None], detections[None, :])


def displaced_overlap(
    tracks: Float[Array, "tracks 4"],
    detections: Float[Array, "detections 4"],
    displacement: Float[Array, "detections 2"],
) -> Float[Array, "tracks detections"]:
    """Returns the overlap in the previous frame, where the detections are taken to by their learned displacement.

    Args:
        tracks: Boxes in the previous frame.
        detections: Boxes in this frame.
        displacement: From the centre now to the centre in the previous frame, in pixels.

    Reference: Zhou et al., "Tracking Objects as Points", ECCV 2020 (arXiv:2004.01177).
    """
    return overlap(tracks, detections + jnp.concatenate([displacement, displacement], axis=-1))


def cosine(
    tracks: Float[Array, "tracks features"], detections: Float[Array, "detections features"]
) -> Float[Array, "tracks detections"]:
    """Returns the cosine similarity of unit-length embeddings, from 0: what points apart is as unlike as can be."""
    return jnp.maximum(tracks @ detections.T, 0)


def same_class(
    tracks: Int[Array, " tracks"], detections: Int[Array, " detections"]
) -> Bool[Array, "tracks detections"]:
    """Returns true where track and detection are of one class."""
    return tracks[:, None] == detections[None, :]
