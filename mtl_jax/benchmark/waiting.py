"""How long devices wait for data: steps on batches of a real pipeline, as a training loop takes them."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from mtl_jax.benchmark.timing import spread


def wait_for_data(
    start: Callable[[Any], Any],
    batches: Iterator[Any],
    to_devices: Callable[[Any], Any],
    steps: int,
    warm_up: int,
) -> dict[str, Any]:
    """Returns what the devices and the loop wait for, in milliseconds a step.

    The loop runs ahead of the devices, as in training, so a slow batch only matters if it comes after the step before
    is done: from then to the next step's start the devices wait.

    Args:
        start: Starts a step on a batch and returns its metrics, without waiting.
        batches: What the host's pipeline yields.
        to_devices: Places a batch on the devices.
        steps: Steps that are counted.
        warm_up: Steps before them; as many as batches can lie ready when the first is there, or more.

    Returns:
        `ms`: from the end of a step to the end of the next. `input_wait_ms`: of that, for how long the devices had
        nothing to do; `input_wait_share`: of all steps together. `next_ms`: for how long the loop waits for the
        pipeline, and `to_devices_ms`: until a batch is handed over; the devices may be at work in that time.
    """
    started, finished, fetched, placed = [], [], [], []

    def stamp(metrics: Any) -> float:
        jax.block_until_ready(metrics)
        return time.perf_counter()

    with ThreadPoolExecutor(1) as watcher:
        for _ in range(warm_up + steps):
            begin = time.perf_counter()
            batch = next(batches)
            there = time.perf_counter()
            batch = to_devices(batch)
            fetched.append(there - begin)
            placed.append(time.perf_counter() - there)
            started.append(time.perf_counter())
            finished.append(watcher.submit(stamp, start(batch)))
    ends = [future.result() for future in finished]
    between = [(ends[i] - ends[i - 1], max(0.0, started[i] - ends[i - 1])) for i in range(warm_up, len(ends))]
    durations, waits = ([1e3 * x for x in column] for column in zip(*between, strict=True))
    return {
        "ms": spread(durations),
        "input_wait_ms": spread(waits),
        "input_wait_share": sum(waits) / sum(durations),
        "next_ms": spread([1e3 * x for x in fetched[warm_up:]]),
        "to_devices_ms": spread([1e3 * x for x in placed[warm_up:]]),
    }
