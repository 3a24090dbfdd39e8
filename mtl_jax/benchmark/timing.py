"""Times and memory of compiled functions, side by side."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
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
    """Returns the median time of each in milliseconds.

    All take turns, so that what else the machine does strikes them alike; the first round is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function.run()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


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
