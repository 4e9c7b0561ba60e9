"""The run: every target in turn, a table, and `benchmarks/results/fuzz.json`.

Belongs here: the command line and the report. Exits with 1 when an input was broken; its bytes lie in the folder that
is printed.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.fuzz.child import MEMORY_MIB, Tally, fuzz, remake
from benchmarks.fuzz.targets import TARGETS
from benchmarks.measures import header, processor_name
from nutridet_core.artifacts.store import write_json

RESULTS = Path(__file__).parents[1] / "results"
KINDS = ("value", "problem", "refused", "broken")


def main() -> int:
    """0 when no input was broken."""
    given = _arguments()
    began = time.monotonic()
    tallies: dict[str, Tally] = {}
    for name in given.target or TARGETS:
        tallies[name] = fuzz(name, round(given.inputs * TARGETS[name].share), given.seed)
        print(_row(name, tallies[name]), flush=True)
    print(_row("all", _sum(tallies)))
    _keep_broken(tallies, given.seed)
    if not given.target:
        result = report(tallies, given.inputs, given.seed, time.monotonic() - began)
        write_json(given.out, result)
    return 1 if _sum(tallies).broken else 0


def report(tallies: Mapping[str, Tally], inputs: int, seed: int, seconds: float) -> dict[str, Any]:
    """The result file."""
    total = _sum(tallies)
    return {
        **header(f"python -m benchmarks.fuzz --inputs {inputs} --seed {seed}", processor_name()),
        "seed": seed,
        "n": total.n,
        "metrics": {
            "fuzz_inputs": total.n,
            **{kind: total.outcomes[kind] for kind in KINDS},
            "seconds": round(seconds, 1),
            "memory_limit_mib": MEMORY_MIB,
            "peak_mib": total.peak_mib,
            "by_target": {name: _figures(tally) for name, tally in tallies.items()},
        },
    }


def _figures(tally: Tally) -> dict[str, Any]:
    counts = {kind: tally.outcomes[kind] for kind in KINDS}
    details = {detail: count for detail, count in sorted(tally.details.items()) if not detail.startswith("broken")}
    return {"n": tally.n, **counts, "peak_mib": tally.peak_mib, "outcomes": details, "broken_inputs": tally.broken[:20]}


def _sum(tallies: Mapping[str, Tally]) -> Tally:
    total = Tally()
    for tally in tallies.values():
        total.n += tally.n
        total.outcomes += tally.outcomes
        total.broken += tally.broken
        total.peak_mib = max(total.peak_mib, tally.peak_mib)
    return total


def _row(name: str, tally: Tally) -> str:
    counts = "  ".join(f"{kind} {tally.outcomes[kind]:>7,}" for kind in KINDS)
    return f"{name:<12} n {tally.n:>8,}  {counts}  peak {tally.peak_mib:>5,} MiB"


def _keep_broken(tallies: Mapping[str, Tally], seed: int) -> None:
    """Their inputs, as pickles of our own making, to be fed again."""
    folder = Path(os.environ.get("NUTRIDET_HOME", ".nutridet")) / "fuzz"
    for name, tally in tallies.items():
        for line in tally.broken[:20]:
            print(f"BROKEN {name} {line}")
            number = int(line.split(":")[0].split()[1])
            if TARGETS[name].drive is None:
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / f"{name}-{seed}-{number}.pickle"
                file.write_bytes(pickle.dumps(remake(name, number, seed)))
                print(f"       {file}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only these; no file is written")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
