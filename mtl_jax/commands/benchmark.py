"""`mtl-jax benchmark`: times and memory as JSON."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mtl_jax.commands.experiment import read_experiment
from mtl_jax.config import AugmentConfig, Config, DataConfig, Task
from mtl_jax.errors import UserError

_DATA = DataConfig(
    image_size=(288, 384),
    max_gap=3,
    batch_size=8,
    augment=AugmentConfig(
        scale=(0.8, 4.0),
        aspect=0.15,
        translate=0.15,
        focus=0.8,
        brightness=0.4,
        contrast=0.3,
        saturation=0.6,
        hue=0.03,
        blur=1.5,
        cutout=0.2,
    ),
)
"""What `benchmark data` loads where it is told nothing: everything is varied, as in experiments/pets2009.py."""


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


def benchmark_data(arguments: list[str]) -> None:
    """Reads `[EXPERIMENT] [--render HEIGHT WIDTH] [--key value]`, and times."""
    experiment, arguments, defaults = read_experiment(arguments)
    if experiment is None:
        defaults = dataclasses.replace(defaults, data=_DATA)
    stored = experiment is not None or any(word.startswith("--data.dataset") for word in arguments)

    def data(
        render: tuple[int, int] | None = None if stored else (576, 768),
        decoders: tuple[str, ...] = (),
        workers: tuple[int, ...] = (),
        seconds: float = 1.0,
        repeats: int = 3,
        config: Annotated[Config, tyro.conf.arg(name="")] = defaults,
    ) -> None:
        """Times the training pipeline beside decoding alone, by decoder and number of worker processes, as JSON.

        `mtl-jax benchmark data EXPERIMENT` loads the experiment's data set as training would, `mtl-jax benchmark data`
        rendered frames. Every field of the configuration is an option, as in `mtl-jax train`.

        Args:
            render: Height and width of frames that are rendered in place of the data set.
            decoders: simplejpeg, opencv, pillow; all, if none is given.
            workers: Numbers of worker processes, 0: threads; from 0 to the number of cores, if none is given.
            seconds: How long each run takes.
            repeats: Runs of which the median is taken.
            config: The configuration.
        """
        from mtl_jax.benchmark import data as benchmark

        try:
            found = benchmark.run(config.data, render, decoders, workers, seconds, repeats)
        except ValueError as error:
            raise UserError(f"benchmark data: {error}") from error
        print(json.dumps(found, indent=2))

    tyro.cli(data, args=arguments, prog="mtl-jax benchmark data [EXPERIMENT]")


def benchmark_track(arguments: list[str]) -> None:
    """Reads `RUN | EXPERIMENT [--source VIDEO] [--key value]`, and times."""
    given = next((Path(word) for word in arguments[:1] if not word.startswith("-")), None)
    run = given if given is not None and given.is_dir() else None
    experiment, arguments, defaults = read_experiment(arguments[1:] if run else arguments)

    def track(
        source: str | None = None,
        batches: tuple[int, ...] = (1, 8, 32),
        frames: int = 200,
        render: tuple[int, int] = (576, 768),
        repeats: int = 3,
        config: Annotated[Config, tyro.conf.arg(name="")] = defaults,
    ) -> None:
        """Times following a video from end to end: decoding, network, tracker and writing, as JSON.

        `mtl-jax benchmark track RUN` takes a trained run, `mtl-jax benchmark track EXPERIMENT` its network with random
        weights; then every field of the configuration is an option, as in `mtl-jax train`.

        Args:
            source: A video file or a folder of images; if not given, a video is rendered.
            batches: Frames that go to the device at once; 1: each goes all the way before the next one is read.
            frames: Frames that are followed; a shorter video is begun again.
            render: Height and width of the rendered video.
            repeats: Runs of which medians are taken.
            config: The configuration; that of a run is as it was.
        """
        from mtl_jax.benchmark import track as benchmark
        from mtl_jax.training import cpu

        cpu.prepare(1)
        print(json.dumps(benchmark.run(run or config, source, batches, frames, render, repeats), indent=2))

    if run is None and experiment is None and not {"-h", "--help"} & set(arguments):
        raise UserError("benchmark track: give the directory of a run, or an experiment file")
    tyro.cli(track, args=arguments, prog="mtl-jax benchmark track RUN")


def benchmark_scaling(
    devices: int = 8,
    fsdp: tuple[int, ...] = (1, 2, 8),
    tasks: tuple[int, ...] = (1, 2, 4),
    schemes: tuple[str, ...] = ("equal", "upgrad"),
    backbone: str = "tiny",
    image_size: tuple[int, int] = (64, 64),
    batch: int = 16,
) -> None:
    """Compiles training steps for many pretended devices, and prints their memory and traffic, measured and predicted.

    Args:
        devices: Number of devices.
        fsdp: Devices over which parameters are split.
        tasks: Numbers of tasks, up to four.
        schemes: Weighting schemes.
        backbone: Name of the backbone.
        image_size: Height and width of the frames.
        batch: Clips in a batch, of one frame each.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    from mtl_jax.benchmark.scaling import run

    print(json.dumps(run(devices, fsdp, tasks, backbone, image_size, batch, schemes), indent=2))


def benchmark_train(
    backbone: str = "resnet50",
    image_size: tuple[int, int] = (512, 512),
    batch: int = 32,
    clip_length: int = 1,
    tasks: tuple[Task, ...] = Config().tasks,
    sharing: str = "hard",
    scheme: str = "equal",
    gradients: Literal["auto", "vmap", "scan", "unroll", "representation"] = "auto",
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
