"""What sharing architectures cost: whole training steps, beside that of a network for one task."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_jax.benchmark.batches import random_batch
from mtl_jax.benchmark.timing import Compiled, compile_with, machine, medians
from mtl_jax.config import Config, DataConfig, ModelConfig, TrainingConfig, WeightingConfig
from mtl_jax.describe import describe
from mtl_jax.models.backbones import build_backbone
from mtl_jax.models.sharing import SHARING
from mtl_jax.progress import Progress
from mtl_jax.training.loop import build_experiment
from mtl_jax.training.step import init_state, make_step

_CLASSES = 4


def run(
    sharing: Sequence[str] = (),
    backbone: str = "tiny",
    image_size: tuple[int, int] = (96, 128),
    batch: int = 8,
    repeats: int = 9,
) -> dict[str, Any]:
    """Returns the times of training steps of four tasks, by architecture, and of one task with the same backbone.

    All weigh losses equally. A clip has two frames, of which the network sees each with the one before.

    Args:
        sharing: Names of architectures; all, if empty.
        backbone: Name of the backbone.
        image_size: Height and width of the frames.
        batch: Clips in a batch.
        repeats: Runs of which the median is taken.

    Returns:
        The machine; `single_task`, the step of classification alone; of each architecture the step's milliseconds,
        their ratio to that, memory, and the numbers of `mtl_jax.describe`; and `trunks`: forward and backward through
        four backbones, one after the other and vmapped.
    """
    names = list(sharing or SHARING)
    config = Config(
        data=DataConfig(image_size=image_size, batch_size=batch, max_objects=16),
        model=ModelConfig(backbone=backbone),
        weighting=WeightingConfig(scheme="equal"),
        training=TrainingConfig(steps=1000),
    )
    steps = {"": _step(dataclasses.replace(config, tasks=("classification",)))}
    with Progress("compiling", len(names)) as progress:
        for name in names:
            steps[name] = _step(_with_sharing(config, name))
            progress.advance()
    times = medians(steps, repeats)
    alone = times.pop("")
    return {
        "benchmark": "sharing",
        **machine(),
        "backbone": backbone,
        "image_size": list(image_size),
        "batch": batch,
        "repeats": repeats,
        "single_task_ms": alone,
        "trunks": _trunks(config, len(config.tasks), repeats),
        "architectures": {
            name: {
                "ms": times[name],
                "relative_to_single_task": times[name] / alone,
                "memory_mib": steps[name].memory / 2**20,
                **describe(build_experiment(_with_sharing(config, name), _CLASSES).network, image_size).row(),
            }
            for name in names
        },
    }


def _with_sharing(config: Config, name: str) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, sharing=name))


def _step(config: Config) -> Compiled:
    experiment = build_experiment(config, _CLASSES)
    batch = jax.tree.map(jnp.asarray, random_batch(config.data, 0, _CLASSES))
    return compile_with(make_step(experiment), init_state(experiment), batch)


def _trunks(config: Config, number: int, repeats: int) -> dict[str, float]:
    """Returns the times of several backbones of their own weights on the same frames."""
    make = functools.partial(build_backbone, config.model.backbone, config.model.norm)
    images = jnp.asarray(random_batch(config.data, 0).images[:, 0])

    class Looped(nn.Module):
        @nn.compact
        def __call__(self, images: Any) -> Any:
            return [make(name=f"backbone{i}")(images, train=True) for i in range(number)]

    class Vmapped(nn.Module):
        @nn.compact
        def __call__(self, images: Any) -> Any:
            trunks = nn.vmap(
                type(make()),
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                in_axes=(None, None, None, None),
                axis_size=number,
            )
            options = {field.name: getattr(make(), field.name) for field in dataclasses.fields(make())}
            options = {name: value for name, value in options.items() if name not in ("parent", "name")}
            return trunks(**options)(images, None, None, True)

    def compiled(module: nn.Module) -> Compiled:
        variables = jax.jit(module.init)(jax.random.key(0), images)

        def loss(params: Any) -> Any:
            outputs, _ = module.apply({**variables, "params": params}, images, mutable=["batch_stats"])
            return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(outputs))

        return compile_with(jax.grad(loss), variables["params"])

    times = medians({"loop": compiled(Looped()), "vmap": compiled(Vmapped())}, repeats)
    return {
        "loop_ms": times["loop"],
        "vmap_ms": times["vmap"],
        "vmap_over_loop": times["vmap"] / times["loop"],
    }
