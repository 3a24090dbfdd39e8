"""Whole runs from the command line: stop, kill, resume, and everything that can be wrong with a run's directory."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from mtl_jax import weighting

STEPS = 12
EXPERIMENT = """
from mtl_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig

config = Config(
    data=DataConfig(
        dataset="moving_objects/tiny", data_dir={data_dir!r}, image_size=(64, 64), batch_size=4, max_objects=8
    ),
    model=ModelConfig(backbone="tiny", neck_channels=8, head_channels=8, embedding_dim=8),
    optimizer=OptimizerConfig(warmup_steps=2),
    training=TrainingConfig(steps=12, log_every=1, diagnose_every=5, checkpoint_every=3),
)
"""


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "mtl_jax.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def mtl_jax(*arguments: object, status: int = 0) -> str:
    """Runs the command line and returns what it wrote to standard error."""
    process = start(*arguments)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, output + errors
    return errors


def wait_for_checkpoint(run: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while not (run / "checkpoints" / "last" / str(step)).is_dir():
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)


def final_arrays(run: Path) -> dict[str, np.ndarray]:
    import jax

    checkpointer = ocp.StandardCheckpointer()
    path = (run / "checkpoints" / "last" / str(STEPS) / "state").absolute()
    # The runs had a device for each core; this process has one.
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        dict(checkpointer.metadata(path).item_metadata),
    )
    state = checkpointer.restore(path, like)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_flatten_with_path(state)[0]}


def assert_same_end(run: Path, other: Path) -> None:
    arrays, others = final_arrays(run), final_arrays(other)
    assert arrays.keys() == others.keys()
    assert [name for name in arrays if arrays[name].tobytes() != others[name].tobytes()] == []
    rows, other_rows = ([json.loads(line) for line in (r / "metrics.jsonl").open()] for r in (run, other))
    for row in (*rows, *other_rows):
        row.pop("steps_per_second")
    assert rows == other_rows


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    path = folder / "experiment.py"
    path.write_text(EXPERIMENT.format(data_dir=str(folder / "data")))
    return path


@pytest.fixture(scope="module")
def finished(experiment) -> Path:
    """A run that was never interrupted."""
    run = experiment.parent / "finished"
    mtl_jax("train", experiment, "--workdir", run)
    return run


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


def test_killed_and_resumed_ends_with_the_same_bits(experiment, finished, tmp_path):
    run = tmp_path / "run"
    process = start("train", experiment, "--workdir", run, "--training.steps", STEPS)
    wait_for_checkpoint(run, 3)
    process.kill()
    process.communicate()
    assert not (run / "checkpoints" / "last" / str(STEPS)).exists()
    mtl_jax("train", "--resume", run)
    assert_same_end(run, finished)


def test_interrupted_saves_and_says_how_to_go_on(experiment, finished, tmp_path):
    run = tmp_path / "run"
    process = start("train", experiment, "--workdir", run)
    wait_for_checkpoint(run, 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"go on with `mtl-jax train --resume {run}`" in errors
    mtl_jax("train", "--resume", run)
    assert_same_end(run, finished)


def test_damaged_checkpoint_falls_back_to_the_one_before(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for file in (run / "checkpoints" / "last" / str(STEPS) / "state").rglob("*"):
        if file.is_file() and file.stat().st_size:
            file.write_bytes(b"\0" * 7)
    errors = mtl_jax("train", "--resume", run)
    assert f"last/{STEPS}: damaged" in errors
    assert_same_end(run, finished)


def test_all_checkpoints_damaged(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file() and file.parent.name != "metrics":
            file.write_bytes(b"")
    errors = mtl_jax("train", "--resume", run, status=2)
    assert "no checkpoint can be read" in errors


def test_checkpoint_of_another_model(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    config = json.loads((run / "config.json").read_text())
    config["model"]["embedding_dim"] = 16
    (run / "config.json").write_text(json.dumps(config))
    errors = mtl_jax("train", "--resume", run, status=2)
    assert "a checkpoint of another model" in errors
    assert "(8,)" in errors
    assert "(16,)" in errors
    assert len(errors.strip().splitlines()) == 1


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
