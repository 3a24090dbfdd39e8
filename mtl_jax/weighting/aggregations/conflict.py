"""Schemes against conflict: what one task's gradient takes from another is changed, or not taken."""

import functools
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mtl_jax.weighting import solvers
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


def pcgrad(seed: int = 0, **options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The sum of the gradients, each first freed of its conflicts with the others, one after the other.

    For each task i, in an order of the others that is drawn anew: where `g_i' g_j < 0`, what `g_i` has of `g_j` is
    taken away, `g_i <- g_i - (g_i' g_j / |g_j|^2) g_j`, with `g_j` as it was. With three or more tasks the result may
    still conflict.

    When to use: two or three tasks conflict now and then. For three tasks and more it gives no guarantee.

    Args:
        seed: Seed of the order.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(pcgrad(), optax.adamw(1e-3))

    Reference: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020 (arXiv:2001.06782), algorithm 1.
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        key, state = next_key(state)
        gram = tensors.gramian
        squares = jnp.diagonal(gram)

        def project(own: Weights, order: Array) -> Weights:
            def step(mixture: Weights, j: Array) -> tuple[Weights, None]:
                # The gradient itself never conflicts with itself, so it need not be left out of the order.
                product = mixture @ gram[:, j]
                part = jnp.where(
                    (product < 0) & (squares[j] > 0), product / jnp.where(squares[j] > 0, squares[j], 1), 0
                )
                return mixture.at[j].add(-part), None

            return jax.lax.scan(step, own, order)[0]

        return jnp.sum(
            jax.vmap(project)(jnp.eye(len(gram), dtype=gram.dtype), _orders(key, len(gram))), 0
        ), state

    return weighted("pcgrad", rule, options, init=lambda num_tasks, params: initial_key(seed))


def gradvac(
    beta: float = 0.5, seed: int = 0, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """The sum of the gradients, each first turned towards the others to the cosine they usually have.

    For each task i, in an order of the others that is drawn anew: where the cosine `c` of `g_i` and `g_j` is below the
    running average `t` of the pair, `|g_i| (t sqrt(1 - c^2) - c sqrt(1 - t^2)) / (|g_j| sqrt(1 - t^2)) g_j` is added to
    `g_i`, with `g_j` as it was, which makes the cosine `t`. Then `t <- (1 - beta) t + beta c`. One cosine is kept for
    the whole network; the default of `beta` is LibMTL's.

    When to use: as `pcgrad`, for many related tasks (languages, say) whose gradients should be more alike than they
    are.

    Args:
        beta: Rate of the running average.
        seed: Seed of the order.
        **options: See `aggregation.Options`; `num_tasks` is required.

    Example:
        >>> tx = optax.chain(gradvac(num_tasks=3), optax.adamw(1e-3))

    Reference: Wang et al., "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
    Multilingual Models", ICLR 2021 (arXiv:2010.05874), algorithm 1.
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        key, targets = state
        key, carried = next_key(key)
        gram, active = tensors.gramian, tensors.active
        norms = jnp.sqrt(jnp.diagonal(gram))
        limit = 1 - jnp.finfo(gram.dtype).eps

        def turn(i: Array, own: Weights, targets: Weights, order: Array) -> tuple[Weights, Weights]:
            def step(carry: tuple, j: Array) -> tuple:
                mixture, targets = carry
                length = jnp.sqrt(jnp.maximum(mixture @ gram @ mixture, 0))
                product = length * norms[j]
                use = (j != i) & active[i] & active[j] & (product > 0)
                cosine = jnp.clip(mixture @ gram[:, j] / jnp.where(product > 0, product, 1), -1, 1)
                target = jnp.clip(targets[j], -limit, limit)
                sine, target_sine = jnp.sqrt(1 - cosine**2), jnp.sqrt(1 - target**2)
                part = (
                    length
                    * (target * sine - cosine * target_sine)
                    / (jnp.where(norms[j] > 0, norms[j], 1) * target_sine)
                )
                mixture = mixture.at[j].add(jnp.where(use & (cosine < target), part, 0))
                targets = targets.at[j].add(jnp.where(use, beta * (cosine - targets[j]), 0))
                return (mixture, targets), None

            return jax.lax.scan(step, (own, targets), order)[0]

        size = len(gram)
        mixtures, targets = jax.vmap(turn)(
            jnp.arange(size), jnp.eye(size, dtype=gram.dtype), targets, _orders(key, size)
        )
        return jnp.sum(jnp.where(active[:, None], mixtures, 0), axis=0), (carried, targets)

    def init(num_tasks: int, params: Any) -> tuple[Array, Array]:
        return initial_key(seed), jnp.zeros((num_tasks, num_tasks))

    return weighted("gradvac", rule, options, init=init, remembers=True)


def graddrop(
    leak: float = 0.0, seed: int = 0, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """In each coordinate, the sum of the gradients of one sign, drawn by how much there is of it.

    The positive sign is drawn with probability `(1 + sum_i g_i / sum_i |g_i|) / 2`. The paper applies it to
    activations; here it is applied to whatever gradients are given.

    When to use: as a regulariser, at the shared features or parameters; the signs of conflicting tasks are drawn.

    Args:
        leak: How much of the gradients of the other sign is let through, 0 to 1.
        seed: Seed of the signs.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(graddrop(), optax.adamw(1e-3))

    Reference: Chen et al., "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout", NeurIPS
    2020 (arXiv:2010.06808), algorithm 1.
    """
    if not 0 <= leak <= 1:
        raise ValueError(f"graddrop: leak is {leak}; expected 0 to 1")

    def combine(tensors: Tensors, state: Any) -> tuple[Any, None, Any]:
        key, state = next_key(state)

        def leaf(g: Array, key: Array) -> Array:
            # Task by task, as in `weighted_sum`: one loop over the coordinates.
            accurate = jnp.promote_types(g.dtype, jnp.float32)
            tasks = [
                jnp.where(on, task.astype(accurate), 0) for task, on in zip(g, tensors.active, strict=True)
            ]
            total = sum(map(jnp.abs, tasks))
            purity = (1 + sum(tasks) / jnp.where(total > 0, total, 1)) / 2
            sign = jnp.where(jax.random.uniform(key, purity.shape, purity.dtype) < purity, 1, -1)
            kept = [jnp.where(task * sign > 0, task, leak * task) for task in tasks]
            return functools.reduce(jnp.add, kept).astype(g.dtype)

        leaves, structure = jax.tree.flatten(tensors.grads)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, map(leaf, leaves, keys)), None, state

    return aggregation("graddrop", combine, options, init=lambda num_tasks, params: initial_key(seed))


def cagrad(
    c: float = 0.5, rescale: Literal["none", "square", "linear"] = "none", **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """The direction near the mean gradient on which the task that gains least gains most.

    `max_d min_i g_i' d` with `|d - g| <= c |g|`, where `g` is the mean; solved exactly. No task loses where `c >= 1`.

    When to use: the average loss is what counts, but no task should be left behind; `c` sets how far it may stray.

    Args:
        c: Radius of the ball, relative to `|g|`. 0 is the mean; large is MGDA's direction.
        rescale: "none" as in the paper; "square" divides by `1 + c^2` and "linear" by `1 + c`, as the authors' code
            can.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(cagrad(c=0.5), optax.adamw(1e-3))

    Reference: Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021 (arXiv:2110.14048),
    algorithm 1.
    """
    if c < 0:
        raise ValueError(f"cagrad: c is {c}; expected at least 0")
    factors = {"none": 1.0, "square": 1 / (1 + c**2), "linear": 1 / (1 + c)}
    if rescale not in factors:
        raise ValueError(f"cagrad: rescale is {rescale!r}; expected 'none', 'square' or 'linear'")

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        return factors[rescale] * solvers.worst_gain_maximum(tensors.gramian, uniform(tensors), c), state

    return weighted("cagrad", rule, options)


def config(**options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The direction that has the same cosine with all gradients, as long as the gradients reach along it together.

    With `U` the unit gradients, the direction is that of `U^+ 1`; the length is the sum of the projections of the
    gradients onto it. Where no direction has the same cosine with all, the nearest in the sense of least squares.

    When to use: gradients conflict and their lengths mean nothing, as for the losses of physics-informed networks.

    Args:
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(config(), optax.adamw(1e-3))

    Reference: Liu, Chu & Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR
    2025 (arXiv:2408.11104), equation 2.
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        gram = tensors.gramian
        cosines, inverse_norms = solvers.normalized(gram)
        mixture = solvers.pseudo_inverse(cosines) @ (inverse_norms > 0).astype(gram.dtype)
        length = jnp.sqrt(jnp.maximum(mixture @ cosines @ mixture, 0))
        direction = inverse_norms * mixture / jnp.where(length > 0, length, 1)
        return direction * jnp.sum(gram @ direction), state

    return weighted("config", rule, options)


def upgrad(**options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The mean of the gradients, each first projected onto the directions that conflict with no task.

    When to use: no task may lose, and each should keep its part in proportion to its gradient. A strong default.

    Args:
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(upgrad(), optax.adamw(1e-3))

    Reference: Quinton & Rey, "Jacobian Descent for Multi-Objective Optimization", 2024 (arXiv:2406.16232), equation 3.
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        each = jnp.diag(uniform(tensors))
        projected = jax.vmap(lambda weights: solvers.dual_cone_projection(tensors.gramian, weights))(each)
        return jnp.sum(projected, axis=0), state

    return weighted("upgrad", rule, options)


def dualproj(**options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The mean gradient, projected onto the directions that conflict with no task.

    When to use: as `upgrad`, in one projection: the closest direction to the mean that harms no task.

    Args:
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(dualproj(), optax.adamw(1e-3))

    Reference: Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017 (arXiv:1706.08840),
    equation 11, which projects the gradient of one task.
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        return solvers.dual_cone_projection(tensors.gramian, uniform(tensors)), state

    return weighted("dualproj", rule, options)


def aligned_mtl(
    scale: Literal["min", "median", "rmse"] = "min", **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """The mean of the gradients after they are made orthogonal and equally long, with the least change.

    With `G = V L V'`, the weights are `sqrt(s) V L^(-1/2) V' 1/K`, over the eigenvalues that are not zero: all singular
    values of the gradients become `sqrt(s)`. The mean, as of the paper's weights that sum to one; LibMTL sums.

    When to use: gradients are nearly dependent or dominated by one task, and the mean becomes unstable.

    Args:
        scale: `s`: the least eigenvalue, their median, or their mean.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(aligned_mtl(), optax.adamw(1e-3))

    Reference: Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023
    (arXiv:2305.19000), algorithm 1.
    """
    if scale not in ("min", "median", "rmse"):
        raise ValueError(f"aligned_mtl: scale is {scale!r}; expected 'min', 'median' or 'rmse'")

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        largest = jnp.max(jnp.diagonal(tensors.gramian))
        values, vectors, positive = solvers.eigen(tensors.gramian / jnp.where(largest > 0, largest, 1))
        rank = jnp.sum(positive)
        ordered = jnp.sort(jnp.where(positive, values, jnp.inf))  # those that are zero sort to the end
        chosen = {
            "min": ordered[0],
            "median": ordered[jnp.maximum(rank - 1, 0) // 2],
            "rmse": jnp.sum(jnp.where(positive, values, 0)) / jnp.maximum(rank, 1),
        }[scale]
        factors = jnp.where(positive, jnp.sqrt(chosen / jnp.where(positive, values, 1)), 0)
        return vectors @ (factors * (vectors.T @ uniform(tensors))), state

    return weighted("aligned_mtl", rule, options)


def _orders(key: Array, size: int) -> Array:
    """Returns an order of the tasks for each task."""
    return jax.vmap(lambda key: jax.random.permutation(key, size))(jax.random.split(key, size))
