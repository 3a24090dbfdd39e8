import numpy as np
import pytest

from mtl_jax import tracking
from mtl_jax.data.mot_format import MotRows
from mtl_jax.errors import UserError
from mtl_jax.evaluation.mot import evaluate_tracks
from mtl_jax.tune import RANGES, tune

LENGTH = 30


def sequence(seed):
    """Ground truth of three objects, and detections of them whose scores are too low for the defaults."""
    random = np.random.default_rng(seed)
    frames, ids = np.repeat(np.arange(1, LENGTH + 1), 3), np.tile([1, 2, 3], LENGTH)
    left = 100.0 * ids + 2 * frames
    boxes = np.stack([left, 0 * left, left + 20, 0 * left + 50], axis=1)
    ones = np.ones(len(frames))
    truth = MotRows(frames, ids, boxes, ones, ones.astype(int), ones)
    seen = random.random(len(frames)) < 0.9
    found = MotRows(*(column[seen] for column in truth))
    noisy = found.boxes + random.normal(0, 1, found.boxes.shape)
    scores = random.uniform(0.35, 0.5, len(noisy))
    return found._replace(boxes=noisy, confidences=scores, track_ids=0 * found.frames - 1), truth


@pytest.fixture(scope="module")
def tuned():
    found, truth = zip(*(sequence(seed) for seed in range(3)), strict=True)
    data = [{f"s{i}": rows for i, rows in enumerate(column)} for column in (found, truth)]
    lengths = {name: LENGTH for name in data[0]}
    tracker = tracking.make("sort", capacity=24)
    return tracker, data, lengths, tune(tracker, *data, lengths, trials=20)


def test_finds_better_thresholds_and_says_what_they_are_worth(tuned):
    _, _, _, found = tuned
    assert found["given"] == 0
    assert found["best"] > 60
    assert 60 < found["held_out"] <= found["best"]
    assert found["options"]["high_score"] < 0.5 and found["options"]["new_score"] < 0.5
    assert len(found["trials"]) == 20
    for trial in found["trials"][1:]:
        for name, value in trial["options"].items():
            low, high, scale = RANGES[name]
            assert low - 1e-4 <= value <= high + 1e-4 and (scale != "whole" or isinstance(value, int))


def test_a_trial_is_what_the_tracker_does_alone(tuned):
    _, (detections, truth), lengths, found = tuned
    alone = tracking.make("sort", capacity=24, **found["options"])
    results = {
        name: tracking.follow(alone, tracking.pad(rows, LENGTH, 16).detections)
        for name, rows in detections.items()
    }
    scores = evaluate_tracks(truth, results, lengths)["sequences"]
    assert np.mean([row["HOTA"] for row in scores.values()]) == pytest.approx(found["best"], abs=0.5)


def test_one_video_has_nothing_to_hold_out_and_the_given_one_is_tried(tuned):
    _, (detections, truth), lengths, _ = tuned
    one = [{"s0": data["s0"]} for data in (detections, truth, lengths)]
    good = tracking.make("sort", capacity=24, high_score=0.3, new_score=0.3)
    found = tune(good, *one, trials=1)
    assert found["held_out"] is None
    assert found["best"] == found["given"] > 60
    assert found["options"]["high_score"] == 0.3


def test_unknown_metric(tuned):
    tracker, data, lengths, _ = tuned
    with pytest.raises(UserError, match=r"tune: no score 'F1'; choose from .*HOTA"):
        tune(tracker, *data, lengths, trials=1, metric="F1")
    with pytest.raises(UserError, match="found 0 trials"):
        tune(tracker, *data, lengths, trials=0)
