import json

import pytest

from mtl_jax.benchmark import data as benchmark
from mtl_jax.cli import main
from mtl_jax.config import DataConfig


def test_pipeline_and_decoding_are_timed_for_every_decoder_and_number_of_workers(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "_RENDERED", 6)
    arguments = "--render 48 64 --data.image-size 32 64 --decoders simplejpeg pillow --workers 0 1"
    main(["benchmark", "data", *arguments.split(), "--seconds", "0.05", "--repeats", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found["platform"] and found["cores"] > 0
    assert found["frame_size"] == [48, 64] and found["clip_size"] == [32, 64]
    assert set(found["stages_us"]) == {"read", "decode", "draw, labels"}
    assert all(microseconds > 0 for microseconds in found["stages_us"].values())
    assert [(case["decoder"], case["workers"]) for case in found["cases"]] == [
        (name, workers) for name in ("simplejpeg", "pillow") for workers in (0, 1)
    ]
    for case in found["cases"]:
        assert case["ratio"] == pytest.approx(case["pipeline"] / case["decode"])
        assert ("cpu_ratio" in case) == (case["workers"] == 0)


def test_decoders_agree():
    image = benchmark.synthetic.render_video(benchmark.synthetic.PRESETS["tiny"], 0, 1).frames[0]
    data = benchmark.encode_jpeg(image)
    for reduction in (1, 2, 4, 8):
        pictures = [decode(data, reduction, None) for decode in benchmark.DECODERS.values()]
        assert all((picture == pictures[0]).all() for picture in pictures)
        assert pictures[0].shape == (64 // reduction, 64 // reduction, 3)


def test_unknown_decoder():
    with pytest.raises(ValueError, match="no decoder 'nosuch'"):
        benchmark.run(DataConfig(), decoders=["nosuch"])
