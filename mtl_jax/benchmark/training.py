"""How fast training is: the project's own step, on a batch that is on the devices, and on real data."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from mtl_jax.benchmark.batches import random_batch
from mtl_jax.benchmark.program import Program
from mtl_jax.benchmark.timing import machine, spread, times
from mtl_jax.benchmark.utilization import Backward, utilization, work
from mtl_jax.benchmark.waiting import wait_for_data
from mtl_jax.config import Config, DataConfig, ModelConfig, Task, TrainingConfig, WeightingConfig
from mtl_jax.data.datasets import open_dataset
from mtl_jax.data.pipeline import training_pipeline
from mtl_jax.training import mesh as mesh_lib
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import Experiment, init_state, make_step, takes_representation
from mtl_jax.weighting import Scalarization

Dtype = Literal["float32", "bfloat16"]
Gradients = Literal["auto", "vmap", "scan", "unroll", "representation"]

_CLASSES = 80


def run(
    backbone: str = "resnet50",
    image_size: tuple[int, int] = (512, 512),
    batch: int = 32,
    clip_length: int = 1,
    tasks: Sequence[Task] = Config().tasks,
    sharing: str = "hard",
    scheme: str = "equal",
    gradients: Gradients = "auto",
    dtype: Dtype | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
    workers: int = 0,
    repeats: int = 9,
) -> dict[str, Any]:
    """Returns how fast a training step is, and what it needs.

    The step is that of `mtl-jax train`, over all devices, with its state donated; the images are noise.

    Args:
        backbone: Name of the backbone.
        image_size: Height and width of the frames.
        batch: Clips in a batch.
        clip_length: Frames in a clip; images are clips × frames.
        tasks: Tasks.
        sharing: Name of the sharing architecture.
        scheme: Name of the loss weighting.
        gradients: As of `WeightingConfig`.
        dtype: Type of the activations; bfloat16 on an accelerator, float32 on a CPU, if not given.
        dataset: A prepared data set, to take steps on its batches as well.
        data_dir: Where prepared data sets lie; as of `DataConfig`, if not given.
        workers: Processes that load; 0: threads.
        repeats: Steps that are timed.

    Returns:
        The machine and the settings; `ms`, `images_per_second`; `flops`, counted from the traced forward pass, the
        backward pass as twice that; `utilization`, their rate relative to the device's peak; memory; seconds to
        compile; milliseconds to hand a batch over; with a data set, `with_data`: see `waiting.wait_for_data`.

    Raises:
        UserError: There is no such part, or it does not fit the others.
    """
    data = DataConfig(image_size=image_size, batch_size=batch, clip_length=clip_length, workers=workers)
    config = Config(
        tasks=tuple(tasks),
        data=data,
        model=ModelConfig(backbone=backbone, sharing=sharing, dtype=dtype or default_dtype()),
        weighting=WeightingConfig(scheme=scheme, gradients=gradients),
        training=TrainingConfig(steps=1000),
    )
    experiment = build_experiment(config, _CLASSES)
    mesh = mesh_lib.make_mesh(config.mesh, batch)
    images = random_batch(data, 0, _CLASSES)
    program = Program(make_step(experiment), init_state(experiment), images, mesh)
    measured = times({"step": program.run, "input": lambda: to_devices(images, mesh)}, repeats)
    return {
        "benchmark": "train",
        **machine(),
        "devices": mesh.size,
        **{"backbone": backbone, "sharing": sharing, "tasks": list(tasks), "inputs": config.model.inputs},
        **{"scheme": scheme, "gradients": gradients, "dtype": config.model.dtype},
        **{"image_size": list(image_size), "batch": batch, "clip_length": clip_length, "repeats": repeats},
        **speed(measured["step"], batch * clip_length),
        **_utilization(experiment, measured["step"], mesh.size),
        "memory_mib": program.memory_mib(),
        "compile_s": program.compile_s,
        "host_input_ms": spread(measured["input"]),
        **({} if dataset is None else {"with_data": _with_data(config, dataset, data_dir, mesh, repeats)}),
    }


def default_dtype() -> Dtype:
    """Returns the type of activations that the devices are made for."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def speed(milliseconds: Sequence[float], images: int) -> dict[str, Any]:
    """Returns the entries of a report: the times of a step, and images a second at their median."""
    taken = spread(milliseconds)
    return {"images_per_second": 1e3 * images / taken["median"], "ms": taken}


def to_devices(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Places a batch on the devices, and waits until it is there."""
    return jax.block_until_ready(mesh_lib.to_devices(batch, mesh))


def _utilization(experiment: Experiment, milliseconds: Sequence[float], devices: int) -> dict[str, Any]:
    config, backward = experiment.config, _backward(experiment)
    amount = work(experiment.network, config.data.image_size)
    images = config.data.batch_size * config.data.clip_length
    flops = amount.step(images, len(config.tasks), backward)
    return {
        "flops": {"forward_per_image": sum(amount), "step": flops, "backward": backward},
        **utilization(flops, float(np.median(milliseconds)), devices),
    }


def _backward(experiment: Experiment) -> Backward:
    if isinstance(experiment.scheme, Scalarization):
        return "sum"
    return "representation" if takes_representation(experiment.config.weighting) else "exact"


def _with_data(
    config: Config, name: str, data_dir: Path | None, mesh: jax.sharding.Mesh, repeats: int
) -> dict[str, Any]:
    """Takes steps on batches of a data set, from its files to the devices."""
    directory = str(data_dir or config.data.data_dir)
    dataset = open_dataset(name, directory)
    data = dataclasses.replace(
        config.data,
        dataset=name,
        data_dir=directory,
        max_objects=max(config.data.max_objects, dataset.max_objects),
    )
    experiment = build_experiment(dataclasses.replace(config, data=data), len(dataset.class_names))
    batches = training_pipeline(data, config.training.seed)
    first = next(batches)
    program = Program(make_step(experiment), init_state(experiment), first, mesh)
    program.run()
    # What was loaded while the step was compiled is not what a pipeline keeps up with.
    ready = max(min(os.cpu_count() or 1, 16), 4) * max(1, data.workers) + 1
    found = wait_for_data(
        program.start, batches, lambda batch: mesh_lib.to_devices(batch, mesh), max(repeats, ready), ready
    )
    return {
        "dataset": name,
        "cores": os.cpu_count(),
        "workers": data.workers,
        "steps": max(repeats, ready),
        "images_per_second": 1e3 * data.batch_size * data.clip_length / found["ms"]["median"],
        **found,
    }
