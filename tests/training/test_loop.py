"""Whole runs from the command line: stop, kill, resume, and everything that can be wrong with a run's directory."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from mtl_jax import weighting
from mtl_jax.training import workdir

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
        for key in [key for key in row if key.startswith(("steps_per_second", "time/", "memory/"))]:
            del row[key]
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


def test_goes_on_with_parameters_split_over_devices(finished, tmp_path):
    """A checkpoint of a device for each core, whole on each, goes on over as many with parameters split."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "last" / str(STEPS))
    mtl_jax("train", "--resume", run, "--mesh.data", 1, "--mesh.fsdp", -1)
    split, whole = final_arrays(run), final_arrays(finished)
    assert split.keys() == whole.keys()
    for name, array in whole.items():
        # Three steps, in which Adam divides by small numbers and so makes rounding large.
        distance = np.linalg.norm(np.subtract(array, split[name], dtype=np.float64))
        assert distance <= 1e-2 * np.linalg.norm(array) + 1e-3, name


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

    both = processes("train", experiment, "--workdir", run, "--training.steps", STEPS)
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


def test_processes_that_are_not_all_described(experiment, tmp_path):
    errors = mtl_jax("train", experiment, "--workdir", tmp_path, "--coordinator", "localhost:1", status=2)
    assert "coordinator: give all of --coordinator HOST:PORT, --processes N and --process I" in errors


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
