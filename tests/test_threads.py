import itertools
import threading
import time

import pytest

from mtl_jax.threads import ahead, beside


def test_items_come_in_order_and_are_made_ahead():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    iterator = ahead(items(), 3)
    assert next(iterator) == 0
    for _ in range(100):
        if len(made) >= 4:
            break
        time.sleep(0.01)
    assert 4 <= len(made) <= 5  # three wait, and the next one is in the thread's hand
    assert list(iterator) == list(range(1, 10))


def test_errors_of_the_maker_come_after_the_items_before():
    def items():
        yield 1
        raise OSError("gone")

    iterator = ahead(items(), 3)
    assert next(iterator) == 1
    with pytest.raises(OSError, match="gone"):
        next(iterator)


def test_an_endless_maker_ends_with_its_reader():
    before = threading.active_count()
    iterator = ahead(itertools.count(), 2)
    assert list(itertools.islice(iterator, 5)) == list(range(5))
    iterator.close()
    assert threading.active_count() == before


def test_items_are_worked_off_in_order():
    taken = []
    with beside(taken.extend, 2) as put:
        for i in range(20):
            put(i)
    assert taken == list(range(20))


def test_errors_of_the_worker_are_raised():
    def fail(items):
        next(items)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), beside(fail, 2) as put:
        for i in range(1000):
            put(i)
    with pytest.raises(OSError, match="disk full"), beside(fail, 2) as put:
        put(0)


def test_the_worker_is_told_of_errors_in_the_block():
    ended = []

    def work(items):
        try:
            list(items)
        except ValueError as error:
            ended.append(error)
            raise

    with pytest.raises(ValueError, match="wrong"), beside(work, 2) as put:
        put(1)
        raise ValueError("wrong")
    assert len(ended) == 1
