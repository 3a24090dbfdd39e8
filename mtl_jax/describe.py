"""What an architecture shares and what it costs, without training it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.config import Config
from mtl_jax.data.datasets import open_dataset
from mtl_jax.errors import UserError
from mtl_jax.models.dependence import by_path, tasks_of_parameters
from mtl_jax.models.flops import count_flops
from mtl_jax.models.graph import graph_of
from mtl_jax.models.network import MultiTaskNetwork, example_inputs, initialize
from mtl_jax.models.sharing import SHARING, build_network
from mtl_jax.progress import Progress


class Part(NamedTuple):
    """A part of a network that the same tasks reach.

    Attributes:
        name: Beginning of the parameters' paths.
        tasks: Tasks whose gradient reaches them.
        parameters: How many numbers.
    """

    name: str
    tasks: tuple[str, ...]
    parameters: int


class Description(NamedTuple):
    """What a network consists of and costs.

    Attributes:
        parts: Its parts, in order of their names.
        parameters: Parameters in all.
        shared: Those that the gradients of several tasks reach.
        own: Of each task, those that only its gradient reaches.
        flops: Operations for a frame, forward, counted from the traced equations.
        xla_flops: The same as XLA counts them; None where it does not.
        activations: Bytes that a training step keeps of a frame for its backward pass, parameters not counted.
    """

    parts: tuple[Part, ...]
    parameters: int
    shared: int
    own: Mapping[str, int]
    flops: int
    xla_flops: float | None
    activations: int

    def row(self) -> dict[str, Any]:
        """Returns the numbers of a table's row."""
        return {
            "parameters": self.parameters,
            "shared": self.shared,
            **{f"only {task}": count for task, count in self.own.items()},
            "GFLOPs": self.flops / 1e9,
            "XLA GFLOPs": None if self.xla_flops is None else self.xla_flops / 1e9,
            "activations MiB": self.activations / 2**20,
        }


def describe(network: MultiTaskNetwork, image_size: tuple[int, int]) -> Description:
    """Describes a network; nothing of it is computed.

    Args:
        network: The network.
        image_size: Height and width of a frame.
    """
    variables = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    inputs = jax.eval_shape(lambda: example_inputs(network, image_size))
    frames = network.clip_length

    def forward(variables: Any, *inputs: Any) -> Any:
        return network.apply(variables, *inputs)

    def residuals(params: Any, rest: Any, key: jax.Array, *inputs: Any) -> Any:
        def train(params: Any) -> Any:
            features, _ = network.apply(
                {"params": params, **rest},
                *inputs,
                train=True,
                mutable=["batch_stats"],
                rngs={"sharing": key},
                method="trunk",
            )
            return network.apply({"params": params}, features, method="all_predictions")

        return jax.vjp(train, params)[1]

    rest = {name: tree for name, tree in variables.items() if name != "params"}
    key = jax.eval_shape(lambda: jax.random.key(0))
    kept = jax.eval_shape(residuals, variables["params"], rest, key, *inputs)
    parts = _parts(network, variables["params"])
    return Description(
        parts=parts,
        parameters=sum(part.parameters for part in parts),
        shared=sum(part.parameters for part in parts if len(part.tasks) > 1),
        own={task: sum(part.parameters for part in parts if part.tasks == (task,)) for task in network.tasks},
        flops=count_flops(forward, variables, *inputs) // frames,
        xla_flops=_xla_flops(forward, variables, inputs, frames),
        activations=max(_bytes(kept) - _bytes((variables, inputs)), 0) // frames,
    )


def compare(
    config: Config, sharing: Sequence[str] = (), classes: int = 0, plot: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Describes an experiment's network, or those that it would have with other sharing architectures.

    Args:
        config: The experiment.
        sharing: Names of architectures, with their default options; `all` for all; the experiment's own, if empty.
        classes: Classes of objects; 0: as many as the data set has, or one where it is not prepared.
        plot: Where the networks are drawn, if anywhere.

    Returns:
        For each architecture its `costs` and its `parts`.

    Raises:
        UserError: There is no architecture of a name.
    """
    models = {config.model.sharing: config.model}
    if sharing:
        models = {
            name: config.model
            if name == config.model.sharing
            else dataclasses.replace(config.model, sharing=name, sharing_options={})
            for name in (SHARING if "all" in sharing else sharing)
        }
    described = {}
    with Progress("describing", len(models)) as progress:
        for name, model in models.items():
            network = build_network(model, config.tasks, classes or _classes(config), config.data.clip_length)
            description = describe(network, config.data.clip_size)
            described[name] = {
                "costs": description.row(),
                "parts": [part._asdict() | {"tasks": list(part.tasks)} for part in description.parts],
            }
            if plot is not None:
                from mtl_jax.reporting.network_graph import draw_graph

                path = plot if len(models) == 1 else plot.with_stem(f"{plot.stem}_{name}")
                draw_graph(graph_of(network), network.tasks, path, title=f"{name}, {model.backbone}")
            progress.advance()
    return described


def _classes(config: Config) -> int:
    try:
        return len(open_dataset(config.data.dataset, config.data.data_dir).class_names)
    except UserError:
        return 1


def _parts(network: MultiTaskNetwork, params: Any) -> tuple[Part, ...]:
    leaves = by_path(params)
    counts: dict[tuple[str, tuple[str, ...]], int] = {}
    for path, tasks in by_path(tasks_of_parameters(network)).items():
        part = path.split("/")[0], tasks
        counts[part] = counts.get(part, 0) + math.prod(leaves[path].shape)
    return tuple(Part(name, tasks, count) for (name, tasks), count in counts.items())


def _xla_flops(function: Any, variables: Any, inputs: Any, frames: int) -> float | None:
    analysis = jax.jit(function).lower(variables, *inputs).cost_analysis()
    flops = (analysis or {}).get("flops", 0.0)
    return flops / frames if flops > 0 else None


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
