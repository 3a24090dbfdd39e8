"""Which part of a network feeds which: read off the traced forward pass."""

import math
import re
from typing import Any, NamedTuple

import jax
from jax.extend import core

from mtl_jax.models.dependence import by_path, tasks_of_parameters
from mtl_jax.models.network import MultiTaskNetwork, example_inputs, initialize


class Node(NamedTuple):
    """A part of a network.

    Attributes:
        name: Its module, and for backbones the stage.
        tasks: Tasks whose gradient reaches its parameters.
        parameters: How many it has.
    """

    name: str
    tasks: tuple[str, ...]
    parameters: int


class Graph(NamedTuple):
    """A network as parts and what flows between them.

    Attributes:
        nodes: The parts, each after those that feed it.
        edges: Pairs of places in `nodes`: from, to.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]


def graph_of(network: MultiTaskNetwork) -> Graph:
    """Returns the graph of a network's forward pass; sums and mixtures without a layer are edges."""
    fed, parts = _trace(network)
    reached = by_path(tasks_of_parameters(network))
    sizes = {path: math.prod(leaf.shape) for path, leaf in by_path(_shapes(network)["params"]).items()}

    def node(name: str) -> Node:
        own = [path for path in sizes if _belongs(path, parts[name])]
        tasks = [task for task in network.tasks if any(task in reached[path] for path in own)]
        return Node(name, tuple(tasks), sum(sizes[path] for path in own))

    places = {name: i for i, name in enumerate(fed)}
    edges = sorted(
        (places[a], places[b]) for b, others in fed.items() for a in others if places[a] < places[b]
    )
    return Graph(tuple(node(name) for name in fed), tuple(edges))


def parts_of_parameters(network: MultiTaskNetwork) -> dict[str, str]:
    """Returns for the path of each parameter the name of the part that it belongs to, such as `backbone stage1`."""
    _, parts = _trace(network)
    return {
        path: next((name for name, starts in parts.items() if _belongs(path, starts)), path.split("/")[0])
        for path in by_path(_shapes(network)["params"])
    }


def _shapes(network: MultiTaskNetwork) -> Any:
    return jax.eval_shape(lambda key: initialize(network, key), jax.random.key(0))


def _belongs(path: str, starts: set[str]) -> bool:
    return any(path.startswith(f"{start}/") for start in starts)


def _trace(network: MultiTaskNetwork) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Returns the parts that feed each part, in the order in which they run, and how its parameters' paths begin."""
    inputs = jax.eval_shape(lambda: example_inputs(network))
    traced = jax.make_jaxpr(lambda variables, *inputs: network.apply(variables, *inputs))(
        _shapes(network), *inputs
    )
    fed: dict[str, set[str]] = {}
    parts: dict[str, set[str]] = {}
    sources: dict[Any, frozenset[str]] = {}
    for equation in traced.jaxpr.eqns:
        modules = _modules(str(equation.source_info.name_stack), network.tasks)
        found = [sources.get(v, frozenset()) for v in equation.invars if not isinstance(v, core.Literal)]
        before = frozenset().union(*found)
        if modules is not None:
            name, starts = modules
            fed.setdefault(name, set()).update(before - {name})
            parts.setdefault(name, set()).update(starts)
            before = frozenset([name])
        sources.update(dict.fromkeys(equation.outvars, before))
    return fed, parts


def _modules(stack: str, tasks: tuple[str, ...]) -> tuple[str, set[str]] | None:
    """Returns the name of the part that an equation belongs to, and where its parameters are; None: to none.

    Linen names a scope `module` or, inside of a method, `module.method`.
    """
    scopes = [scope.split(".") for scope in stack.split("/")[1:]]
    inside = [scope for scope in scopes if scope[0] != stack.split("/", 1)[0]]
    if not inside:
        return None
    module = inside[0][0]
    stage = next((scope[0] for scope in inside if re.fullmatch(r"stage\d+", scope[0])), None)
    if stage is None and ["entry"] in [scope[1:] for scope in inside]:
        stage = "entry"
    below = [scope[0] for scope in inside if scope[0] not in (module, stage)]
    # What a stage does outside of its layers has no parameters.
    path = set() if stage and not below else {"/".join([module, *below[:1]])}
    if module == "heads":
        task = next((task for task in tasks if below and below[0].startswith(task)), None)
        return (f"head {task}", path) if task else None
    return (f"{module} {stage}" if stage else module), path
