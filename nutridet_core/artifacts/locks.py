"""Locks on folders: who may write in one, among processes of one machine or one shared disk.

Belongs here: taking and giving back. Does not belong here: what is written (`store`).

The locks are the kernel's, so that they end with their process, however it ends: none is ever stale.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nutridet_core.errors import ArtifactError


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder.

    Raises:
        ArtifactError: when another process has it.
    """
    try:
        lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ArtifactError(
            "another process is writing here", where=folder, remedy="Wait for it to end, or cancel it."
        ) from error
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def turn_in(folder: Path) -> Iterator[None]:
    """For moments: whoever comes second waits."""
    lock = _lock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def _lock(folder: Path, how: int) -> int:
    """An open folder, locked until it is closed."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, how)
    except OSError:
        os.close(opened)
        raise
    return opened
