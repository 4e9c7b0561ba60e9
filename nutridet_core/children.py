"""Processes that another one starts: what binds them to it, and many that do one thing.

Belongs here: the kernel's bond between parent and child, work in order over several processes, different work side by
side in forks. Does not belong here: how a worker is started or ended (`nutridet_assets.launchers`), or processes that
train together (`training.ranks`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from nutridet_core.errors import MachineError

T = TypeVar("T")
R = TypeVar("R")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: between fork and exec is no time for it
_AHEAD = 4
"""Results per process that may wait for those before them."""


def end_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """In a child: get this signal when the thread that started it ends, whatever ended it. Linux only.

    Args:
        parent: the process that started it. The kernel tells nobody of a parent that had died before this call, so a
            child that has another one by now ends here.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(128 + number)


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
    bond = (os.getpid(), signal.SIGKILL)  # SIGTERM may be ignored here, and children inherit that
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent, initargs=bond)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise _killed() from error
    finally:
        pool.shutdown(cancel_futures=True)


def can_fork() -> bool:
    """Whether a fork of this process could compute: on Linux, while it has one thread. Those of torch and OpenMP do not
    survive a fork, and whatever was waiting for them would wait forever.
    """
    return sys.platform == "linux" and len(list(Path("/proc/self/task").iterdir())) == 1


def side_by_side(jobs: Sequence[Callable[[], R]]) -> list[R]:
    """Results of all jobs, each in a fork of this process (`can_fork`) that ends with it.

    Raises:
        Exception: what the first job to fail raised; the others are ended.
        MachineError: when a process was killed.
    """
    context, started, results = get_context("fork"), dict[Any, BaseProcess](), dict[Any, R]()
    try:
        for job in jobs:
            here, there = context.Pipe(duplex=False)
            started[here] = context.Process(target=_tell, args=(job, there, os.getpid()))
            started[here].start()
            there.close()  # so that its end is heard when the process was killed
        while waiting := started.keys() - results:
            results |= {here: _heard(here) for here in wait(waiting)}
        return [results[here] for here in started]
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.join()


def _tell(job: Callable[[], Any], there: Connection, parent: int) -> None:
    """In a fork: do the job and tell what came of it."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:  # inherited; nothing but SIGKILL could end it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A parent that is told to end tells its children; after any other end of it, locks must be freed.
    end_with_parent(parent, signal.SIGKILL)
    try:
        result = job()
    except Exception as error:
        there.send((None, error))
    else:
        there.send((result, None))


def _heard(here: Any) -> Any:
    try:
        result, error = here.recv()
    except EOFError:
        raise _killed() from None
    if error is not None:
        raise error
    return result


def _killed() -> MachineError:
    return MachineError(
        "a process was killed", where="this machine",
        remedy="Look for what killed it, memory above all, and run the same again.",
    )  # fmt: skip
