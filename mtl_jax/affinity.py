"""Which tasks help which, and what they had better share: measured while an experiment trains.

Two measures, on batches of the training data, at regular steps:

    cosine    between the gradients of two tasks, for each part of the network: do they pull the same way?
    affinity  Z_ij = 1 - L_j(θ - η g_i) / L_j(θ): by how much does a step for task i lower the loss of task j?

From the affinities follow groups of tasks that are best trained together, from the cosines a tree: tasks part where
their gradients conflict, in so far as the budget allows it.

References: Fifty et al., "Efficiently Identifying Task Groupings for Multi-Task Learning", NeurIPS 2021
(arXiv:2109.04617), for the affinity and the groups; Yu et al., "Gradient Surgery", NeurIPS 2020 (arXiv:2001.06782), for
the cosines; Vandenhende et al., "Branched Multi-Task Networks", BMVC 2020 (arXiv:1904.02920), for trees that follow a
measure by layer within a budget.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mtl_jax import weighting
from mtl_jax.config import Config
from mtl_jax.data import pipeline
from mtl_jax.data.datasets import open_dataset
from mtl_jax.errors import UserError
from mtl_jax.models.flops import count_flops
from mtl_jax.models.graph import parts_of_parameters
from mtl_jax.models.network import MultiTaskNetwork, example_inputs, initialize
from mtl_jax.models.sharing import build_network
from mtl_jax.reporting.matrices import draw_matrices
from mtl_jax.structures import Batch
from mtl_jax.training.loop import build_experiment, train
from mtl_jax.training.optimizer import learning_rate
from mtl_jax.training.step import Experiment, TrainState, forward
from mtl_jax.weighting.aggregation import select

Partition = tuple[tuple[str, ...], ...]
MOST_TASKS = 6
"""Groupings are searched one by one; of more tasks there are too many."""


class Measured(NamedTuple):
    """What was measured at one or many steps.

    Attributes:
        affinity: `Z_ij`: row, who takes the step; column, whose loss is looked at.
        cosine: Cosines of the tasks' gradients, for each part of the network, in its order.
    """

    affinity: Float[Any, "*steps tasks tasks"]
    cosine: Float[Any, "*steps parts tasks tasks"]


def measure(
    config: Config, workdir: Path, times: int = 10, batches: int = 4, budget: float = 1.5
) -> dict[str, Any]:
    """Trains an experiment, measures, and proposes what to share.

    Args:
        config: The experiment; its architecture must be hard sharing, where each task could use every parameter.
        workdir: Where the run goes, and `affinity.json`, `affinity.png` and `cosines.png`.
        times: How often is measured.
        batches: Batches of each measurement.
        budget: How many operations the proposed tree may have, relative to hard sharing.

    Returns:
        What stands in `affinity.json`: `tasks`; `parts`; means and standard errors of `affinity` and of `cosine`;
        `groups`, the best grouping into 1, 2, ... networks, with its score; and `tree`.

    Raises:
        UserError: The experiment shares in another way, or has one task or too many.
    """
    if config.model.sharing != "hard":
        raise UserError(
            f"model.sharing: found {config.model.sharing}; tasks are compared where all is shared: hard"
        )
    if not 2 <= len(config.tasks) <= MOST_TASKS:
        raise UserError(f"tasks: found {len(config.tasks)}; groups are searched among 2 to {MOST_TASKS}")
    steps = config.training.steps
    every = max(steps // times, 1)
    config = dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, evaluate_every=every, diagnose_every=0),
    )
    dataset = open_dataset(config.data.dataset, config.data.data_dir)
    experiment = build_experiment(config, len(dataset.class_names))
    take = jax.jit(_measurement(experiment))
    measured: list[Measured] = []
    # Other batches than those that are trained on, though of the same videos.
    stream = pipeline.training_pipeline(config.data, config.training.seed + 1)

    def look(_: Experiment, state: TrainState) -> dict[str, float]:
        found = [jax.device_get(take(state, next(stream))) for _ in range(batches)]
        measured.append(Measured(*(np.mean(column, axis=0) for column in zip(*found, strict=True))))
        return {}

    train(config, workdir, evaluate=look)
    network = experiment.network
    result = _summary(network, Measured(*(np.stack(column) for column in zip(*measured, strict=True))))
    result["groups"] = [
        {"networks": len(partition), "groups": [list(group) for group in partition], "score": score}
        for partition, score in best_groups(np.array(result["affinity"]["mean"]), config.tasks)
    ]
    cosine = result["cosine"]
    result["budget"] = budget
    result["tree"] = propose_tree(
        {part: np.array(cosine["mean"][part]) + cosine["error"][part] for part in result["parts"]},
        config.tasks,
        lambda tree: _relative_cost(config, experiment.num_classes, tree) <= budget,
    )
    (workdir / "affinity.json").write_text(json.dumps(result, indent=2) + "\n")
    draw_matrices(
        {"": 100 * np.array(result["affinity"]["mean"])},
        config.tasks,
        workdir / "affinity.png",
        "Percent by which a step for\nthe row's task lowers the column's loss",
    )
    between = [
        np.array(cosine["mean"][part])[~np.eye(len(config.tasks), dtype=bool)] for part in result["parts"]
    ]
    draw_matrices(
        {part: np.array(cosine["mean"][part]) for part in result["parts"]},
        config.tasks,
        workdir / "cosines.png",
        "Cosine between gradients",
        limit=max(
            float(np.abs(between).max()), 0.1
        ),  # the diagonal, always 1, must not outshine what is between
    )
    return result


def _measurement(experiment: Experiment) -> Any:
    parts = parts_of_parameters(experiment.network)
    names = shared_parts(experiment.network)
    rate = learning_rate(experiment.config)

    def run(state: TrainState, batch: Batch) -> Measured:
        def losses_of(params: Any) -> tuple[Array, Array]:
            losses, (labelled, _) = forward(experiment, params, state, batch)
            return losses, labelled

        params = state.params["model"]
        (losses, labelled), grads = weighting.per_task_value_and_grad(losses_of, has_aux=True)(params)
        known = labelled[:, None] & labelled

        def cosines(name: str) -> Array:
            of_part = select(grads, lambda path: parts[path] == name)
            return weighting.norms_and_cosines(weighting.gramian(of_part))[1]

        # Heads stay: it is what a step does to the others through what is shared that counts.
        step = jax.tree.map_with_path(
            lambda path, g: g * (jax.tree_util.keystr(path[:1], simple=True) != "heads"), grads
        )
        size = rate(state.step)

        def after(direction: Any) -> Array:
            return losses_of(jax.tree.map(lambda p, g: p - size * g, params, direction))[0]

        ahead = jax.lax.map(after, step)
        affinity = 1 - ahead / jnp.where(losses == 0, 1, losses)
        return Measured(
            jnp.where(known, affinity, 0), jnp.where(known, jnp.stack([cosines(name) for name in names]), 0)
        )

    return run


def shared_parts(network: MultiTaskNetwork) -> list[str]:
    """Returns the names of the parts of a network with hard sharing, from the entry to the neck."""
    names = dict.fromkeys(parts_of_parameters(network).values())
    return sorted((name for name in names if not name.startswith("head")), key=_depth)


def _depth(part: str) -> int:
    """Returns where a part stands: the entry, the stages, the neck."""
    stage = part.rpartition("stage")[2]
    return -1 if part.endswith("entry") else int(stage) if stage.isdecimal() else 1000


def _summary(network: MultiTaskNetwork, measured: Measured) -> dict[str, Any]:
    parts, count = shared_parts(network), len(measured.affinity)

    def error(values: np.ndarray) -> np.ndarray:
        return values.std(axis=0) / max(count - 1, 1) ** 0.5

    return {
        "tasks": list(network.tasks),
        "parts": parts,
        "measurements": count,
        "affinity": {
            "mean": measured.affinity.mean(axis=0).tolist(),
            "error": error(measured.affinity).tolist(),
        },
        "cosine": {
            name: dict(zip(parts, values.tolist(), strict=True))
            for name, values in (("mean", measured.cosine.mean(axis=0)), ("error", error(measured.cosine)))
        },
    }


def partitions(tasks: Sequence[str]) -> Iterator[Partition]:
    """Yields every way to divide tasks into groups."""
    if not tasks:
        yield ()
        return
    first, rest = tasks[0], tasks[1:]
    for others in partitions(rest):
        yield ((first,), *others)
        for i, group in enumerate(others):
            yield (*others[:i], (first, *group), *others[i + 1 :])


def best_groups(
    affinity: Float[np.ndarray, "tasks tasks"], tasks: Sequence[str]
) -> list[tuple[Partition, float]]:
    """Returns the best grouping into 1, 2, ... groups, with its score.

    A task's score is the mean affinity of the others of its group to it, nothing where it is alone; that of a grouping
    is their sum.
    """
    place = {task: i for i, task in enumerate(tasks)}

    def score(partition: Partition) -> float:
        means = (
            float(np.mean([affinity[place[other], place[task]] for other in group if other != task]))
            for group in partition
            for task in group
            if len(group) > 1
        )
        return sum(means, start=0.0)

    best = []
    for number in range(1, len(tasks) + 1):
        fitting = [partition for partition in partitions(tasks) if len(partition) == number]
        scored = [(partition, score(partition)) for partition in fitting]
        best.append(max(scored, key=lambda pair: pair[1]))
    return best


def propose_tree(
    cosines: dict[str, Float[np.ndarray, "tasks tasks"]], tasks: Sequence[str], affordable: Any
) -> str:
    """Returns the tree that parts tasks where their gradients conflict; empty: better all together.

    A tree's score is `-Σ cos` over all pairs of tasks that are apart in a part of the network, of all parts: to part
    what agrees costs as much as to part what disagrees gains. The best one is returned that is affordable.

    Args:
        cosines: Of each part, from the entry to the neck. Tasks never part in the entry.
        tasks: The tasks.
        affordable: Whether a tree, as text, is within the budget.

    Example:
        >>> propose_tree({"entry": same, "stage0": same, "neck": opposite}, ("box", "motion"), lambda tree: True)
        '(box | motion)@1'
    """
    levels = [name for name in cosines if not name.endswith("entry")]
    place = {task: i for i, task in enumerate(tasks)}

    def gain(level: str, partition: Partition) -> float:
        apart = (
            float(cosines[level][place[a], place[b]])
            for one, other in itertools.combinations(partition, 2)
            for a in one
            for b in other
        )
        return -sum(apart, start=0.0)

    everything = list(partitions(tuple(tasks)))
    chains: list[tuple[float, tuple[Partition, ...]]] = [(0.0, ())]
    for level in levels:
        chains = [
            (score + gain(level, partition), (*chain, partition))
            for score, chain in chains
            for partition in everything
            if not chain or _refines(partition, chain[-1])
        ]
    for score, chain in sorted(chains, key=lambda pair: -pair[0]):
        if score <= 0:
            return ""
        tree = _write_tree(tuple(tasks), chain, 0)
        if affordable(tree):
            return tree
    return ""


def _refines(fine: Partition, coarse: Partition) -> bool:
    return all(any(set(group) <= set(other) for other in coarse) for group in fine)


def _write_tree(group: tuple[str, ...], chain: Sequence[Partition], level: int) -> str:
    """Returns the branch of a group of tasks, as `mtl_jax.models.sharing.tree` reads it, from a level on."""
    for stage in range(level, len(chain)):
        parts = [part for part in chain[stage] if set(part) <= set(group)]
        if len(parts) > 1:
            return f"({' | '.join(_write_tree(part, chain, stage) for part in parts)})@{stage}"
    return " ".join(group)


def _relative_cost(config: Config, classes: int, tree: str) -> float:
    def flops(name: str, options: dict[str, Any]) -> int:
        model = dataclasses.replace(config.model, sharing=name, sharing_options=options)
        network = build_network(model, config.tasks, classes, config.data.clip_length)
        variables = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
        inputs = jax.eval_shape(lambda: example_inputs(network, config.data.clip_size))
        return count_flops(lambda variables, *inputs: network.apply(variables, *inputs), variables, *inputs)

    return flops("tree", {"tree": tree}) / flops("hard", {})
