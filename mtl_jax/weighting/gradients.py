"""Per-task gradients, and what they say about each other.

Under a mesh nothing more is needed: with the batch sharded and the parameters replicated, `jax.jit` sums each task's
gradient over the devices before it is used, and with sharded parameters `gramian` is formed from the shards, so that
only K×K numbers cross the network.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtl_jax.weighting.solvers import normalized

PyTree = Any
Mode = Literal["vmap", "scan", "unroll"]


class Aggregation(optax.GradientTransformationExtraArgs):
    """An optax transformation of K gradients into one, which knows what tasks share.

    Attributes:
        shared: Whether tasks share the parameter of a path.
        weigh_heads: Whether the gradients of the others are weighed too.
    """

    shared: Callable[[str], bool]
    weigh_heads: bool


class SplitLoss(NamedTuple):
    """A function that returns one loss for each of K tasks, in two parts, for cheaper per-task gradients.

    Of a function in one part, each of the K backward passes goes through all heads, though a task's loss depends on its
    own. Of one in two parts, each head's backward pass runs once, and only the trunk's K times. Both give the same
    gradients, and either is a `loss_fn` for all functions here.

    Its parameters are a dictionary: the heads see what is under `heads` and the features, the trunk sees all the rest.

    Attributes:
        trunk_fn: `trunk_fn(params, *args) -> features`, or `(features, aux)` where `has_aux` is given.
        heads_fn: One function for each task, `head(params["heads"], features, *args) -> loss`.

    Example:
        >>> loss_fn = SplitLoss(trunk, [detection_loss, identity_loss])
        >>> losses, grads = per_task_value_and_grad(loss_fn)({"trunk": ..., "heads": ...}, batch)
    """

    trunk_fn: Callable[..., Any]
    heads_fn: Sequence[Callable[..., Any]]

    def __call__(self, params: dict[str, Any], *args: Any) -> Float[Array, "tasks"]:
        """Returns the losses, of a trunk without aux."""
        trunk, heads = split_heads(params)
        features = self.trunk_fn(trunk, *args)
        return jnp.stack([head(heads, features, *args) for head in self.heads_fn])


def split_heads(params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Returns the parameters of the trunk, and those of the heads, as a `SplitLoss` has them."""
    if not isinstance(params, dict) or "heads" not in params:
        found = ", ".join(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(f"SplitLoss: the parameters are {found}; expected a dictionary with `heads`")
    return {name: part for name, part in params.items() if name != "heads"}, params["heads"]


def per_task_value_and_grad(
    loss_fn: Callable[..., Any], *, mode: Mode = "vmap", chunk: int | None = None, has_aux: bool = False
) -> Callable[..., tuple[Any, PyTree]]:
    """Like `jax.value_and_grad`, for a function that returns one loss for each of K tasks.

    The forward pass runs once and is linearised once; only the backward pass is repeated, either for all tasks at once
    (`vmap`: K times the memory of a backward pass) or one after the other (`scan`: least memory), or for `chunk` tasks
    at once. `unroll` is `scan` without its loop: longer to compile, but to the compiler all passes are one program, and
    no feature map's gradient is copied to stand beside those of other tasks. Convolutions on a CPU are unrolled in any
    mode. What the forward pass changes, such as batch statistics, is changed once.

    Args:
        loss_fn: `loss_fn(params, *args) -> losses [K]`, or `(losses, aux)` with `has_aux`; or a `SplitLoss`, where
            tasks have heads of their own.
        mode: How the K backward passes run.
        chunk: How many run at once, whatever the mode.
        has_aux: Whether `loss_fn` returns something besides the losses, such as batch statistics.

    Returns:
        A function with `loss_fn`'s arguments, by position, that returns `losses` (or `(losses, aux)`) and the gradients
        with respect to the first argument, each leaf with a leading axis of K.

    Raises:
        ValueError: If `loss_fn` does not return one scalar for each task, or `mode` or `chunk` are unknown.

    Example:
        >>> losses, grads = per_task_value_and_grad(loss_fn)(params, batch)
    """
    linearize = _linearizer("per_task_value_and_grad", mode, chunk)

    def value_and_grad(params: PyTree, *args: Any) -> tuple[Any, PyTree]:
        losses, aux, _, per_task = linearize(loss_fn, params, args, has_aux)
        return ((losses, aux) if has_aux else losses), per_task()

    return value_and_grad


def aggregated_value_and_grad(
    loss_fn: Callable[..., Any],
    aggregation: optax.GradientTransformationExtraArgs,
    *,
    every: int = 1,
    mode: Mode = "vmap",
    chunk: int | None = None,
    has_aux: bool = False,
    constrain: Callable[[PyTree], PyTree] = lambda grads: grads,
) -> Callable[..., tuple[Any, PyTree, Any]]:
    """Losses and the aggregated gradient, whose weights are found anew in every n-th step only.

    In a step between, the backward pass runs once, for the losses weighted as in the last step that found weights: as
    cheap as a plain step. Parameters that are not shared get what the aggregation gives them, in all steps. A task that
    is masked when weights are found keeps its last weight, or gets the mean of the others' if it had none.

    Of a `loss_fn` in one part, a masked task whose gradient is NaN spoils a step between: it is multiplied by zero. Of
    a `SplitLoss` it does not.

    Args:
        loss_fn: As of `per_task_value_and_grad`.
        aggregation: An aggregation alone, not in a chain; with `every` above 1 it has `num_tasks`, and its result is a
            weighted sum of the gradients.
        every: n.
        mode: As of `per_task_value_and_grad`.
        chunk: As of `per_task_value_and_grad`.
        has_aux: As of `per_task_value_and_grad`.
        constrain: Applied to the per-task gradients before they are combined, such as a
            `jax.lax.with_sharding_constraint` that keeps them split over devices as the parameters are.

    Returns:
        `value_and_grad(params, state, *args, mask=None)`, which returns `losses` (or `(losses, aux)`), the gradient,
        and the aggregation's next state. `*args` are `loss_fn`'s. The mask tells which tasks count; it may be a
        function of `aux`, where only the forward pass tells.

    Raises:
        ValueError: If `every` is less than 1, or there are no weights that steps between could use.

    Example:
        >>> aggregation = nash_mtl(num_tasks=3)
        >>> step = aggregated_value_and_grad(loss_fn, aggregation, every=10)
        >>> losses, grads, state = step(params, aggregation.init(params), batch)
    """
    where = "aggregated_value_and_grad"
    linearize = _linearizer(where, mode, chunk)
    if every < 1:
        raise ValueError(f"{where}: every is {every}; expected at least 1")
    if not isinstance(aggregation, Aggregation):
        raise ValueError(
            f"{where}: expected one of weighting.AGGREGATIONS, found {type(aggregation).__name__}; what follows it in "
            "a chain takes the gradient that comes out here"
        )

    def is_weighted(path: str) -> bool:
        return aggregation.weigh_heads or aggregation.shared(path)

    def value_and_grad(
        params: PyTree,
        state: Any,
        *args: Any,
        mask: Bool[Array, "tasks"] | Callable[[Any], Bool[Array, "tasks"]] | None = None,
    ) -> tuple[Any, PyTree, Any]:
        losses, aux, weighted, per_task = linearize(loss_fn, params, args, has_aux)
        labelled = mask(aux) if callable(mask) else mask
        labelled = jnp.ones(losses.shape, bool) if labelled is None else jnp.asarray(labelled).astype(bool)

        def find_weights(state: Any) -> tuple[PyTree, Any]:
            return aggregation.update(constrain(per_task()), state, params, losses=losses, mask=labelled)

        def find_weights_to_keep(state: Any) -> tuple[PyTree, Any]:
            grads, after = find_weights(state)
            active = labelled & jnp.isfinite(losses)
            mean = jnp.sum(jnp.where(active, after.weights, 0)) / jnp.maximum(jnp.sum(active), 1)
            known = jnp.where(state.weights != 0, state.weights, mean)
            return grads, after._replace(weights=jnp.where(active, after.weights, known))

        def keep_weights(state: Any) -> tuple[PyTree, Any]:
            # A task whose loss is no number would spoil the sum.
            active = labelled & jnp.isfinite(losses)
            weights = jnp.where(active, state.weights, 0)
            # Of each leaf one of the two is used; the compiler drops the other one's part of the backward pass.
            grads = jax.tree.map_with_path(
                lambda path, together, own: together if is_weighted(path_name(path)) else own,
                weighted(weights),
                weighted(active),
            )
            dropped = state.dropped + jnp.sum(labelled & ~active, dtype=jnp.int32)
            return grads, state._replace(step=state.step + 1, dropped=dropped)

        if every == 1:
            grads, state = find_weights(state)
        else:
            if state.weights is None:
                raise ValueError(
                    f"{where}: every is {every}, but the aggregation has no weights to keep; give it num_tasks, and "
                    "choose one whose result is a weighted sum of the gradients"
                )
            grads, state = jax.lax.cond(state.step % every == 0, find_weights_to_keep, keep_weights, state)
        return ((losses, aux) if has_aux else losses), grads, state

    return value_and_grad


def representation_value_and_grad(
    trunk_fn: Callable[..., Any],
    heads_fn: Callable[..., Any] | Sequence[Callable[..., Any]],
    *,
    mode: Mode = "vmap",
    chunk: int | None = None,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, PyTree, Callable[[PyTree], tuple[PyTree, PyTree]]]]:
    """Per-task gradients at the features that tasks share, and one backward pass through the trunk for all.

    The features' gradients are combined, and only the combination goes on down:

        value_and_grad = representation_value_and_grad(trunk_fn, [head_a, head_b])
        losses, grads, backward = value_and_grad(trunk_params, head_params, batch)
        combined, state = aggregation.update(grads, state, losses=losses)
        trunk_grads, head_grads = backward(combined)

    with an aggregation for which only the features are shared, such as `mgda_ub(shared=is_representation)`. The
    features keep their batch axis, so that the Gramian is that of MGDA-UB; gradients that were first summed over the
    batch would give another one.

    Args:
        trunk_fn: `trunk_fn(trunk_params, *args) -> features`, or `(features, aux)` with `has_aux`.
        heads_fn: One function for each task, `head(head_params, features, *args) -> loss`: then each head's backward
            pass runs once, and a step costs hardly more than a plain one. Or one function that returns `losses [K]`,
            whose backward pass runs K times.
        mode: As of `per_task_value_and_grad`, for one function; several are taken one by one.
        chunk: As `mode`.
        has_aux: Whether `trunk_fn` returns something besides the features, such as batch statistics.

    Returns:
        `value_and_grad(trunk_params, head_params, *args)`, which returns `losses` (or `(losses, aux)`), the gradients
        `{"representation": ..., "heads": ...}`, each leaf with a leading axis of K, and the function that turns their
        combination into the gradients of the trunk's and the heads' parameters.

    Raises:
        ValueError: If a head does not return a scalar, or `heads_fn` one for each task.

    Reference: Sener & Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018 (arXiv:1810.04650),
    section 3.3.
    """
    where = "representation_value_and_grad"
    linearize = _linearizer(where, mode, chunk)

    def value_and_grad(
        trunk_params: PyTree, head_params: PyTree, *args: Any
    ) -> tuple[Any, PyTree, Callable[[PyTree], tuple[PyTree, PyTree]]]:
        features, to_trunk, aux = jax.vjp(
            lambda p: _with_aux(trunk_fn(p, *args), has_aux), trunk_params, has_aux=True
        )
        if callable(heads_fn):
            losses, _, _, per_task = linearize(
                lambda inputs: heads_fn(*inputs, *args), (head_params, features), (), False
            )
            head_grads, feature_grads = per_task()
        else:
            losses, (head_grads, feature_grads) = _head_gradients(
                where, heads_fn, head_params, features, args
            )
        grads = {"representation": feature_grads, "heads": head_grads}

        def combine(combined: PyTree) -> tuple[PyTree, PyTree]:
            like = jax.tree.map(lambda g, f: g.astype(f.dtype), combined["representation"], features)
            return to_trunk(like)[0], combined["heads"]

        return ((losses, aux) if has_aux else losses), grads, combine

    return value_and_grad


def is_representation(path: str) -> bool:
    """Whether a leaf of `representation_value_and_grad`'s gradients is of the shared features: for `shared=`."""
    return path.startswith("representation")


def gramian(grads: PyTree, others: PyTree | None = None) -> Float[Array, "tasks tasks"]:
    """Returns the inner products of per-task gradients, over all leaves, in float32 at least.

    Args:
        grads: Per-task gradients; each leaf with a leading task axis. None leaves are skipped.
        others: Those to multiply with, alike in shape, where they are not the same: row i, column j is the product of
            task i's gradient in `grads` with task j's in `others`.
    """

    def products(g: Array, h: Array) -> Array:
        if jax.device_count() == 1:  # up to twice as fast on a CPU, which copies what has more than two axes
            g, h = g.reshape(len(g), -1), h.reshape(len(h), -1)
        # Contracted axis by axis: to reshape a sharded leaf to a matrix first would gather its shards.
        axes = list(range(1, g.ndim))
        return jnp.tensordot(
            g,
            h,
            axes=(axes, axes),
            precision=jax.lax.Precision.HIGHEST,
            # Said of the result: to convert what is multiplied would make a copy of it.
            preferred_element_type=jnp.promote_types(g.dtype, jnp.float32),
        )

    others = grads if others is None else others
    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(products, grads, others)))


def weighted_sum(grads: PyTree, weights: Float[Array, "tasks"], active: Bool[Array, "tasks"]) -> PyTree:
    """Returns `sum_i w_i g_i` for every leaf, over the active tasks only, summed in float32 at least.

    Written out task by task, which makes one loop over the parameters of it: a sum over the task axis took 28 times as
    long on a CPU for 40 tasks and a million parameters.
    """

    def leaf(g: Array) -> Array:
        terms = (
            # Replaced, not multiplied by zero: what is left out may be NaN.
            jnp.where(on, weight * task.astype(jnp.promote_types(g.dtype, jnp.float32)), 0)
            for task, weight, on in zip(g, weights, active, strict=True)
        )
        return functools.reduce(jnp.add, terms).astype(g.dtype)

    return jax.tree.map(leaf, grads)


def norms_and_cosines(
    gram: Float[Array, "tasks tasks"],
) -> tuple[Float[Array, "tasks"], Float[Array, "tasks tasks"]]:
    """Returns the norms of the gradients and their pairwise cosines (0 where a gradient is zero)."""
    return jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0)), normalized(gram)[0]


def path_name(path: tuple) -> str:
    """Returns a leaf's path as predicates see it, such as `neck/output/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


class _Linearized(NamedTuple):
    """A function of one loss for each task at some parameters.

    Attributes:
        losses: The losses.
        aux: What else it returned.
        weighted: From a weight for each loss to the gradient of their sum.
        per_task: Returns the gradient of each loss, each leaf with a leading axis of K.
    """

    losses: Float[Array, "tasks"]
    aux: Any
    weighted: Callable[[Float[Array, "tasks"]], PyTree]
    per_task: Callable[[], PyTree]


def _linearizer(where: str, mode: str, chunk: int | None) -> Callable[..., _Linearized]:
    """Returns the function that runs the forward pass of `loss_fn(params, *args)`."""
    if mode not in ("vmap", "scan", "unroll"):
        raise ValueError(f"{where}: mode is {mode!r}; expected 'vmap', 'scan' or 'unroll'")
    if chunk is not None and chunk < 1:
        raise ValueError(f"{where}: chunk is {chunk}; expected at least 1")

    def each(pullback: Callable[[PyTree], tuple[PyTree]], cotangents: PyTree) -> PyTree:
        number = len(jax.tree.leaves(cotangents)[0])
        size = number if chunk is None and mode == "vmap" else min(chunk or 1, number)
        written_out = mode == "unroll"
        if jax.default_backend() == "cpu" and _convolves(pullback, cotangents):
            # Convolutions of all tasks at once are slower there than one after the other: a step of the quickstart's
            # network 1.1 to 1.6 times, one of ResNet-50 1.6 times.
            size, written_out = size if chunk else 1, True
        if size == number:
            return jax.vmap(pullback)(cotangents)[0]
        if written_out:
            return _one_after_the_other(jax.vmap(pullback), cotangents, number, size)
        return jax.lax.map(pullback, cotangents, batch_size=size)[0]

    def linearize(loss_fn: Callable[..., Any], params: PyTree, args: tuple, has_aux: bool) -> _Linearized:
        if isinstance(loss_fn, SplitLoss):
            trunk, heads = split_heads(params)
            features, to_trunk, aux = jax.vjp(
                lambda trunk: _with_aux(loss_fn.trunk_fn(trunk, *args), has_aux), trunk, has_aux=True
            )
            losses, (head_grads, feature_grads) = _head_gradients(
                where, loss_fn.heads_fn, heads, features, args
            )

            def weighted(weights: Array) -> PyTree:
                weights = weights.astype(losses.dtype)
                head_sum, feature_sum = weighted_sum((head_grads, feature_grads), weights, weights != 0)
                return to_trunk(feature_sum)[0] | {"heads": head_sum}

            return _Linearized(
                losses, aux, weighted, lambda: each(to_trunk, feature_grads) | {"heads": head_grads}
            )

        losses, pullback, aux = jax.vjp(
            lambda params: _with_aux(loss_fn(params, *args), has_aux), params, has_aux=True
        )
        if jnp.ndim(losses) != 1:
            raise ValueError(
                f"{where}: the losses have shape {jnp.shape(losses)}; expected one scalar for each task, [K]"
            )
        return _Linearized(
            losses,
            aux,
            lambda weights: pullback(weights.astype(losses.dtype))[0],
            lambda: each(pullback, jnp.eye(len(losses), dtype=losses.dtype)),
        )

    return linearize


def _convolves(pullback: Callable[[PyTree], tuple[PyTree]], cotangents: PyTree) -> bool:
    one = jax.tree.map(lambda c: c[0], cotangents)
    return "conv_general_dilated" in str(jax.make_jaxpr(pullback)(one))


def _one_after_the_other(
    pullback: Callable[[PyTree], tuple[PyTree]], cotangents: PyTree, number: int, size: int
) -> PyTree:
    """Does what `jax.lax.map` does, written out, with all results kept to the end.

    Inside of a loop, XLA's CPU backend has no fast convolution: a step of the quickstart took 18 times as long.
    """
    results: list[PyTree] = []
    for begin in range(0, number, size):
        part = jax.tree.map(lambda c, begin=begin: c[begin : begin + size], cotangents)
        if results:  # not before the last one is there, or all take memory at once
            part, results[-1] = jax.lax.optimization_barrier((part, results[-1]))
        results.append(pullback(part)[0])
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *results)


def _head_gradients(
    where: str, heads_fn: Sequence[Callable[..., Any]], heads: PyTree, features: PyTree, args: tuple
) -> tuple[Float[Array, "tasks"], tuple[PyTree, PyTree]]:
    """Returns each head's loss, and its gradients at heads and features, each leaf with a leading axis of K."""
    losses, rows = [], []
    for i, head in enumerate(heads_fn):
        loss, pullback = jax.vjp(lambda *inputs, head=head: head(*inputs, *args), heads, features)
        if jnp.ndim(loss) != 0:
            raise ValueError(f"{where}: the loss of head {i} has shape {jnp.shape(loss)}; expected a scalar")
        losses.append(loss)
        rows.append(pullback(jnp.ones_like(loss)))
    return jnp.stack(losses), jax.tree.map(lambda *rows: jnp.stack(rows), *rows)


def _with_aux(result: Any, has_aux: bool) -> tuple[Any, Any]:
    return result if has_aux else (result, None)
