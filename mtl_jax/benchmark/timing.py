"""Times and memory of compiled functions, side by side."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax


class Compiled(NamedTuple):
    """A compiled function with its arguments.

    Attributes:
        run: Runs it and waits for the result.
        memory: Bytes of its results and of what it needs in between; its arguments are not counted.
    """

    run: Callable[[], Any]
    memory: int


def compile_with(function: Callable[..., Any], *arguments: Any) -> Compiled:
    """Compiles a function for the given arguments."""
    compiled = jax.jit(function).lower(*arguments).compile()
    analysis = compiled.memory_analysis()
    memory = analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis is not None else 0
    return Compiled(lambda: jax.block_until_ready(compiled(*arguments)), memory)


def medians(functions: Mapping[str, Compiled], repeats: int) -> dict[str, float]:
    """Returns the median time of each in milliseconds; see `times`."""
    taken = times({name: function.run for name, function in functions.items()}, repeats)
    return {name: statistics.median(values) for name, values in taken.items()}


def times(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Returns the times of functions that wait for their result, in milliseconds.

    All take turns, so that what else the machine does strikes them alike; the first round is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            taken[name].append(1e3 * (time.perf_counter() - begin))
    return {name: values[1:] for name, values in taken.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, least and largest of some measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """Returns what was measured on."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
