"""What all runs say together: a line through each curve, ratios of cores, growth of memory.

Belongs here: numbers from runs. Does not belong here: words and drawings (`page`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.costs.fit import fit_line, mean_interval

Runs = Sequence[dict[str, Any]]
MEASURES = {"cpu": "cpu_s", "wall": "wall_s"}
MEMORY = {"own": "own_mib", "resident": "resident_mib"}


def summarise(runs: Runs) -> dict[str, Any]:
    """Of a result file: `n`, `metrics`, and the runs themselves."""
    names = list(dict.fromkeys(sorted(run["curve"] for run in runs)))
    found = {name: [run for run in runs if run["curve"] == name] for name in names}
    return {
        "n": len(runs),
        "rounds": 1 + max(run["round"] for run in runs),
        "metrics": {
            "seconds": {name: lines(found[name], MEASURES) for name in names if "/" in name},
            "cores": {name.removeprefix("cores of "): ratios(found[name]) for name in names if "cores" in name},
            "memory": {name.removeprefix("memory of "): growth(found[name]) for name in names if "memory" in name},
        },
        "runs": list(runs),
    }


def lines(runs: Runs, measures: dict[str, str]) -> dict[str, Any]:
    """A line for each way to measure."""
    xs = [run["x"] for run in runs]
    return {name: fit_line(xs, [run[key] for run in runs]).to_dict() for name, key in measures.items()}


def ratios(runs: Runs) -> dict[str, Any]:
    """Of the runs on most cores to those on one, round by round, and photos a second of each."""
    rates = {cores: _by_round(runs, cores, "photos_per_s") for cores in sorted({run["point"] for run in runs})}
    work = {cores: _by_round(runs, cores, "cpu_s_per_photo") for cores in rates}
    one, most = min(rates), max(rates)
    rounds = rates[one].keys() & rates[most].keys()
    return {
        "photos_per_s": {str(cores): mean_interval(list(rate.values())) for cores, rate in rates.items()},
        "ratio": mean_interval([rates[most][number] / rates[one][number] for number in sorted(rounds)]),
        "cpu_ratio": mean_interval([work[most][number] / work[one][number] for number in sorted(rounds)]),
    }


def growth(runs: Runs) -> dict[str, Any]:
    """MiB at each number of photos."""
    points = sorted({run["point"] for run in runs})
    at = {
        name: {str(point): mean_interval([run[key] for run in runs if run["point"] == point]) for point in points}
        for name, key in MEMORY.items()
    }
    return {"mib": at}


def _by_round(runs: Runs, point: int, key: str) -> dict[int, float]:
    return {run["round"]: run[key] for run in runs if run["point"] == point}
