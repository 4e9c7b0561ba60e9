"""A clock that jumps, for one process: the machine's own is everybody's.

Belongs here: what this project and MLflow read the time from. Does not belong here: when it jumps (`faults`).
"""

from __future__ import annotations

import datetime as datetimes
import sys
import time
from collections.abc import Callable


def jump(seconds: float, *, after: float) -> None:
    """From `after` seconds on, the time of day in this process is off by `seconds`."""
    began = time.monotonic()
    time.time = _shifted(time.time, lambda: seconds if time.monotonic() - began >= after else 0.0)

    class Jumping(datetimes.datetime):
        @classmethod
        def now(cls, tz: datetimes.tzinfo | None = None) -> datetimes.datetime:  # type: ignore[override]
            return datetimes.datetime.fromtimestamp(time.time(), tz)

    for name, module in list(sys.modules.items()):
        if name.startswith("nutridet_core") and getattr(module, "datetime", None) is datetimes.datetime:
            module.datetime = Jumping  # type: ignore[attr-defined]


def _shifted(real: Callable[[], float], offset: Callable[[], float]) -> Callable[[], float]:
    return lambda: real() + offset()
