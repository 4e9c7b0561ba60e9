"""Runs the campaign, prints its table and writes `benchmarks/results/torture.json`; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from nutridet_core.threads import let_threads_sleep

let_threads_sleep()  # before torch
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

from benchmarks.measures import header, processor_name  # noqa: E402
from benchmarks.torture import imports  # noqa: E402, F401 - children inherit what is imported here
from benchmarks.torture.campaign import DAMAGE, FAULTS, NEEDS_ROOT, OUTCOMES, Verdict, run_campaign  # noqa: E402
from benchmarks.torture.homes import VERBS, prepare_homes  # noqa: E402
from benchmarks.torture.soak import Soak, soak  # noqa: E402
from nutridet_core.artifacts.store import git_commit, write_json  # noqa: E402

RESULT = Path(__file__).parents[1] / "results" / "torture.json"
FUZZED = RESULT.with_name("fuzz.json")
"""Written by `benchmarks.fuzz`."""


def main(given: argparse.Namespace) -> int:
    """Exit code 1 when anything was lost."""
    verdicts = _campaign(given) if given.injections else []
    soaked = soak(given.soak * 60) if given.soak else None
    print(table(verdicts))
    if soaked:
        print(soaked.text)
    write_json(given.out, result(given, verdicts, soaked))
    return int(any(verdict.outcome == "lost" for verdict in verdicts) or bool(soaked and soaked.failures))


def _campaign(given: argparse.Namespace) -> list[Verdict]:
    chosen = {name: fault for name, fault in FAULTS.items() if name not in _left_out(given)}
    with tempfile.TemporaryDirectory(prefix="nutridet-torture-") as folder:
        homes = prepare_homes(given.homes or Path(folder), given.verbs, given.start)
        verdicts = []
        for verdict in run_campaign(homes, given.seed, range(given.first, given.first + given.injections), chosen):
            verdicts.append(verdict)
            print(line(verdict), flush=True)
            write_json(given.out, result(given, verdicts, None))  # an interrupted campaign leaves what it has seen
    return verdicts


def _left_out(given: argparse.Namespace) -> list[str]:
    """No verb makes again what a given home began with, so damage to it cannot be mended."""
    return [*([] if os.geteuid() == 0 else NEEDS_ROOT), *(DAMAGE if given.start else ())]


def line(verdict: Verdict) -> str:
    """One injection for people."""
    notes = " (too late to touch it)" * verdict.unmet + " (a foreign error)" * verdict.unclear
    text = f"{verdict.number:4} {verdict.outcome:8} {verdict.fault} in {verdict.verb}, {verdict.seconds} s{notes}"
    details = [f"     ! {reason}" for reason in verdict.reasons]
    if verdict.outcome == "refused" or details:
        details.insert(0, f"     said: {verdict.said}")
    return "\n".join([text, *details])


def table(verdicts: list[Verdict]) -> str:
    """Faults by outcomes."""
    counts = Counter((verdict.fault, verdict.outcome) for verdict in verdicts)
    rows = [("fault", "n", *OUTCOMES)]
    for fault in dict.fromkeys(verdict.fault for verdict in verdicts):
        found = [counts[fault, outcome] for outcome in OUTCOMES]
        rows.append((fault, *map(str, [sum(found), *found])))
    total = Counter(verdict.outcome for verdict in verdicts)
    rows.append(("all", *map(str, [len(verdicts), *(total[outcome] for outcome in OUTCOMES)])))
    return "\n".join(f"{row[0]:18}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def result(given: argparse.Namespace, verdicts: list[Verdict], soaked: Soak | None) -> dict[str, Any]:
    """As all result files. The campaign, the soak and the fuzzer's inputs each stay until they are run again."""
    found = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {}
    if verdicts:
        kept = found.get("metrics", {})
        found = {**_head(given), "n": len(verdicts), "not_run": _not_run(verdicts)}
        found["metrics"] = {**kept, **campaign_metrics(verdicts)}
    metrics = found.get("metrics", {})
    if soaked:
        metrics["soak"] = {"command": _command(f"--injections 0 --soak {given.soak:g}"), "git_commit": git_commit(),
                           **soaked.to_dict()}  # fmt: skip
    fuzzed = json.loads(FUZZED.read_text(encoding="utf-8"))["metrics"]
    return {**(found or _head(given)), "metrics": {**metrics, "fuzz_inputs": fuzzed["fuzz_inputs"]}}


def campaign_metrics(verdicts: list[Verdict]) -> dict[str, Any]:
    """Counts of outcomes: all, by fault, by verb."""
    faults = dict.fromkeys(verdict.fault for verdict in verdicts)
    verbs = sorted({verdict.verb for verdict in verdicts})
    total = Counter(verdict.outcome for verdict in verdicts)
    return {
        "injections": len(verdicts),
        **{outcome: total[outcome] for outcome in OUTCOMES},
        "unclear": sum(verdict.unclear for verdict in verdicts),
        "too_late": sum(verdict.unmet for verdict in verdicts),
        "by_fault": {fault: dict(Counter(v.outcome for v in verdicts if v.fault == fault)) for fault in faults},
        "by_verb": {verb: dict(Counter(v.outcome for v in verdicts if v.verb == verb)) for verb in verbs},
    }


def _head(given: argparse.Namespace) -> dict[str, Any]:
    first = f"--first {given.first} " * bool(given.first)
    return {
        **header(_command(f"--seed {given.seed} {first}--injections {given.injections} --soak 0"), processor_name()),
        "seed": given.seed,
    }


def _command(options: str) -> str:
    return f"python -m benchmarks.torture {options}"


def _not_run(verdicts: list[Verdict]) -> list[str]:
    return [name for name in FAULTS if name not in {verdict.fault for verdict in verdicts}]


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=8, help="decides every case (default %(default)s)")
    parser.add_argument("--injections", type=int, default=208, help="how many (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first: repeats one that was lost")
    parser.add_argument("--soak", type=float, default=30.0, metavar="MINUTES", help="of the gateway (default 30)")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS), help="in their order (default: all)")
    parser.add_argument("--start", type=Path, metavar="HOME", help="home before the first verb (default: an empty one)")
    parser.add_argument("--homes", type=Path, help="folder where prepared homes are kept for the next campaign")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    return parser


if __name__ == "__main__":
    sys.exit(main(options().parse_args()))
