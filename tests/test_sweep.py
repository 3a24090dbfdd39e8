"""Sweeps from the command line: what is finished is skipped, what fails does not stop the others."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import pytest

from mtl_jax.commands.experiment import run_file
from mtl_jax.config import Config, TrainingConfig
from mtl_jax.errors import UserError
from mtl_jax.sweep import Trial, begin, expand, overview, slurm_script, status

SWEEP = """
import dataclasses

from mtl_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig, WeightingConfig

base = Config(
    data=DataConfig(
        dataset="moving_objects/tiny", data_dir={data_dir!r}, image_size=(64, 64), batch_size=4, max_objects=8
    ),
    model=ModelConfig(backbone="tiny", neck_channels=8, head_channels=8, embedding_dim=8),
    optimizer=OptimizerConfig(warmup_steps=2),
    training=TrainingConfig(steps=6, log_every=1, diagnose_every=0, checkpoint_every=2),
)
configs = [
    dataclasses.replace(base, name="plain", weighting=WeightingConfig(scheme="equal")),
    dataclasses.replace(base, name="broken", weighting=WeightingConfig(scheme="no_such_scheme")),
]
"""


def mtl_jax(*arguments: object, status: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mtl_jax.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two configurations, of which one cannot run, and what it said."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.py").write_text(SWEEP.format(data_dir=str(folder / "data")))
    return folder, *mtl_jax(
        "sweep", folder / "sweep.py", "--workdir", folder / "runs", "--seeds", 2, status=2
    )


def test_all_that_can_run_does_and_the_rest_is_told(swept):
    folder, output, errors = swept
    assert "sweep: 2 of 4 runs failed" in errors
    assert "no_such_scheme" in (folder / "runs" / "broken" / "seed1" / "failed.txt").read_text()
    assert output.count("finished") == 2
    assert output.count("failed") == 2
    results = [
        json.loads((folder / "runs" / "plain" / f"seed{seed}" / "result.json").read_text()) for seed in (0, 1)
    ]
    assert [result["seed"] for result in results] == [0, 1]
    assert results[0]["losses"] != results[1]["losses"]
    assert {"AP", "HOTA"} <= results[0]["scores"].keys()
    assert results[0]["versions"].keys() >= {"jax", "mtl-jax", "python"}
    assert results[0]["parameters"] > 1000


def test_what_is_finished_is_not_run_again(swept):
    folder, *_ = swept
    path = folder / "runs" / "plain" / "seed0" / "result.json"
    before = path.stat().st_mtime_ns
    arguments = ("sweep", folder / "sweep.py", "--workdir", folder / "runs", "--seeds", 2, "--only", "plain")
    began = time.monotonic()
    mtl_jax(*arguments)
    assert path.stat().st_mtime_ns == before
    assert time.monotonic() - began < 60


def test_runs_are_listed_and_compared(swept):
    folder, *_ = swept
    output, _ = mtl_jax("runs", folder / "runs")
    assert "plain/seed0" in output
    assert "no_such_scheme" in output
    runs = [folder / "runs" / "plain" / f"seed{seed}" for seed in (0, 1)]
    output, _ = mtl_jax("compare", *runs)
    assert "training.seed" in output
    assert "test HOTA" in output or "test AP" in output or "ms per step" in output
    assert "model.backbone" not in output


def test_a_stopped_sweep_goes_on(swept, tmp_path):
    folder, *_ = swept
    command = [sys.executable, "-m", "mtl_jax.cli", "sweep", str(folder / "sweep.py"), "--only", "plain"]
    process = subprocess.Popen([*command, "--workdir", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    run = tmp_path / "plain" / "seed0"
    while not (run / "lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 75, errors
    assert "the same command goes on" in errors
    assert status(run) == "stopped"
    mtl_jax(*command[3:], "--workdir", tmp_path)
    alone = json.loads((folder / "runs" / "plain" / "seed0" / "result.json").read_text())
    assert json.loads((run / "result.json").read_text())["scores"] == alone["scores"]


def configs(*names: str) -> list[Config]:
    return [Config(name=name) for name in names]


def test_seeds_follow_the_configurations_own(tmp_path):
    config = Config(name="a", training=TrainingConfig(seed=5))
    trials = expand([config], "sweep.py", tmp_path, seeds=2)
    assert [trial.config.training.seed for trial in trials] == [5, 6]
    assert [trial.workdir for trial in trials] == [tmp_path / "a" / "seed5", tmp_path / "a" / "seed6"]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (None, {}, "sweep.py: defines no `configs`"),
        ([1], {}, "sweep.py: defines no `configs`"),
        (configs("a", "b", "a"), {}, r"configs\[0\] and configs\[2\] are both called 'a'"),
        (configs("a/b"), {}, r"configs\[0\]: name 'a/b' cannot be that of a directory"),
        (configs("a"), {"only": ("b",)}, "only: found 'b'; choose from a"),
        (configs("a"), {"seeds": 0}, "seeds: found 0; expected at least 1"),
    ],
)
def test_sweeps_that_cannot_be(tmp_path, given, options, message):
    with pytest.raises(UserError, match=message):
        expand(given, "sweep.py", tmp_path, **options)


def test_a_file_that_raises_is_told_with_its_line(tmp_path):
    (tmp_path / "sweep.py").write_text("configs = []\nconfigs[0]\n")
    with pytest.raises(UserError, match=r"sweep.py:2: IndexError"):
        run_file(tmp_path / "sweep.py")


def test_a_run_of_another_configuration_is_not_mixed_in(tmp_path):
    begin(expand(configs("a"), "sweep.py", tmp_path))
    assert [row["status"] for row in overview(tmp_path)] == ["waiting"]
    changed = [dataclasses.replace(configs("a")[0], tasks=("box",))]
    with pytest.raises(UserError, match="another configuration: tasks is"):
        begin(expand(changed, "sweep.py", tmp_path))


def test_a_script_for_slurm_names_every_trial(tmp_path):
    script = slurm_script([Trial(config, tmp_path / config.name) for config in configs("a", "b")])
    assert "--array=0-1" in script
    assert f'"{tmp_path}/b"' in script


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match="no runs; give the --workdir of a sweep"):
        overview(tmp_path)
