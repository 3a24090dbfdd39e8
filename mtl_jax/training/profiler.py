"""A window of steps that JAX's profiler traces, for TensorBoard and Perfetto."""

from pathlib import Path
from typing import Any

import jax

from mtl_jax.config import ProfileConfig
from mtl_jax.errors import UserError
from mtl_jax.training.distributed import is_first


class Profiler:
    """Traces the steps that the configuration names, into `RUN/profile`.

    Args:
        config: Which steps.
        workdir: The run's directory.

    Raises:
        UserError: If the steps are not `FIRST:LAST`.
    """

    def __init__(self, config: ProfileConfig, workdir: Path):
        self._directory = workdir / "profile"
        self._first, self._last = _window(config.steps)
        self._traces = False

    def __enter__(self) -> "Profiler":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends a trace that is under way."""
        self._stop()

    def before(self, step: int) -> None:
        """To be called before a step."""
        if step == self._first and is_first():
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._traces = True

    def after(self, step: int, state: Any) -> None:
        """To be called after it, with the number of steps done and what came out."""
        if self._traces and step == self._last:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        if self._traces:
            self._traces = False
            jax.profiler.stop_trace()


def _window(steps: str) -> tuple[int, int]:
    if not steps:
        return -1, -1
    try:
        first, last = map(int, steps.split(":"))
    except ValueError:
        first = last = -1
    if not 0 <= first < last:
        raise UserError(f"profile.steps: found {steps!r}; expected FIRST:LAST, such as 100:105")
    return first, last
