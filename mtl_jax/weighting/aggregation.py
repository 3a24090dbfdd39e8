"""Aggregations: how the gradients of K tasks become one, as optax transformations.

An aggregation takes updates whose leaves have a leading axis of K tasks and returns updates without it:

    tx = optax.chain(weighting.cagrad(c=0.5), optax.adamw(1e-3))
    state = tx.init(params)
    losses, grads = weighting.per_task_value_and_grad(loss_fn)(params, batch)
    updates, state = tx.update(grads, state, params, losses=losses, mask=labelled)

Most return a weighted sum of the gradients, with weights that follow from their K×K Gramian; `weighted` makes those,
`aggregation` the others. Both treat alike what can happen to a task: one that is masked, or whose gradient is not
finite, is left out of the step, as if there were one task less.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from mtl_jax.weighting.gradients import Aggregation, gramian, path_name, weighted_sum
from mtl_jax.weighting.trees import cast_like, own_arrays

PyTree = Any
Weights = Float[Array, "tasks"]
Gramian = Float[Array, "tasks tasks"]
Tasks = Bool[Array, "tasks"]


class Options(TypedDict, total=False):
    """What every aggregation takes besides its own hyperparameters.

    Attributes:
        num_tasks: K. Then the state carries the last weights, and another number of tasks is an error. Schemes that
            remember something of each task need it; the others take any K without it.
        params: Which parameters' gradients the Gramian is formed of, by their path (`neck/output/kernel`), such as the
            last shared layer; all of `shared`, if not given. The gradients of all are combined. Schemes that average
            the gradients of all parameters do not take it.
        shared: Which parameters tasks share, by their path; all, if not given. A parameter of one task only gets that
            task's own gradient, unweighted: the gradients of all tasks are summed there.
        weigh_heads: Weigh the gradients of parameters that are not shared too, where the result is a weighted sum.
        nonfinite: What happens to a task whose loss or gradient is not finite, or whose gradient is so long that its
            square is not. "drop": it is left out of the step and counted in the state. "raise": outside of `jax.jit` a
            ValueError is raised; inside, and with `every` above 1, it is dropped.
    """

    num_tasks: int | None
    params: Callable[[str], bool] | None
    shared: Callable[[str], bool] | None
    weigh_heads: bool
    nonfinite: Literal["drop", "raise"]


class AggregationState(NamedTuple):
    """State of an aggregation.

    Attributes:
        step: Steps done.
        weights: How much each task's gradient counted in the last step in which weights were found; None where the
            number of tasks is not given or the result is no weighted sum.
        dropped: How often, summed over tasks, a gradient was left out because it was not finite.
        scheme: What the scheme remembers.
    """

    step: Int[Array, ""]
    weights: Weights | None
    dropped: Int[Array, ""]
    scheme: Any


class Tensors(NamedTuple):
    """What a scheme sees in a step.

    Attributes:
        grads: Per-task gradients of the shared parameters.
        active: Tasks that count in this step.
        gramian: Their Gramian, over the selected parameters; zero in rows and columns of other tasks.
        losses: The tasks' losses, 1 where a task is not active; None where they are not given.
        samples: Gramian of gradients of two further batches that are independent of each other, or None.
    """

    grads: PyTree
    active: Tasks
    gramian: Gramian
    losses: Any
    samples: Gramian | None


Init = Callable[[Any, PyTree], Any]
Rule = Callable[[Tensors, Any], tuple[Weights, Any]]
Combine = Callable[[Tensors, Any], tuple[PyTree, Weights | None, Any]]


def weighted(
    name: str,
    rule: Rule,
    options: Options,
    *,
    init: Init | None = None,
    remembers: bool = False,
    needs: Literal["losses"] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the aggregation `sum_i w_i g_i`.

    Args:
        name: Name of the scheme, for messages.
        rule: `rule(tensors, scheme_state) -> (w, scheme_state)`.
        options: What the user gave.
        init: `init(num_tasks, params) -> scheme_state`, where there is one.
        remembers: Whether the scheme keeps something of each task, so that `num_tasks` must be given.
        needs: What else the rule needs in each step.
    """

    def combine(tensors: Tensors, state: Any) -> tuple[PyTree, Weights, Any]:
        weights, state = rule(tensors, state)
        weights = jnp.where(tensors.active, weights, 0)
        return weighted_sum(tensors.grads, weights, tensors.active), weights, state

    return aggregation(
        name, combine, options, init=init, remembers=remembers, needs=needs, reports_weights=True
    )


def aggregation(
    name: str,
    combine: Combine,
    options: Options,
    *,
    init: Init | None = None,
    remembers: bool = False,
    needs: Literal["losses"] | None = None,
    reports_weights: bool = False,
    takes_params: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Returns the aggregation of `combine(tensors, scheme_state) -> (updates, weights or None, scheme_state)`.

    Args:
        name: Name of the scheme, for messages.
        combine: What happens to the shared parameters' gradients.
        options: What the user gave.
        init: As of `weighted`.
        remembers: As of `weighted`.
        needs: As of `weighted`.
        reports_weights: Whether the result is a weighted sum of the gradients, whose weights `combine` returns.
        takes_params: Whether `combine` uses the Gramian.
    """
    if unknown := set(options) - set(Options.__annotations__):
        raise TypeError(f"{name}: unknown argument {sorted(unknown)[0]!r}")
    num_tasks = options.get("num_tasks")
    nonfinite = options.get("nonfinite", "drop")
    if nonfinite not in ("drop", "raise"):
        raise ValueError(f"{name}: nonfinite is {nonfinite!r}; expected 'drop' or 'raise'")
    weigh_heads = options.get("weigh_heads", False)
    if weigh_heads and not reports_weights:
        raise ValueError(f"{name}: weigh_heads is set, but its result is no weighted sum of the gradients")
    if options.get("params") and not takes_params:
        raise ValueError(f"{name}: params is given, but it looks at the gradients of all shared parameters")
    is_shared = options.get("shared") or everything
    in_gramian = options.get("params") or everything

    def init_fn(params: PyTree) -> AggregationState:
        if remembers and num_tasks is None:
            raise ValueError(f"{name}: num_tasks is missing; it remembers something of each task")
        weights = jnp.zeros(num_tasks) if num_tasks is not None and reports_weights else None
        scheme = () if init is None else init(num_tasks, select(params, is_shared))
        return AggregationState(
            jnp.zeros((), jnp.int32), weights, jnp.zeros((), jnp.int32), own_arrays(scheme)
        )

    def update_fn(
        updates: PyTree,
        state: AggregationState,
        params: PyTree = None,
        *,
        losses: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        samples: tuple[PyTree, PyTree] | None = None,
        **_: Any,
    ) -> tuple[PyTree, AggregationState]:
        size = _num_tasks(name, updates, num_tasks, losses=losses, mask=mask)
        if needs == "losses" and losses is None:
            raise ValueError(f"{name}: losses are missing; call update(..., losses=losses)")
        losses = None if losses is None else jnp.asarray(losses)
        labelled = jnp.ones(size, bool) if mask is None else jnp.asarray(mask).astype(bool)
        shared = select(updates, is_shared)
        selected = select(shared, in_gramian)
        if not jax.tree.leaves(selected):
            raise ValueError(f"{name}: no shared parameter is selected by `params`")
        gram = gramian(selected)
        finite = jnp.isfinite(jnp.diagonal(gram))
        # The Gramian tells of the gradients that it is formed of.
        for leaf in jax.tree.leaves(select(updates, lambda path: not (is_shared(path) and in_gramian(path)))):
            finite &= jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
        if losses is not None:
            finite &= jnp.isfinite(losses)
            losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
        if samples is not None:
            samples_gram = gramian(*(select(select(g, is_shared), in_gramian) for g in samples))
            finite &= jnp.isfinite(jnp.diagonal(samples_gram))
        if nonfinite == "raise" and not isinstance(finite, jax.core.Tracer):
            _raise_if_not_finite(name, finite, labelled)
        active = labelled & finite
        both = active[:, None] & active
        tensors = Tensors(
            grads=shared,
            active=active,
            gramian=jnp.where(both, gram, 0),
            losses=None if losses is None else jnp.where(active, losses, 1),
            samples=None if samples is None else jnp.where(both, samples_gram, 0),
        )
        combined, weights, scheme = combine(tensors, state.scheme)
        heads = select(updates, lambda path: not is_shared(path))
        head_weights = weights if weigh_heads and weights is not None else jnp.ones(size, gram.dtype)
        combined = _merge(combined, weighted_sum(heads, head_weights, active))
        state = AggregationState(
            state.step + 1,
            None if state.weights is None or weights is None else weights.astype(state.weights.dtype),
            state.dropped + jnp.sum(labelled & ~finite, dtype=jnp.int32),
            cast_like(scheme, state.scheme),
        )
        return combined, state

    transformation = Aggregation(init_fn, update_fn)
    transformation.shared, transformation.weigh_heads = is_shared, weigh_heads
    return transformation


def uniform(tensors: Tensors) -> Weights:
    """Returns equal weights for the active tasks that sum to one, or zeros."""
    active = tensors.active.astype(tensors.gramian.dtype)
    return active / jnp.maximum(jnp.sum(active), 1)


def initial_key(seed: int) -> jax.Array:
    """Returns a random key as plain numbers, which any checkpoint takes."""
    return jax.random.key_data(jax.random.key(seed))


def next_key(state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a key to use, and the state to carry on."""
    key, carried = jax.random.split(jax.random.wrap_key_data(state))
    return key, jax.random.key_data(carried)


def per_task_zeros(num_tasks: int, params: PyTree) -> PyTree:
    """Returns a tree like K gradients of the parameters, of zeros in float32 at least."""
    return jax.tree.map(
        lambda p: jnp.zeros((num_tasks, *p.shape), jnp.promote_types(p.dtype, jnp.float32)), params
    )


def track(tracked: PyTree, tensors: Tensors, rate: Float[Array, ""]) -> PyTree:
    """Returns `y + rate (g - y)` for the active tasks, and `y` for the others."""

    def leaf(y: Array, g: Array) -> Array:
        active = tensors.active.reshape((-1,) + (1,) * (g.ndim - 1))
        return jnp.where(active, y + rate * (g.astype(y.dtype) - y), y)

    return jax.tree.map(leaf, tracked, tensors.grads)


def everything(path: str) -> bool:
    """Selects every parameter."""
    return True


def select(tree: PyTree, predicate: Callable[[str], bool]) -> PyTree:
    """Returns the tree with None for the leaves whose path the predicate does not select."""
    return jax.tree.map_with_path(lambda path, x: x if predicate(path_name(path)) else None, tree)


def _merge(first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: y if x is None else x, first, second, is_leaf=lambda x: x is None)


def _num_tasks(
    name: str, updates: PyTree, expected: int | None, *, losses: ArrayLike | None, mask: ArrayLike | None
) -> int:
    """Returns K, or says where it is not what it is elsewhere."""
    for path, leaf in jax.tree.leaves_with_path(updates):
        if leaf.ndim == 0 or len(leaf) != (expected or len(leaf)):
            where = path_name(path)
            raise ValueError(
                f"{name}: the gradient of {where or 'the parameters'} has shape {leaf.shape}; expected a leading axis "
                f"of {expected or 'K'} tasks, as from per_task_value_and_grad"
            )
        expected = len(leaf)
    if expected is None:
        raise ValueError(f"{name}: there are no gradients")
    for key, value in (("losses", losses), ("mask", mask)):
        if value is not None and jnp.shape(value) != (expected,):
            raise ValueError(f"{name}: {key} has shape {jnp.shape(value)}; expected ({expected},)")
    return expected


def _raise_if_not_finite(name: str, finite: Tasks, labelled: Tasks) -> None:
    bad = ~finite & labelled
    if bad.any():
        raise ValueError(f"{name}: the loss or gradient of task {int(jnp.argmax(bad))} is not finite")
