import numpy as np

from mtl_jax.data.mot_format import MotRows
from mtl_jax.tracking import interpolate


def rows(*entries):
    """Rows from (frame, id, left, confidence); boxes 10 wide, 20 high."""
    frames, ids, left, confidences = map(np.array, zip(*entries, strict=True))
    left = left.astype(float)
    boxes = np.stack([left, np.zeros_like(left), left + 10, np.full_like(left, 20)], axis=-1)
    ones = np.ones(len(entries))
    return MotRows(frames, ids, boxes, confidences.astype(float), np.full(len(entries), -1), ones)


def test_fills_short_gaps_on_a_line():
    filled = interpolate(rows((1, 1, 0, 0.9), (1, 2, 50, 0.8), (4, 1, 6, 0.5), (2, 2, 50, 0.8)), max_gap=2)
    assert filled.frames.tolist() == [1, 1, 2, 2, 3, 4]
    assert filled.track_ids.tolist() == [1, 2, 1, 2, 1, 1]
    np.testing.assert_allclose(filled.boxes[filled.track_ids == 1, 0], [0, 2, 4, 6])
    np.testing.assert_allclose(filled.boxes[filled.track_ids == 1, 2], [10, 12, 14, 16])
    np.testing.assert_allclose(filled.confidences[filled.track_ids == 1], [0.9, 0.5, 0.5, 0.5])


def test_leaves_long_gaps_open():
    assert len(interpolate(rows((1, 1, 0, 1), (5, 1, 4, 1)), max_gap=2).frames) == 2


def test_several_gaps_of_several_tracks():
    filled = interpolate(rows((1, 1, 0, 1), (3, 1, 2, 1), (6, 1, 5, 1), (2, 7, 0, 1), (4, 7, 2, 1)))
    for track_id, first, last in ((1, 1, 6), (7, 2, 4)):
        mine = filled.track_ids == track_id
        assert filled.frames[mine].tolist() == list(range(first, last + 1))
        np.testing.assert_allclose(filled.boxes[mine, 0], np.arange(first, last + 1) - first)


def test_nothing_to_do():
    one = interpolate(rows((3, 1, 0, 1)))
    assert one.frames.tolist() == [3]
    empty = MotRows(*(column[:0] for column in one))
    assert len(interpolate(empty).frames) == 0
