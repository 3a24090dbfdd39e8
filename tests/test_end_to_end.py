"""The whole way: data, training, online tracking, official scores."""

import itertools
import json
import signal

import numpy as np
import pytest

from mtl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrackerConfig,
    TrainingConfig,
)
from mtl_jax.data import video
from mtl_jax.data.mot_format import read_results
from mtl_jax.data.video import FrameSource, decode_image, open_frames
from mtl_jax.evaluation.mot import evaluate_mot
from tests.data import rtsp


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """A run on one clip of twelve frames, and the scores on that clip."""
    from mtl_jax.evaluation.model import evaluate_state
    from mtl_jax.training.loop import train

    folder = tmp_path_factory.mktemp("overfit")
    config = Config(
        data=DataConfig(
            dataset="moving_objects/tiny",
            data_dir=str(folder / "data"),
            train=("train-000",),
            test=("train-000",),
            image_size=(64, 64),
            batch_size=4,
            max_objects=8,
            augment=AugmentConfig(flip=0.0),
        ),
        model=ModelConfig(backbone="tiny"),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=20, ema_decay=0.95),
        training=TrainingConfig(steps=250, diagnose_every=0, checkpoint_every=250),
        tracker=TrackerConfig(options={"high_score": 0.4, "new_score": 0.5}),
    )
    experiment, state = train(config, folder / "run")
    return folder, evaluate_state(experiment, state, "test", folder / "evaluation")


def test_one_clip_is_learned_by_heart(overfitted):
    _, scores = overfitted
    assert scores["detection"]["AP50"] >= 95
    assert scores["tracking"]["combined"]["HOTA"] >= 90
    assert scores["motion"]["displacement_mean"] < 0.5


def test_scores_come_out_of_the_files_again(overfitted):
    folder, scores = overfitted
    output = folder / "evaluation"
    assert evaluate_mot(output / "gt", output / "results") == scores["tracking"]
    assert json.loads((output / "scores.json").read_text()) == scores


def test_track_a_video_of_ones_own(overfitted):
    """Frames go out as a folder of pictures and come back as tracks and an annotated video."""
    from mtl_jax.data.datasets import open_dataset
    from mtl_jax.track import track_video

    folder, _ = overfitted
    dataset = open_dataset("moving_objects/tiny", folder / "data")
    source = folder / "own"
    source.mkdir()
    for i in range(12):
        (source / f"{i}.jpg").write_bytes(dataset[i].image)
    summary = track_video(folder / "run", source, folder / "tracks")
    rows = read_results(folder / "tracks" / "own.txt")
    expected = read_results(folder / "evaluation" / "results" / "train-000.txt")
    np.testing.assert_allclose(rows.boxes, expected.boxes, atol=0.01)
    assert summary["frames"] == 12
    assert summary["tracks"] == len(set(rows.track_ids))
    assert open_frames(folder / "tracks" / "own.mp4").length == 12
    # In batches, the last of which is not full, the same comes out.
    batched = track_video(folder / "run", source, folder / "batched", batch=5)
    assert (batched["frames"], batched["tracks"]) == (summary["frames"], summary["tracks"])
    found = read_results(folder / "batched" / "own.txt")
    np.testing.assert_array_equal(found.track_ids, rows.track_ids)
    np.testing.assert_allclose(found.boxes, rows.boxes, atol=0.02)
    # Another tracker, camera motion and filled gaps do not disturb what is perfect already.
    botsort = TrackerConfig("botsort", {"high_score": 0.4, "new_score": 0.5, "capacity": 16})
    other = track_video(folder / "run", source, folder / "botsort", botsort, interpolate=5)
    assert other["tracks"] == summary["tracks"]
    found = read_results(folder / "botsort" / "own.txt")
    np.testing.assert_array_equal(found.frames, rows.frames)
    np.testing.assert_allclose(found.boxes, rows.boxes, atol=3)


def test_who_stops_a_camera_gets_what_was_followed(overfitted, monkeypatch):
    """The first Ctrl-C ends the frames, not the process; files hold what was followed up to there."""
    from mtl_jax import track
    from mtl_jax.data.datasets import open_dataset

    folder, _ = overfitted
    dataset = open_dataset("moving_objects/tiny", folder / "data")
    image = decode_image(dataset[0].image)

    def endless():
        for t in itertools.count():
            if t == 7:
                signal.raise_signal(signal.SIGINT)
            yield image

    height, width, _ = image.shape
    camera = FrameSource("camera0", 10.0, None, width, height, endless)
    monkeypatch.setattr(track, "open_frames", lambda *_, **__: camera)
    summary = track.track_video(folder / "run", "0", folder / "camera")
    assert summary["frames"] == 7
    assert open_frames(folder / "camera" / "camera0.mp4").length == 7
    assert set(read_results(folder / "camera" / "camera0.txt").frames) <= set(range(1, 8))


def test_follows_a_stream_until_it_breaks_off(overfitted, monkeypatch, capsys):
    """What came over RTSP before the server fell silent is in the files."""
    from mtl_jax.cli import main
    from mtl_jax.data.datasets import open_dataset

    monkeypatch.setattr(video, "PATIENCE", 0.5)
    folder, _ = overfitted
    dataset = open_dataset("moving_objects/tiny", folder / "data")
    frames = [decode_image(dataset[i].image) for i in range(12)]
    with rtsp.serve(frames, end="stalled") as address:
        main(["track", str(folder / "run"), "--source", address, "--output", str(folder / "stream")])
    assert f"warning: {address}: breaks off after frame 12" in capsys.readouterr().out
    assert open_frames(folder / "stream" / "live.mp4").length == 12
    assert json.loads((folder / "stream" / "live.json").read_text())["frames"] == 12
    assert set(read_results(folder / "stream" / "live.txt").frames) == set(range(1, 13))
