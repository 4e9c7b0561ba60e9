"""The worker process: runs one verb of `nutridet_core` and reports through Dagster Pipes.

    python -m nutridet_assets.worker VERB [EXPERIMENT ...]

Belongs here: calling the verb and saying how it went. Does not belong here: dagster, which would add
seconds to every start, or anything that the verb itself should do.

Messages: `{"result": ...}`, or `{"failed_audits": {...}, "text": "..."}`, or `{"error": "..."}`. They stay
small, because the reader on the other side takes lines as they are written; artefacts are on disk. Of several
workers that train together (`agent`), the first one reports.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dagster_pipes import PipesContext, open_dagster_pipes

from nutridet_core.children import end_with_parent

LAUNCHER_PID = "NUTRIDET_LAUNCHER_PID"
RUN_ID = "NUTRIDET_RUN_ID"
"""Environment variables that the launcher adds."""

VERBS = {
    "prepare_dataset": "pipeline.dataset",
    "report_dataset": "pipeline.dataset",
    "score_baseline": "pipeline.baseline",
    "score_peer": "pipeline.baseline",
    "train_experiments": "pipeline.training",
    "score_checkpoints": "pipeline.training",
    "score_experiments": "pipeline.training",
    "build_leaderboard": "pipeline.comparison",
    "merge_best": "pipeline.release",
    "quantize_merged": "pipeline.release",
    "score_release": "pipeline.release",
    "register_release": "pipeline.release",
    "write_card": "pipeline.publication",
    "build_triton_repository": "pipeline.publication",
    "reevaluate_champion": "pipeline.monitoring",
    "list_collection": "collection.detection",
    "detect_parts": "collection.detection",
}
"""Verbs and their modules in `nutridet_core`."""

_PARENT = os.getppid()
_GRACE_SECONDS = 15.0
_LONGEST_TEXT = 1500


def main(arguments: Sequence[str]) -> int:
    """Run the verb that the command line names; 0 when it succeeded, 1 after an error that was reported."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars redraw a line; in a log each redraw is a line
    verb, *names = arguments
    return work(lambda: call(verb, names))


def work(job: Callable[[], Any]) -> int:
    """Run a job under a launcher: with it, and not longer than it."""
    follow_launcher(signal.SIGKILL if _rank() is not None else signal.SIGTERM)
    try:
        if _rank():
            return join_in(job)
        with open_dagster_pipes() as pipes:
            return report(pipes, job)
    finally:
        if _orphaned():
            os.killpg(0, signal.SIGKILL)  # nobody else is left to end what this process started


def report(pipes: PipesContext, job: Callable[[], Any]) -> int:
    """Do the job and report its result, or what stopped it."""
    from nutridet_core.errors import AuditError, NutridetError
    from nutridet_core.failures import told_plainly

    try:
        with told_plainly():
            result = job()
    except AuditError as error:
        pipes.report_custom_message({"failed_audits": shorten(error.evidence), "text": str(error)[:_LONGEST_TEXT]})
        return 1
    except NutridetError as error:
        pipes.report_custom_message({"error": str(error)[:_LONGEST_TEXT]})
        return 1
    pipes.report_custom_message({"result": shorten(result) if isinstance(result, dict) else None})
    return 0


def join_in(job: Callable[[], Any]) -> int:
    """Do the job as another rank than the first, which reports the same failures; a line says which was whose."""
    from nutridet_core.errors import NutridetError
    from nutridet_core.failures import told_plainly

    try:
        with told_plainly():
            job()
    except NutridetError as error:
        print(f"rank {_rank()}: {error}", flush=True)
        return 1
    return 0


def call(verb: str, names: Sequence[str]) -> Any:
    """The verb's result. Imports what the verb needs, which takes most of a short verb's time."""
    function = getattr(importlib.import_module(f"nutridet_core.{VERBS[verb]}"), verb)
    from nutridet_core.pipeline.context import Context
    from nutridet_core.settings import Settings

    context = Context(Settings(), log=lambda line: print(line, flush=True))
    return function(context, names) if names else function(context)


def follow_launcher(death_signal: signal.Signals = signal.SIGTERM) -> None:
    """End when the launcher does, even when it was killed and could not say so.

    SIGTERM unwinds the stack, so that MLflow hears of the failure; whoever takes too long is killed.

    Args:
        death_signal: what this process gets when its parent dies. An agent that dies before its ranks was killed, and
            a rank that waits for another one inside NCCL would not hear SIGTERM.
    """
    signal.signal(signal.SIGTERM, _unwind)
    if sys.platform == "linux" and LAUNCHER_PID in os.environ:
        end_with_parent(_PARENT, death_signal)
        if _orphaned():  # accelerate lives, and what launched it is gone
            raise SystemExit(128 + signal.SIGTERM)


def follow_parent(process_id: int) -> None:
    """In a fork: its parent is not the parent of the process that imported this module."""
    global _PARENT
    _PARENT = process_id


def shorten(value: Any) -> Any:
    """A value as JSON of bounded size."""
    if isinstance(value, dict):
        return {str(key): shorten(item) for key, item in list(value.items())[:20]}
    if isinstance(value, list | tuple):
        return [shorten(item) for item in value[:5]]
    return value if isinstance(value, bool | int | float | None) else str(value)[:500]


def _unwind(number: int, frame: object) -> NoReturn:
    killer = threading.Timer(_GRACE_SECONDS, os.killpg, (0, signal.SIGKILL))
    killer.daemon = True
    killer.start()
    raise SystemExit(128 + number)


def _rank() -> int | None:
    """Among workers that train together; None alone."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def _orphaned() -> bool:
    """Whether the launcher is gone. Under `accelerate launch` it is not this process's parent."""
    return os.getppid() != _PARENT or (LAUNCHER_PID in os.environ and not _exists(int(os.environ[LAUNCHER_PID])))


def _exists(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
