"""What a loss weighting scheme costs: whole steps, the ways to per-task gradients, and the schemes' own part."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtl_jax import weighting
from mtl_jax.benchmark.timing import Compiled, compile_with, machine, medians
from mtl_jax.progress import Progress
from mtl_jax.weighting.gradients import Mode, split_heads, weighted_sum

_FEATURES, _DEPTH, _HEAD = 64, 4, 128
_RATE = 1e-2


def run(
    tasks: Sequence[int] = (2, 4, 8, 16, 40),
    parameters: Sequence[int] = (1_000_000, 25_000_000),
    schemes: Sequence[str] = (),
    batch: int = 256,
    repeats: int = 9,
) -> dict[str, Any]:
    """Returns times and memory, for each number of tasks and of shared parameters.

    The network is a multilayer perceptron of 4 layers that all tasks share, and a head of 2 layers for each. The
    optimizer is SGD, so that little but the gradients is timed.

    Args:
        tasks: Numbers of tasks.
        parameters: Numbers of shared parameters, about.
        schemes: Names; all, if empty.
        batch: Examples in a batch: the gradients' work grows with it, the schemes' own does not.
        repeats: Runs of which the median is taken.

    Returns:
        The machine, and of each case: the plain step; the per-task gradients alone, by mode; and each scheme's step by
        mode, its part alone (`solver_ms`: of K gradients of K numbers) and `overhead`: the step's time beyond that of
        the per-task gradients and relative to it.
    """
    unknown = set(schemes) - set(weighting.names())
    if unknown:
        raise ValueError(
            f"no weighting scheme {sorted(unknown)[0]!r}; choose from {', '.join(weighting.names())}"
        )
    names = list(schemes or weighting.names())
    cases = []
    with Progress("benchmark", len(tasks) * len(parameters) * (len(names) + 1)) as progress:
        for size in parameters:
            for number in tasks:
                cases.append(_case(number, size, names, batch, repeats, progress))
    return {"benchmark": "weighting", **machine(), "batch": batch, "repeats": repeats, "cases": cases}


def _case(
    number: int, size: int, names: list[str], batch: int, repeats: int, progress: Progress
) -> dict[str, Any]:
    width = round((size / (_DEPTH - 1)) ** 0.5)
    params = _initialize(jax.random.key(0), number, width)
    x = jax.random.normal(jax.random.key(1), (batch, _FEATURES))
    y = jax.random.normal(jax.random.key(2), (batch, number))
    shared = sum(leaf.size for leaf in jax.tree.leaves(params["trunk"]))

    def plain(params: Any) -> Any:
        losses, grads = jax.value_and_grad(lambda p: jnp.sum(_split_loss(number)(p, x, y)))(params)
        return losses, jax.tree.map(lambda p, g: p - _RATE * g, params, grads)

    def per_task(params: Any, mode: Mode) -> Any:
        value_and_grad = weighting.per_task_value_and_grad(_split_loss(number), mode=mode)
        losses, grads = value_and_grad(params, x, y)
        every = jnp.ones(number)
        return losses, grads["trunk"], weighted_sum(grads["heads"], every, every > 0)

    common = {
        "plain": compile_with(plain, params),
        "vmap": compile_with(lambda p: per_task(p, "vmap"), params),
        "scan": compile_with(lambda p: per_task(p, "scan"), params),
        "representation": compile_with(lambda p: _at_representation(p, x, y), params),
    }
    case: dict[str, Any] = {"tasks": number, "shared_parameters": shared}
    times = medians(common, repeats)
    case["plain_step"] = _figures(common["plain"], times["plain"])
    case["gradients"] = {
        mode: _figures(common[mode], times[mode]) for mode in ("vmap", "scan", "representation")
    }
    progress.advance()
    case["schemes"] = {}
    for name in names:
        if name != "krum" or number >= 4:
            case["schemes"][name] = _scheme(name, number, params, x, y, common, repeats)
        progress.advance()
    return case


def _scheme(
    name: str, number: int, params: Any, x: Array, y: Array, common: dict[str, Compiled], repeats: int
) -> dict[str, Any]:
    modes: tuple[Mode, ...] = ("vmap", "scan") if name in weighting.AGGREGATIONS else ("vmap",)
    options = {"shared": _is_trunk} if name in weighting.AGGREGATIONS else {}
    scheme = weighting.make_default(name, number, **options)
    steps: dict[str, Compiled] = {}
    for mode in modes:
        init, update = weighting.make_step(
            scheme, _split_loss(number), optax.sgd(_RATE), step_size=_RATE, mode=mode
        )
        steps[mode] = compile_with(lambda state, update=update: update(state, x, y), init(params, number))
    timed: dict[str, Compiled] = {
        "plain": common["plain"],
        **{f"gradients_{m}": common[m] for m in modes},
        **steps,
    }
    if name in weighting.AGGREGATIONS:
        matrix = jax.random.normal(jax.random.key(3), (number, number)) + 0.3
        tx = weighting.make_default(name, number)
        timed["solver"] = compile_with(
            lambda g, s: tx.update(g, s, losses=jnp.ones(number)), matrix, tx.init(matrix[0])
        )
    times = medians(timed, repeats)
    result: dict[str, Any] = {}
    for mode in modes:
        result[mode] = _figures(steps[mode], times[mode])
    result["relative_to_plain"] = {mode: times[mode] / times["plain"] for mode in modes}
    if name in weighting.AGGREGATIONS:
        result["solver_ms"] = times["solver"]
        result["overhead"] = {mode: times[mode] / times[f"gradients_{mode}"] - 1 for mode in modes}
    return result


def _figures(compiled: Compiled, milliseconds: float) -> dict[str, float]:
    return {"ms": milliseconds, "memory_mib": compiled.memory / 2**20}


def _initialize(key: Array, number: int, width: int) -> Any:
    sizes = [_FEATURES, *[width] * _DEPTH]
    keys = iter(jax.random.split(key, _DEPTH + 2 * number))

    def dense(rows: int, columns: int) -> Array:
        return jax.random.normal(next(keys), (rows, columns)) * (2 / rows) ** 0.5

    return {
        "trunk": [dense(*shape) for shape in itertools.pairwise(sizes)],
        "heads": [[dense(width, _HEAD), dense(_HEAD, 1)] for _ in range(number)],
    }


def _trunk(trunk: list[Array], x: Array) -> Array:
    for kernel in trunk:
        x = jax.nn.relu(x @ kernel)
    return x


def _head(head: list[Array], features: Array, y: Array) -> Float[Array, ""]:
    return jnp.mean(((jax.nn.relu(features @ head[0]) @ head[1])[:, 0] - y) ** 2)


def _split_loss(number: int) -> weighting.SplitLoss:
    def head(i: int, heads: Any, features: Array, x: Array, y: Array) -> Float[Array, ""]:
        return _head(heads[i], features, y[:, i])

    return weighting.SplitLoss(
        lambda params, x, y: _trunk(params["trunk"], x), [functools.partial(head, i) for i in range(number)]
    )


def _is_trunk(path: str) -> bool:
    return path.startswith("trunk")


def _at_representation(params: Any, x: Array, y: Array) -> Any:
    """A step of MGDA-UB."""
    losses, grads, backward = weighting.representation_value_and_grad(*_split_loss(len(params["heads"])))(
        *split_heads(params), x, y
    )
    tx = weighting.mgda_ub(shared=weighting.is_representation)
    combined, _ = tx.update(grads, tx.init(grads), losses=losses)
    trunk, heads = backward(combined)
    moved = jax.tree.map(lambda p, g: p - _RATE * g, params, trunk | {"heads": heads})
    return losses, moved
