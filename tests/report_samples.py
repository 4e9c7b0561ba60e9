"""Synthetic samples with scores known by hand, and a reader of the page that is made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from nutridet_core.boxes import Box
from nutridet_core.evaluation.scores import Sample, Scores, score
from nutridet_core.report import Curve, Kind, Row, write_report

PHOTOS = 24
TRUTH = Box(0.2, 0.2, 0.6, 0.6)
ELSEWHERE = Box(0.8, 0.8, 0.9, 0.9)
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def shifted(by: float) -> Box:
    """IoU with `TRUTH` is `(0.4 - by) / (0.4 + by)`: 0.6 for 0.1, 0.333 for 0.2, 0.143 for 0.3."""
    return Box(TRUTH.x0 + by, TRUTH.y0, TRUTH.x1 + by, TRUTH.y1)


def sample(number: int = 0, predicted: Sequence[Box] = (TRUTH,), **changes: Any) -> Sample:
    plain = Sample(f"photo-{number:03}", 320, 240, (TRUTH,), tuple(predicted), 0.9, "text", "native", (), 0.25)
    return replace(plain, **changes)


@cache
def deal(*shifts: float, photos: int = PHOTOS) -> tuple[Sample, ...]:
    """One table a photo; shifts are dealt in turn."""
    return tuple(sample(n, [shifted(shifts[n % len(shifts)])], text=f"{shifts}") for n in range(photos))


@cache
def scored(name: str, split: str, samples: tuple[Sample, ...]) -> Scores:
    return score(name, split, samples)


def row(name: str, samples: tuple[Sample, ...], kind: Kind = "experiment", size: int | None = None) -> Row:
    return Row(name, f"summary of {name}", kind, scored(name, "test", samples), samples, size)


def curve(name: str, *shifts: float, chosen: int) -> Curve:
    return Curve(name, [(10 * k, scored(name, "selection", deal(s))) for k, s in enumerate(shifts, 1)], chosen)


def three_rows() -> list[Row]:
    """Worst first, so that the order on the page is not the order given."""
    return [
        row("median-box", deal(0.3), "prior"),
        row("zero-shot", deal(0.2), "baseline", size=2 * 2**30),
        row("exp1", deal(0.1), size=3 * 2**30),
    ]


BEST = three_rows()[-1].scores.metrics["mean_iou"]
"""Of exp1: 0.6 on every photo."""


def photo(photo_id: str) -> Image.Image:
    return Image.new("RGB", (320, 240), (120, 60, 60))


def write(folder: Path, rows: Sequence[Row] | None = None, **changes: Any) -> Path:
    rows = three_rows() if rows is None else rows
    given = {
        "title": "A title",
        "comparisons": [],
        "curves": [],
        "open_photo": photo,
        "facts": {"git commit": "abc123"},
    }
    return write_report(folder, rows=rows, **{**given, **changes})


@dataclass
class Page(HTMLParser):
    """Tags with their attributes, text, and the text of every table row."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    cells: list[list[str]] = field(default_factory=list)
    inside: bool = False
    """A cell."""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.inside:
            self.cells[-1][-1] = " ".join(f"{self.cells[-1][-1]} {data}".split())

    def row(self, start: str, nth: int = 0) -> list[str]:
        return [cells for cells in self.cells if cells and cells[0].startswith(start)][nth]


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.text = " ".join(page.text.split())
    return page
