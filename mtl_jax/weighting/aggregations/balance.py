"""Schemes of balance: every task is to train at its pace, or to get its share."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mtl_jax.weighting import solvers
from mtl_jax.weighting.aggregation import (
    Options,
    Tasks,
    Tensors,
    Weights,
    aggregation,
    everything,
    per_task_zeros,
    select,
    track,
    uniform,
    weighted,
    weighted_sum,
)
from mtl_jax.weighting.gradients import gramian
from mtl_jax.weighting.trees import cast_like


def gradnorm(
    alpha: float = 1.5, learning_rate: float = 0.025, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """Weights that are learned so that each weighted gradient is as long as its task's pace asks for.

    With `n_i = |w_i g_i|` and the relative inverse training rate `r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0))`, the
    weights take a gradient step on `sum_i |n_i - mean(n) r_i^alpha|`, in which the target is held constant, and are
    then scaled to sum to K. The combination is of the weights before that step. `params` may select the last shared
    layer, as the paper does.

    When to use: tasks learn at unlike pace, and one more hyperparameter may be tuned.

    Args:
        alpha: How strongly tasks are pulled back to a common pace; 1.5 for different tasks, less for similar ones.
        learning_rate: Of the weights; the paper uses 0.025 and the optimizer of the network, here it is a plain step.
        **options: See `aggregation.Options`; `num_tasks` is required.

    Example:
        >>> tx = optax.chain(gradnorm(num_tasks=3, params=lambda path: path.startswith("neck")), optax.adamw(1e-3))

    Reference: Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
    ICML 2018 (arXiv:1711.02257), algorithm 1.
    """

    def init(num_tasks: int, params: Any) -> tuple[Weights, Weights]:
        return jnp.ones(num_tasks), jnp.full(num_tasks, jnp.nan)

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        weights, first = state
        active = tensors.active
        first = jnp.where(active & jnp.isnan(first), tensors.losses, first)
        norms = jnp.sqrt(jnp.diagonal(tensors.gramian))
        # A loss below zero, or that began at zero, says nothing of the pace.
        known = active & (first > 0) & (tensors.losses >= 0)
        progress = jnp.where(known, tensors.losses / jnp.where(first > 0, first, 1), 1)
        equal = uniform(tensors)
        rates = progress / jnp.maximum(equal @ progress, jnp.finfo(norms.dtype).tiny)
        lengths = weights * norms
        target = (equal @ lengths) * rates**alpha
        gradient = norms * jnp.sign(lengths - target)
        # In units of the mean norm, so that the scale of the losses does not set the pace.
        moved = weights - learning_rate * gradient / jnp.maximum(equal @ norms, jnp.finfo(norms.dtype).tiny)
        moved = _of_like_sum(jnp.maximum(moved, 1e-3), weights, active)
        return weights, (moved, first)

    return weighted("gradnorm", rule, options, init=init, remembers=True, needs="losses")


def imtl_g(**options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The combination, of weights that sum to one, whose projections onto all gradients are equal.

    Closed form: with the cosines `C` of the gradients and their norms, `w_i` is proportional to `(C^+ 1)_i / |g_i|`.
    Weights may be negative.

    When to use: scales of the tasks' gradients differ by orders and should not matter. Unstable where gradients are
    nearly opposed.

    Args:
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(imtl_g(), optax.adamw(1e-3))

    Reference: Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, section 3.1.
    """

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        cosines, inverse_norms = solvers.normalized(tensors.gramian)
        shares = solvers.pseudo_inverse(cosines) @ (inverse_norms > 0).astype(cosines.dtype)
        weights = inverse_norms / jnp.maximum(jnp.max(inverse_norms), jnp.finfo(cosines.dtype).tiny) * shares
        total = jnp.sum(weights)
        return weights / jnp.where(total != 0, total, 1), state

    return weighted("imtl_g", rule, options)


def nash_mtl(
    max_norm: float | None = 1.0, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """The Nash bargaining solution of the tasks: `J'w` with `G w = 1 / w`.

    Solved by Newton's method; the authors' code takes 20 steps of a sequential convex program. Its length is `sqrt(K)`,
    whatever the gradients, and `max_norm` limits it.

    When to use: as `imtl_g`, with a solution that does not conflict with any task; a strong default, with `every`
    for speed.

    Args:
        max_norm: Largest length of the result, 1 as in the authors' code; None: no limit, as in the paper.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(nash_mtl(), optax.adamw(1e-3))

    Reference: Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022 (arXiv:2202.01017), algorithm 1.
    """
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"nash_mtl: max_norm is {max_norm}; expected more than 0, or None")

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        weights = solvers.proportional_fairness(tensors.gramian)
        if max_norm is not None:
            length = jnp.sqrt(jnp.maximum(weights @ tensors.gramian @ weights, 0))
            weights *= jnp.minimum(1, max_norm / jnp.where(length > 0, length, max_norm))
        return weights, state

    return weighted("nash_mtl", rule, options)


def fairgrad(alpha: float = 1.0, **options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """The alpha-fair combination of the tasks' gains: `J'w` with `G w = w^(-1/alpha)`.

    When to use: as `nash_mtl`, where how much the slowest task is favoured is to be chosen.

    Args:
        alpha: The kind of fairness: 1 is proportional fairness, which is Nash-MTL's; larger favours the task that gains
            least. From 0.5 to 5 the solution is exact for gradients whose norms are within a factor of 100; beyond
            that, float32 carries it less and less, but for 1.
        **options: See `aggregation.Options`.

    Example:
        >>> tx = optax.chain(fairgrad(alpha=2.0), optax.adamw(1e-3))

    Reference: Ban & Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024 (arXiv:2402.15638), equation 4.
    """
    if not alpha > 0:
        raise ValueError(f"fairgrad: alpha is {alpha}; expected more than 0")

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        return solvers.proportional_fairness(tensors.gramian, alpha), state

    return weighted("fairgrad", rule, options)


def excess_mtl(step_size: float = 0.01, **options: Unpack[Options]) -> optax.GradientTransformationExtraArgs:
    """Weights that grow for tasks that are far from converged, and not for tasks that are noisy.

    The excess risk of task i is estimated as `e_i = g_i' diag(h_i)^(-1/2) g_i`, with `h_i` the sum of the squared
    gradients so far, as in AdaGrad. After the first step, which sets the units,
    `w_i <- w_i exp(step_size e_i / e_i(0))`, scaled to sum to K. The state holds K gradients.

    When to use: some tasks have noisy labels, whose loss cannot fall further.

    Args:
        step_size: Rate of the weights; the default is that of the authors' code.
        **options: See `aggregation.Options`; `num_tasks` is required.

    Example:
        >>> tx = optax.chain(excess_mtl(num_tasks=3), optax.adamw(1e-3))

    Reference: He et al., "Robust Multi-Task Learning with Excess Risks", ICML 2024 (arXiv:2402.02009), algorithm 1.
    """

    def init(num_tasks: int, params: Any) -> tuple:
        return jnp.ones(num_tasks), jnp.zeros(num_tasks), per_task_zeros(num_tasks, params)

    def combine(tensors: Tensors, state: Any) -> tuple[Any, Weights, Any]:
        weights, first, squares = state
        active = tensors.active

        def column(x: Array) -> Array:
            return active.reshape((-1,) + (1,) * (x.ndim - 1))

        squares = jax.tree.map(
            lambda h, g: h + jnp.where(column(g), g.astype(h.dtype) ** 2, 0), squares, tensors.grads
        )

        def part(h: Array, g: Array) -> Weights:
            terms = jnp.where(
                column(g) & (h > 0), g.astype(h.dtype) ** 2 / jnp.sqrt(jnp.where(h > 0, h, 1)), 0
            )
            return jnp.sum(terms.reshape(len(g), -1), axis=1)

        parts = jax.tree.leaves(jax.tree.map(part, squares, tensors.grads))
        excess = jnp.sum(jnp.stack(parts), axis=0)
        # Logarithms, since the exponential of an excess that has grown a thousandfold overflows.
        growth = jnp.where(active & (first > 0), step_size * excess / jnp.where(first > 0, first, 1), 0)
        logits = jnp.where(active, jnp.log(weights) + growth, -jnp.inf)
        weights = _of_like_sum(jax.nn.softmax(logits), weights, active)
        first = jnp.where(active & (first == 0), excess, first)
        used = jnp.where(active, weights, 0)
        return weighted_sum(tensors.grads, used, active), used, (weights, first, squares)

    return aggregation(
        "excess_mtl", combine, options, init=init, remembers=True, reports_weights=True, takes_params=False
    )


def db_mtl(
    beta: float = 0.9, beta_sigma: float = 0.0, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """The sum of the gradients of the log losses, averaged over the steps and scaled to the longest of them.

    `y_i <- b y_i + (1 - b) g_i / L_i` with `b = beta / t^beta_sigma`, then `sum_i (max_j |y_j| / |y_i|) y_i`. The state
    holds K gradients. A task whose loss is not above 1e-12 is left out of the average in that step.

    When to use: losses and gradients of unlike scale, and many steps to average over; memory for K gradients is
    there.

    Args:
        beta: How much of the average is kept.
        beta_sigma: Exponent of its decay.
        **options: See `aggregation.Options`; `num_tasks` is required.

    Example:
        >>> tx = optax.chain(db_mtl(num_tasks=3), optax.adamw(1e-3))

    Reference: Lin et al., "Dual-Balancing for Multi-Task Learning", 2023 (arXiv:2308.12029), algorithm 1.
    """

    def init(num_tasks: int, params: Any) -> tuple:
        return jnp.zeros((), jnp.int32), per_task_zeros(num_tasks, params)

    def combine(tensors: Tensors, state: Any) -> tuple[Any, None, Any]:
        step, tracked = state
        step += 1
        losses = tensors.losses
        known = tensors.active & (losses > 1e-12)  # of less the quotient's square could overflow
        inverse = jnp.where(known, 1 / jnp.where(known, losses, 1), 0)
        logarithmic = jax.tree.map(
            lambda g, y: g.astype(y.dtype) * inverse.reshape((-1,) + (1,) * (g.ndim - 1)),
            tensors.grads,
            tracked,
        )
        rate = 1 - beta / step**beta_sigma
        tracked = track(tracked, tensors._replace(grads=logarithmic, active=known), rate)
        norms = jnp.sqrt(jnp.diagonal(gramian(tracked)))
        weights = jnp.where(norms > 0, jnp.max(norms) / jnp.where(norms > 0, norms, 1), 0)
        combined = weighted_sum(tracked, weights, tensors.active)
        return cast_like(combined, tensors.grads), None, (step, tracked)

    return aggregation(
        "db_mtl", combine, options, init=init, remembers=True, needs="losses", takes_params=False
    )


def cr_mogm(
    inner: optax.GradientTransformationExtraArgs, alpha: float = 0.9, **options: Unpack[Options]
) -> optax.GradientTransformationExtraArgs:
    """Another scheme with its weights averaged over the steps: `w <- alpha w + (1 - alpha) w_inner`.

    The first step takes the inner scheme's weights as they are.

    When to use: another scheme's weights jump from batch to batch.

    Args:
        inner: An aggregation that results in a weighted sum, made with `num_tasks`; its other options are given here.
            It sees no `samples`.
        alpha: How much of the average is kept.
        **options: See `aggregation.Options`; `num_tasks` is required.

    Example:
        >>> tx = optax.chain(cr_mogm(mgda(num_tasks=3), num_tasks=3), optax.adamw(1e-3))

    Reference: Zhou et al., "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond", NeurIPS
    2022.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"cr_mogm: alpha is {alpha}; expected 0 or more, and less than 1")
    in_gramian = options.get("params") or everything

    def init(num_tasks: int, params: Any) -> tuple:
        state = inner.init(select(params, in_gramian))
        if getattr(state, "weights", None) is None:
            raise ValueError(
                "cr_mogm: the inner scheme reports no weights; choose one that results in a weighted sum, and give it "
                "num_tasks"
            )
        return state, jnp.full(num_tasks, jnp.nan)

    def rule(tensors: Tensors, state: Any) -> tuple[Weights, Any]:
        inner_state, average = state
        losses = {} if tensors.losses is None else {"losses": tensors.losses}
        # What the inner scheme makes of the gradients is not used, nor computed under jit.
        grads = select(tensors.grads, in_gramian)
        _, inner_state = inner.update(grads, inner_state, mask=tensors.active, **losses)
        now = inner_state.weights
        smooth = jnp.where(jnp.isnan(average), now, alpha * average + (1 - alpha) * now)
        average = jnp.where(tensors.active, smooth, average)
        return average, (inner_state, average)

    return weighted("cr_mogm", rule, options, init=init, remembers=True)


def _of_like_sum(moved: Weights, weights: Weights, active: Tasks) -> Weights:
    """Returns moved weights of the active tasks, scaled to the sum of their old ones, and the others' old weights."""
    before, after = (jnp.sum(jnp.where(active, w, 0)) for w in (weights, moved))
    return jnp.where(active, moved * before / jnp.where(after > 0, after, 1), weights)
