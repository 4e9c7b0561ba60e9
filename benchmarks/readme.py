"""Fills the tables of README, embedded model's card, docs/performance.md, docs/promises.md, docs/large-collections.md,
docs/cost-growth.md, decisions 21 and 23 from result files.

    python -m benchmarks.readme [--check]

With `--check` nothing is written; the exit code is 1 when the README says something else than the files.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import performance
from benchmarks.cost import render_batch, render_cost
from benchmarks.costs.page import render_costs
from benchmarks.coverage import render_coverage, render_products
from benchmarks.performance import percent, read
from benchmarks.serving.page import render_gateway, render_serving
from benchmarks.torture.page import render_torture

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
PROMISES = ROOT / "docs" / "promises.md"
GPUS = ROOT / "docs" / "several-gpus.md"
SERVING = ROOT / "docs" / "serving.md"
COLLECTIONS = ROOT / "docs" / "large-collections.md"
COSTS = ROOT / "docs" / "cost-growth.md"
INTERVALS = ROOT / "docs" / "decisions" / "0021-intervals.md"
PRODUCTS = ROOT / "docs" / "decisions" / "0023-intervals-over-products.md"
CARD = ROOT / "nutridet_core" / "tiny" / "README.md"
COLUMNS = {"demo": "drawn photos", "demo_real_photos": "real photos, never trained or tuned on"}
"""Result files shown, and what their test split holds."""
NAMES = {"prior-full": "the full photo", "prior-median": "median box of train", "peer": "OCR and nutrient words",
         "baseline": "embedded model, zero-shot"}  # fmt: skip


def main(check: bool) -> int:
    """Fill in, or compare; 1 when `check` finds a difference."""
    blocks = [
        (README, "results", render),
        (CARD, "scores", render_card),
        (PERFORMANCE, "training", performance.render_training),
        (PERFORMANCE, "memory", performance.render_memory),
        (PERFORMANCE, "evaluation", performance.render_evaluation),
        (PERFORMANCE, "smoke", performance.render_smoke),
        (GPUS, "two_gpus", performance.render_two_gpus),
        (SERVING, "vllm", render_serving),
        (SERVING, "gateway", render_gateway),
        (PERFORMANCE, "demo", performance.render_demo),
        (PROMISES, "torture", render_torture),
        (COLLECTIONS, "batch", render_batch),
        (COLLECTIONS, "cost", render_cost),
        (COSTS, "costs", render_costs),
        (INTERVALS, "coverage", render_coverage),
        (PRODUCTS, "products", render_products),
    ]
    differences = 0
    for path, name, rendered in blocks:
        text = path.read_text(encoding="utf-8")
        block = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
        new = rendered()
        filled = block.sub(lambda _, new=new: new, text)  # type: ignore[misc]
        differences += filled != text
        if not check:
            path.write_text(filled, encoding="utf-8")
    return int(check and differences > 0)


def render() -> str:
    """The table of subjects by test split, in markdown."""
    results = {name: read(name) for name in COLUMNS if (performance.RESULTS / f"{name}.json").is_file()}
    heads = [f"{COLUMNS[name]}, n = {result['n']}" for name, result in results.items()]
    subjects = [key for key, value in results["demo"]["metrics"].items() if "mean_iou" in _dict(value)]
    rows = [_row(subject, list(results.values())) for subject in subjects]
    minutes = results["demo"]["metrics"]["seconds"] / 60
    return "\n".join(
        [
            f"| profile `tiny` | mean IoU, {' | mean IoU, '.join(heads)} |",
            f"|---|{'---|' * len(heads)}",
            *rows,
            "",
            "With 95 % intervals; F1 at 0.5 behind the slash. "
            f"Measured: all of this, on 2 cores; the demo took {minutes:.1f} minutes after installation"
            f"{results['demo'].get('note', '.')}",
            _shipped(),
            performance.render_headline(),
            "Not measured: Qwen2-VL-7B on real data, for want of the model hub.",
            "",
        ]
    )


def render_card() -> str:
    """The table of the embedded model's card."""
    lines = ["| | n | mean IoU / F1 at 0.5 | a box on photos without a table |", "|---|---|---|---|"]
    for kind in ("generated", "real"):
        result = read(f"{kind}_photos")
        for name, text in (("base", "zero-shot"), ("tuned", "tuned"), ("prior-full", "the full photo")):
            metrics = result["metrics"][name]
            boxed = f"{percent(metrics['false_detection_rate'])} of {result['negatives']}"
            kind_text = "drawn" if kind == "generated" else kind
            lines.append(f"| {kind_text} photos, {text} | {result['n']} | {_text(metrics)} | {boxed} |")
    return "\n".join([*lines, ""])


def _shipped() -> str:
    """The shipped adapter on photos that nothing here was trained or tuned on."""
    drawn, real = (read(name) for name in ("generated_photos", "real_photos"))
    parts = []
    for kind, result in (("drawn", drawn), ("real", real)):
        tuned, without = result["metrics"]["tuned"], result["negatives"]
        boxed = f"a box on {percent(tuned['false_detection_rate'])} of {without} without a table"
        parts.append(f"{_text(tuned)} on {result['n']} {kind} photos ({boxed})")
    return f"The adapter that ships has {' and '.join(parts)}; [what was drawn](docs/drawn-photos.md)."


def _row(subject: str, results: list[dict[str, Any]]) -> str:
    cells = [_text(result["metrics"][subject]) for result in results]
    return f"| {NAMES.get(subject, subject)} | {' | '.join(cells)} |"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(metrics: dict[str, Any]) -> str:
    iou, f1 = metrics["mean_iou"], metrics["f1_50"]
    return f"{iou['value']:.3f} [{iou['low']:.3f}, {iou['high']:.3f}] / {f1['value']:.2f}"


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
