"""Multithreading, with each matrix product on one core.

NumPy releases the global interpreter lock (GIL) while it computes, so threads run in parallel. Each matrix product is
limited to one core: if every product used all cores, they would be idle during the work between products.
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Threads:
    """Process several items in parallel: `with Threads(2) as threads: for y in threads.map(f, xs): ...`

    Inside the block, each matrix product runs on one core. The user's setting is restored afterwards.

    Parameters
    ----------
    number : the number of threads; None for one per core
    device : the device of the arrays; on "cuda" there is only one thread, which is enough to keep a GPU busy
    """

    def __init__(self, number: int | None = None, device: str = "cpu") -> None:
        if number is not None and not (isinstance(number, int) and number >= 1):
            raise ValueError(f"expected `threads` to be a positive integer, got {number!r}")
        self.number = 1 if device == "cuda" else number or cores()

    def __enter__(self) -> Threads:
        one_core.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        one_core.__exit__()

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield function(item) for each item, in the order of the items.

        At most `number` + 1 results are pending at a time, so results do not accumulate. Each call runs in a copy of
        the caller's context, which includes `no_grad` and the adapter selection. A nested `map` runs in the thread
        that calls it, because threads that wait for each other could deadlock.
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
        finally:  # no call is still running when `map` ends, even after an error
            wait([future for future in begun if not future.cancel()])


@cache
def _pool(number: int) -> ThreadPoolExecutor:
    """Return the thread pool. It is kept, because starting new threads takes a tenth as long as a small step."""
    return ThreadPoolExecutor(number, NAME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has only one thread


@cache
def _blas() -> list[Any]:
    """Return the loaded BLAS libraries, which compute NumPy's matrix products."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


class _OneCore:
    """Context manager that limits each matrix product to one core: `with one_core: ...`.

    Small matrix products, such as those of text generation, are faster this way, and much faster when other programs
    use the cores. The setting applies to the entire process and is restored when the last block exits.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._limited: list[tuple[Any, int]] = []  # each library and its previous number of threads

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
