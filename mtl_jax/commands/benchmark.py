"""`mtl-jax benchmark`: times and memory as JSON."""

import json
import os

from mtl_jax.errors import UserError


def benchmark_weighting(
    tasks: tuple[int, ...] = (2, 4, 8, 16, 40),
    parameters: tuple[int, ...] = (1_000_000, 25_000_000),
    schemes: tuple[str, ...] = (),
    batch: int = 256,
    repeats: int = 9,
) -> None:
    """Times every loss weighting scheme beside a plain step, and prints JSON.

    Args:
        tasks: Numbers of tasks.
        parameters: Numbers of parameters that tasks share, about.
        schemes: Names; all, if not given.
        batch: Examples in a batch.
        repeats: Runs of which medians are taken.
    """
    from mtl_jax.benchmark import weighting
    from mtl_jax.training import cpu

    cpu.prepare(1)  # as training does, but for one device
    try:
        print(json.dumps(weighting.run(tasks, parameters, schemes, batch, repeats), indent=2))
    except ValueError as error:
        raise UserError(f"benchmark weighting: {error}") from error


def benchmark_sharing(
    sharing: tuple[str, ...] = (),
    backbone: str = "tiny",
    image_size: tuple[int, int] = (96, 128),
    batch: int = 8,
    repeats: int = 9,
) -> None:
    """Times a training step of each sharing architecture, beside that of one task with the same backbone, as JSON.

    Args:
        sharing: Architectures; all, if none is given.
        backbone: Name of the backbone.
        image_size: Height and width of the frames.
        batch: Clips in a batch.
        repeats: Runs of which the median is taken.
    """
    from mtl_jax.benchmark.sharing import run
    from mtl_jax.training import cpu

    cpu.prepare(1)  # as training does, but for one device
    print(json.dumps(run(sharing, backbone, image_size, batch, repeats), indent=2))


def benchmark_tracking(
    objects: tuple[int, ...] = (7, 100, 300),
    streams: tuple[int, ...] = (1, 16, 64, 256),
    trackers: tuple[str, ...] = (),
    repeats: int = 5,
) -> None:
    """Times trackers, on one core where there is no accelerator, and prints JSON.

    Where the library `trackers` is installed, its trackers of the same names take turns with ours.

    Args:
        objects: Numbers of objects in a stream.
        streams: Numbers of streams that are followed at once.
        trackers: Names; all, if not given.
        repeats: Runs of which medians are taken.
    """
    if hasattr(os, "sched_setaffinity"):
        # Before JAX starts its threads. An accelerator does not mind.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from mtl_jax.benchmark import tracking

    try:
        print(json.dumps(tracking.run(objects, streams, trackers, repeats), indent=2))
    except ValueError as error:
        raise UserError(f"benchmark tracking: {error}") from error
