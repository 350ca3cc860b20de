"""Several threads, each with matrix products on one core.

NumPy releases the interpreter's lock while it computes, so threads run side by side. Each matrix product gets one core:
with all cores for every product, they would be idle during the work between products.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

NAME = "minilora-worker"
T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Threads:
    """Works on several items at a time: `with Threads(2) as threads: for y in threads.map(f, xs): ...`

    Inside the block a matrix product runs on one core; before and after it is as the user has set it.

    Parameters
    ----------
    number : how many; None for one per core
    device : where the arrays lie; a GPU is kept busy by one thread
    """

    def __init__(self, number: int | None = None, device: str = "cpu") -> None:
        if number is not None and not (isinstance(number, int) and number >= 1):
            raise ValueError(f"threads should be a whole number of at least 1, got {number!r}")
        self.number = 1 if device == "cuda" else number or cores()

    def __enter__(self) -> Threads:
        one_core.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        one_core.__exit__()

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """function(item) for each item, in the items' order.

        At most one call more than there are threads is begun before its result is taken, so that results do not pile
        up. Each runs in a copy of the caller's context: under its `no_grad`, with its choice of adapters. A call that
        itself uses `map` does so in its own thread alone: otherwise threads could wait for each other for ever.
        """
        if self.number == 1 or len(items) == 1 or threading.current_thread().name.startswith(NAME):
            yield from map(function, items)
            return
        begun: deque[Future[R]] = deque()
        try:
            for item in items:
                begun.append(_pool(self.number).submit(copy_context().run, function, item))
                if len(begun) > self.number:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:  # after an error, too, no call is still running when `map` ends
            wait([future for future in begun if not future.cancel()])


@cache
def _pool(number: int) -> ThreadPoolExecutor:
    """The threads. They are kept: starting new ones would cost a tenth of a small step."""
    return ThreadPoolExecutor(number, NAME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has no threads but one


@cache
def _blas() -> list[Any]:
    """The libraries that compute NumPy's matrix products."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


class _OneCore:
    """Inside this block each matrix product runs on one core: `with one_core: ...`.

    Small products, such as those of writing, are faster this way, and much faster where other programs use the cores.
    It is one setting for the whole process: the last to leave restores it.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._limited: list[tuple[Any, int]] = []  # libraries, and how many threads they had

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limited = [(library, n) for library in _blas() if (n := library.get_num_threads()) != 1]
                for library, _ in self._limited:
                    library.set_num_threads(1)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for library, number in self._limited:
                    library.set_num_threads(number)


one_core = _OneCore()
