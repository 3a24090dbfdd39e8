import json
import os

import pytest

from mtl_jax.benchmark import tracking as benchmark
from mtl_jax.cli import main


def test_times_are_of_every_tracker_and_number(capsys, monkeypatch):
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)  # the other tests want their cores
    monkeypatch.setattr(benchmark, "_FRAMES", 12)
    arguments = "--objects 3 --streams 1 4 --trackers sort ocsort --repeats 1"
    main(["benchmark", "tracking", *arguments.split()])
    found = json.loads(capsys.readouterr().out)
    assert found["platform"] and found["frames"] == 12
    assert [(case["tracker"], case["objects"]) for case in found["one_stream"]] == [
        ("sort", 3),
        ("ocsort", 3),
    ]
    assert all(case["step_us"] > 0 and case["scan_us"] > 0 for case in found["one_stream"])
    assert [case["streams"] for case in found["many_streams"]] == [1, 4]
    assert all(case["frames_per_second"] > 0 for case in found["many_streams"])


def test_unknown_tracker():
    with pytest.raises(ValueError, match="no tracker 'nosuch'"):
        benchmark.run(trackers=["nosuch"])


def test_objects_move_and_stay_boxes():
    boxes = benchmark.moving_boxes(5, 40, seed=1)
    assert boxes.shape == (40, 5, 4)
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    steps = abs(boxes[1:, :, 0] - boxes[:-1, :, 0])
    assert steps.max() <= 5 and steps.max() > 1
