"""The table and the plot of docs/cost-growth.md, from `benchmarks/results/costs.json`.

Belongs here: words and drawings. Does not belong here: anything that imports what measuring needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.costs.fit import TOLERANCE, Line
from benchmarks.performance import interval, made, read
from nutridet_core.plots import PAPER
from nutridet_core.plots.canvas import legend, panels_of, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROOT = Path(__file__).parents[2]
RESULT = _ROOT / "benchmarks" / "results" / "costs.json"
PLOT = _ROOT / "docs" / "images" / "cost-growth.png"
_STEPS = {
    "training/images": (100, "100 more photos"), "training/epochs": (1, "one more epoch"),
    "training/tokens": (100, "100 more image tokens a photo"), "training/boxes": (1, "one more table a photo"),
    "scoring/images": (100, "100 more photos"), "scoring/checkpoints": (1, "one more checkpoint"),
    "scoring/tokens": (100, "100 more image tokens a photo"), "scoring/boxes": (1, "one more table a photo"),
}  # fmt: skip
"""How much more of what a row of the table speaks of; also the order of rows and panels."""
_LABELS = {"images": "photos", "tokens": "image tokens of a photo", "boxes": "tables of a photo"}


def render_costs() -> str:
    """Seconds, cores, memory."""
    result = read("costs")
    metrics = result["metrics"]
    parts = [_seconds(metrics["seconds"]), _cores(metrics["cores"]), _memory(metrics["memory"])]
    parts.append([f"{result.get('note', '')} {made(result)}".strip(), ""])
    return "\n".join(line for part in parts for line in part)


def _seconds(found: dict[str, Any]) -> list[str]:
    head = "| | runs | processor seconds more for it | by the clock | R² | furthest point from the line | linear |"
    return [head, "|---|---|---|---|---|---|---|", *(_row(name, found[name]) for name in _STEPS), ""]


def _row(name: str, found: dict[str, Any]) -> str:
    step, what = _STEPS[name]
    cpu = found["cpu"]
    cells = (
        f"{name.partition('/')[0]}, {what}",
        str(cpu["n"]),
        interval(_slope(cpu, step)),
        interval(_slope(found["wall"], step)),
        f"{cpu['r2']:.3f}",
        f"{100 * cpu['worst']:.0f} %",
        "yes" if cpu["is_linear"] else f"**no**, more than {100 * TOLERANCE:.0f} %",
    )
    return f"| {' | '.join(cells)} |"


def _slope(line: dict[str, Any], step: float) -> dict[str, float]:
    return {"value": step * line["slope"], "low": step * line["low"], "high": step * line["high"]}


def _cores(found: dict[str, Any]) -> list[str]:
    head = "| | photos/s on one core | on two | ratio | processor seconds a photo, two to one |"
    lines = [head, "|---|---|---|---|---|"]
    for name, row in found.items():
        one, two = (row["photos_per_s"][cores] for cores in ("1", "2"))
        ratios = (f"{interval(row['ratio'], 2)} (n = {row['ratio']['n']})", interval(row["cpu_ratio"], 2))
        lines.append(f"| {name} | {' | '.join((interval(one), interval(two), *ratios))} |")
    return [*lines, ""]


def _memory(found: dict[str, Any]) -> list[str]:
    head = "| photos | own memory at its peak, MiB | with pages of files | each 1,000 more than the row above, MiB |"
    lines = [head, "|---|---|---|---|"]
    for name, row in found.items():
        own, before = row["mib"]["own"], None
        for photos, mib in own.items():
            more = 1000 * (mib["value"] - own[before]["value"]) / (int(photos) - int(before)) if before else None
            cells = (
                f"{name}, {int(photos):,}",
                f"{_between(mib)} (n = {mib['n']})",
                _between(row["mib"]["resident"][photos]),
                "" if more is None else f"{more:.3g}",
            )
            lines.append(f"| {' | '.join(cells)} |")
            before = photos
    return [*lines, ""]


def _between(mib: dict[str, float]) -> str:
    """With its interval, where there is more than one run."""
    return interval(mib, 0) if mib["n"] > 1 else f"{mib['value']:.0f}"


def plot(result: dict[str, Any]) -> bytes:
    """Small multiples: each run a dot, the fitted lines through them; cores and memory below."""
    figure, panels = panels_of(PAPER, rows=5, columns=2, height=10.0)
    pairs = [(training, scoring) for training, scoring in zip(list(_STEPS)[:4], list(_STEPS)[4:], strict=True)]
    for axes, name in zip(panels, [name for pair in pairs for name in pair], strict=False):
        _draw_seconds(axes, name, result)
    _draw_cores(panels[-2], result)
    _draw_memory(panels[-1], result)
    for axes in panels:
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color=PAPER.grid, linewidth=0.8)
        axes.xaxis.label.set_size(8)
        axes.title.set_color(PAPER.ink)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return render(figure, PAPER, "png")


def _draw_seconds(axes: Axes, name: str, result: dict[str, Any]) -> None:
    runs = [run for run in result["runs"] if run["curve"] == name]
    verb, _, varied = name.partition("/")
    ways = (("cpu", "cpu_s", PAPER.series[0], "processor seconds"), ("wall", "wall_s", PAPER.series[1], "by the clock"))
    for way, key, colour, label in ways:
        found = result["metrics"]["seconds"][name][way]
        line = Line(**{key: value for key, value in found.items() if key != "is_linear"})
        xs = [run["x"] for run in runs]
        axes.plot(xs, [run[key] for run in runs], "o", color=colour, markersize=3.5, alpha=0.6, label=label)
        ends = [min(xs), max(xs)]
        axes.plot(ends, [line.at(x) for x in ends], color=colour, linewidth=1.2)
    cpu = result["metrics"]["seconds"][name]["cpu"]
    verdict = "line within" if cpu["is_linear"] else "no line: off by"
    axes.set_title(f"{verb}, {verdict} {100 * cpu['worst']:.0f} %", fontsize=9, loc="left")
    axes.set_xlabel(_LABELS.get(varied, varied))
    axes.set_ylim(bottom=0)
    if varied in ("boxes", "epochs", "checkpoints"):
        axes.set_xticks(sorted({run["point"] for run in runs}))


def _draw_cores(axes: Axes, result: dict[str, Any]) -> None:
    for name, colour in zip(result["metrics"]["cores"], PAPER.series[2:], strict=False):
        runs = [run for run in result["runs"] if run["curve"] == f"cores of {name}"]
        alone = {run["round"]: run["photos_per_s"] for run in runs if run["point"] == 1}
        times = [run["photos_per_s"] / alone[run["round"]] for run in runs]
        axes.plot([run["point"] for run in runs], times, "o", color=colour, markersize=3.5, alpha=0.6, label=name)
    axes.plot([1, 2], [1, 2], color=PAPER.muted, linewidth=1, linestyle="--")
    axes.set_title("photos/s to one core's", fontsize=9, loc="left")
    axes.set_xlabel("cores")
    axes.set_xticks([1, 2])
    axes.set_ylim(0, 2.2)
    legend(axes, PAPER)


def _draw_memory(axes: Axes, result: dict[str, Any]) -> None:
    """In the colours of the panel beside it, whose legend stands for both."""
    for name, colour in zip(("drawing", "preparation"), PAPER.series[2:], strict=False):
        runs = sorted((r for r in result["runs"] if r["curve"] == f"memory of {name}"), key=lambda run: run["point"])
        points = [run["point"] for run in runs]
        axes.plot(points, [run["own_mib"] for run in runs], "o", color=colour, markersize=3.5, alpha=0.6)
    axes.set_xscale("log")
    axes.set_title("own memory at its peak, MiB", fontsize=9, loc="left")
    axes.set_xlabel("photos")
    axes.set_ylim(bottom=0)
