"""Threads: how those of torch wait for work.

Belongs here: the one setting of OpenMP that every process of this project starts with. Does not belong
here: how many threads there are; torch counts the cores.
"""

from __future__ import annotations

import os

PASSIVE = {"OMP_WAIT_POLICY": "passive"}
"""Threads that wait should sleep: beside another process on the same cores, spinning made steps ten times slower."""


def let_threads_sleep() -> None:
    """Set `PASSIVE` for this process, where its user has not decided; OpenMP reads it when torch is loaded."""
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)
