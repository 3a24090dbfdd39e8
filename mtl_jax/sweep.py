"""Many runs from one file, each in a process of its own: finished ones are skipped, and a stopped sweep goes on.

SWEEP/NAME/seed0/            a run, as `mtl-jax train` leaves it, with `evaluation/test`
SWEEP/NAME/seed0/trial.json  its configuration, also before it has begun
SWEEP/NAME/seed0/result.json what came out, and of what: the run is finished
SWEEP/NAME/seed0/log.txt     all that it said
SWEEP/NAME/seed0/failed.txt  why it failed
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mtl_jax import config as config_lib
from mtl_jax.config import Config
from mtl_jax.errors import UserError
from mtl_jax.progress import Progress
from mtl_jax.signals import stop_signals

_WIDTH = 80  # of a reason in a table; the whole is in failed.txt

Status = Literal["finished", "failed", "running", "stopped", "waiting"]


class Trial(NamedTuple):
    """A run of a sweep.

    Attributes:
        config: Its configuration.
        workdir: Its directory.
    """

    config: Config
    workdir: Path


def expand(configs: Any, where: str, workdir: Path, seeds: int = 1, only: Sequence[str] = ()) -> list[Trial]:
    """Returns the trials of a sweep: each configuration, with its own seed and those that follow it.

    Args:
        configs: What a file says are its configurations: a list, each with a `name` of its own.
        where: The file, for errors.
        workdir: Directory of the sweep.
        seeds: How many seeds.
        only: Names; all, if empty.

    Raises:
        UserError: If that is no list of configurations, two have one name, or `only` names one that is not there.
    """
    if not isinstance(configs, Sequence) or not configs or not all(isinstance(c, Config) for c in configs):
        raise UserError(f"{where}: defines no `configs`, a list of mtl_jax.config.Config")
    if seeds < 1:
        raise UserError(f"seeds: found {seeds}; expected at least 1")
    places: dict[str, int] = {}
    for place, config in enumerate(configs):
        if config.name in ("", ".", "..") or "/" in config.name:
            raise UserError(f"{where}: configs[{place}]: name {config.name!r} cannot be that of a directory")
        if config.name in places:
            raise UserError(
                f"{where}: configs[{places[config.name]}] and configs[{place}] are both called {config.name!r}; give "
                "each a name of its own"
            )
        places[config.name] = place
    for name in only:
        if name not in places:
            raise UserError(f"only: found {name!r}; choose from {', '.join(places)}")
    trials = []
    for config in configs:
        for seed in range(config.training.seed, config.training.seed + seeds):
            if not only or config.name in only:
                training = dataclasses.replace(config.training, seed=seed)
                seeded = dataclasses.replace(config, training=training)
                trials.append(Trial(seeded, workdir / config.name / f"seed{seed}"))
    return trials


def begin(trials: Sequence[Trial]) -> list[Trial]:
    """Writes down what each trial is, and returns those that are not finished.

    Raises:
        UserError: If the directory of one has a run of another configuration.
    """
    from mtl_jax.training.workdir import difference

    waiting = []
    for trial in trials:
        path = trial.workdir / "trial.json"
        if path.is_file():
            before = config_lib.from_json(path.read_text(), where=str(path))
            if before != trial.config:
                raise UserError(
                    f"{trial.workdir}: has a run of another configuration: {difference(before, trial.config)}; choose "
                    "another --workdir, or remove that run"
                )
        else:
            trial.workdir.mkdir(parents=True, exist_ok=True)
            path.write_text(config_lib.to_json(trial.config))
        if not (trial.workdir / "result.json").is_file():
            waiting.append(trial)
    return waiting


def run(trials: Sequence[Trial], jobs: int = 1, retries: int = 1) -> tuple[list[Path], int | None]:
    """Runs trials, several at once; one that fails is tried again, and does not stop the others.

    Args:
        trials: The trials, from `begin`.
        jobs: How many at once.
        retries: How often each is tried again.

    Returns:
        Directories of those that failed, and the signal that stopped the sweep, if one did.
    """
    lock, running, failed = threading.Lock(), set[subprocess.Popen](), []

    with Progress("sweep", len(trials)) as progress, stop_signals() as stop:

        def one(trial: Trial) -> None:
            for _ in range(retries + 1):
                if stop.is_set():
                    return
                with (trial.workdir / "log.txt").open("a") as log:
                    command = [sys.executable, "-m", "mtl_jax.cli", "trial", str(trial.workdir)]
                    # In a group of its own, so that Ctrl-C reaches it once, from here.
                    process = subprocess.Popen(
                        command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                    )
                with lock:
                    running.add(process)
                status = process.wait()
                with lock:
                    running.discard(process)
                if status == 0 or stop.is_set():
                    break
                (trial.workdir / "failed.txt").write_text(_reason(trial.workdir, status) + "\n")
            else:
                failed.append(trial.workdir)
            progress.advance(failed=len(failed))

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(one, trial) for trial in trials]
            while not all(future.done() for future in futures):
                concurrent.futures.wait(futures, timeout=0.2)
                if stop.is_set():
                    with lock:
                        for process in running:
                            process.send_signal(signal.SIGTERM)  # it saves
                    concurrent.futures.wait(futures)
        for future in futures:
            future.result()
    return failed, stop.number


def status(workdir: Path) -> Status:
    """Returns how far a run is."""
    if (workdir / "result.json").is_file():
        return "finished"
    if (workdir / "lock").is_file():
        with (workdir / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return "running"
    if (workdir / "failed.txt").is_file():
        return "failed"
    return "stopped" if (workdir / "config.json").is_file() else "waiting"


def overview(sweep: Path) -> list[dict[str, Any]]:
    """Returns a row for each run below a directory: name, seed, status, step, last score, and minutes left.

    Raises:
        UserError: If there is no run.
    """
    from mtl_jax.training.metrics import read_metrics

    found = {path.parent for name in ("trial.json", "config.json") for path in sweep.rglob(name)}
    if not found:
        raise UserError(f"{sweep}: no runs; give the --workdir of a sweep")
    rows = []
    for workdir in sorted(found):
        path = next(p for n in ("trial.json", "config.json") if (p := workdir / n).is_file())
        config = config_lib.from_json(path.read_text(), where=str(path))
        metrics = read_metrics(workdir)
        step = metrics[-1]["step"] if metrics else 0
        row: dict[str, Any] = {
            "run": str(workdir.relative_to(sweep)),
            "status": status(workdir),
            "step": step,
        }
        speeds = [m["steps_per_second"] for m in metrics if "steps_per_second" in m]
        if speeds and row["status"] in ("running", "stopped"):
            row["minutes left"] = (config.training.steps - step) / speeds[-1] / 60
        key = config.training.select_by
        scores = [m[f"validation/{key}"] for m in metrics if f"validation/{key}" in m]
        if row["status"] == "finished":
            scores = [json.loads((workdir / "result.json").read_text())["scores"].get(key)]
        row[key] = scores[-1] if scores else None
        if row["status"] == "failed":
            why = (workdir / "failed.txt").read_text().strip()
            row["why"] = why if len(why) <= _WIDTH else why[: _WIDTH - 1] + "…"
        rows.append(row)
    return rows


def slurm_script(trials: Sequence[Trial]) -> str:
    """Returns a script for `sbatch` that runs the trials as an array, and goes on with those that were preempted."""
    directories = "\n".join(f'  "{trial.workdir.absolute()}"' for trial in trials)
    return f"""#!/bin/bash
#SBATCH --array=0-{len(trials) - 1}
#SBATCH --gpus=1
#SBATCH --signal=TERM@60
#SBATCH --requeue
trials=(
{directories}
)
srun mtl-jax trial "${{trials[$SLURM_ARRAY_TASK_ID]}}"
[ $? -eq 75 ] && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
"""


def _reason(workdir: Path, status: int) -> str:
    if status == -signal.SIGKILL:
        return "killed; out of memory?"
    lines = []
    with contextlib.suppress(OSError):
        lines = [line for line in (workdir / "log.txt").read_text().splitlines() if line.strip()]
    return lines[-1].removeprefix("mtl-jax: ") if lines else f"ended with {status}"
