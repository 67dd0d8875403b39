"""Stages that run beside each other in threads: one works ahead of its consumer, one behind its producer.

Both hold a bounded number of items, keep an error as a value at its item, and leave no thread behind. A thread pool of
one thread carries each of them: what a thread raises, `SystemExit` included, comes out of a future, so that nobody
waits for a thread that has ended; and a pool that is forgotten ends its thread, at the end of the program too.
"""

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[T, R]):
    """An item that was worked on.

    Attributes:
        item: The item.
        result: What the work gave; None where it failed.
        error: Why it failed; its traceback names the lines, but no longer holds their variables.
    """

    item: T
    result: R | None = None
    error: Exception | None = None

    def value(self) -> R:
        """The result.

        Raises:
            Exception: The error of the work, where it failed.
        """
        if self.error is not None:
            raise self.error
        return cast(R, self.result)


def ahead(items: Iterable[T], work: Callable[[T], R], depth: int) -> Iterator[Done[T, R]]:
    """Work on items in one thread, ahead of the consumer.

    The thread starts with the first item asked for, and ends with the last one, or when the consumer closes or drops
    the iterator; whoever closes waits for the item that is being worked on.

    Args:
        items: Taken in order, in the thread.
        work: What is done to each of them, in the thread.
        depth: At most so many items are under way or ready before the consumer asks for them; the one that it has is
            not counted, so depth + 1 results are alive. 0 works in the consumer's own thread: one is alive.

    Yields:
        Every item in order with its result, or with the error that `work` raised for it.

    Raises:
        Exception: What `items` itself raises, behind the items before it.
        RuntimeError: `items` or `work` raised what is no `Exception`, such as SystemExit, in the thread.
    """
    steps = _Steps(items, work)
    if depth < 1:
        yield from iter(steps, None)
        return
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
    waiting = deque(pool.submit(steps) for _ in range(depth))
    try:
        # the last one is held by the consumer alone: neither this frame nor a future keeps it while the next is made
        while waiting:
            ready = [_outcome(waiting.popleft())]
            if ready[0] is None:
                return
            waiting.append(pool.submit(steps))
            yield cast("Done[T, R]", ready.pop())
    finally:
        steps.is_over = True
        # the garbage collector may close this in the very thread that would have to end
        pool.shutdown(wait=threading.current_thread() is not steps.thread, cancel_futures=True)


class Behind(Generic[T, R]):
    """One thread that works on items in order, behind their producer.

    As a context manager it ends with its block, also when the block raises: what was put is finished first, and
    `done` gives it afterwards.
    """

    def __init__(self, work: Callable[[T], R], depth: int) -> None:
        """Start nothing yet.

        Args:
            work: What is done to each item, in the thread.
            depth: Items that are waiting or being worked on, at most; at least 1.
        """
        self._work = work
        self._depth = max(depth, 1)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="behind")
        self._futures: deque[Future[Done[T, R]]] = deque()

    def put(self, item: T) -> None:
        """Hand over an item; blocks while `depth` of them are unfinished.

        Raises:
            RuntimeError: After `close`.
        """
        unfinished = [future for future in self._futures if not future.done()]
        wait(unfinished[: max(len(unfinished) - self._depth + 1, 0)])
        self._futures.append(self._pool.submit(_survived, self._work, item))

    def done(self) -> list[Done[T, R]]:
        """What has been finished since the last call, in order; does not block."""
        finished = []
        while self._futures and self._futures[0].done():
            finished.append(self._futures.popleft().result())
        return finished

    def close(self) -> list[Done[T, R]]:
        """Wait for all that was put, end the thread, and give what `done` has not given yet."""
        self._pool.shutdown(wait=True)
        return self.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)


class _Steps(Generic[T, R]):
    """Takes and works on one item a call, None behind the last; knows nothing of the consumer, who may be gone."""

    def __init__(self, items: Iterable[T], work: Callable[[T], R]) -> None:
        self._items: Iterable[T] | Iterator[T] = items
        self._work = work
        self.is_over = False
        self.thread: threading.Thread | None = None

    def __call__(self) -> Done[T, R] | None:
        self.thread = threading.current_thread()
        if self.is_over:
            return None
        try:
            self._items = iter(self._items)
            item = next(self._items)
        except StopIteration:
            self.is_over = True
            return None
        except BaseException:
            self.is_over = True
            raise
        return _attempt(self._work, item)


def _attempt(work: Callable[[T], R], item: T) -> Done[T, R]:
    try:
        return Done(item=item, result=work(item))
    except Exception as error:
        _forget_variables(error)
        return Done(item=item, error=error)


def _survived(work: Callable[[T], R], item: T) -> Done[T, R]:
    """Like `_attempt`; what is no Exception becomes one, so that it neither hides nor ends what was put behind it."""
    try:
        return _attempt(work, item)
    except BaseException as error:
        return Done(item=item, error=_died(error))


def _outcome(future: "Future[Done[T, R] | None]") -> Done[T, R] | None:
    try:
        return future.result()
    except Exception:
        raise
    except BaseException as error:
        if not future.done() or future.exception() is not error:
            raise  # the consumer's own, such as Ctrl-C while it waits
        raise _died(error) from error


def _died(error: BaseException) -> RuntimeError:
    died = RuntimeError(f"the work in a thread ended by {type(error).__name__}: {error}")
    died.__cause__ = error
    return died


def _forget_variables(error: BaseException | None) -> None:
    """Let go of what the frames of a traceback hold: a kept error must not keep a volume alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
