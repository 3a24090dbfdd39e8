"""Doing two things at a time: items made ahead in a thread, or worked off in one."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")

_PATIENCE = 0.1  # seconds until one looks again whether anybody is still there


class _End:
    """Comes after the last item, with the error that ended them, if one did."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def ahead(items: Iterable[Item], size: int) -> Iterator[Item]:
    """Yields the same items, which are made in a thread, up to `size` of them before they are asked for.

    An error on the way is raised here, after the items before it.
    """
    waiting: queue.Queue[Any] = queue.Queue(size)
    gone = threading.Event()

    def make() -> None:
        try:
            for item in items:
                if not _put(waiting, item, gone):
                    return
        except BaseException as error:
            _put(waiting, _End(error), gone)
        else:
            _put(waiting, _End(), gone)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield from _until_end(waiting)
    finally:
        gone.set()
        thread.join()


@contextmanager
def beside(consume: Callable[[Iterator[Item]], object], size: int) -> Iterator[Callable[[Item], None]]:
    """Runs `consume` in a thread, on the items that are put in; up to `size` of them may wait.

    What it raises is raised where the next item is put in, or at the end of the block, which waits for it. If the block
    itself fails, the items end for `consume` with that error.

    Example:
        >>> with beside(lambda frames: write_video(path, frames, 25), size=8) as put:
        ...     for frame in frames:
        ...         put(frame)
    """
    waiting: queue.Queue[Any] = queue.Queue(size)
    gone = threading.Event()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            consume(_until_end(waiting))
        except BaseException as error:
            raised.append(error)
        finally:
            gone.set()

    def put(item: Item) -> None:
        if not _put(waiting, item, gone) and raised:
            raise raised[0]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield put
    except BaseException as error:
        _put(waiting, _End(error), gone)
        thread.join()
        raise
    _put(waiting, _End(), gone)
    thread.join()
    if raised:
        raise raised[0]


def _put(waiting: queue.Queue[Any], item: Any, gone: threading.Event) -> bool:
    """Puts an item in when there is room; returns False where nobody is there to take it."""
    while not gone.is_set():
        try:
            waiting.put(item, timeout=_PATIENCE)
            return True
        except queue.Full:
            continue
    return False


def _until_end(waiting: queue.Queue[Any]) -> Iterator[Any]:
    while not isinstance(item := waiting.get(), _End):
        yield item
    if item.error is not None:
        raise item.error
