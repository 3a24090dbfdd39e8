"""Stopping when asked to, at a good place."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax


class _Now(BaseException):
    """Leaves what can be left at once; not an `Exception`, so that nothing on the way takes it for an error."""


class Stop(threading.Event):
    """Is set by the first signal.

    Attributes:
        number: The signal; None before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number: int | None = None
        self.leaves_at_once = False

    @contextmanager
    def at_once(self) -> Iterator[list[bool]]:
        """Inside, a signal leaves the block where it is; the list that is yielded is then empty."""
        finished = [True]
        self.leaves_at_once = True
        try:
            yield finished
        except _Now:
            finished.clear()
        finally:
            self.leaves_at_once = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Sets the event at the first SIGINT or SIGTERM; at a second one the default happens."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: Any) -> None:
        stop.number = number
        stop.set()
        signal.signal(number, before[signal.Signals(number)])
        if stop.leaves_at_once:
            raise _Now

    # In one of several processes, JAX waits for SIGTERM, to tell the others.
    numbers = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else (signal.SIGINT,)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
