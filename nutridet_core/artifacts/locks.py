"""Locks on paths: who may write there, among the processes of all machines that share the disk.

Belongs here: taking and giving back. Does not belong here: what is written (`store`).

A lock is a file beside what it guards, open for writing: NFS and FUSE pass locks on such files to the server, and keep
locks on folders to one machine (flock(2), "NFS details"; their folders have no lock operation in Linux). The locks are
the kernel's, so that they end with their process, however it ends: none is ever stale, and the file may stay.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nutridet_core.errors import ArtifactError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing at a path, which need not be there yet; its parent must.

    Args:
        wait: for moments: whoever comes second waits.

    Raises:
        ArtifactError: when another process has it and `wait` is off, or when the disk keeps no locks.
    """
    try:
        lock = _lock(path, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise ArtifactError(
            "another process is writing here", where=path, remedy="Wait for it to end, or cancel it."
        ) from error
    try:
        yield
    finally:
        os.close(lock)


def lock_of(path: Path) -> Path:
    """The file that is locked. Only who has claimed the path may delete it."""
    return path.with_name(f".{path.name.removeprefix('.')}.lock")


def _lock(path: Path, how: int) -> int:
    """The open file, locked until it is closed. One that was deleted meanwhile is a lock on nothing."""
    file = lock_of(path)
    while True:
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(opened, how)
            if os.path.samestat(os.fstat(opened), file.stat()):
                return opened
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(opened)
            if error.errno not in _NO_LOCKS:
                raise
            remedy = "Mount it with locks (NFS 4; Lustre: -o flock), or set NUTRIDET_HOME to another disk."
            raise ArtifactError("the disk keeps no locks", where=file, remedy=remedy) from error
        os.close(opened)
