"""`mtl-jax sweep`, `runs` and `compare`: many runs from one file."""

import signal
import sys
from pathlib import Path

import tyro

from mtl_jax.commands import Workdir
from mtl_jax.commands.experiment import run_file
from mtl_jax.errors import UserError


def sweep(
    file: tyro.conf.Positional[Path],
    workdir: Workdir,
    seeds: int = 1,
    only: tuple[str, ...] = (),
    jobs: int = 1,
    retries: int = 1,
    slurm: bool = False,
) -> None:
    """Trains and scores every configuration of a file, with several seeds; what is finished is skipped.

    A sweep that was stopped goes on with the same command.

    Args:
        file: Python file that defines `configs`, a list of configurations with a name each.
        workdir: Directory of the sweep; a run is in `NAME/seedN`.
        seeds: Number of seeds: a configuration's own, and those that follow it.
        only: Names of configurations; all, if none is given.
        jobs: Runs at once.
        retries: How often a run that fails is tried again.
        slurm: Train nothing; print a script for `sbatch`.
    """
    from mtl_jax import sweep as sweeps
    from mtl_jax.data.datasets import prepare

    trials = sweeps.expand(run_file(file).get("configs"), str(file), workdir, seeds, only)
    waiting = sweeps.begin(trials)
    for dataset in {(t.config.data.dataset, t.config.data.data_dir) for t in waiting}:
        if dataset[0].startswith("moving_objects/"):  # rendered once, before several runs want it
            prepare(dataset[0], Path(dataset[1]).expanduser())
    if slurm:
        print(sweeps.slurm_script(waiting or trials), end="")
        return
    failed, stopped = sweeps.run(waiting, jobs, retries)
    runs(workdir)
    if stopped is not None:
        print("mtl-jax: stopped; the same command goes on", file=sys.stderr)
        sys.exit(75 if stopped == signal.SIGTERM else 130)
    if failed:
        raise UserError(f"sweep: {len(failed)} of {len(trials)} runs failed; see log.txt in {failed[0]}")


def trial(workdir: tyro.conf.Positional[Path]) -> None:
    """Runs one trial of a sweep, or goes on with it.

    Args:
        workdir: Its directory, which `mtl-jax sweep` has made.
    """
    from mtl_jax import trial as trials
    from mtl_jax.training.loop import Interrupted

    try:
        trials.run(workdir)
    except Interrupted as message:
        print(f"mtl-jax: {message}", file=sys.stderr)
        sys.exit(130 if message.by_user else 75)


def runs(sweep: tyro.conf.Positional[Path]) -> None:
    """Lists runs with their status, step, last score and the time that is left.

    Args:
        sweep: Directory of a sweep, or of any runs.
    """
    from mtl_jax.reporting.tables import Column, print_table
    from mtl_jax.sweep import overview

    rows = overview(sweep)
    formats = {"step": "d"}
    keys = dict.fromkeys(key for row in rows for key in row)
    print_table(rows, [Column(key, key, formats.get(key, ".1f")) for key in keys])


def compare(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    everything: bool = False,
) -> None:
    """Shows in what two runs differ: configurations and scores, side by side.

    Args:
        first: Directory of a run.
        second: Directory of another one.
        everything: Also show what is alike.
    """
    from mtl_jax.comparison import side_by_side
    from mtl_jax.reporting.tables import Column, print_table

    rows = side_by_side(first, second, everything)
    columns = [Column("", ""), *(Column(str(run), str(run), ".4g") for run in (first, second))]
    print_table(rows, columns)
