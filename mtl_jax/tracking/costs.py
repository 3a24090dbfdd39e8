"""How alike a track and a detection are: one matrix for each cue, tracks in rows and detections in columns."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_jax import boxes as box_lib

Overlap = Literal["iou", "giou", "diou", "ciou", "center"]


def overlap(
    tracks: Float[Array, "tracks 4"], detections: Float[Array, "detections 4"], kind: Overlap = "iou"
) -> Float[Array, "tracks detections"]:
    """Returns how much every track's box and every detection's are at one place, 0 to 1.

    Args:
        tracks: Boxes of tracks.
        detections: Boxes of detections.
        kind: Intersection over union; its generalised, distance or complete form, brought from [-1, 1] to [0, 1]; or
            `center`, `1 - d / (d + l)` with the distance `d` of the centres and the mean side `l` of both boxes.
    """
    return _OVERLAPS[kind](tracks[:, None], detections[None, :])


def _center_overlap(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    distance = jnp.sqrt(jnp.sum((box_lib.centers(a) - box_lib.centers(b)) ** 2, axis=-1))
    side = jnp.mean((box_lib.sizes(a) + box_lib.sizes(b)) / 2, axis=-1)
    return side / jnp.maximum(distance + side, 1e-9)


_OVERLAPS: dict[str, Callable[[Array, Array], Array]] = {
    "iou": box_lib.iou,
    "giou": lambda a, b: (box_lib.giou(a, b) + 1) / 2,
    "diou": lambda a, b: (box_lib.diou(a, b) + 1) / 2,
    "ciou": lambda a, b: jnp.maximum((box_lib.ciou(a, b) + 1) / 2, 0),
    "center": _center_overlap,
}


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


def direction(
    start: Float[Array, "tracks 4"],
    heading: Float[Array, "tracks 2"],
    detections: Float[Array, "detections 4"],
) -> Float[Array, "tracks detections"]:
    """Returns how well the way to each detection agrees with each track's heading, -1/2 to 1/2.

    Observation-centric momentum: `1/2 - |angle| / π` between the heading and the line from an earlier box of the track
    to the detection.

    Args:
        start: An earlier box of each track.
        heading: Unit vector along which each moved so far; zero where that is unknown, which gives zero.
        detections: Boxes in this frame.

    Reference: Cao et al., "Observation-Centric SORT", CVPR 2023 (arXiv:2203.14360), section 3.4.
    """
    way = unit(box_lib.centers(detections)[None, :] - box_lib.centers(start)[:, None])
    cosine = jnp.clip(way[..., 0] * heading[:, None, 0] + way[..., 1] * heading[:, None, 1], -1, 1)
    return 0.5 - jnp.arccos(cosine) / jnp.pi


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


def unit(vectors: Float[Array, "*n features"]) -> Float[Array, "*n features"]:
    """Returns vectors brought to length one; zero stays zero."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
