"""The page: everything a reader needs in one HTML file, and the pieces as files beside it.

Belongs here: laying out and writing. Does not belong here: what is said (`verdict`), shown
(`gallery`) or plotted (`figures`).
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from nutridet_core import plots
from nutridet_core.artifacts.store import write_json, write_text
from nutridet_core.evaluation.compare import Comparison
from nutridet_core.evaluation.scores import Sample
from nutridet_core.report import figures, wording
from nutridet_core.report.gallery import Group, gallery_sheet, make_gallery
from nutridet_core.report.outcomes import MEANING, Outcome, count_outcomes, outcome
from nutridet_core.report.rows import HEADLINE, Curve, Row, json_ready, leaderboard_csv, rank
from nutridet_core.report.verdict import Finding, find, verdict

REPORT = "report.html"
_QUOTED_ANSWERS = 6
_QUOTED_CHARACTERS = 300
_JPEG_QUALITY = 82


def write_report(
    folder: Path,
    *,
    title: str,
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    curves: Sequence[Curve],
    open_photo: Callable[[str], Image.Image],
    facts: Mapping[str, Any],
) -> Path:
    """Write `report.html` and, beside it, leaderboard.csv, .json and .png, overlays.png and curves.png.

    Args:
        folder: made if missing; `overlays.png` and `curves.png` are left out when there is nothing to draw.
        rows: in any order.
        comparisons: shown as given; the headline uses those it needs and compares other pairs itself.
        open_photo: gives the EXIF-transposed photo of a sample's id; called for the photos shown only.
        facts: how it was made; nested mappings and lists become nested lists on the page.

    Returns:
        The path of the page.

    Raises:
        ValueError: without rows, or when two share a name.
    """
    if not rows or len({row.name for row in rows}) < len(rows):
        raise ValueError(f"a report needs rows with different names, not {[row.name for row in rows]}")
    ranked = rank(rows)
    finding = find(ranked, comparisons, curves)
    gallery = make_gallery(finding.winner.samples, open_photo)
    content = {"title": title, "rows": ranked, "comparisons": comparisons, "facts": facts, "finding": finding}
    write_text(folder / REPORT, _render(content, gallery, curves))
    write_text(folder / "leaderboard.csv", leaderboard_csv(ranked))
    write_json(folder / "leaderboard.json", _as_json(ranked, comparisons, finding))
    _write_pictures(folder, ranked, curves, gallery, finding)
    return folder / REPORT


def _render(content: dict[str, Any], gallery: Sequence[Group], curves: Sequence[Curve]) -> str:
    rows, winner = content["rows"], content["finding"].winner
    return _environment().get_template("report.html.j2").render(
        **content,
        gallery=gallery,
        outcomes={row.name: count_outcomes(row.samples) for row in rows},
        quotes=_quotes(winner.samples),
        forest=figures.forest(rows, winner.name),
        differences=figures.differences(content["comparisons"]),
        histograms=figures.histograms(rows, winner.name),
        footprints=figures.footprints(rows),
        checkpoints=list(zip(curves, figures.checkpoints(curves), strict=True)),
    )  # fmt: skip


def _environment() -> Environment:
    """Everything is escaped: a model's answer is text that a stranger's photo can shape."""
    environment = Environment(
        loader=PackageLoader("nutridet_core"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"jpeg": _jpeg_uri, "verdict": verdict, "unbroken": _unbroken}
    environment.globals |= {"words": wording, "HEADLINE": HEADLINE, "MEANING": MEANING}
    return environment


def _write_pictures(
    folder: Path, rows: Sequence[Row], curves: Sequence[Curve], gallery: Sequence[Group], finding: Finding
) -> None:
    leaderboard = figures.draw_forest(rows, finding.winner.name, plots.PAPER, "png")
    (folder / "leaderboard.png").write_bytes(leaderboard)
    if gallery:
        gallery_sheet(gallery).save(folder / "overlays.png")
    if curves:
        (folder / "curves.png").write_bytes(figures.draw_curves(curves, None, plots.PAPER, "png"))


def _as_json(rows: Sequence[Row], comparisons: Sequence[Comparison], finding: Finding) -> Any:
    return json_ready(
        {
            "headline": finding.headline,
            "reservations": finding.reservations,
            "winner": finding.winner.name,
            "rows": [_row_as_json(row) for row in rows],
            "comparisons": [{**asdict(item), "verdict": verdict(item)} for item in comparisons],
        }
    )


def _row_as_json(row: Row) -> dict[str, Any]:
    outcomes = {name.value: number for name, number in count_outcomes(row.samples).items()}
    described = {"name": row.name, "kind": row.kind, "summary": row.summary, "size_bytes": row.size_bytes}
    return {**described, "outcomes": outcomes, "scores": row.scores.to_dict()}


def _quotes(samples: Sequence[Sample]) -> list[tuple[Sample, str]]:
    """The first unreadable answers, cut to a length that cannot flood the page."""
    unreadable = [sample for sample in samples if outcome(sample) in (Outcome.NO_ANSWER, Outcome.BAD_SYNTAX)]
    return [(sample, sample.text[:_QUOTED_CHARACTERS]) for sample in unreadable[:_QUOTED_ANSWERS]]


def _unbroken(sentence: str) -> str:
    """Keep each interval on one line."""
    return re.sub(r"\[[^\]]*\]", lambda interval: interval[0].replace(" ", "\u00a0"), sentence)


def _jpeg_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
