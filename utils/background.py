"""Threads beside the one that computes: reading ahead of it, and writing behind it, both bounded in number and bytes.

What goes wrong in such a thread is raised where its result is asked for. Signals reach the main thread alone, so every
wait here has a time limit, and a thread that nobody waits for any more ends by itself.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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

    def take(self, wait: bool = False) -> Item | None:
        """Return the oldest item; None if there is none, with `wait` only once the buffer is closed."""
        with self._changed:
            while wait and not self._items and not self._closed:
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

    An exception of the iterable is raised behind the items that came before it. `close` ends the thread; it is called
    at the end of an iteration, too.

    Args:
        items: What is read; only the thread touches it.
        size_of: Bytes of an item.
        most: Items that may wait.
    """

    def __init__(self, items: Iterable[Item], size_of: Callable[[Item], int], most: int = 2):
        self._items, self._size_of = items, size_of
        self._buffer: BoundedBuffer[Item] = BoundedBuffer(most)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="reading ahead", daemon=True)

    def __iter__(self) -> Iterator[Item]:
        self._thread.start()
        try:
            while (item := self._buffer.take(wait=True)) is not None:
                yield item
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def close(self) -> None:
        """End the thread; what it has read and nobody took is dropped."""
        self._buffer.close(drop=True)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        iterator = iter(self._items)
        try:
            for item in iterator:
                if not self._buffer.put(item, self._size_of(item)):
                    break
        except BaseException as error:  # raised again by whoever reads
            self._error = error
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
        self._given, self._ended = 0, 0
        self._one_ended = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

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
        with self._one_ended:
            while self._ended < self._given:
                self._one_ended.wait(_POLL_S)
        self._raise_error()

    def close(self) -> None:
        """Do the tasks that wait, end the thread, and raise what a task raised."""
        self._tasks.close()
        try:
            while self._thread.is_alive():
                self._thread.join(_POLL_S)
        except BaseException:  # a second Ctrl-C: what still waits is given up
            self._tasks.close(drop=True)
            raise
        self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        failed = False
        while (task := self._tasks.take(wait=True)) is not None:
            try:
                if not failed:
                    task()
            except BaseException as error:  # raised again in the thread that gave the task
                self._error, failed = error, True
            with self._one_ended:
                self._ended += 1
                self._one_ended.notify_all()
