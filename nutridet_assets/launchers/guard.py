"""Stands between a Ray actor and the worker.

    python -m nutridet_assets.launchers.guard -m nutridet_assets.worker VERB …

Belongs here: nothing but that. When an actor ends, Ray kills its child processes with SIGKILL, and a worker that gets
no SIGTERM leaves what it has started. So Ray kills this one; the worker follows its parent, and ends what it started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from nutridet_assets.launchers.client import main
from nutridet_assets.launchers.processes import GRACE_SECONDS, end_group
from nutridet_assets.worker import LAUNCHER_PID


def run(arguments: Sequence[str]) -> int:
    """Run the worker as a group of its own, which prints where this process prints; its exit code."""
    environment = {**os.environ, LAUNCHER_PID: str(os.getpid())}
    process = subprocess.Popen([sys.executable, *arguments], env=environment, text=True, start_new_session=True)
    try:
        code = process.wait()
    finally:
        end_group(process, GRACE_SECONDS)
    return code if code >= 0 else 128 - code  # a signal, as shells say it


if __name__ == "__main__":
    sys.exit(main(run, sys.argv[1:]))
