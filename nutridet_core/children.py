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
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from operator import call
from pathlib import Path
from typing import Any, TypeVar

from nutridet_core.errors import MachineError

T = TypeVar("T")
R = TypeVar("R")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL: time for a job to tell MLflow of its end."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: between fork and exec is no time for it


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


def in_order(function: Callable[[T], R], items: Sequence[T], *, processes: int) -> Iterator[R]:
    """`map(function, items)` over processes that end with this one. Each does every n-th item and waits, with a result
    larger than a pipe, until it is asked for.

    Not by `concurrent.futures`, which waits forever for a process that was killed while it wrote its result: it keeps
    the other end of its pipe open.

    Args:
        function: can be pickled, as items and results can.

    Raises:
        Exception: what the function raised.
        MachineError: when a process was killed.
    """
    context, started = get_context("spawn"), dict[Connection, BaseProcess]()
    try:
        for first in range(processes):
            started |= _start(context, function, items[first::processes], daemon=True)
        heard = list(started)
        for number in range(len(items)):
            yield _heard(heard[number % processes])
    finally:
        for process in started.values():
            process.kill()
            process.join()


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
            started |= _start(context, call, [job])
        while waiting := started.keys() - results:
            results |= {here: _heard(here) for here in wait(waiting)}
        return [results[here] for here in started]
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.join(_GRACE_SECONDS)
            process.kill()  # also one that was forked just now, and did not yet listen
            process.join()


def _start(
    context: Any, function: Callable[[Any], Any], items: Sequence[Any], *, daemon: bool = False
) -> dict[Connection, BaseProcess]:
    """A process, by the end of the pipe at which its results are heard.

    Args:
        daemon: ended where this one ends before it could end it.
    """
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(function, items, there, os.getpid()), daemon=daemon)
    process.start()
    there.close()  # so that its end is heard when the process was killed
    return {here: process}


def _tell(function: Callable[[Any], Any], items: Sequence[Any], there: Connection, parent: int) -> None:
    """In a child: tell what comes of each item, until one fails."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:  # inherited; nothing but SIGKILL could end it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A parent that is told to end tells its children; after any other end of it, locks must be freed.
    end_with_parent(parent, signal.SIGKILL)
    try:
        for item in items:
            there.send((function(item), None))
    except Exception as error:
        there.send((None, error))


def _heard(here: Any) -> Any:
    try:
        result, error = here.recv()
    except (EOFError, OSError):  # before a result, or in the middle of it
        raise _killed() from None
    if error is not None:
        raise error
    return result


def _killed() -> MachineError:
    return MachineError(
        "a process was killed", where="this machine",
        remedy="Look for what killed it, memory above all, and run the same again.",
    )  # fmt: skip
