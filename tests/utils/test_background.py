"""Threads beside the one that computes: bounded, in order, ended, and what goes wrong in them is raised."""

import threading
import time
from contextvars import ContextVar

import pytest

from utils.background import BackgroundWorker, BoundedBuffer, ReadAhead

SETTING: ContextVar[str] = ContextVar("setting", default="none")


def ends(before: int) -> bool:
    """Whether there are as many threads again; one whose work is done takes a moment to be gone."""
    until = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    return threading.active_count() == before


def test_a_buffer_is_bounded_in_number_and_bytes_and_takes_one_item_of_any_size():
    buffer: BoundedBuffer[str] = BoundedBuffer(2, most_bytes=10)
    for item, size in (("large", 99), ("a", 4), ("b", 4), ("c", 4)):
        buffer.replace(item, size)
    assert [buffer.take(), buffer.take(), buffer.take()] == ["b", "c", None]
    assert buffer.put("a", 99)
    waiting = threading.Thread(target=buffer.put, args=("b", 1))
    waiting.start()
    time.sleep(0.05)
    assert waiting.is_alive() and len(buffer) == 1  # no room until the large one is gone
    assert buffer.take(patiently=True) == "a"
    waiting.join(2)
    buffer.close()
    assert (buffer.put("c"), buffer.take(patiently=True), buffer.take(patiently=True)) == (False, "b", None)


def test_what_is_read_ahead_is_bounded_and_in_order():
    read = []

    def items():
        for number in range(20):
            read.append(number)
            yield number

    taken = []
    for number in ReadAhead(items(), lambda _: 1, most=2):
        time.sleep(0.01)
        taken.append(number)
        assert len(read) <= number + 4  # this one, two that wait, and one that has no room yet
    assert taken == list(range(20))


def test_an_error_of_reading_comes_behind_what_was_read_and_the_thread_is_gone():
    def items():
        yield 1
        yield 2
        raise OSError("gone")

    before, taken = threading.active_count(), []
    with pytest.raises(OSError, match="gone"):
        taken.extend(ReadAhead(items(), lambda _: 1))
    assert ends(before)


def test_leaving_early_closes_what_is_read():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield SETTING.get()
        finally:
            closed.set()

    before = threading.active_count()
    SETTING.set("mine")
    ahead = iter(ReadAhead(items(), lambda _: 1))
    assert next(ahead) == "mine"  # the thread sees the context of its maker
    ahead.close()
    assert closed.is_set() and ends(before)


def test_tasks_are_done_in_order_and_what_waits_is_done_at_the_end():
    done: list[int] = []
    worker = BackgroundWorker("test", most=3)
    for number in range(10):
        worker.do(lambda number=number: (time.sleep(0.002), done.append(number)))
    assert len(done) >= 6  # three wait at most, and one is being done
    worker.finish()
    assert done == list(range(10))
    for number in (10, 11):
        worker.do(lambda number=number: (time.sleep(0.01), done.append(number)))
    worker.close()
    assert done == list(range(12))


def test_a_task_that_fails_ends_the_worker_and_is_raised_once():
    done: list[int] = []
    worker = BackgroundWorker("test", most=2)
    worker.do(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        for number in range(1000):
            worker.do(lambda number=number: done.append(number))
            time.sleep(0.001)
    worker.do(lambda: done.append(0))  # dropped: nothing waits for ever
    worker.finish()
    worker.close()
    assert done == []
    worker = BackgroundWorker("test")
    worker.do(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.close()
