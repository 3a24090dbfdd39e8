"""Many processes, each with devices of its own, as one run."""

import contextlib
import dataclasses
import os

import jax
from jax.experimental import multihost_utils

from mtl_jax.config import Launch
from mtl_jax.errors import UserError


def start(launch: Launch) -> None:
    """Joins the other processes of the run, if there are any; to be called before JAX is first used.

    Under Slurm (`srun`), Open MPI (`mpirun`) and on Cloud TPU the number of processes is known from what these set;
    JAX finds the rest.

    Raises:
        UserError: If a part of the address is missing, or the others cannot be reached.
    """
    given = dataclasses.astuple(launch)
    if all(value is None for value in given) and not _started_by_others():
        return
    if None in given and any(value is not None for value in given):
        raise UserError(
            "coordinator: give all of --coordinator HOST:PORT, --processes N and --process I, or none"
        )
    if launch.processes is not None and launch.process not in range(launch.processes):
        raise UserError(f"process: found {launch.process}; expected 0 to {launch.processes - 1}")
    try:
        jax.distributed.initialize(launch.coordinator, launch.processes, launch.process)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {launch.processes or ''} processes did not find each other: {error}") from error


def is_first() -> bool:
    """Whether this is the process that writes metrics and speaks."""
    return jax.process_index() == 0


def is_preempted(step: int) -> bool:
    """Whether one of several processes got SIGTERM; all learn of it at the same step. All must call it."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def of_first(value: float) -> float:
    """Returns the value that the first process has; all must call it."""
    return float(multihost_utils.broadcast_one_to_all(value)) if jax.process_count() > 1 else value


def _started_by_others() -> bool:
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        # `srun` and `mpirun` set the number of this process too; an allocation alone does not.
        inside = "SLURM_STEP_NODELIST" if name.startswith("SLURM") else "OMPI_COMM_WORLD_RANK"
        with contextlib.suppress(ValueError):
            if inside in os.environ and int(os.environ.get(name, "1")) > 1:
                return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
