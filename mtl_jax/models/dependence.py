"""Which task's loss reaches which parameter: read off the traced backward pass, not guessed from names."""

from typing import Any

import jax
from jax.extend import core
from jaxtyping import PyTree

from mtl_jax.models.network import MultiTaskNetwork, example_inputs, initialize


def tasks_of_parameters(network: MultiTaskNetwork) -> PyTree[tuple[str, ...]]:
    """Returns, for each parameter, the tasks whose gradient reaches it in training, in the network's order.

    Nothing is computed: the gradient of all predictions, with respect to the parameters, is traced, and followed from
    the prediction that it starts from to the parameters where it ends.

    Args:
        network: The network.

    Returns:
        A tree like the network's parameters, with a tuple of tasks for each.
    """
    variables = jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))
    params = variables.pop("params")

    def predictions(params: Any, key: jax.Array) -> dict[str, Any]:
        features, _ = network.apply(
            {"params": params, **jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), variables)},
            *example_inputs(network),
            train=True,
            mutable=["batch_stats"],
            rngs={"sharing": key},
            method="trunk",
        )
        outputs: Any = network.apply({"params": params}, features, method="all_predictions")
        return outputs

    def backward(params: Any, key: jax.Array, cotangents: dict[str, Any]) -> Any:
        return jax.vjp(lambda p: predictions(p, key), params)[1](cotangents)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    cotangents = jax.eval_shape(predictions, params, key)
    traced = jax.make_jaxpr(backward)(params, key, cotangents)
    number = len(jax.tree.leaves((params, key)))
    nothing: list[frozenset[str]] = [frozenset()] * number
    starts = [frozenset([task]) for task in sorted(cotangents) for _ in jax.tree.leaves(cotangents[task])]
    reached = _follow(traced.jaxpr, nothing + starts)
    ordered = [tuple(task for task in network.tasks if task in tasks) for tasks in reached]
    return jax.tree.unflatten(jax.tree.structure(params), ordered)


def shared_paths(network: MultiTaskNetwork) -> frozenset[str]:
    """Returns the paths, such as `neck/output/conv/kernel`, of the parameters that several tasks' gradients reach."""
    return frozenset(path for path, tasks in by_path(tasks_of_parameters(network)).items() if len(tasks) > 1)


def by_path(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a tree like a network's parameters by their paths, such as `neck/output/conv/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _follow(jaxpr: core.Jaxpr, inputs: list[frozenset[str]]) -> list[frozenset[str]]:
    """Returns what each result of a traced function depends on, given what its arguments do."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(variable: Any) -> frozenset[str]:
        return frozenset() if isinstance(variable, core.Literal) else known.get(variable, frozenset())

    for equation in jaxpr.eqns:
        arguments = [of(variable) for variable in equation.invars]
        inner = _inner(equation)
        if inner is None:
            results = [frozenset().union(*arguments)] * len(equation.outvars)
        elif equation.primitive.name == "scan":
            results = _follow_scan(
                inner, arguments, equation.params["num_consts"], equation.params["num_carry"]
            )
        else:
            results = _follow(inner, arguments)
        known.update(zip(equation.outvars, results, strict=True))
    return [of(variable) for variable in jaxpr.outvars]


def _follow_scan(
    body: core.Jaxpr, arguments: list[frozenset[str]], consts: int, carried: int
) -> list[frozenset[str]]:
    while True:
        results = _follow(body, arguments)
        carry = [a | b for a, b in zip(arguments[consts : consts + carried], results[:carried], strict=True)]
        if carry == arguments[consts : consts + carried]:
            return results
        arguments = [*arguments[:consts], *carry, *arguments[consts + carried :]]


def _inner(equation: core.JaxprEqn) -> core.Jaxpr | None:
    """Returns the function that an equation calls with its own arguments, if it does that."""
    for value in equation.params.values():
        inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
        if isinstance(inner, core.Jaxpr) and len(inner.invars) == len(equation.invars):
            return inner
    return None
