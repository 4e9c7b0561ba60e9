"""Processes that another one starts: what binds them to it, and many that do one thing.

Belongs here: the kernel's bond between parent and child, work in order over several processes. Does not belong here:
how a worker is started or ended (`nutridet_assets.launchers`), or processes that train together (`training.ranks`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from nutridet_core.errors import MachineError

T = TypeVar("T")
R = TypeVar("R")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: between fork and exec is no time for it
_AHEAD = 4
"""Results per process that may wait for those before them."""


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """In a child: get this signal when the thread that started it ends, whatever ended it. Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """What a child leaves when it dies becomes a child of this process, which can then end it. Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[[T], R], items: Iterable[T], *, processes: int) -> Iterator[R]:
    """`map(function, items)` over processes that end with this one; few results are in memory.

    Args:
        function: can be pickled, as its argument and result can.

    Raises:
        MachineError: when a process was killed.
    """
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise MachineError(
            "a process was killed", where="this machine",
            remedy="Look for what killed it, memory above all, and run the same again.",
        ) from error  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)
