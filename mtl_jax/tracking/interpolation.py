"""Filling short gaps in finished tracks: offline, for what may look ahead."""

import numpy as np

from mtl_jax.data.mot_format import MotRows


def interpolate(rows: MotRows, max_gap: int = 20) -> MotRows:
    """Adds a row for each frame that a track skipped, on the straight line between its neighbours.

    Args:
        rows: Rows of tracks in one video, in any order.
        max_gap: Longest gap that is filled, in missing frames; longer ones stay open.

    Returns:
        The rows and those added, in order of frame and identity. Added rows have the lower of the two confidences and
        visibilities around the gap, and the class before it.

    Reference: Zhang et al., "ByteTrack", ECCV 2022 (arXiv:2110.06864), section 4.1.
    """
    rows = MotRows(*(column[np.lexsort((rows.frames, rows.track_ids))] for column in rows))
    gap = np.diff(rows.frames) - 1
    before = np.flatnonzero((np.diff(rows.track_ids) == 0) & (gap >= 1) & (gap <= max_gap))
    repeats = gap[before]
    # For each row to add: the row before its gap, and how far into the gap it is.
    row = np.repeat(before, repeats)
    steps = np.arange(len(row)) - np.repeat(np.cumsum(repeats) - repeats, repeats) + 1
    share = (steps / (gap[row] + 1))[:, None]
    added = MotRows(
        frames=rows.frames[row] + steps,
        track_ids=rows.track_ids[row],
        boxes=(1 - share) * rows.boxes[row] + share * rows.boxes[row + 1],
        confidences=np.minimum(rows.confidences[row], rows.confidences[row + 1]),
        classes=rows.classes[row],
        visibility=np.minimum(rows.visibility[row], rows.visibility[row + 1]),
    )
    both = MotRows(*(np.concatenate(pair) for pair in zip(rows, added, strict=True)))
    return MotRows(*(column[np.lexsort((both.track_ids, both.frames))] for column in both))
