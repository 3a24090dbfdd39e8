"""What training takes on many devices: memory and traffic of compiled steps, beside what formulas say.

Nothing is run, so devices can be pretended. With P parameters, of which tasks share S, K tasks, D devices in groups of
F that split parameters, B frames in a batch, and A bytes that a step keeps of a frame:

    state of a device      16 P / F             parameters, two moments and the average, float32
    kept for backward      A B / D
    gradients' sum         4 G                  G = P, or K S + (P - S) where each task's gradient is wanted
    gathered               4 P                  where F > 1, for use in both directions

The sum crosses the network in any case, as reduce-scatter and all-gather or in one: twice over a device's own link.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from mtl_jax import weighting
from mtl_jax.benchmark.batches import random_batch
from mtl_jax.benchmark.timing import machine
from mtl_jax.config import Config, DataConfig, MeshConfig, ModelConfig, Task, TrainingConfig, WeightingConfig
from mtl_jax.describe import describe
from mtl_jax.progress import Progress
from mtl_jax.training import mesh as mesh_lib
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import init_state, make_step

TASKS: tuple[Task, ...] = ("classification", "box", "motion", "identity")
_CLASSES = 4
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}
_KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def run(
    devices: int,
    fsdp: Sequence[int],
    tasks: Sequence[int],
    backbone: str,
    image_size: tuple[int, int],
    batch: int,
    schemes: Sequence[str],
) -> dict[str, Any]:
    """Returns memory and traffic of training steps, measured in the compiled program and predicted.

    Args:
        devices: Number of devices.
        fsdp: Devices over which parameters are split.
        tasks: Numbers of tasks, up to four.
        backbone: Name of the backbone.
        image_size: Height and width of the frames.
        batch: Clips in a batch, of one frame each.
        schemes: Weighting schemes: one that weighs losses, and one that combines the tasks' gradients.
    """
    config = Config(
        data=DataConfig(image_size=image_size, batch_size=batch, clip_length=1, max_objects=16),
        model=ModelConfig(backbone=backbone, inputs="frame"),
        training=TrainingConfig(steps=1000),
    )
    cases = []
    grid = [(f, k, scheme) for scheme in schemes for f in fsdp for k in tasks]
    with Progress("compiling", len(grid)) as progress:
        for split, number, scheme in grid:
            changed = dataclasses.replace(
                config,
                tasks=TASKS[:number],
                mesh=MeshConfig(fsdp=split),
                weighting=WeightingConfig(scheme=scheme),
            )
            given = {"fsdp": split, "tasks": number, "scheme": scheme}
            cases.append(given | _case(changed))
            progress.advance()
    return {
        "benchmark": "scaling",
        **machine(),
        "devices": devices,
        "backbone": backbone,
        "image_size": list(image_size),
        "batch": batch,
        "cases": cases,
    }


def _case(config: Config) -> dict[str, Any]:
    mesh = mesh_lib.make_mesh(config.mesh, config.data.batch_size)
    experiment = build_experiment(config, _CLASSES)
    state = jax.eval_shape(lambda: init_state(experiment))
    batch = jax.tree.map(jax.numpy.asarray, random_batch(config.data, 0, _CLASSES))
    as_split, by_clip = mesh_lib.split_state(state, mesh), mesh_lib.split_batch(mesh)
    step = jax.jit(
        make_step(experiment),
        in_shardings=(as_split, by_clip),
        out_shardings=(as_split, mesh_lib.replicated(mesh)),
        donate_argnums=0,
    )
    with jax.set_mesh(mesh):
        compiled = step.lower(state, batch).compile()
    memory = compiled.memory_analysis()
    described = describe(experiment.network, config.data.image_size)
    per_task = config.weighting.scheme in weighting.AGGREGATIONS
    gradients = described.parameters + per_task * (len(config.tasks) - 1) * described.shared
    split = config.mesh.fsdp > 1
    kept = described.activations * config.data.batch_size / mesh.size
    return {
        "state_mib": _state_bytes(state, as_split) / 2**20,
        "state_mib_predicted": 16 * described.parameters / config.mesh.fsdp / 2**20,
        "temporary_mib": memory.temp_size_in_bytes / 2**20 if memory else None,
        "temporary_mib_predicted": (kept + 4 * gradients + 4 * split * described.parameters) / 2**20,
        "crossing_mib": {kind: size / 2**20 for kind, size in collectives(compiled.as_text()).items()},
        "crossing_mib_predicted": {
            "gradients": 4 * gradients / 2**20,
            "parameters": 4 * split * described.parameters / 2**20,
        },
    }


def collectives(program: str) -> dict[str, int]:
    """Returns the bytes that come out of each kind of collective operation of a compiled program, on each device."""
    found: dict[str, int] = {}
    for result, kind in re.findall(rf"= (.*?) ({_KINDS})(?:-start)?\(", program):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
            size = _BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
            found[kind] = found.get(kind, 0) + size
    return found


def _state_bytes(state: Any, shardings: Any) -> int:
    sizes = jax.tree.map(
        lambda x, sharding: math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize, state, shardings
    )
    return sum(jax.tree.leaves(sizes))
