"""Fills the results table of the README from `benchmarks/results`.

    python benchmarks/readme.py [--check]

With `--check` nothing is written; the exit code is 1 when the README says something else than the files.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)
TABLES = {"demo": "generated photos", "real_photos_demo": "real photos, none of them trained or tuned on"}
"""Result files shown, and what their test split holds."""
NAMES = {"prior-full": "the full photo", "prior-median": "median box of train", "peer": "OCR and nutrient words",
         "baseline": "embedded model, zero-shot"}  # fmt: skip


def main(check: bool) -> int:
    """Fill in, or compare; 1 when `check` finds a difference."""
    text = README.read_text(encoding="utf-8")
    filled = BLOCK.sub(lambda _: render(), text)
    if check:
        return int(filled != text)
    README.write_text(filled, encoding="utf-8")
    return 0


def render() -> str:
    """All tables, in markdown."""
    parts = [_table(name, title) for name, title in TABLES.items() if (RESULTS / f"{name}.json").is_file()]
    return "\n".join([*parts, _not_run()])


def _table(name: str, title: str) -> str:
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    rows = {key: value for key, value in result["metrics"].items() if isinstance(value, dict) and "mean_iou" in value}
    ranked = sorted(rows.items(), key=lambda item: -item[1]["mean_iou"]["value"])
    lines = [
        f"| profile `tiny`, n = {result['n']} {title} | mean IoU [95 %] | F1 at 0.5 [95 %] |",
        "|---|---|---|",
        *(f"| {NAMES.get(key, key)} | {_text(row['mean_iou'])} | {_text(row['f1_50'])} |" for key, row in ranked),
    ]
    return "\n".join([*lines, ""])


def _not_run() -> str:
    seconds = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))["metrics"]["seconds"]
    return (
        "Not run here: Qwen2-VL-7B on real data (no hub). "
        f"`make demo` took {seconds / 60:.1f} minutes on 2 cores after installation.\n"
    )


def _text(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
