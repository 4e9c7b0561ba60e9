"""Measures all curves, writes `benchmarks/results/costs.json` and the plot; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nutridet_core.threads import let_threads_sleep

let_threads_sleep()  # before torch
os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_OFFLINE="1")

from benchmarks.costs.curves import Curve, curves  # noqa: E402
from benchmarks.costs.page import PLOT, RESULT, plot  # noqa: E402
from benchmarks.costs.photos import draw_pool  # noqa: E402
from benchmarks.costs.summary import summarise  # noqa: E402
from benchmarks.measures import header, processor_name  # noqa: E402
from nutridet_core.artifacts.store import write_json  # noqa: E402

WARM_UP = ("training/boxes", "scoring/boxes")
"""One run of each that is not counted: a process computes slowly at first."""


def main(given: argparse.Namespace) -> None:
    """Measure what is not measured yet, then write."""
    given.work.mkdir(parents=True, exist_ok=True)
    kept = given.work / "runs.jsonl"
    found = {curve.name: curve for curve in curves(draw_pool(given.work / "pool"), given.work)}
    left = list(_left(list(found.values()), given, _read(kept)))
    if any("/" in curve.name for curve, _, _ in left):
        for name in WARM_UP:
            measure(found[name], found[name].points[0], given.work)
    for position, (curve, point, number) in enumerate(left, 1):
        began = time.monotonic()
        run = {"curve": curve.name, "point": point, "round": number, "x": point, **measure(curve, point, given.work)}
        with kept.open("a") as file:
            file.write(json.dumps(run) + "\n")
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{position}/{len(left)}: round {number + 1}, {curve.name} at {point}, {took}", flush=True)
    command = f"python -m benchmarks.costs --rounds {given.rounds}"
    note = {"note": given.note} if given.note else {}
    write_json(RESULT, {**header(command, processor_name()), **note, **summarise(_read(kept))})
    PLOT.write_bytes(plot(json.loads(RESULT.read_text())))


def measure(curve: Curve, point: int, work: Path) -> dict[str, float]:
    """One run in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        return curve.measure(point, Path(folder))


def _left(
    found: Sequence[Curve], given: argparse.Namespace, runs: Sequence[dict[str, Any]]
) -> Iterator[tuple[Curve, int, int]]:
    """What is to be measured, round after round, each in its own order."""
    done = {(run["curve"], run["point"], run["round"]) for run in runs}
    for number in range(given.rounds):
        points = [(curve, point) for curve in found for point in curve.points if given.only in curve.name]
        random.Random(number).shuffle(points)
        yield from ((curve, point, number) for curve, point in points if (curve.name, point, number) not in done)


def _read(kept: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.costs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of every point (default %(default)s)")
    parser.add_argument("--only", default="", help="curves whose name holds this")
    parser.add_argument("--note", default="", help="what a reader of the result should know")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "nutridet-costs")
    main(parser.parse_args())
