"""Progress of everything that takes long: a bar on a terminal, else a line every ten seconds."""

import time
from collections.abc import Iterable, Iterator
from typing import SupportsFloat, TypeVar

import rich.progress
from rich.console import Console

Item = TypeVar("Item")


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yields the items and shows how far they have come.

    Args:
        iterable: Items.
        description: What is being done, such as `preparing PETS09-S2L1`.
        total: Number of items; None: asked of the iterable, and unknown if it does not say.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    with Progress(description, total) as progress:
        for item in iterable:
            yield item
            progress.advance()


class Progress:
    """A progress display that is moved by hand and carries numbers such as the loss.

    It writes to standard error, so that standard output holds results only. Displays may be nested: an
    evaluation during training puts its bar beneath the other.

    Example:
        >>> with Progress("training", total=1000) as progress:
        ...     for step in range(1000):
        ...         progress.advance(loss=0.5)

    Args:
        description: What is being done.
        total: Number of units of work; None: unknown.
        completed: Units done before, by a run that is resumed; they do not count into the speed.
        console: Where to show it; None: standard error.
        interval: Seconds between lines where the console is no terminal.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        completed: int = 0,
        console: Console | None = None,
        interval: float | int = 10,
    ):
        self._description, self._total = description, total
        self._completed = self._completed_before = completed
        self._console = Console(stderr=True) if console is None else console
        self._interval = interval
        self._numbers: dict[str, SupportsFloat] = {}
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> "Progress":
        self._start = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(bar_width=None),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[note]}"),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TimeRemainingColumn(),
                console=self._console,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self._description, total=self._total, completed=self._completed, note=""
            )
        return self

    def advance(self, amount: int = 1, **numbers: SupportsFloat) -> None:
        """Counts units of work as done.

        Args:
            amount: How many.
            **numbers: Values to show, such as `loss=0.5`; each stays until it is given anew.
        """
        self._completed += amount
        self._numbers.update(numbers)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._completed, note=self._note())
        elif time.monotonic() - self._last_line >= self._interval:
            self._print_line()

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._print_line()

    def _note(self) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        numbers = [f"{name} {float(value):.4g}" for name, value in self._numbers.items()]
        return ", ".join([*numbers, f"{(self._completed - self._completed_before) / elapsed:.3g} it/s"])

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        done = f"{self._completed}" if self._total is None else f"{self._completed}/{self._total}"
        self._console.print(
            f"{self._description}: {done}, {self._note()}, {self._last_line - self._start:.0f} s",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
