"""A campaign: many injections from one seed, each judged by what is left and by what a second run makes of it.

Belongs here: the choice of cases, the verdicts, their counts. Does not belong here: the faults (`faults`).

The verdicts:

- survived: the verb ended well, and everything is what it is when nobody disturbs it
- resumed: the verb was killed, and the same verb, run again, came to the same end
- refused: the verb ended with an error; mended and run again, it came to the same end. Those that are no error of
  this project, with its place and remedy, are counted as `unclear`
- lost: anything else, e.g. other results, a hang, a manifest over other files, an alias on broken weights, a draft
  or a process left behind, a run that MLflow shows as finished and that is not
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.torture import faults, mlflow_faults
from benchmarks.torture.faults import Case
from benchmarks.torture.homes import VERBS, Homes, open_home
from benchmarks.torture.inspection import inspect
from benchmarks.torture.processes import ask, fork, work

Strike = Callable[[Case], int]
NEEDS_ROOT: dict[str, Strike] = {"full disk": faults.full_disk, "read-only folder": faults.read_only}
"""They mount."""
FAULTS: dict[str, Strike] = {
    "kill -9": faults.kill,
    "SIGTERM": faults.terminate,
    "cancelled run": faults.cancel,
    "worker hangs": faults.hang,
    "file size limit": faults.file_limit,
    "out of memory": faults.out_of_memory,
    "bit flip": faults.bit_flip,
    "torn file": faults.torn_file,
    "torn manifest": faults.torn_manifest,
    "clock jump": faults.clock_jump,
    "two runs at once": faults.two_at_once,
    "database locked": mlflow_faults.database_locked,
    "MLflow gone": mlflow_faults.server_gone,
    "MLflow slow": mlflow_faults.server_slow,
    **NEEDS_ROOT,
}
DAMAGE = ("bit flip", "torn file", "torn manifest")
BY_HAND = ("promote_copy", "rollback")
"""Verbs that are no asset: no run of the graph mends what they left. `tests/test_rollback.py` damages their files."""
OUTCOMES = ("survived", "resumed", "refused", "lost")


@dataclass(frozen=True)
class Verdict:
    """What became of one injection."""

    number: int
    fault: str
    verb: str
    outcome: str
    said: str
    """The last words of the verb that was broken."""
    reasons: tuple[str, ...] = ()
    """Why it counts as lost."""
    unmet: bool = False
    """Whether the fault came too late to touch the verb."""
    unclear: bool = False
    """Whether it was refused with a foreign error, which names no remedy."""
    seconds: float = 0.0


def run_campaign(homes: Homes, seed: int, numbers: Iterable[int], chosen: dict[str, Strike]) -> Iterator[Verdict]:
    """Every fault in turn, each on a random verb; short verbs are drawn more often than long ones."""
    names = list(chosen)
    for number in numbers:
        fault = names[number % len(names)]
        own = random.Random(f"{seed}/{number}")  # so that any one of them can be repeated alone
        fitting = [verb for verb in homes.verbs if fault not in DAMAGE or verb not in BY_HAND]
        (verb,) = own.choices(fitting, [1 / (1 + homes.seconds[verb]) for verb in fitting])
        yield inject(Case(homes, verb, own), number, fault, chosen[fault])


def inject(case: Case, number: int, fault: str, strike: Strike) -> Verdict:
    """One injection from the fault to the verdict."""
    began = time.monotonic()
    with case.cleanup:
        try:
            code = strike(case)
            outcome, reasons = judge(case, code)
        except subprocess.TimeoutExpired:
            outcome, reasons = "lost", ["the verb hung"]
    said = " / ".join(child.last_words for child in case.children)
    seconds = round(time.monotonic() - began, 1)
    unclear = any(child.unclear for child in case.children)
    return Verdict(number, fault, case.verb, outcome, said, tuple(reasons), case.unmet, unclear, seconds)


def judge(case: Case, code: int) -> tuple[str, list[str]]:
    """The outcome, and what speaks against it."""
    expected = case.homes.expected[case.verb]
    reasons = [f"process {pid} left behind" for child in case.children for pid in child.left_behind]
    found = _inspect(case)
    reasons += _untrue(case, found)
    outcome = _outcome(case, code)
    if code != 0 or found["broken"] or found["stale"]:
        reasons += _repeat(case)
        found = _inspect(case)
    reasons += _difference(expected["content"], found["content"])
    reasons += [f"{what}: {item}" for what in ("broken", "stale") for item in found[what]]
    reasons += [f"MLflow says running: {name}" for name in found["running"] if name not in expected["running"]]
    return ("lost" if reasons else outcome), reasons


def _outcome(case: Case, code: int) -> str:
    if code == 0:
        return "survived"
    stopped = code < 0 or code in (128 + 15, 128 + 9)
    return "resumed" if stopped else "refused"


def _untrue(case: Case, found: dict[str, Any]) -> list[str]:
    """What may not be so even before anything is mended. A damaged artefact's run had finished, and rightly says so."""
    if case.damaged:
        return []
    return [f"broken: {item}" for item in found["broken"]] + [
        f"MLflow says finished: {name}" for name in found["claimed"]
    ]


def _repeat(case: Case) -> list[str]:
    """Run the verb again; after damage, those before it too, as materialising the graph does."""
    names, home = case.homes.verbs, case.home
    again = names[: names.index(case.verb) + 1] if case.damaged else [case.verb]
    needed = [name for name in again if name == case.verb or name != "reevaluate"]  # it measures anew every time
    child = fork(lambda: work(lambda: [VERBS[name](open_home(home)) for name in needed]), case.homes.root / "again")
    return [] if child.wait() == 0 else [f"it did not succeed when it was run again: {child.last_words}"]


def _inspect(case: Case) -> dict[str, Any]:
    home = case.home
    found: dict[str, Any] = ask(lambda: inspect(open_home(home)), case.homes.root / "inspection")
    return found


def _difference(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    places = sorted(place for place in expected.keys() | found.keys() if expected.get(place) != found.get(place))
    return [f"{place} is not what an undisturbed run makes" for place in places]
