"""Averages: plain, random and robust."""

import functools
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from mtl_jax.weighting.aggregation import (
    Options,
    Tensors,
    Weights,
    aggregation,
    initial_key,
    next_key,
    uniform,
    weighted,
)


def mean(**options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The mean gradient `1/K sum_i g_i`.

    When to use: as the baseline, with a length that does not grow with the number of tasks.

    Args:
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(mean(), optax.adamw(1e-3))
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        return uniform(tensors), state

    return weighted("mean", rule, options)


def sum(**options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The plain sum `sum_i g_i`, which is the gradient of the sum of the losses.

    Well tuned fixed weights on the losses are a strong baseline: Kurin et al., "In Defense of the Unitary
    Scalarization for Deep Multi-Task Learning", NeurIPS 2022 (arXiv:2201.04122).

    When to use: as the baseline: what every framework does when losses are added.

    Args:
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(sum(), optax.adamw(1e-3))
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        return tensors.active.astype(tensors.gramian.dtype), state

    return weighted("sum", rule, options)


def random(seed: int = 0, **options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """Weights `softmax(z)` with `z ~ N(0, I)`, drawn anew in each step.

    A baseline that schemes with more thought should beat.

    When to use: as a litmus test. A scheme that does not beat random weights has shown nothing.

    Args:
        seed: Seed of the weights.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(random(seed=1), optax.adamw(1e-3))

    Reference: Lin et al., "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning", TMLR
    2022 (arXiv:2111.10603), algorithm 2.
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        key, state = next_key(state)
        logits = jax.random.normal(key, tensors.active.shape, tensors.gramian.dtype)
        return jax.nn.softmax(jnp.where(tensors.active, logits, -jnp.inf)), state

    return weighted("random", rule, options, init=lambda num_tasks, params: initial_key(seed))


def krum(
    n_byzantine: int = 1, n_selected: int = 1, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """The mean of the gradients that lie closest to their neighbours.

    Each gradient is scored by the sum of the squared distances to its `K - f - 2` nearest others; the `m` lowest are
    averaged. Made for federated learning, where some gradients may be hostile; it ignores whole tasks. The sum is of
    squared distances, as in the paper; TorchJD sums distances.

    When to use: gradients come from sources of which some may be broken; hardly for tasks that all are to be
    learned.

    Args:
        n_byzantine: `f`, the number of gradients that may be arbitrary; there must be `K >= f + 3` tasks. Of fewer, as
            when some are masked, each is scored by its nearest.
        n_selected: `m`.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(krum(n_byzantine=1, n_selected=2), optax.adamw(1e-3))

    Reference: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017.
    """
    if n_byzantine < 0 or n_selected < 1:
        raise ValueError(
            f"krum: n_byzantine is {n_byzantine} and n_selected {n_selected}; expected at least 0 and 1"
        )

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        gram, active = tensors.gramian, tensors.active
        size = len(gram)
        if size < max(n_byzantine + 3, n_selected):
            raise ValueError(
                f"krum: {size} tasks; expected at least n_byzantine + 3 = {n_byzantine + 3} and n_selected = "
                f"{n_selected}"
            )
        squares = jnp.diagonal(gram)
        distances = jnp.maximum(squares[:, None] + squares - 2 * gram, 0)
        other = active & ~jnp.eye(size, dtype=bool)
        nearest = jnp.sort(jnp.where(other, distances, jnp.inf), axis=1)
        number = jnp.clip(jnp.sum(active) - n_byzantine - 2, 1, jnp.maximum(jnp.sum(active) - 1, 0))
        scores = jnp.sum(jnp.where(jnp.arange(size) < number, nearest, 0), axis=1)
        order = jnp.argsort(jnp.argsort(jnp.where(active, scores, jnp.inf)))
        chosen = (order < n_selected) & active
        return chosen / jnp.maximum(jnp.sum(chosen), 1), state

    return weighted("krum", rule, options)


def trimmed_mean(trim: int = 1, **options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The mean in each coordinate, without its smallest and largest values.

    When to use: as `krum`: a few gradients have outliers. It keeps no promise to any single task.

    Args:
        trim: How many values are left out at each end. Fewer are where too few tasks are there: one always remains, or
            two.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(trimmed_mean(trim=1), optax.adamw(1e-3))

    Reference: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018
    (arXiv:1803.01498).
    """
    if trim < 0:
        raise ValueError(f"trimmed_mean: trim is {trim}; expected at least 0")

    def combine(tensors: Tensors, state: Any) -> tuple[Any, None, Any]:
        active = tensors.active
        count = jnp.sum(active)
        cut = jnp.minimum(trim, jnp.maximum(count - 1, 0) // 2)
        kept = jnp.maximum(count - 2 * cut, 1)

        def leaf(g: jax.Array) -> jax.Array:
            # What is left out is beyond all others, first at one end and then at the other.
            rows = [jnp.where(on, task, jnp.inf) for task, on in zip(g, active, strict=True)]
            number = min(trim, (len(g) - 1) // 2)
            lowest, rows = _extremes(rows, number, jnp.minimum, jnp.maximum)
            rows = [jnp.where(row < jnp.inf, row, -jnp.inf) for row in rows]
            highest, rows = _extremes(rows, number, jnp.maximum, jnp.minimum)
            # Of fewer tasks fewer are cut, and an end may reach beyond the middle.
            for end in (lowest, highest):
                for place, row in enumerate(end):
                    rows.append(jnp.where((place >= cut) & (place < count - cut), row, jnp.inf))
            wide = jnp.promote_types(g.dtype, jnp.float32)
            terms = [jnp.where(jnp.isfinite(row), row, 0).astype(wide) for row in rows]
            return (functools.reduce(jnp.add, terms) / kept).astype(g.dtype)

        return jax.tree.map(leaf, tensors.grads), None, state

    return aggregation("trimmed_mean", combine, options)


def _extremes(
    rows: list[jax.Array], number: int, better: Callable, worse: Callable
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Returns the best rows in each coordinate, in order, and the others: a few passes of bubble sort.

    Written out row by row, which makes one loop over the coordinates of it: to sort them took 30 to 90 times as
    long on a CPU.
    """
    best: list[jax.Array] = []
    for _ in range(number):
        first, *others = rows
        rows = []
        for row in others:
            rows.append(worse(first, row))
            first = better(first, row)
        best.append(first)
    return best, rows
