"""A training step as it is run: compiled with its state donated, going on from where it was."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import PyTree

from mtl_jax.training.mesh import replicated, split_batch


class Program:
    """A compiled step with its state.

    Attributes:
        compile_s: Seconds to trace and compile it, `cold`: with an empty persistent cache, and `warm`: with all caches
            of the process cleared, from the persistent one that the first left.
        temporary: Bytes that it needs besides arguments and results; None where that is not known.
    """

    def __init__(self, step: Callable[..., Any], state: PyTree, batch: PyTree, mesh: jax.sharding.Mesh):
        """Compiles the step.

        Args:
            step: `step(state, batch) -> (state, metrics)`.
            state: The first state; it is given up.
            batch: A batch, on the host.
            mesh: Devices; the batch is split over them.
        """
        everywhere, by_clip = replicated(mesh), split_batch(mesh)
        self._mesh = mesh
        self._state = jax.device_put(state, everywhere)
        self._batch = jax.device_put(batch, by_clip)

        def compiled() -> Any:
            jitted = jax.jit(
                step,
                in_shardings=(everywhere, by_clip),
                out_shardings=(everywhere, everywhere),
                donate_argnums=0,
            )
            with jax.set_mesh(mesh):  # as training does
                return jitted.lower(self._state, self._batch).compile()

        with empty_cache():
            self.compile_s: dict[str, float] = {}
            self._compiled: Any = None
            for name in ("cold", "warm"):
                jax.clear_caches()
                begin = time.perf_counter()
                self._compiled = compiled()
                self.compile_s[name] = time.perf_counter() - begin
        analysis = self._compiled.memory_analysis()
        self.temporary: int | None = None if analysis is None else analysis.temp_size_in_bytes

    def start(self, batch: PyTree | None = None) -> PyTree:
        """Starts a step on a batch that is on the devices, its own if none is given; returns its metrics."""
        self._state, metrics = self._compiled(self._state, self._batch if batch is None else batch)
        return metrics

    def run(self) -> None:
        """Takes a step on its own batch, and waits for it."""
        metrics = self.start()
        jax.block_until_ready((self._state, metrics))

    def memory_mib(self) -> dict[str, float | str]:
        """Returns the memory it needs besides arguments and results, and the most that was in use so far."""
        statistics = self._mesh.devices.flat[0].memory_stats() or {}
        found = {"temporary": self.temporary, "peak": statistics.get("peak_bytes_in_use")}
        return {name: "unknown" if size is None else size / 2**20 for name, size in found.items()}


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """Gives JAX a new persistent compilation cache for as long as the context lasts."""
    settings: dict[str, Any] = {
        "jax_enable_compilation_cache": True,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with tempfile.TemporaryDirectory() as directory:
        settings["jax_compilation_cache_dir"] = directory
        before = {name: getattr(jax.config, name) for name in settings}
        try:
            _configure(settings)
            yield
        finally:
            _configure(before)


def _configure(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it looks at the settings once
