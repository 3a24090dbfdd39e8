"""Runs that are stopped, killed, damaged or moved to other devices, and go on."""

import json
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from .commands import STEPS, assert_same_end, final_arrays, mtl_jax, start, wait_for_checkpoint


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


def test_preempted_saves_and_tells_the_scheduler_to_try_again(experiment, finished, tmp_path):
    run = tmp_path / "run"
    process = start("train", experiment, "--workdir", run)
    wait_for_checkpoint(run, 3)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert time.monotonic() - asked < 30  # of which all but the saving is this machine's
    mtl_jax("train", "--resume", run)
    assert_same_end(run, finished)


@pytest.mark.parametrize(
    ("kills", "seed"), [(10, 0), *(pytest.param(10, seed, marks=pytest.mark.slow) for seed in range(1, 5))]
)
def test_killed_at_random_moments_ends_with_the_same_bits(experiment, finished, tmp_path, kills, seed):
    """Half of the kills come while a checkpoint is being written, as soon as that begins."""
    rng = np.random.default_rng(seed)
    run, number, killed, seconds = tmp_path / "run0", 0, 0, 5.0
    while killed < kills:
        process = start("train", *begin_or_go_on(experiment, run))
        begin = time.monotonic()
        if killed % 2:
            while not is_saving(run) and process.poll() is None:
                time.sleep(0.002)
        else:
            time.sleep(rng.uniform(0, seconds))
        process.kill()
        _, errors = process.communicate()
        if process.returncode == -signal.SIGKILL:
            killed += 1
            seconds = max(seconds, 1.5 * (time.monotonic() - begin))
            continue
        # It was done before: check it, and begin another one.
        assert process.returncode == 0, errors
        assert_same_end(run, finished)
        number += 1
        run = tmp_path / f"run{number}"
    mtl_jax("train", *begin_or_go_on(experiment, run))
    assert_same_end(run, finished)


def begin_or_go_on(experiment: Path, run: Path) -> tuple:
    return ("--resume", run) if (run / "config.json").exists() else (experiment, "--workdir", run)


def is_saving(run: Path) -> bool:
    return any("tmp" in path.name for path in (run / "checkpoints" / "last").glob("*"))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damaged_checkpoint_falls_back_to_the_one_before(finished, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    checkpoint = run / "checkpoints" / "last" / str(STEPS)
    # The largest file holds arrays, and nothing of TensorStore's would notice the bit.
    file = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    damage(file)
    errors = mtl_jax("train", "--resume", run)
    assert f"last/{STEPS}: damaged ({file.relative_to(checkpoint)} is" in errors
    assert_same_end(run, finished)


@pytest.mark.parametrize(
    "mesh", [("--mesh.data", 1, "--mesh.fsdp", -1), pytest.param(("--mesh.data", 1), marks=pytest.mark.slow)]
)
def test_goes_on_on_another_mesh(finished, tmp_path, mesh):
    """What a device for each core had whole goes on with parameters split over them, or on one device alone."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "last" / str(STEPS))
    mtl_jax("train", "--resume", run, *mesh)
    other, whole = final_arrays(run), final_arrays(finished)
    assert other.keys() == whole.keys()
    for name, array in whole.items():
        # Three steps, in which Adam divides by small numbers and so makes rounding large.
        distance = np.linalg.norm(np.subtract(array, other[name], dtype=np.float64))
        assert distance <= 1e-2 * np.linalg.norm(array) + 1e-3, name


def test_two_processes_train_one_model(experiment, finished, tmp_path):
    """Each with half of every batch, from the command line; SIGTERM to one stops both, and both go on."""
    run = tmp_path / "run"

    def processes(*arguments):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            coordinator = f"localhost:{free.getsockname()[1]}"
        return [
            start(*arguments, "--coordinator", coordinator, "--processes", 2, "--process", i)
            for i in range(2)
        ]

    # Without diagnosis, which takes as long to compile as the rest.
    both = processes("train", experiment, "--workdir", run, "--training.diagnose-every", 0)
    wait_for_checkpoint(run, 3)
    both[1].send_signal(signal.SIGTERM)
    for process in both:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 75, errors
    for process in processes("train", "--resume", run):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    rows, others = ([json.loads(line) for line in (r / "metrics.jsonl").open()] for r in (run, finished))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        np.testing.assert_allclose(row["loss/total"], other["loss/total"], rtol=1e-2)


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
