"""A process that leads its own group, of which nothing is left when its time is over.

Belongs here: starting and ending such a group, on whichever machine. Does not belong here: Dagster, or what the process
prints.

Dagster's own `PipesSubprocessClient` signals only the direct child and gives up on one that does not end, so that a
data loader or an engine started by the worker keeps its GPU memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Protocol

GRACE_SECONDS = 20.0
"""From SIGTERM to SIGKILL: time for a worker to mark its MLflow run as failed."""


class Process(Protocol):
    """What leads its own group: `subprocess.Popen`, or a worker that another process forked (`forks`)."""

    @property
    def pid(self) -> int:
        """Also of its group."""

    @property
    def returncode(self) -> int | None:
        """Negative for a signal; None while it runs."""

    @property
    def stdout(self) -> IO[str] | None:
        """What it prints."""

    @property
    def stderr(self) -> IO[str] | None:
        """What it and its libraries complain about."""

    def poll(self) -> int | None:
        """Exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Exit code, when it has ended."""


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process that leads its own group, and whose output can be read."""
    return subprocess.Popen(
        command,
        env=dict(environment),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    grace_seconds: float = GRACE_SECONDS,
    start: Callable[[Sequence[str], Mapping[str, str]], Process] = start,
) -> Iterator[Process]:
    """A process that leads its own group; when the block ends, nothing of the group is left."""
    process = start(command, environment)
    try:
        yield process
    finally:
        end_group(process, grace_seconds)


def end_group(process: Process, grace_seconds: float) -> None:
    """SIGTERM to the group of a process that still runs, SIGKILL to what is left; reaps the process."""
    try:
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            process.wait(timeout=grace_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when a second interrupt cuts the waiting short, and after a worker that left children
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS calls a group of zombies forbidden
        os.killpg(process.pid, number)
