"""Scalarizations: how the tasks' losses become one number, from the losses alone.

A scalarization is a pair of pure functions, in optax's spirit:

    scheme = weighting.uncertainty(kinds=("regression", "classification"))
    params, state = scheme.init(num_tasks=2)
    total, (state, weights) = scheme.apply(params, state, losses, mask=labelled)

`params` are learned: give them to the optimizer with the model's own (with no weight decay) and checkpoint them.
`state` is carried from step to step. `weights` are the effective weights: how much the gradient of each raw loss counts
in the gradient of the total. A total can be negative while every raw loss and every weight is positive; look at those.

A task without labels in a batch is masked: it adds nothing to the total, its weight is reported as zero, and its
learned parameters get no gradient, whatever its loss is, be it NaN. A task whose loss is not finite is treated alike,
and counted. (Its gradient in the model is then multiplied by zero, which does not mend a gradient that is NaN itself.)
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from mtl_jax.weighting.trees import cast_like, own_arrays

Losses = Float[Array, "tasks"]
Mask = Bool[Array, "tasks"]

# Where a logarithm or a quotient of a loss is taken, less than this counts as this.
TINY = 1e-30


class Options(TypedDict, total=False):
    """What every scalarization takes besides its own hyperparameters.

    Attributes:
        nonfinite: What happens to a task whose loss is not finite, or negative where logarithms are taken. "drop": it
            is left out of the step and counted in the state. "raise": outside of `jax.jit` and `jax.grad` a ValueError
            is raised; inside it is dropped.
    """

    nonfinite: Literal["drop", "raise"]


class Scalarization(NamedTuple):
    """A loss weighting scheme.

    Attributes:
        init: `init(num_tasks) -> (params, state)`.
        apply: `apply(params, state, losses, mask=None) -> (total, (state, weights))`; some schemes take more, by
            keyword.
        observe: `observe(state, losses, mask=None) -> state`, for schemes that learn from what a step did: to be called
            after the step, with the losses of the same batch. None for all others.
        predict: `predict(params, state, mask=None) -> weights`, for schemes whose params learn from a held-out batch:
            `hypergradient` gives their gradient, `apply` gives none. None for all others.
    """

    init: Callable[[int], tuple[Any, Any]]
    apply: Callable[..., tuple[Float[Array, ""], tuple[Any, Losses]]]
    observe: Callable[..., Any] | None = None
    predict: Callable[..., Losses] | None = None


class ScalarizationState(NamedTuple):
    """State of a scalarization.

    Attributes:
        weights: Effective weight of each task in the last step.
        dropped: How often, summed over tasks, a loss was left out because it was not finite (or negative, where
            logarithms are taken).
        scheme: What the scheme remembers.
    """

    weights: Losses
    dropped: Int[Array, ""]
    scheme: Any


Total = Callable[..., tuple[Float[Array, ""], Any]]


def scalarization(
    name: str,
    total: Total,
    options: Options,
    *,
    init: Callable[[int], tuple[Any, Any]] = lambda num_tasks: ((), ()),
    num_tasks: int | None = None,
    logarithms: bool = False,
    observe: Callable[[Any, Losses, Mask], Any] | None = None,
    predict: Callable[[Any, Any, Mask], Losses] | None = None,
) -> Scalarization:
    """Returns the scalarization of `total(params, scheme_state, losses, active) -> (total, scheme_state)`.

    The effective weights are the derivative of the total, so whatever is meant to be constant must be stopped.

    Args:
        name: Name of the scheme, for messages.
        total: The rule. Losses of tasks that are not active are 1; they must not count.
        options: What the user gave.
        init: `init(num_tasks) -> (params, scheme_state)`.
        num_tasks: The only K there is, where hyperparameters fix it.
        logarithms: Whether losses must not be negative.
        observe: `observe(scheme_state, losses, active) -> scheme_state`.
        predict: `predict(params, scheme_state, active) -> weights`.
    """
    if unknown := set(options) - set(Options.__annotations__):
        raise TypeError(f"{name}: unknown argument {sorted(unknown)[0]!r}")
    nonfinite = options.get("nonfinite", "drop")
    if nonfinite not in ("drop", "raise"):
        raise ValueError(f"{name}: nonfinite is {nonfinite!r}; expected 'drop' or 'raise'")

    def usable(
        state: ScalarizationState, losses: ArrayLike, mask: ArrayLike | None
    ) -> tuple[Losses, Mask, Mask]:
        expected = state.weights.shape
        for key, value in (("losses", losses), ("mask", mask)):
            if value is not None and jnp.shape(value) != expected:
                raise ValueError(f"{name}: {key} has shape {jnp.shape(value)}; expected {expected}")
        losses = jnp.asarray(losses).astype(jnp.promote_types(jnp.result_type(losses), jnp.float32))
        labelled = jnp.ones(expected, bool) if mask is None else jnp.asarray(mask).astype(bool)
        good = jnp.isfinite(losses) & (losses >= 0) if logarithms else jnp.isfinite(losses)
        if nonfinite == "raise" and not isinstance(good, jax.core.Tracer) and (labelled & ~good).any():
            i = int(jnp.argmax(labelled & ~good))
            wanted = "finite and, for logarithms, not negative" if logarithms else "finite"
            raise ValueError(f"{name}: the loss of task {i} is {losses[i]}; expected one that is {wanted}")
        return losses, labelled, labelled & good

    def init_fn(num_tasks_given: int) -> tuple[Any, ScalarizationState]:
        if num_tasks is not None and num_tasks_given != num_tasks:
            raise ValueError(f"{name}: made for {num_tasks} tasks, found {num_tasks_given}")
        params, scheme = own_arrays(init(num_tasks_given))
        return params, ScalarizationState(jnp.zeros(num_tasks_given), jnp.zeros((), jnp.int32), scheme)

    def apply_fn(
        params: Any, state: ScalarizationState, losses: ArrayLike, mask: ArrayLike | None = None, **extra: Any
    ) -> tuple[Float[Array, ""], tuple[ScalarizationState, Losses]]:
        losses, labelled, active = usable(state, losses, mask)

        def value(losses: Losses) -> tuple[Float[Array, ""], Any]:
            # Replaced, not multiplied by zero: 0 * NaN is NaN, in the value and in the gradient.
            result, scheme = total(params, state.scheme, jnp.where(active, losses, 1), active, **extra)
            return jnp.where(active.any(), result, 0), scheme

        (result, scheme), weights = jax.value_and_grad(value, has_aux=True)(losses)
        dropped = state.dropped + jnp.sum(labelled & ~active, dtype=jnp.int32)
        scheme = cast_like(scheme, state.scheme)
        state = ScalarizationState(weights.astype(state.weights.dtype), dropped, scheme)
        state = jax.lax.stop_gradient(state)
        return result, (state, state.weights)

    def observe_fn(
        state: ScalarizationState, losses: ArrayLike, mask: ArrayLike | None = None
    ) -> ScalarizationState:
        assert observe is not None
        losses, _, active = usable(state, losses, mask)
        return state._replace(scheme=observe(state.scheme, jnp.where(active, losses, 1), active))

    def predict_fn(params: Any, state: ScalarizationState, mask: Mask | None = None) -> Losses:
        assert predict is not None
        active = jnp.ones(state.weights.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
        return jnp.where(active, predict(params, state.scheme, active), 0)

    return Scalarization(init_fn, apply_fn, observe and observe_fn, predict and predict_fn)


def masked_sum(terms: Losses, active: Mask) -> Float[Array, ""]:
    """Returns the sum over the active tasks."""
    return jnp.sum(jnp.where(active, terms, 0))


def masked_softmax(logits: Losses, active: Mask) -> Losses:
    """Returns the softmax over the active tasks, and zero for the others (zeros, if none is active)."""
    largest = jnp.max(jnp.where(active, logits, -jnp.inf), initial=-1e30)
    exponentials = jnp.where(active, jnp.exp(jnp.where(active, logits - largest, 0)), 0)
    return exponentials / jnp.maximum(jnp.sum(exponentials), 1e-30)


def preference_vector(name: str, preference: Any) -> Losses:
    """Returns a checked preference: one number a task, finite, none negative, one positive."""
    vector = jnp.asarray(preference, jnp.float32)
    if vector.ndim != 1 or not (jnp.isfinite(vector).all() and (vector >= 0).all() and (vector > 0).any()):
        raise ValueError(
            f"{name}: preference is {preference}; expected a number for each task, none negative"
        )
    return vector
