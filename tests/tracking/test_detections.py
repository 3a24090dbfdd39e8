import numpy as np

from mtl_jax import tracking
from mtl_jax.data.mot_format import MotRows
from mtl_jax.tracking.detections import CHUNK, MOST


def rows_of(frames, scores=None):
    frames = np.asarray(frames)
    left = 10.0 * np.arange(len(frames))[:, None]
    ones = np.ones(len(frames))
    boxes = np.concatenate([left, 0 * left, left + 8, 0 * left + 16], axis=1)
    return MotRows(
        frames, -ones.astype(int), boxes, ones if scores is None else np.asarray(scores), 0 * frames, ones
    )


def test_tables_hold_what_was_found_and_the_best_where_there_is_too_much():
    rows = rows_of([3, 1, 3, 3, 1], [0.2, 0.9, 0.8, 0.5, 0.7])
    detections, dropped = tracking.pad(rows, frames=4, count=2)
    assert dropped == 1
    np.testing.assert_array_equal(detections.mask, [[1, 1], [0, 0], [1, 1], [0, 0]])
    np.testing.assert_allclose(detections.scores[[0, 2]], [[0.9, 0.7], [0.8, 0.5]])
    np.testing.assert_allclose(detections.boxes[2, :, 0], [20, 30])
    assert tracking.most_in_a_frame(rows) == 3


def test_tables_have_few_sizes():
    sizes = [tracking.table_sizes(n) for n in range(5000)]
    assert len(set(sizes)) < 30
    for objects, (rows, capacity) in enumerate(sizes):
        assert min(objects, MOST) <= rows <= MOST and capacity > rows


def test_videos_of_any_length_need_one_compilation():
    tracker = tracking.make("sort", capacity=24, max_lost=3)
    before = tracking.Tracker.scan._cache_size()
    for length in (1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK):
        # One object that stays: seen in every frame, under one identity, over the borders of the pieces.
        frames = np.arange(1, length + 1)
        rows = rows_of(frames)._replace(boxes=np.tile([5.0, 5, 25, 45], (length, 1)))
        tracks = tracking.follow(tracker, tracking.pad(rows, length, 16).detections)
        np.testing.assert_array_equal(tracks.frames, frames)
        assert set(tracks.track_ids) == {1}
    assert tracking.Tracker.scan._cache_size() == before + 1


def test_empty_video():
    nothing = MotRows(*(column[:0] for column in rows_of([1])))
    tracker = tracking.make("sort", capacity=24)
    assert len(tracking.follow(tracker, tracking.pad(nothing, 0, 16).detections).frames) == 0
