"""Threads: how many, and one BLAS thread inside each.

The compiled loops release the GIL, so batches of atoms run in ordinary threads. Each
thread does its own BLAS calls single-threaded; nested pools would only fight.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ContextDecorator
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")
S = TypeVar("S")


def thread_count(requested: int | None = None) -> int:
    """Threads to use: the argument, ``KERNELPOT_NUM_THREADS``, or the free cores.

    Where neither is given, ``OMP_NUM_THREADS`` (which joblib sets in its workers, so that
    they do not fight over cores) and ``LOKY_MAX_CPU_COUNT`` are upper limits.

    Raises
    ------
    ValueError
        If either is not a positive integer.
    """
    if requested is None:
        text = os.environ.get("KERNELPOT_NUM_THREADS")
        if text is None:
            return min(_free_cores(), *_limits())
        try:
            requested = int(text)
        except ValueError:
            requested = 0
        if requested < 1:
            raise ValueError(f"KERNELPOT_NUM_THREADS must be a positive integer, got {text!r}")
    if int(requested) != requested or requested < 1:
        raise ValueError(f"`n_threads` must be a positive integer, got {requested!r}")
    return int(requested)


def _free_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits() -> Iterator[int]:
    """Limits that others have set for the threads of a process."""
    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "LOKY_MAX_CPU_COUNT"):
        text = os.environ.get(name, "").split(",")[0].strip()  # of the outermost level
        if text.isdecimal() and int(text) > 0:
            yield int(text)
    yield 10**6  # and no limit


@lru_cache(maxsize=1)
def _controller() -> Any:
    import scipy.linalg  # noqa: F401  its BLAS is another library than NumPy's: load it first
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


class _SingleBlasThread(ContextDecorator):
    """Limit BLAS to one thread while at least one user is inside.

    threadpoolctl's limits are global and restored in the order of leaving; counting users
    makes them safe for predictions from several threads at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limit = _controller().limit(limits=1)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._limit.restore_original_limits()


_SINGLE = _SingleBlasThread()


def single_blas_thread() -> _SingleBlasThread:
    """Context, or decorator, under which every BLAS call uses one thread; safe across threads.

    Factorizations call BLAS for many small products. On cores that other processes use as
    well its threads then mostly wait for each other: updates of triangular factors were
    seen to take forty times the processor time. And the result would depend on their number.
    """
    return _SINGLE


def map_in_order(function: Callable[[S], T], items: Iterable[S], n_threads: int) -> Iterator[T]:
    """Apply `function` in threads; results in the order of `items`.

    At most ``n_threads + 1`` items are under way or waiting, which bounds memory, and
    the fixed order makes sums of results independent of the number of threads.
    """
    if n_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: list[Future[T]] = []
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > n_threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
