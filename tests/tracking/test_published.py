"""Each tracker does, frame by frame, what its paper's algorithm does."""

import jax
import numpy as np
import pytest

from mtl_jax import tracking
from mtl_jax.structures import Detections
from tests.tracking import published

ROWS, OBJECTS, FRAMES = 16, 9, 50
CAPACITY = 48


def crowd(seed, features=False):
    """Objects on curved ways that cross, seen four times of five, with false detections and scores of all heights."""
    random = np.random.default_rng(seed)
    place, speed = random.uniform(0, 250, (OBJECTS, 2)), random.normal(0, 3, (OBJECTS, 2))
    size = random.uniform((15, 30), (40, 90), (OBJECTS, 2))
    looks = random.normal(size=(OBJECTS, 8))
    frames = []
    for _ in range(FRAMES):
        speed = speed + random.normal(0, 0.4, speed.shape)
        place = place + speed
        size = size * np.exp(random.normal(0, 0.01, size.shape))
        seen = np.flatnonzero(random.random(OBJECTS) < 0.8)
        center = place[seen] + random.normal(0, 1.5, (len(seen), 2))
        shape = size[seen] * np.exp(random.normal(0, 0.04, (len(seen), 2)))
        false = random.integers(0, 3)
        center = np.concatenate([center, random.uniform(0, 250, (false, 2))])
        shape = np.concatenate([shape, random.uniform((15, 30), (40, 90), (false, 2))])
        scores = np.where(
            random.random(len(center)) < 0.7, random.uniform(0.6, 1, len(center)), random.random(len(center))
        )
        appearance = np.concatenate([looks[seen], random.normal(size=(false, 8))])
        appearance = appearance + random.normal(0, 0.4, appearance.shape)
        appearance /= np.linalg.norm(appearance, axis=1, keepdims=True)
        displacement = np.concatenate([-speed[seen], random.normal(0, 3, (false, 2))])
        frame = {
            "boxes": np.concatenate([center - shape / 2, center + shape / 2], axis=1).astype(np.float32),
            "scores": scores.astype(np.float32),
            "displacement": displacement.astype(np.float32),
        }
        if features:
            frame["features"] = appearance.astype(np.float32)
        frames.append(frame)
    return frames


def padded(frame):
    def pad(x):
        return np.concatenate([x, np.zeros((ROWS - len(x), *x.shape[1:]), x.dtype)])

    return Detections(
        boxes=pad(frame["boxes"]),
        scores=pad(frame["scores"]),
        classes=np.zeros(ROWS, np.int32),
        mask=np.arange(ROWS) < len(frame["boxes"]),
        embeddings=pad(frame["features"]) if "features" in frame else None,
        displacement=pad(frame["displacement"]),
    )


PIXELS = {"noise": "pixels", "confirm_again": True}
CASES = {
    "sort": ("sort", PIXELS, lambda: published.Sort(), False),
    "sort, longer": (
        "sort",
        PIXELS | {"max_lost": 8, "min_hits": 2},
        lambda: published.Sort(max_lost=8, min_hits=2),
        False,
    ),
    "sort, noise by size": ("sort", {"max_lost": 8}, lambda: published.ScaledSort(max_lost=8), False),
    "ocsort": ("ocsort", PIXELS, lambda: published.OcSort(), False),
    "ocsort, low scores": (
        "ocsort",
        PIXELS | {"low_turn": True},
        lambda: published.OcSort(low_turn=True),
        False,
    ),
    "ocsort, noise by size": ("ocsort", {}, lambda: published.ScaledOcSort(), False),
    "bytetrack": ("bytetrack", {}, published.ByteTrack, False),
    "botsort": ("botsort", {}, published.BotSort, False),
    "botsort, appearance": ("botsort", {}, published.BotSort, True),
    "jde": ("jde", {}, published.Jde, True),
    "centertrack": ("centertrack", {}, published.CenterTrack, False),
    "centertrack, longer": ("centertrack", {"max_lost": 3}, lambda: published.CenterTrack(3), False),
}
PUBLISHED = {
    "sort": {"high_score": 0.0, "new_score": 0.0, "max_lost": 1, "report": "filtered"},
    "ocsort": {"report": "detected"},
    "bytetrack": {"measurement_noise": 1 / 20, "position_noise": 1 / 20, "velocity_noise": 1 / 160},
    "botsort": {
        "min_hits": 2,
        "measurement_noise": 1 / 20,
        "position_noise": 1 / 20,
        "velocity_noise": 1 / 160,
    },
    "jde": {"measurement_noise": 1 / 20, "position_noise": 1 / 20, "velocity_noise": 1 / 160},
    "centertrack": {},
}


@pytest.mark.parametrize("case", CASES)
def test_does_what_is_published(case):
    name, options, reference, features = CASES[case]
    tracker = tracking.make(name, capacity=CAPACITY, **PUBLISHED[name] | options)
    identities = set()
    for seed in range(6):
        expected_tracker = reference()
        state = tracker.init(8 if features else 0)
        for frame in crowd(seed, features):
            expected = (
                expected_tracker.step(**frame)
                if name == "centertrack"
                else expected_tracker.step(
                    **{key: value for key, value in frame.items() if key != "displacement"}
                )
            )
            state, tracks = tracker.step(state, padded(frame))
            tracks = jax.tree.map(np.asarray, tracks)
            found = dict(zip(tracks.track_ids[tracks.mask].tolist(), tracks.boxes[tracks.mask], strict=True))
            assert set(found) == set(expected)
            for identity, box in found.items():
                np.testing.assert_allclose(box, expected[identity], rtol=1e-3, atol=0.05)
            identities |= {(seed, identity) for identity in found}
    assert len(identities) > 6 * OBJECTS  # tracks broke, so that more than the first frame was compared
