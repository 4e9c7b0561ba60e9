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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

GRACE_SECONDS = 20.0
"""From SIGTERM to SIGKILL: time for a worker to mark its MLflow run as failed."""


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], grace_seconds: float = GRACE_SECONDS
) -> Iterator[subprocess.Popen[str]]:
    """A process that leads its own group; when the block ends, nothing of the group is left."""
    process = start(command, environment)
    try:
        yield process
    finally:
        end_group(process, grace_seconds)


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


def end_group(process: subprocess.Popen[str], grace_seconds: float) -> None:
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


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS calls a group of zombies forbidden
        os.killpg(process.pid, number)
