"""Launchers: where a worker runs, by the setting `NUTRIDET_LAUNCHER` alone.

A launcher is a command that is put in front of the worker's arguments, and what it promises is what a process promises:

- it runs the worker to its end, prints what the worker prints, and ends with the worker's exit code;
- at SIGTERM, or when its own parent dies, it ends the worker and all that the worker left, and only then ends.

So `nutridet_assets.launch` has one process to listen to and one group to end, wherever the work is done. `local` needs
nothing in front, Slurm brings `srun`; `ray` and `kubernetes` are programs of this package, for terminals too:

    python -m nutridet_assets.launchers.ray -m nutridet_assets.worker score_baseline

Belongs here: one module per place. Does not belong here: what a worker does, or what is made of its report.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from nutridet_core.settings import Settings

_ALONE, _TOGETHER = "nutridet_assets.worker", "nutridet_assets.agent"


@dataclass(frozen=True)
class Launcher:
    """How a worker is started."""

    command: tuple[str, ...]
    """Before the arguments of a Python interpreter."""
    elsewhere: bool
    """Whether the worker may run on a machine that shares no temporary files with this one."""


def active_launcher() -> Launcher:
    """The one that `NUTRIDET_LAUNCHER` names."""
    settings, python = Settings(), sys.executable
    match settings.launcher:
        case "ray":
            return Launcher((python, "-m", "nutridet_assets.launchers.ray"), elsewhere=True)
        case "k8s":
            return Launcher((python, "-m", "nutridet_assets.launchers.kubernetes"), elsewhere=True)
        case "slurm":
            return Launcher(("srun", "--ntasks=1", f"--gpus={settings.worker_gpus}", python), elsewhere=True)
        case _:
            return Launcher((python,), elsewhere=False)


def module_of(verb: str) -> str:
    """The module that runs a verb: one worker, or for a training on several GPUs an agent with one for each."""
    settings = Settings()
    several = settings.launcher == "accelerate" or (active_launcher().elsewhere and settings.worker_gpus > 1)
    return _TOGETHER if several and verb == "train_experiments" else _ALONE
