"""Threads beside the one that computes: reading ahead of it, and writing behind it, bounded in number and bytes.

They see the context variables of the thread that made them, such as the fonts of drawings. What goes wrong in such a
thread is raised where its result is asked for. Signals reach the main thread alone, so waits in it have a time limit,
and a thread that nobody waits for any more ends by itself.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Generic, TypeVar

Item = TypeVar("Item")
_POLL_S = 0.5  # a wait without a limit cannot be interrupted by Ctrl-C on every system
MOST_BYTES = 1 << 28  # that wait in one buffer: 256 MiB, or one item if that is larger


class BoundedBuffer(Generic[Item]):
    """A queue between threads that holds at most so many items and bytes; one item always fits.

    Args:
        most: Largest number of items.
        most_bytes: Largest sum of their sizes.
    """

    def __init__(self, most: int, most_bytes: int = MOST_BYTES):
        self._most, self._most_bytes = most, most_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item, size: int = 0) -> bool:
        """Wait for room and append an item.

        Args:
            item: What is passed on.
            size: Its bytes.

        Returns:
            False if the buffer was closed meanwhile; the item is then dropped.
        """
        with self._changed:
            while not self._closed and self._items and not self._fits(size):
                self._changed.wait(_POLL_S)
            if self._closed:
                return False
            self._append(item, size)
            return True

    def replace(self, item: Item, size: int = 0) -> None:
        """Append an item at once; the oldest ones make room for it.

        Args:
            item: What is passed on.
            size: Its bytes.
        """
        with self._changed:
            while self._items and not self._fits(size):
                self._bytes -= self._items.popleft()[1]
            self._append(item, size)

    def take(self, patiently: bool = False) -> Item | None:
        """Return the oldest item; None if there is none or, `patiently`, once it is closed and empty."""
        with self._changed:
            while patiently and not self._items and not self._closed:
                self._changed.wait(_POLL_S)
            if not self._items:
                return None
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def close(self, drop: bool = False) -> None:
        """Take no more items, and wake whoever waits; with `drop` those that are in it are gone, too."""
        with self._changed:
            self._closed = True
            if drop:
                self._items.clear()
                self._bytes = 0
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return len(self._items) < self._most and self._bytes + size <= self._most_bytes

    def _append(self, item: Item, size: int) -> None:
        self._items.append((item, size))
        self._bytes += size
        self._changed.notify_all()


class ReadAhead(Generic[Item]):
    """The items of an iterable, which a thread takes from it before they are asked for.

    An exception of the iterable is raised behind the items that came before it. The thread ends with the iteration.

    Args:
        items: What is read; only the thread touches it.
        size_of: Bytes of an item.
        most: Items that may wait.
    """

    def __init__(self, items: Iterable[Item], size_of: Callable[[Item], int], most: int = 2):
        self._items, self._size_of = items, size_of
        self._buffer: BoundedBuffer[Item] = BoundedBuffer(most)

    def __iter__(self) -> Generator[Item, None, None]:
        thread = _start(self._run, "reading ahead")
        try:
            while (item := self._buffer.take(patiently=True)) is not None:
                yield item
            thread.result()
        finally:
            self._buffer.close(drop=True)
            wait([thread])

    def _run(self) -> None:
        iterator = iter(self._items)
        try:
            for item in iterator:
                if not self._buffer.put(item, self._size_of(item)):
                    break
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            self._buffer.close()


class BackgroundWorker:
    """Tasks that one thread does in the order in which they were given.

    After a task that fails the later ones are dropped; its exception is raised by the next `do`, `finish` or `close`,
    once.

    Args:
        name: The thread's, for debuggers.
        most: Tasks that may wait; `do` waits while there are so many.
    """

    def __init__(self, name: str, most: int = 8):
        self._tasks: BoundedBuffer[Callable[[], object]] = BoundedBuffer(most)
        self._given, self._done = 0, 0
        self._one_done = threading.Condition()
        self._is_raised = False
        self._thread = _start(self._run, name)

    def do(self, task: Callable[[], object], size: int = 0) -> None:
        """Let the thread do a task after those before it.

        Args:
            task: Called without arguments.
            size: Bytes that it holds until it is done.
        """
        self._raise_error()
        if self._tasks.put(task, size):
            self._given += 1

    def finish(self) -> None:
        """Wait until every task is done, and raise what one of them raised."""
        with self._one_done:
            while self._done < self._given and not self._thread.done():
                self._one_done.wait(_POLL_S)
        self._raise_error()

    def close(self) -> None:
        """Do the tasks that wait, end the thread, and raise what a task raised."""
        self._tasks.close()
        try:
            while not wait([self._thread], _POLL_S).done:
                pass
        except BaseException:  # a second Ctrl-C: what still waits is given up
            self._tasks.close(drop=True)
            raise
        self._raise_error()

    def _raise_error(self) -> None:
        if self._thread.done() and not self._is_raised:
            self._is_raised = True
            self._thread.result()

    def _run(self) -> None:
        try:
            while (task := self._tasks.take(patiently=True)) is not None:
                task()
                with self._one_done:
                    self._done += 1
                    self._one_done.notify_all()
        finally:
            self._tasks.close(drop=True)


def _start(function: Callable[[], None], name: str) -> Future:
    """Run a function in a thread of its own, with the context variables of this one, and return its outcome to come."""
    threads = ThreadPoolExecutor(1, thread_name_prefix=name)
    outcome = threads.submit(copy_context().run, function)
    threads.shutdown(wait=False)
    return outcome
