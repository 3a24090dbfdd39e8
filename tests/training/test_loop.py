"""Whole runs from the command line, and everything that can be wrong with a run's directory."""

import json
import subprocess

import numpy as np
import pytest

from mtl_jax import weighting
from mtl_jax.training import workdir

from .commands import STEPS, mtl_jax


@pytest.mark.slow
@pytest.mark.parametrize("scheme", weighting.names())
def test_trains_under_every_scheme(scheme, experiment, tmp_path):
    options = ["--weighting", scheme, "--training.steps", 3, "--training.diagnose-every", 0]
    if scheme in ("fixed", "cosmos", "pbi"):
        options += [
            "--weighting.weights",
            *["classification", "0.3", "box", "0.5", "motion", "0.1", "identity", "0.1"],
        ]
    mtl_jax("train", experiment, "--workdir", tmp_path / "run", *options)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(np.isfinite(list(row.values())).all() and row["dropped"] == 0 for row in rows)


def test_two_runs_never_write_into_one_directory(experiment, finished, tmp_path):
    run = tmp_path / "run"
    with workdir.locked(run):
        errors = mtl_jax("train", experiment, "--workdir", run, status=2)
    assert "another run is writing here" in errors
    assert len(errors.strip().splitlines()) == 1
    assert [path.name for path in run.iterdir()] == ["lock"]


def test_a_directory_of_another_configuration_is_refused(experiment, finished):
    errors = mtl_jax(
        "train",
        experiment,
        "--workdir",
        finished,
        "--optimizer.learning-rate",
        0.5,
        "--mesh.fsdp",
        2,
        status=2,
    )
    assert "optimizer.learning_rate is 0.002 there, 0.5 here, mesh.fsdp is 1 there, 2 here" in errors
    assert json.loads((finished / "config.json").read_text())["optimizer"]["learning_rate"] == 0.002


def test_a_run_that_is_not_finite_ends_and_keeps_its_checkpoints(experiment, tmp_path):
    run = tmp_path / "run"
    options = ["--optimizer.learning-rate", 1e30, "--optimizer.clip-norm", 1e30, "--training.max-skipped", 3]
    errors = mtl_jax(
        "train", experiment, "--workdir", run, *options, "--training.checkpoint-every", 1, status=2
    )
    assert "skipped, not finite: " in errors
    last = errors.strip().splitlines()[-1]
    assert "not finite for 3 steps: the loss of " in last
    assert list((run / "not_finite").glob("step*_process0.npz"))
    assert any(path.name.isdigit() for path in (run / "checkpoints" / "last").iterdir())


def test_a_profile_of_some_steps(experiment, tmp_path):
    run = tmp_path / "run"
    mtl_jax("train", experiment, "--workdir", run, "--training.steps", 4, "--profile.steps", "2:3")
    assert list(run.glob("profile/plugins/profile/*/*.trace.json.gz"))
    assert list(run.glob("profile/plugins/profile/*/*.xplane.pb"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert {"time/step_ms", "time/input_wait_ms", "time/goodput", "memory/host_mib"} <= rows[-1].keys()
    assert 0 < rows[-1]["time/goodput"] < 1
    errors = mtl_jax("train", experiment, "--workdir", tmp_path, "--profile.steps", "3", status=2)
    assert "profile.steps: found '3'; expected FIRST:LAST" in errors


def test_processes_that_are_not_all_described(experiment, tmp_path):
    errors = mtl_jax("train", experiment, "--workdir", tmp_path, "--coordinator", "localhost:1", status=2)
    assert "coordinator: give all of --coordinator HOST:PORT, --processes N and --process I" in errors


def test_second_run_into_the_same_directory_loses_nothing(experiment, finished):
    before = sorted(p.name for p in (finished / "checkpoints" / "last").iterdir())
    errors = mtl_jax("train", experiment, "--workdir", finished, status=2)
    assert "there is a run already, at step 12" in errors
    assert sorted(p.name for p in (finished / "checkpoints" / "last").iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["training"].update(stepz=3), "unknown key training.stepz; did you mean training.steps?"),
        (lambda c: c["training"].update(steps="many"), "training.steps: expected int, found 'many'"),
        (
            lambda c: c["model"].update(inputs="triple"),
            "model.inputs: found 'triple'; choose from 'frame', 'pair'",
        ),
    ],
)
def test_wrong_configuration_key(finished, tmp_path, change, message):
    config = json.loads((finished / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    errors = mtl_jax("train", "--resume", tmp_path, status=2)
    assert message in errors
    assert "config.json" in errors


def test_unknown_option_and_unknown_experiment(experiment, tmp_path):
    assert "stepz" in mtl_jax("train", experiment, "--workdir", tmp_path, "--training.stepz", 3, status=2)
    errors = mtl_jax("train", tmp_path / "none.py", "--workdir", tmp_path, status=2)
    assert "none.py: no such experiment" in errors
    (tmp_path / "broken.py").write_text("a = 1\nb = a / 0\n")
    errors = mtl_jax("train", tmp_path / "broken.py", "--workdir", tmp_path, status=2)
    assert "broken.py:2: ZeroDivisionError" in errors


def test_not_a_run(tmp_path):
    assert "config.json: not found" in mtl_jax("train", "--resume", tmp_path, status=2)
    assert "config.json: not found" in mtl_jax("evaluate", tmp_path, status=2)


def test_full_disk_keeps_the_earlier_checkpoints(experiment, finished, tmp_path):
    """The run lies on a file system with room for a checkpoint or two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(
        f.stat().st_size for f in (finished / "checkpoints" / "last" / str(STEPS)).rglob("*") if f.is_file()
    )
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={int(1.9 * size)}", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        # How TensorStore reports a full disk only a full disk tells, and to mount a small one takes root on Linux.
        pytest.skip(f"cannot mount a small disk to fill: {mounted.stderr.strip()}")
    try:
        errors = mtl_jax("train", experiment, "--workdir", disk / "run", status=2)
        assert "the disk is full at step 6; earlier checkpoints are intact" in errors
        assert "Traceback" not in errors
        assert (disk / "run" / "checkpoints" / "last" / "3").is_dir()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
