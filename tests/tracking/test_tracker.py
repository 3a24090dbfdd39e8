"""The tracker on made-up videos: what happens to identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import tracking
from mtl_jax.structures import Detections

ROWS = 10
TRACKER = tracking.make("joint", capacity=8, max_lost=10)
EVERY = {name: tracking.make(name, capacity=8) for name in tracking.names()}


def box(x, y=50.0, size=20.0):
    return (x - size / 2, y - size, x + size / 2, y + size)


def video(frames, embeddings=None, displacement=None):
    """Detections from a list of frames of (box, score, class), padded with rubbish."""
    length = len(frames)
    boxes, scores = np.full((length, ROWS, 4), 7.0, np.float32), np.full((length, ROWS), 0.99, np.float32)
    classes, mask = np.zeros((length, ROWS), np.int32), np.zeros((length, ROWS), bool)
    extra = [None, None]
    for which, values in enumerate((embeddings, displacement)):
        if values is not None:
            extra[which] = np.zeros((length, ROWS, 2), np.float32)
    for t, frame in enumerate(frames):
        for row, (b, score, label) in enumerate(frame):
            boxes[t, row], scores[t, row], classes[t, row], mask[t, row] = b, score, label, True
            for array, values in zip(extra, (embeddings, displacement), strict=True):
                if array is not None:
                    array[t, row] = values[t][row]
    return Detections(boxes, scores, classes, mask, *extra)


def follow(detections, tracker=TRACKER):
    """Returns for each frame {identity: centre x}."""
    features = 0 if detections.embeddings is None else detections.embeddings.shape[-1]
    state, frames = tracker.init(features), []
    for t in range(len(detections.mask)):
        state, tracks = tracker.step(state, jax.tree.map(lambda x, t=t: x[t], detections))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((state, tracks)))
        frames.append(rows_of(tracks))
    return frames


def rows_of(tracks):
    tracks = jax.tree.map(np.asarray, tracks)
    ids = tracks.track_ids[tracks.mask].tolist()
    assert len(set(ids)) == len(ids) and all(i > 0 for i in ids)
    return dict(zip(ids, tracks.boxes[tracks.mask][:, ::2].mean(axis=1).tolist(), strict=True))


def test_objects_keep_their_identity():
    tracks = follow(video([[(box(20 + 3 * t), 0.9, 0), (box(200 - 2 * t, 150), 0.8, 0)] for t in range(20)]))
    for t, frame in enumerate(tracks):
        assert set(frame) == {1, 2}
        assert frame[1] == pytest.approx(20 + 3 * t, abs=3)
        assert frame[2] == pytest.approx(200 - 2 * t, abs=3)


def test_crossing_objects_keep_their_identity():
    tracks = follow(video([[(box(20 + 4 * t), 0.9, 0), (box(220 - 4 * t), 0.9, 0)] for t in range(50)]))
    assert all(set(frame) == {1, 2} for frame in tracks)
    assert tracks[-1][1] == pytest.approx(216, abs=3)
    assert tracks[-1][2] == pytest.approx(24, abs=3)


def test_occluded_object_is_found_again():
    tracks = follow(video([[] if 10 <= t < 18 else [(box(20 + 3 * t), 0.9, 0)] for t in range(25)]))
    assert all(set(frame) == (set() if 10 <= t < 18 else {1}) for t, frame in enumerate(tracks))


def test_identity_is_never_used_again():
    # Gone for longer than `max_lost`: a new object, though at the same place.
    tracks = follow(video([[] if 5 <= t < 17 else [(box(50), 0.9, 0)] for t in range(22)]))
    assert set(tracks[4]) == {1} and set(tracks[-1]) == {2}


def test_entry_is_confirmed_by_a_second_sight():
    tracks = follow(video([[(box(50), 0.9, 0)] + [(box(150), 0.9, 0)] * (t >= 3) for t in range(6)]))
    assert [set(frame) for frame in tracks] == [{1}, {1}, {1}, {1}, {1, 2}, {1, 2}]


def test_single_false_detection_is_not_reported():
    frames = [[(box(50), 0.9, 0)] + [(box(150), 0.9, 0)] * (t == 3) for t in range(8)]
    assert all(set(frame) == {1} for frame in follow(video(frames)))


def test_low_score_goes_on_with_a_track_but_starts_none():
    tracks = follow(video([[(box(50), 0.9 if t < 3 else 0.3, 0), (box(150), 0.3, 0)] for t in range(8)]))
    assert all(set(frame) == {1} for frame in tracks)


def test_classes_at_one_place_are_kept_apart():
    frames = [[(box(50 + t), 0.9, 0), (box(50 + t), 0.8, 1)][:: 1 if t % 2 else -1] for t in range(8)]
    state, detections = TRACKER.init(), video(frames)
    for t in range(8):
        state, tracks = TRACKER.step(state, jax.tree.map(lambda x, t=t: x[t], detections))
        ids, classes = tracks.track_ids[tracks.mask], tracks.classes[tracks.mask]
        assert set(zip(ids.tolist(), classes.tolist(), strict=True)) == {(1, 0), (2, 1)}


def test_duplicates_are_passed_over():
    # The better of the two classes changes; it stays one object, and the one beside it stays another.
    frames = [
        [(box(50 + t), 0.9, t % 2), (box(51 + t), 0.8, 1 - t % 2), (box(60 + t), 0.7, 0)] for t in range(6)
    ]
    tracker = tracking.make("joint", capacity=8, match_classes=False, duplicate_iou=0.7)
    assert [set(tracks) for tracks in follow(video(frames), tracker)] == [{1, 2}] * 6


def test_appearance_decides_between_near_objects():
    # Two objects change places between two frames; only their looks tell.
    frames = [[(box(50), 0.9, 0), (box(54), 0.9, 0)] for _ in range(6)]
    looks = [[(1, 0), (0, 1)] if t < 4 else [(0, 1), (1, 0)] for t in range(6)]
    tracks = follow(video(frames, embeddings=looks))
    assert tracks[3][1] < tracks[3][2] and tracks[-1][1] > tracks[-1][2]
    tracks = follow(video(frames))
    assert tracks[-1][1] < tracks[-1][2]


@pytest.mark.parametrize("look, expected", [((1, 0), 1), ((0, 1), 2)])
def test_lost_object_is_found_again_by_its_looks(look, expected):
    # It comes back beside where it was, with too little overlap.
    frames = [[(box(50), 0.9, 0)]] * 4 + [[]] * 9 + [[(box(66), 0.9, 0)]] * 3
    looks = [[(1, 0)]] * 4 + [[]] * 9 + [[look]] * 3
    assert set(follow(video(frames, embeddings=looks))[-1]) == {expected}


def test_displacement_follows_fast_objects():
    # Each step is longer than the object, so that no boxes overlap.
    frames = [[(box(50 + 60 * t), 0.9, 0)] if t < 4 else [] for t in range(5)]
    displacement = [[(-60, 0)]] * 5
    tracks = follow(video(frames, displacement=displacement))
    assert [set(frame) for frame in tracks] == [{1}, {1}, {1}, {1}, set()]
    assert set(follow(video(frames))[1]) == set()


every = pytest.mark.parametrize("tracker", EVERY.values(), ids=EVERY)


@every
def test_scan_is_repeated_steps(tracker):
    detections = crowd(0)
    state, tracks = tracker.scan(tracker.init(), detections)
    stepped = tracker.init()
    for t in range(len(detections.mask)):
        stepped, frame = tracker.step(stepped, jax.tree.map(lambda x, t=t: x[t], detections))
        jax.tree.map(lambda a, b, t=t: np.testing.assert_allclose(a[t], b, atol=1e-3), tracks, frame)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), state, stepped)


@every
def test_vmap_is_each_video_alone(tracker):
    videos = [crowd(seed) for seed in range(3)]
    together = jax.tree.map(lambda *x: jnp.stack(x), *videos)
    _, tracks = jax.vmap(lambda detections: tracker.scan(tracker.init(), detections))(together)
    for i, detections in enumerate(videos):
        for t, expected in enumerate(follow(detections, tracker)):
            found = rows_of(jax.tree.map(lambda x, i=i, t=t: x[i, t], tracks))
            assert found == pytest.approx(expected, abs=1e-3)


@every
def test_order_of_detections_does_not_matter(tracker):
    detections = crowd(3)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(ROWS), (len(detections.mask), 1)), axis=1)
    shuffled = jax.tree.map(
        lambda x: np.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), 1), detections
    )
    assert follow(detections, tracker) == follow(shuffled, tracker)


@every
def test_what_is_masked_does_not_matter(tracker):
    detections, other = crowd(4), crowd(4)
    assert not detections.mask.all()
    other.boxes[~other.mask], other.scores[~other.mask] = np.nan, np.inf
    assert follow(detections, tracker) == follow(other, tracker)


@every
def test_translation_of_everything_translates_tracks(tracker):
    detections = crowd(5)
    moved = detections._replace(boxes=detections.boxes + 300)
    for here, there in zip(follow(detections, tracker), follow(moved, tracker), strict=True):
        assert set(here) == set(there)
        assert all(there[i] - here[i] == pytest.approx(300, abs=0.1) for i in here)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, "inverted"])
def test_unusable_boxes_are_passed_over(tracker, bad):
    detections = video([[(box(50 + t), 0.9, 0), (box(150), 0.9, 0)] for t in range(6)])
    detections.boxes[:, 1] = [160, 60, 140, 40] if bad == "inverted" else bad
    assert all(set(frame) <= {1} for frame in follow(detections, tracker))
    assert set(follow(detections, tracker)[-1]) == {1}


@every
def test_empty_video(tracker):
    assert follow(video([[]] * 5), tracker) == [{}] * 5


@every
def test_nothing_for_long_does_no_harm(tracker):
    # Far longer than anything is kept: what comes then is new.
    detections = video([[(box(50), 0.9, 0)]] * 5 + [[]] * 200 + [[(box(50), 0.9, 0)]] * 6)
    tracks = follow(detections, tracker)
    assert set(tracks[4]) == {1} and set(tracks[-1]) == {2}


@every
def test_perfect_detections_of_objects_apart_give_perfect_tracks(tracker):
    frames = [[(box(60 * i + 2 * t, 50 + t), 0.95, 0) for i in range(6)] for t in range(20)]
    assert [set(frame) for frame in follow(video(frames), tracker)] == [{1, 2, 3, 4, 5, 6}] * 20


@every
def test_state_does_not_grow(tracker):
    state = tracker.init()
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for seed in range(3):
        state, _ = tracker.scan(state, crowd(seed))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes


def test_camera_motion_is_followed():
    # The camera jumps by more than an object's width, zooming a little; who knows that keeps identities.
    affine = np.array([[1.05, 0, 40], [0, 1.05, -25]], np.float32)
    still = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    tracker = tracking.make("botsort", capacity=8)
    boxes = np.array([box(60), box(120), box(180)], np.float32)
    moved = boxes.copy().reshape(-1, 2) @ affine[:, :2].T + affine[:, 2]
    detections = video(
        [[(tuple(b), 0.9, 0) for b in (boxes if t < 4 else moved.reshape(-1, 4))] for t in range(7)]
    )
    camera = np.stack([affine if t == 4 else still for t in range(7)])
    _, tracks = tracker.scan(tracker.init(), detections, camera)
    assert [set(np.asarray(i[m]).tolist()) for i, m in zip(tracks.track_ids, tracks.mask, strict=True)] == [
        {1, 2, 3}
    ] * 7
    for name in ("sort", "bytetrack"):
        with pytest.raises(ValueError, match="moving camera"):
            tracking.make(name, capacity=8).scan(tracking.make(name, capacity=8).init(), detections, camera)


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="no tracker 'kalman'; choose from sort, bytetrack"):
        tracking.make("kalman")
    with pytest.raises(ValueError, match="sort: no option 'low_score'; it has capacity"):
        tracking.make("sort", low_score=0.1)


def test_more_objects_than_rows():
    # Room for 8 of 10: the best are followed. The two best vanish; what was left out takes their rows.
    scores = [0.65, 0.95, 0.8, 0.9, 0.75, 0.85, 0.8, 0.7, 0.86, 0.68]
    frames = [[(box(50 * i), s, 0) for i, s in enumerate(scores) if t < 4 or s < 0.9] for t in range(7)]
    tracks = follow(video(frames))
    places = [sorted(round(x / 50) for x in frame.values()) for frame in tracks]
    assert places[3] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert set(tracks[3]) == {1, 2, 3, 4, 5, 6, 7, 8}
    assert places[-1] == [0, 2, 4, 5, 6, 7, 8, 9]
    assert set(tracks[-1]) == {3, 4, 5, 6, 7, 8, 9, 10}


def crowd(seed):
    """Six objects on lines of their own, seen three times of four."""
    random = np.random.default_rng(seed)
    start, speed = random.uniform(0, 300, (6, 2)), random.uniform(-3, 3, (6, 2))
    frames = [
        [
            (box(*(start[i] + t * speed[i] + random.normal(0, 0.5, 2))), random.uniform(0.4, 1), i % 2)
            for i in range(6)
            if random.random() < 0.75
        ]
        for t in range(15)
    ]
    return video(frames)
