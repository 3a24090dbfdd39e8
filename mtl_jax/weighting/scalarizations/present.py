"""Scalarizations of the present losses: nothing is learned, and only the step or a random key is carried."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtl_jax.weighting.aggregation import initial_key, next_key
from mtl_jax.weighting.scalarization import (
    TINY,
    Losses,
    Mask,
    Options,
    Scalarization,
    masked_softmax,
    masked_sum,
    preference_vector,
    scalarization,
)


def fixed(weights: Sequence[float | optax.Schedule], **options: Unpack[Options]) -> Scalarization:
    """The weighted sum `sum_i w_i L_i`.

    When to use: always, as the baseline. Well-tuned fixed weights are hard to beat (Kurin et al., NeurIPS 2022,
    arXiv:2201.04122).

    Args:
        weights: A weight for each task: a number, or an optax schedule of the step.
        **options: See `Options`.

    Raises:
        ValueError: If `init` is called for another number of tasks, or a weight is negative or not finite.

    Example:
        >>> scheme = fixed([0.5, optax.linear_schedule(0.0, 0.3, transition_steps=1000)])
    """
    for weight in weights:
        if not callable(weight) and not 0 <= weight < float("inf"):
            raise ValueError(f"fixed: weights must be finite and not negative, found {weight}")

    def total(params: Any, step: Array, losses: Losses, active: Mask) -> tuple:
        now = jnp.stack([jnp.asarray(w(step) if callable(w) else w, jnp.float32) for w in weights])
        return masked_sum(now * losses, active), step + 1

    return scalarization(
        "fixed", total, options, init=lambda _: ((), jnp.zeros((), jnp.int32)), num_tasks=len(weights)
    )


def equal(**options: Unpack[Options]) -> Scalarization:
    """The plain sum `sum_i L_i`.

    When to use: as the baseline without any choice. A task with larger losses or gradients counts for more.

    Args:
        **options: See `Options`.
    """

    def total(params: Any, state: Any, losses: Losses, active: Mask) -> tuple:
        return masked_sum(losses, active), state

    return scalarization("equal", total, options)


def rlw(
    distribution: Literal["normal", "dirichlet"] = "normal", seed: int = 0, **options: Unpack[Options]
) -> Scalarization:
    """Random loss weighting: weights that are drawn anew in each step and sum to one.

    When to use: as a litmus test. A scheme that does not beat random weights has shown nothing.

    Args:
        distribution: "normal": the softmax of standard normal numbers, the paper's choice. "dirichlet": uniform on the
            simplex.
        seed: Seed of the draws.
        **options: See `Options`.

    Raises:
        ValueError: If there is no such distribution.

    Reference: Lin, Ye, Zhang & Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
    Learning", TMLR 2022 (arXiv:2111.10603), section 3.
    """
    draws = {
        "normal": jax.random.normal,
        "dirichlet": lambda key, shape: jnp.log(jax.random.exponential(key, shape)),
    }
    if distribution not in draws:
        raise ValueError(f"rlw: distribution is {distribution!r}; choose from {', '.join(draws)}")

    def total(params: Any, state: Array, losses: Losses, active: Mask) -> tuple:
        key, state = next_key(state)
        # Exponential numbers over their sum are uniform on the simplex.
        weights = masked_softmax(draws[distribution](key, losses.shape), active)
        return masked_sum(weights * losses, active), state

    return scalarization("rlw", total, options, init=lambda _: ((), initial_key(seed)))


def gls(**options: Unpack[Options]) -> Scalarization:
    """The geometric mean of the losses, `(prod_i L_i)^(1/K)`.

    Its gradient weighs each task by `total / (K L_i)`: scaling a loss does not change the direction.

    When to use: losses are positive and of unlike scale, and no weight is to be chosen or learned. The smallest loss
    gets the largest weight, so a task that is nearly solved can take over.

    Args:
        **options: See `Options`.

    Reference: Chennupati, Sistu, Yogamani & Rawashdeh, "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
    Strategy for Multi-Task Learning", CVPR Workshops 2019 (arXiv:1904.08492), equation 2.
    """

    def total(params: Any, state: Any, losses: Losses, active: Mask) -> tuple:
        logs = jnp.log(jnp.maximum(losses, TINY))
        return jnp.exp(masked_sum(logs, active) / jnp.maximum(jnp.sum(active), 1)), state

    return scalarization("gls", total, options, logarithms=True)


def scale_invariant(**options: Unpack[Options]) -> Scalarization:
    """The sum of logarithms, `sum_i log L_i`.

    Its gradient weighs each task by `1 / L_i`. The total of `gls` is the exponential of this one's mean: the direction
    is the same, the length does not shrink with the losses.

    When to use: as `gls`, with an optimizer for which the gradient's length matters.

    Args:
        **options: See `Options`.

    Reference: as a baseline ("SI") in Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022
    (arXiv:2202.01017), appendix.
    """

    def total(params: Any, state: Any, losses: Losses, active: Mask) -> tuple:
        return masked_sum(jnp.log(jnp.maximum(losses, TINY)), active), state

    return scalarization("scale_invariant", total, options, logarithms=True)


def cosmos(preference: Sequence[float], penalty: float = 2.0, **options: Unpack[Options]) -> Scalarization:
    """A preferred mixture, and a reward for losses that lie in its direction: `p . L - penalty * cos(p, L)`.

    The paper draws `p` anew in each step and shows it to the network, which then covers the Pareto front; for that,
    give `apply(..., preference=p)` the drawn one.

    When to use: to steer towards one trade-off, or to train one network for all. An effective weight can be negative
    where a loss is small against its share.

    Args:
        preference: How much each task counts, not negative; used in steps that are given no other.
        penalty: Weight of the cosine. 2 is the paper's for MultiMNIST; it tunes it for each data set.
        **options: See `Options`.

    Raises:
        ValueError: If a preference is negative, all are zero, or `init` is called for another number of tasks.

    Reference: Ruchte & Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning", ICDM 2021
    (arXiv:2103.13392), equation 4.
    """
    default = preference_vector("cosmos", preference)

    def total(
        params: Any, state: Any, losses: Losses, active: Mask, preference: Losses | None = None
    ) -> tuple:
        p = jnp.where(active, default if preference is None else preference, 0)
        losses = jnp.where(active, losses, 0)
        mixed = p @ losses
        norms = _norm(p) * _norm(losses)
        return mixed - penalty * mixed / jnp.maximum(norms, TINY), state

    return scalarization("cosmos", total, options, num_tasks=len(default))


def pbi(preference: Sequence[float], penalty: float = 5.0, **options: Unpack[Options]) -> Scalarization:
    """Penalty-based boundary intersection: how far along the preferred ray, and how far off it.

    With the unit vector `u` of the preference: `d1 + penalty * d2` of `d1 = u . L` and `d2 = |L - d1 u|`. The ideal
    point, from which the paper measures, is zero, which no loss goes below.

    When to use: to reach the point of the Pareto front where the losses stand in a given ratio, also where the front is
    not convex. An effective weight is negative for a loss that is smaller than its share.

    Args:
        preference: The ray: the losses' ratio to be reached, not negative.
        penalty: Weight of the distance to the ray. 5 is the paper's.
        **options: See `Options`.

    Raises:
        ValueError: If a preference is negative, all are zero, or `init` is called for another number of tasks.

    Reference: Zhang & Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE Transactions
    on Evolutionary Computation 2007, section II-A.3.
    """
    default = preference_vector("pbi", preference)

    def total(
        params: Any, state: Any, losses: Losses, active: Mask, preference: Losses | None = None
    ) -> tuple:
        ray = jnp.where(active, default if preference is None else preference, 0)
        unit = ray / jnp.maximum(_norm(ray), TINY)
        losses = jnp.where(active, losses, 0)
        along = unit @ losses
        return along + penalty * _norm(losses - along * unit), state

    return scalarization("pbi", total, options, num_tasks=len(default))


def _norm(x: Losses) -> Float[Array, ""]:
    # Its derivative at zero is zero, not NaN; scaled, so that squares neither overflow nor vanish.
    scale = jax.lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(x)), TINY))
    squared = jnp.sum((x / scale) ** 2)
    positive = squared > 0
    return scale * jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)
