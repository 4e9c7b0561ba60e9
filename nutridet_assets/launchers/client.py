"""What the launchers that are programs have in common: they stand for a worker that runs on another machine.

Belongs here: their life, and which of this process's variables the worker needs. Does not belong here: Ray, Kubernetes.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from nutridet_assets.worker import LAUNCHER_PID, follow_launcher
from nutridet_core.errors import NutridetError
from nutridet_core.settings import Settings

_STAY = {LAUNCHER_PID, "NUTRIDET_ALERT_WEBHOOK", "NUTRIDET_DAGSTER_STORAGE", "NUTRIDET_LAUNCHER"}
"""A process of this machine, secrets of the orchestrator, and how the worker was started."""
_TRAVEL = re.compile("NUTRIDET_|DAGSTER_PIPES_|PYTHONUNBUFFERED$|OMP_WAIT_POLICY$")


def main(run: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run the worker with these arguments of a Python interpreter; its exit code, or 1 when it could not be run."""
    obey_launcher()
    try:
        return run(arguments)
    except NutridetError as error:
        print(error, file=sys.stderr, flush=True)
        return 1


def obey_launcher() -> None:
    """At SIGTERM, or when the launcher dies: leave every block, which ends the worker. Whoever sent it has patience."""
    follow_launcher()
    signal.signal(signal.SIGTERM, _leave)


def worker_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Settings and Pipes' own variables; the home is written out, since the worker starts in another folder."""
    chosen = {name: value for name, value in environment.items() if _TRAVEL.match(name) and name not in _STAY}
    return {**chosen, "NUTRIDET_HOME": str(Settings().home)}


def _leave(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what it ends now is ended once
    raise SystemExit(128 + number)
