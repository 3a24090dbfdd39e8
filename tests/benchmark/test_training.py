import json
import statistics
import time

import jax
import numpy as np
import pytest

from mtl_jax.benchmark import reference, training
from mtl_jax.benchmark.peer_model import build_network
from mtl_jax.benchmark.program import Program, empty_cache
from mtl_jax.benchmark.waiting import wait_for_data
from mtl_jax.cli import main
from mtl_jax.config import MeshConfig
from mtl_jax.data.datasets import prepare
from mtl_jax.training.mesh import make_mesh


def test_a_step_is_timed_on_noise_and_on_data(capsys, tmp_path):
    prepare("moving_objects/tiny", tmp_path)
    options = "--backbone tiny --image-size 32 64 --batch 2 --clip-length 2 --repeats 3 --scheme mgda_ub"
    data = ["--with-data", "moving_objects/tiny", "--data-dir", str(tmp_path)]
    main(["benchmark", "train", *options.split(), *data])
    found = json.loads(capsys.readouterr().out)
    assert found["platform"] and found["jax"]
    assert found["images_per_second"] == pytest.approx(4e3 / found["ms"]["median"])
    assert 0 < found["ms"]["min"] <= found["ms"]["median"] <= found["ms"]["max"]
    assert found["flops"]["backward"] == "representation"
    assert found["flops"]["step"] == 4 * 3 * found["flops"]["forward_per_image"]
    assert (found["utilization"] == "unknown") == (found["peak"]["tflops"] == "unknown")
    assert found["memory_mib"]["temporary"] > 0
    assert found["compile_s"]["cold"] > 0 and found["compile_s"]["warm"] > 0
    assert found["host_input_ms"]["median"] > 0
    with_data = found["with_data"]
    assert with_data["dataset"] == "moving_objects/tiny"
    assert with_data["images_per_second"] == pytest.approx(4e3 / with_data["ms"]["median"])
    assert 0 <= with_data["input_wait_share"] <= 1


def test_modes_of_the_fixed_network_are_timed_in_turn(monkeypatch):
    monkeypatch.setattr(reference, "build_network", lambda dtype: build_network("tiny", dtype))
    found = reference.run((32, 32), batch=2, peers=(), repeats=2)
    assert list(found["modes"]) == ["sum", "representation", "exact"]
    flops = {}
    for mode, entries in found["modes"].items():
        name = "jax_vmap" if mode == "exact" else "jax"
        ours = entries[name]
        assert ours["images_per_second"] == pytest.approx(2e3 / ours["ms"]["median"])
        assert ours["memory_mib"]["temporary"] > 0 and ours["compile_s"]["warm"] > 0
        assert entries["speedup"] == {name: {}}
        flops[mode] = ours["flops"]
    assert flops["sum"] == flops["representation"] == 6 * found["flops_forward_per_image"]
    assert flops["sum"] < flops["exact"] < 3 * flops["sum"]


def test_speedup_is_over_each_peer_that_runs(monkeypatch):
    def make_step(network, mode, batch, dtype, compiled):
        if compiled:
            raise RuntimeError("no compiler")
        return lambda: time.sleep(0.02)

    monkeypatch.setattr(reference, "build_network", lambda dtype: build_network("tiny", dtype))
    monkeypatch.setattr(reference.peer_torch, "version", lambda: "0")
    monkeypatch.setattr(reference.peer_torch, "build_network", lambda: None)
    monkeypatch.setattr(reference.peer_torch, "make_step", make_step)
    entries = reference.run((32, 32), batch=2, modes=("sum",), repeats=2)["modes"]["sum"]
    assert entries["torch_compile"] == {"error": "RuntimeError: no compiler"}
    assert entries["torch_eager"]["ms"]["min"] >= 20
    ratio = entries["torch_eager"]["ms"]["median"] / entries["jax"]["ms"]["median"]
    assert entries["speedup"] == {"jax": {"torch_eager": pytest.approx(ratio)}}


def test_what_does_not_go_together(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["benchmark", "train", "--peer-model", "--with-data", "moving_objects/tiny"])
    assert exit_.value.code == 2
    assert "do not go together" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main(["benchmark", "train", "--backbone", "nosuch"])
    assert exit_.value.code == 2
    assert "no backbone is called 'nosuch'" in capsys.readouterr().err


def test_a_program_goes_on_from_its_state():
    mesh = make_mesh(MeshConfig(data=1), 1)
    program = Program(lambda s, b: (s + b.sum(), s), jax.numpy.zeros(()), np.ones((1, 3), np.float32), mesh)
    for _ in range(3):
        program.run()
    assert program.start() == 9


def test_the_cache_is_as_before_afterwards():
    before = jax.config.jax_compilation_cache_dir
    with empty_cache():
        assert jax.config.jax_compilation_cache_dir != before
    assert jax.config.jax_compilation_cache_dir == before


def test_a_slow_pipeline_makes_devices_wait():
    def slow():
        while True:
            time.sleep(0.05)
            yield np.ones(3)

    add = jax.jit(lambda x: x + 1)
    found = wait_for_data(add, slow(), jax.device_put, steps=4, warm_up=2)
    assert found["next_ms"]["min"] >= 50
    assert found["input_wait_share"] > 0.5
    assert found["input_wait_ms"]["median"] <= found["ms"]["median"]


def test_type_of_the_activations_is_the_backend_s():
    expected = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    assert training.default_dtype() == expected


def test_speed_is_of_the_median():
    assert training.speed([1.0, 2.0, 9.0], 4)["images_per_second"] == 4e3 / statistics.median([1, 2, 9])
