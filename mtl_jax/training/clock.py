"""How long steps take, and what the rest of the time goes into."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax


class Clock:
    """Measures a run, from when it is made.

    What is measured begins after the first step, which compiles.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._steps_seconds = 0.0  # in steps, since the start
        self._mark: float | None = None
        self._mark_step = 0
        self._waited = self._aside = 0.0  # since the mark

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the run waits for input."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, the run does something else than steps: it saves or evaluates."""
        begin = time.perf_counter()
        yield
        self._aside += time.perf_counter() - begin

    def read(self, step: int) -> dict[str, float]:
        """Returns times since the last call, after the results of `step` have arrived.

        Returns:
            `steps_per_second`, without what was done aside; `time/step_ms` and `time/input_wait_ms`, means of a step;
            `time/goodput`, the share of the time since the start that went into steps, not into compiling, waiting,
            saving or evaluating; and memory at its peak, `memory/device_mib` where the device tells and
            `memory/host_mib`. The first call, after compilation, has no means.
        """
        now = time.perf_counter()
        row = {}
        if self._mark is not None and step > self._mark_step:
            seconds, steps = now - self._mark - self._aside, step - self._mark_step
            self._steps_seconds += seconds - self._waited
            row = {
                "steps_per_second": steps / seconds,
                "time/step_ms": 1e3 * seconds / steps,
                "time/input_wait_ms": 1e3 * self._waited / steps,
            }
        self._mark, self._mark_step, self._waited, self._aside = now, step, 0.0, 0.0
        return row | {"time/goodput": self._steps_seconds / (now - self._start)} | _memory()


def _memory() -> dict[str, float]:
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 2**10
    row = {"memory/host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        row["memory/device_mib"] = stats["peak_bytes_in_use"] / 2**20
    return row
