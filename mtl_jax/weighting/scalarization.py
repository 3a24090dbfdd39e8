"""Scalarizations: how the tasks' losses become one number, from the losses alone.

A scalarization is a pair of pure functions, in optax's spirit:

    scheme = weighting.uncertainty(kinds=("regression", "classification"))
    params, state = scheme.init(num_tasks=2)
    total, (state, weights) = scheme.apply(params, state, losses, mask=mask)

`params` are learned: give them to the optimizer with the model's own (with no weight decay) and checkpoint them.
`state` is carried from step to step. `weights` are the effective weights: how much the gradient of each raw loss counts
in the gradient of the total. A total can be negative while every raw loss and every weight is positive; look at those.

A task without labels in a batch is masked: it adds nothing to the total, its weight is reported as zero, and its
learned parameters get no gradient, whatever its loss is, be it NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

Losses = Float[Array, "tasks"]
Mask = Bool[Array, "tasks"]


class Scalarization(NamedTuple):
    """A loss weighting scheme.

    Attributes:
        init: `init(num_tasks) -> (params, state)`.
        apply: `apply(params, state, losses, mask=None) -> (total, (state, weights))`.
    """

    init: Callable[[int], tuple[Any, Any]]
    apply: Callable[..., tuple[Float[Array, ""], tuple[Any, Losses]]]


def fixed(weights: Sequence[float | optax.Schedule]) -> Scalarization:
    """The weighted sum `sum_i w_i L_i`.

    Args:
        weights: A weight for each task: a number, or an optax schedule of the step.

    Raises:
        ValueError: If `init` is called for another number of tasks, or a weight is negative or not finite.

    Example:
        >>> scheme = fixed([0.5, optax.linear_schedule(0.0, 0.3, transition_steps=1000)])
    """
    for weight in weights:
        if not callable(weight) and not 0 <= weight < float("inf"):
            raise ValueError(f"fixed: weights must be finite and not negative, found {weight}")

    def init(num_tasks: int) -> tuple[tuple[()], Array]:
        if num_tasks != len(weights):
            raise ValueError(f"fixed: {len(weights)} weights for {num_tasks} tasks")
        return (), jnp.zeros((), jnp.int32)

    def apply(params: Any, state: Array, losses: Losses, mask: Mask | None = None) -> tuple:
        now = jnp.stack([jnp.asarray(w(state) if callable(w) else w, jnp.float32) for w in weights])
        losses, now = _masked(losses, now, mask)
        return jnp.sum(now * losses), (state + 1, now)

    return Scalarization(init, apply)


def equal() -> Scalarization:
    """The plain sum `sum_i L_i`."""

    def init(num_tasks: int) -> tuple[tuple[()], tuple[()]]:
        return (), ()

    def apply(params: Any, state: Any, losses: Losses, mask: Mask | None = None) -> tuple:
        losses, weights = _masked(losses, jnp.ones_like(losses), mask)
        return jnp.sum(losses), (state, weights)

    return Scalarization(init, apply)


def uncertainty(kinds: Sequence[str], initial: float = 0.0) -> Scalarization:
    """Weighs each task by its learned homoscedastic uncertainty.

    With the learned `s_i = log(sigma_i^2)`: a regression task (Gaussian likelihood) gives `exp(-s) L / 2 + s / 2`, a
    classification task (softmax likelihood) `exp(-s) L + s / 2`. At the optimum in `s` the effective weight is
    `1 / (2 L)` for both, so losses of any scale come to count alike; the total may be negative.

    Args:
        kinds: The form of each task's likelihood: `regression` or `classification`.
        initial: Initial `s`. 0 (unit variance) as in TorchJD; LibMTL starts at -0.5.

    Raises:
        ValueError: If `init` is called for another number of tasks, or a kind is unknown.

    Reference: Kendall, Gal & Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics", CVPR 2018 (arXiv:1705.07115), equations 7 and 10.
    """
    factors = {"regression": 0.5, "classification": 1.0}
    if unknown := set(kinds) - set(factors):
        raise ValueError(
            f"uncertainty: unknown kind {sorted(unknown)[0]!r}; choose from {', '.join(factors)}"
        )

    def init(num_tasks: int) -> tuple[dict[str, Array], tuple[()]]:
        if num_tasks != len(kinds):
            raise ValueError(f"uncertainty: {len(kinds)} kinds for {num_tasks} tasks")
        return {"log_variance": jnp.full((num_tasks,), initial, jnp.float32)}, ()

    def apply(params: Any, state: Any, losses: Losses, mask: Mask | None = None) -> tuple:
        log_variance = params["log_variance"]
        weights = jnp.array([factors[kind] for kind in kinds]) * jnp.exp(-log_variance)
        losses, weights = _masked(losses, weights, mask)
        penalty = log_variance / 2 if mask is None else jnp.where(mask, log_variance / 2, 0)
        return jnp.sum(weights * losses + penalty), (state, weights)

    return Scalarization(init, apply)


def _masked(losses: Losses, weights: Losses, mask: Mask | None) -> tuple[Losses, Losses]:
    # Both are replaced, not multiplied: 0 * NaN is NaN, in the value and in the gradient.
    if mask is None:
        return losses, weights
    return jnp.where(mask, losses, 0), jnp.where(mask, weights, 0)
