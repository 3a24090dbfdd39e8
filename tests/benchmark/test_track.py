import json

import pytest

from mtl_jax.benchmark import track as benchmark
from mtl_jax.cli import main
from mtl_jax.errors import UserError

EXPERIMENT = """
from mtl_jax.config import Config, DataConfig, ModelConfig
config = Config(
    data=DataConfig(dataset="mot_challenge/none", image_size=(32, 64), max_objects=4),
    model=ModelConfig(inputs="pair_heatmap", neck_channels=8, head_channels=8, embedding_dim=8),
)
"""


def test_latency_and_throughput_of_every_batch_size(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "_RENDERED", 4)
    experiment = tmp_path / "experiment.py"
    experiment.write_text(EXPERIMENT)
    arguments = "--render 48 64 --batches 1 3 --frames 7 --repeats 1"
    main(["benchmark", "track", str(experiment), *arguments.split()])
    found = json.loads(capsys.readouterr().out)
    assert found["platform"] and found["inputs"] == "pair_heatmap"
    assert found["weights"].startswith("random")
    assert found["frame_size"] == [48, 64] and found["image_size"] == [32, 64]
    assert all(value > 0 for value in found["write_ms"].values())
    assert [case["batch"] for case in found["cases"]] == [1, 3]
    for case in found["cases"]:
        latency = case["latency_ms"]
        assert 0 < latency["median"] <= latency["p90"] <= latency["p99"]
        assert all(speed > 0 for speed in case["frames_per_second"].values())
        assert case["stages_ms"]["decode"] > 0 and case["stages_ms"]["network"] > 0
        # In a batch network and tracker are one call.
        assert (case["stages_ms"]["tracker"] == 0) == (case["batch"] > 1)


def test_nothing_to_follow_with():
    with pytest.raises(SystemExit), pytest.raises(UserError):
        main(["benchmark", "track"])
