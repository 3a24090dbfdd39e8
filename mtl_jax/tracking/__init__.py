"""Online tracking as pure functions: on the device, for one video or hundreds at once."""

import dataclasses
from typing import Any

from mtl_jax.tracking.botsort import BotSort
from mtl_jax.tracking.bytetrack import ByteTrack
from mtl_jax.tracking.camera import estimate_motion
from mtl_jax.tracking.centertrack import CenterTrack
from mtl_jax.tracking.detections import follow, most_in_a_frame, pad, table_sizes
from mtl_jax.tracking.interpolation import interpolate
from mtl_jax.tracking.jde import Jde
from mtl_jax.tracking.joint import Joint
from mtl_jax.tracking.ocsort import OcSort
from mtl_jax.tracking.sort import Sort
from mtl_jax.tracking.tracker import Tracker, TrackerState

TRACKERS: dict[str, type[Tracker]] = {
    "sort": Sort,
    "bytetrack": ByteTrack,
    "ocsort": OcSort,
    "botsort": BotSort,
    "jde": Jde,
    "centertrack": CenterTrack,
    "joint": Joint,
}

__all__ = [
    "TRACKERS",
    "Tracker",
    "TrackerState",
    "estimate_motion",
    "follow",
    "interpolate",
    "make",
    "most_in_a_frame",
    "names",
    "pad",
    "table_sizes",
]


def names() -> tuple[str, ...]:
    """Returns the names of all trackers."""
    return tuple(TRACKERS)


def make(name: str, **options: Any) -> Tracker:
    """Returns the tracker of this name.

    Args:
        name: One of `names()`.
        **options: As of the class in `TRACKERS`.

    Raises:
        ValueError: If there is none, or it has no such option.

    Example:
        >>> tracker = make("bytetrack", capacity=64, new_score=0.6)
    """
    if name not in TRACKERS:
        raise ValueError(f"no tracker {name!r}; choose from {', '.join(TRACKERS)}")
    known = [field.name for field in dataclasses.fields(TRACKERS[name])]
    if unknown := set(options) - set(known):
        raise ValueError(f"{name}: no option {sorted(unknown)[0]!r}; it has {', '.join(known)}")
    return TRACKERS[name](**options)
