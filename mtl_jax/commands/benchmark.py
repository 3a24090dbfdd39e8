"""`mtl-jax benchmark`: times and memory as JSON."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Literal

from mtl_jax.config import Config, Task
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


def benchmark_train(
    backbone: str = "resnet50",
    image_size: tuple[int, int] = (512, 512),
    batch: int = 32,
    clip_length: int = 1,
    tasks: tuple[Task, ...] = Config().tasks,
    sharing: str = "hard",
    scheme: str = "equal",
    gradients: Literal["auto", "vmap", "scan", "representation"] = "auto",
    dtype: Literal["float32", "bfloat16"] | None = None,
    with_data: str | None = None,
    data_dir: Path | None = None,
    workers: int = 0,
    peer_model: bool = False,
    modes: tuple[Literal["sum", "representation", "exact"], ...] = ("sum", "representation", "exact"),
    ways: tuple[Literal["vmap", "scan", "unroll"], ...] = ("vmap", "scan", "unroll"),
    peers: tuple[Literal["eager", "compile"], ...] = ("eager", "compile"),
    repeats: int = 9,
) -> None:
    """Times training steps, and prints JSON: speed, utilization, memory, compile time, and what the host takes.

    With `--peer-model` the network is fixed, ResNet-50 with a pyramid of 128 channels and four heads, and steps of the
    same network in PyTorch take turns with ours where that is installed; size, batch, dtype, modes and peers count.

    Args:
        backbone: Name of the backbone.
        image_size: Height and width of the frames.
        batch: Clips in a batch.
        clip_length: Frames in a clip; images are clips × frames.
        tasks: Tasks that are trained.
        sharing: Name of the sharing architecture.
        scheme: Name of the loss weighting.
        gradients: Where gradients of tasks are combined, for schemes that do.
        dtype: Type of the activations; bfloat16 on an accelerator, float32 on a CPU, if not given.
        with_data: A prepared data set, to train on its batches as well.
        data_dir: Where prepared data sets lie; as in `mtl-jax train`, if not given.
        workers: Processes that load the data set; 0: threads.
        peer_model: Time the fixed network instead.
        modes: For `--peer-model`: the sum of the losses; gradients combined at the features, or at the parameters.
        ways: For `--peer-model`: how the backward passes of the tasks run, for gradients at the parameters.
        peers: For `--peer-model`: how PyTorch runs.
        repeats: Steps that are timed.
    """
    from mtl_jax.training import cpu

    if peer_model and with_data is not None:
        raise UserError("benchmark train: --with-data and --peer-model do not go together; give one of them")
    cpu.prepare(batch)
    if not peer_model:
        from mtl_jax.benchmark import training

        options = (backbone, image_size, batch, clip_length, tasks, sharing, scheme, gradients, dtype)
        result = training.run(*options, with_data, data_dir, workers, repeats)
    else:
        if importlib.util.find_spec("torch") is not None:
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two share the device
        from mtl_jax.benchmark import reference

        result = reference.run(image_size, batch, dtype, modes, ways, peers, repeats)
    print(json.dumps(result, indent=2))
