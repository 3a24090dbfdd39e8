"""Detections from files through a tracker: padded tables of few sizes, so that few trackers are compiled."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from mtl_jax.data.mot_format import MotRows, select_rows
from mtl_jax.structures import Detections, Tracks
from mtl_jax.tracking.tracker import Tracker

CHUNK = 128
"""Frames that go through the tracker in one call: a video of another length needs no other compilation."""
MOST = 1024
"""Most detections of a frame that are looked at, the best."""


class Padded(NamedTuple):
    """Detections of a video in tables.

    Attributes:
        detections: Of all frames.
        dropped: How many detections found no room.
    """

    detections: Detections
    dropped: int


def table_sizes(objects: int) -> tuple[int, int]:
    """Returns numbers of rows for detections and for tracks, where a frame has so many detections at most.

    Rounded up, so that most videos share a compiled tracker; half as many rows again are for tracks that are lost.
    """
    step = 16 if objects <= 128 else 64
    rows = min(max(objects + step - 1, step) // step * step, MOST)
    return rows, 3 * rows // 2


def most_in_a_frame(rows: MotRows) -> int:
    """Returns the largest number of detections in a frame."""
    return int(np.bincount(rows.frames).max(initial=0)) if len(rows.frames) else 0


def pad(rows: MotRows, frames: int, count: int) -> Padded:
    """Returns detections as one table for each frame; of more than `count` in a frame, those of the highest scores.

    Args:
        rows: Detections in any order.
        frames: Frames that are looked at.
        count: Rows of a table.
    """
    rows = select_rows(rows, rows.frames <= frames)
    order = np.lexsort((-rows.confidences, rows.frames))
    frame = rows.frames[order] - 1
    place = np.arange(len(frame)) - np.searchsorted(frame, frame)
    fits = place < count
    order, at = order[fits], (frame[fits], place[fits])
    boxes, scores = np.zeros((frames, count, 4), np.float32), np.zeros((frames, count), np.float32)
    classes, mask = np.zeros((frames, count), np.int32), np.zeros((frames, count), bool)
    boxes[at], scores[at], mask[at] = rows.boxes[order], rows.confidences[order], True
    classes[at] = rows.classes[order]
    return Padded(Detections(boxes, scores, classes, mask), int(np.count_nonzero(~fits)))


def follow(tracker: Tracker, detections: Detections) -> MotRows:
    """Returns the tracks of a video.

    Args:
        tracker: The tracker.
        detections: Detections of all frames, without embeddings.
    """
    state, frames = tracker.init(), len(detections.mask)
    pieces = []
    for piece in chunks(detections):
        state, tracks = tracker.scan(state, piece)
        pieces.append(jax.tree.map(np.asarray, tracks))
    return to_rows(jax.tree.map(lambda *parts: np.concatenate(parts)[:frames], *pieces))


def to_rows(tracks: Tracks) -> MotRows:
    """Returns tracks, with a leading axis of frames, as the rows of a MOTChallenge result file."""
    rows = np.asarray(tracks.mask)
    return MotRows(
        frames=np.nonzero(rows)[0] + 1,
        track_ids=tracks.track_ids[rows],
        boxes=tracks.boxes[rows].astype(np.float64),
        confidences=tracks.scores[rows].astype(np.float64),
        classes=tracks.classes[rows],
        visibility=np.ones(np.count_nonzero(rows)),
    )


def chunks(detections: Detections) -> Iterator[Detections]:
    """Yields pieces of one length; the last one is filled up with frames that hold nothing."""
    frames = len(detections.mask)
    for first in range(0, max(frames, 1), CHUNK):
        piece = jax.tree.map(lambda x, first=first: x[first : first + CHUNK], detections)
        missing = CHUNK - len(piece.mask)
        yield jax.tree.map(lambda x, n=missing: np.pad(x, [(0, n)] + [(0, 0)] * (x.ndim - 1)), piece)
