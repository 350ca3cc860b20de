"""One step on several threads: a batch is cut into pieces, and what comes of them is added up in their order.

How a batch is cut depends on the batch alone, never on the threads, and the order of the sum is fixed, so any number
of threads gives the same bits. NumPy lets other threads run while it computes. Its matrix products get one core each:
that wastes less than giving every product to all cores, where all of them wait for what lies between the products.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

NAME = "minilora-worker"
T = TypeVar("T")
R = TypeVar("R")

PIECE = 1024
"""Tokens in a piece: enough for products at full speed, and few enough that its arrays stay in a core's cache."""

LEAST = 256
"""Tokens below which a piece is hardly faster than two of them together: the rest is not arithmetic."""

MOST = 8
"""Pieces that a batch is cut into at most: each makes a whole set of gradients."""


def cut(batch: int, context: int) -> list[slice]:
    """The rows of each piece of a batch of `batch` windows of `context` tokens."""
    tokens = batch * context
    pieces = min(batch, MOST, max(tokens // PIECE, min(2, tokens // LEAST), 1))
    ends = [batch * (i + 1) // pieces for i in range(pieces)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Threads:
    """Works on several items at a time: `with Threads(2) as threads: for y in threads.map(f, xs): ...`

    Inside the block a matrix product runs on one core; before and after it is as the user has set it.

    Parameters
    ----------
    number : how many; None for one a core
    """

    def __init__(self, number: int | None = None) -> None:
        if number is not None and number < 1:
            raise ValueError(f"threads should be at least 1, got {number}")
        self.number = number or cores()

    def __enter__(self) -> Threads:
        _products.on_one_core()
        return self

    def __exit__(self, *_: object) -> None:
        _products.as_before()

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """function(item) for each item, in the items' order; at most one more than there are threads is held back.

        Each call runs in a copy of the caller's context: under its `no_grad`, with its choice of adapters. One that
        comes to `map` itself works its items off where it is, rather than wait for threads that wait for it.
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
        finally:  # after an error, too, nothing goes on unseen
            wait([future for future in begun if not future.cancel()])


@cache
def _pool(number: int) -> ThreadPoolExecutor:
    """The threads. They are kept: new ones would take a tenth of a small step to find a core each."""
    return ThreadPoolExecutor(number, NAME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has no threads but one


@cache
def _blas() -> ThreadpoolController:
    """The libraries that compute NumPy's matrix products."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


class _Products:
    """How many cores a matrix product uses, one setting for the whole process. The last to leave restores it."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._limit: Any = None

    def on_one_core(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._limit = _blas().limit(limits=1)

    def as_before(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._limit.restore_original_limits()


_products = _Products()
