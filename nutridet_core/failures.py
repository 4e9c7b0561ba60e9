"""Failures of the machine and of MLflow, said as this project says its errors: where, what, what to do.

Belongs here: telling a full disk, missing memory, a locked database or a silent server from an error of the program.
Does not belong here: what this project itself finds wrong; that raises one of `errors` where it is found.

Libraries say these things in many ways: by number, in Rust's words, or as SQLite's error within SQLAlchemy's within
MLflow's. They are known by their texts. Every other error stays what it is, with its traceback.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nutridet_core.errors import MachineError, NutridetError

_AGAIN = "then run it again: what was finished is kept"
_DISK = f"Free space on the disk of NUTRIDET_HOME, or raise the quota; {_AGAIN}."
_RIGHTS = f"Let this user write there, or set NUTRIDET_HOME to a folder where it may; {_AGAIN}."
_IN_THE_WAY = f"A file lies where a folder is to be: move it, or name another folder; {_AGAIN}."
_MEMORY = f"End other processes, or take a smaller profile or batch (`nutridet plan` says what each needs); {_AGAIN}."
_SERVER = f"Start it (`make up` starts both), or correct the setting; {_AGAIN}."
_LOCKED = f"Wait for the process that holds it, or end that; {_AGAIN}. Many processes need PostgreSQL."
_OVERTAKEN = f"Look at what is there now; {_AGAIN}."
_BY_NUMBER = {
    errno.ENOSPC: _DISK, errno.EDQUOT: _DISK, errno.EFBIG: _DISK,
    errno.EROFS: _RIGHTS, errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS,
    errno.ENOTDIR: _IN_THE_WAY, errno.EEXIST: _IN_THE_WAY,
    errno.ENOMEM: _MEMORY, errno.EAGAIN: _MEMORY,
    errno.EMFILE: f"Raise the limit of open files (`ulimit -n`); {_AGAIN}.",
    errno.EIO: f"Look after the disk (`dmesg`); {_AGAIN}.",
}  # fmt: skip
_NUMBER = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")


@dataclass(frozen=True)
class _Sign:
    """Words that an error of this kind has in its text; the other parts may quote them."""

    words: str
    problem: str
    remedy: str
    where: str = ""
    field: str | None = None


_TRACKING = "NUTRIDET_TRACKING_URI"
_DATABASE = "MLflow's database"
_SIGNS = (
    _Sign(r"API request to (\w+://[^/\s]+)\S* failed with (timeout )?exception", "does not answer", _SERVER,
          r"MLflow at \1", _TRACKING),
    _Sign(r"too many (5\d\d) error responses", r"fails (\1)", f"Look into its log; {_AGAIN}.", "MLflow", _TRACKING),
    _Sign("database (table )?is locked", "is locked by another process", _LOCKED, _DATABASE, _TRACKING),
    _Sign("UNIQUE constraint failed|duplicate key value violates unique constraint",
          "another process wrote the same at the same moment", _OVERTAKEN, _DATABASE, _TRACKING),
    _Sign("database or disk is full|disk I/O error", r"\g<0>", _DISK, _DATABASE, _TRACKING),
    _Sign("attempt to write a readonly database|unable to open database file", r"\g<0>", _RIGHTS, _DATABASE, _TRACKING),
    _Sign("connection to server at .* failed: .*|server closed the connection", r"\g<0>", _SERVER, _DATABASE,
          _TRACKING),
    _Sign(r"(PytorchStreamWriter|inline_container|file write failed)", "a file could not be written whole", _DISK),
    _Sign(r"CUDA out of memory|can(?:no|')t allocate memory|can't start new thread|failed to map segment|bad_alloc",
          r"\g<0>", _MEMORY),
)  # fmt: skip


@contextmanager
def told_plainly() -> Iterator[None]:
    """Raise what the machine or MLflow failed with as a `MachineError`; other errors pass."""
    try:
        yield
    except NutridetError:
        raise
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        raise told from error


def explain(error: BaseException) -> MachineError | None:
    """What an error, or one that caused it, says about the machine or MLflow; None when that is nothing."""
    found: BaseException | None = error
    while found is not None:
        told = _by_words(str(found)) or _by_number(found)
        if told is None and isinstance(found, MemoryError):
            told = MachineError("not enough memory", remedy=_MEMORY)
        if told is not None:
            return told
        found = found.__cause__ or found.__context__
    return None


def _by_words(text: str) -> MachineError | None:
    for sign in _SIGNS:
        if match := re.search(sign.words, text, re.IGNORECASE):
            where = match.expand(sign.where) or None
            return MachineError(match.expand(sign.problem), where=where, field=sign.field, remedy=sign.remedy)
    return None


def _by_number(error: BaseException) -> MachineError | None:
    said = _NUMBER.search(str(error))
    number = int(said[1] or said[2]) if said else None
    if number not in _BY_NUMBER:
        return None
    where = getattr(error, "filename", None)
    return MachineError(os.strerror(number), where=where, remedy=_BY_NUMBER[number])
