"""A whole training step under any scheme, for any function that returns one loss for each task."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import optax
from jaxtyping import Array, Bool, Float

from mtl_jax.weighting.gradients import Aggregation, Mode, aggregated_value_and_grad
from mtl_jax.weighting.scalarization import Scalarization
from mtl_jax.weighting.scalarizations.predicted import hypergradient

PyTree = Any
Scheme: TypeAlias = Scalarization | optax.GradientTransformationExtraArgs


class StepState(NamedTuple):
    """All that training learns or remembers.

    Attributes:
        params: The model's parameters.
        optimizer: State of their optimizer.
        learned: What the scheme learns; empty for most.
        learned_optimizer: State of its optimizer.
        scheme: What the scheme carries from step to step.
    """

    params: PyTree
    optimizer: Any
    learned: PyTree
    learned_optimizer: Any
    scheme: Any


class Step(NamedTuple):
    """Training under a scheme.

    Attributes:
        init: `init(params, num_tasks) -> state`.
        update: `update(state, *args, held_out=None, mask=None) -> (state, losses, weights)`, where `args` are those of
            the losses after the parameters. `held_out` are others, for the schemes that learn from a held-out batch;
            without them those learn from the same. The weights are None where the scheme has none.
    """

    init: Callable[[PyTree, int], StepState]
    update: Callable[..., tuple[StepState, Float[Array, "tasks"], Float[Array, "tasks"] | None]]


def make_step(
    scheme: Scheme,
    loss_fn: Callable[..., Float[Array, "tasks"]],
    optimizer: optax.GradientTransformation,
    *,
    learned_optimizer: optax.GradientTransformation | None = None,
    step_size: float = 1e-3,
    mode: Mode = "vmap",
    every: int = 1,
) -> Step:
    """Returns init and update of training under a scheme, be it a scalarization or an aggregation.

    What differs between schemes is inside: learned weights, a second look at the batch, a held-out batch, per-task
    gradients. So one program compares them all.

    Args:
        scheme: The scheme.
        loss_fn: `loss_fn(params, *args) -> losses [K]`; it may be a `SplitLoss`.
        optimizer: Of the parameters.
        learned_optimizer: Of what the scheme learns; Adam at 0.01, if not given.
        step_size: Learning rate of the parameters, which the hypergradient assumes.
        mode: As of `per_task_value_and_grad`; of no meaning to a scalarization.
        every: As of `aggregated_value_and_grad`; of no meaning to a scalarization.

    Raises:
        ValueError: If the scheme is none, or what `aggregated_value_and_grad` raises.

    Example:
        >>> init, update = make_step(weighting.make("cagrad", num_tasks=2), loss_fn, optax.adam(1e-3))
        >>> state = init(params, num_tasks=2)
        >>> state, losses, weights = jax.jit(update)(state, batch)
    """
    learned_optimizer = learned_optimizer or optax.adam(0.01)
    if not isinstance(scheme, (Scalarization, Aggregation)):
        raise ValueError(
            f"make_step: the scheme is {type(scheme).__name__}; expected one of weighting.names(), alone: what follows "
            "it in a chain goes to `optimizer`"
        )

    def init(params: PyTree, num_tasks: int) -> StepState:
        if isinstance(scheme, Scalarization):
            learned, carried = scheme.init(num_tasks)
        else:
            learned, carried = (), scheme.init(params)
            if carried.weights is not None and len(carried.weights) != num_tasks:
                raise ValueError(
                    f"make_step: the scheme is made for {len(carried.weights)} tasks, found {num_tasks}"
                )
        return StepState(params, optimizer.init(params), learned, learned_optimizer.init(learned), carried)

    def gradients(state: StepState, args: tuple, held_out: tuple, mask: Any) -> tuple:
        if not isinstance(scheme, Scalarization):
            value_and_grad = aggregated_value_and_grad(loss_fn, scheme, mode=mode, every=every)
            losses, grads, carried = value_and_grad(state.params, state.scheme, *args, mask=mask)
            return grads, (), losses, carried.weights, carried

        def total(params: PyTree, learned: PyTree) -> tuple[Array, tuple]:
            losses = loss_fn(params, *args)
            value, (carried, weights) = scheme.apply(learned, state.scheme, losses, mask=mask)
            return value, (losses, weights, carried)

        grads, (losses, weights, carried) = jax.grad(total, argnums=(0, 1), has_aux=True)(
            state.params, state.learned
        )
        if scheme.predict is None:
            return *grads, losses, weights, carried
        hyper = hypergradient(scheme, lambda params, args: loss_fn(params, *args), step_size=step_size)
        return (
            grads[0],
            hyper(state.learned, carried, state.params, args, held_out, mask),
            losses,
            weights,
            carried,
        )

    def update(
        state: StepState,
        *args: Any,
        held_out: tuple | None = None,
        mask: Bool[Array, "tasks"] | None = None,
    ) -> tuple[StepState, Float[Array, "tasks"], Float[Array, "tasks"] | None]:
        grads, learned_grads, losses, weights, carried = gradients(
            state, args, args if held_out is None else held_out, mask
        )
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        learned_updates, learned_state = learned_optimizer.update(
            learned_grads, state.learned_optimizer, state.learned
        )
        params = optax.apply_updates(state.params, updates)
        if isinstance(scheme, Scalarization) and scheme.observe is not None:
            carried = scheme.observe(carried, loss_fn(params, *args), mask=mask)
        learned = optax.apply_updates(state.learned, learned_updates)
        return StepState(params, optimizer_state, learned, learned_state, carried), losses, weights

    return Step(init, update)
