"""The model card: a Hugging Face README made from scores, manifests and the contract, and from nothing else.

Belongs here: the front matter and the text around measured values. Does not belong here: the
values themselves, and uploading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nutridet_core.artifacts.store import Manifest, write_text
from nutridet_core.boxes import Box
from nutridet_core.evaluation.compare import Comparison
from nutridet_core.families import get_family
from nutridet_core.prompts import Contract, prompt_messages
from nutridet_core.report import wording
from nutridet_core.report.outcomes import MEANING, Outcome, count_outcomes
from nutridet_core.report.rows import HEADLINE, Row, rank
from nutridet_core.report.verdict import headline, reference_of, verdict

TASK = "image-text-to-text"
_EXAMPLE = Box(0.25, 0.5, 0.75, 0.875)


@dataclass(frozen=True)
class Card:
    """What a card says. Every value on it comes from here.

    Raises:
        ValueError: when no row is called `subject`.
        ContractError: when the weights were made under another contract than the one the card would teach.
    """

    name: str
    """Of the model, as it will be published."""
    summary: str
    intended_use: str
    licence: str
    """An identifier that the hub knows, e.g. "apache-2.0"."""
    library_name: str
    base_model: str
    base_revision: str | None
    """Commit of the hub id; None for a folder, of which only the name is shown."""
    dataset: str
    dataset_revision: str | None
    """Commit of the hub dataset; None for any other source."""
    contract: Contract
    max_new_tokens: int
    manifest: Manifest
    """Of the weights."""
    rows: Sequence[Row]
    """The model's own row, its baseline, peers and priors; all on one split."""
    subject: str
    """Name of the model's own row."""
    training: Mapping[str, Any]
    comparisons: Sequence[Comparison] = ()
    limits: Sequence[str] = ()
    """Beside those that follow from the scores."""
    tags: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        if self.subject not in [row.name for row in self.rows]:
            raise ValueError(f"no row is called {self.subject!r}: {[row.name for row in self.rows]}")
        self.contract.require(self.manifest, self.name)

    @property
    def row(self) -> Row:
        """The model's own row."""
        return next(row for row in self.rows if row.name == self.subject)


def write_model_card(path: Path, card: Card) -> Path:
    """Write the card (YAML front matter and markdown), usually as `README.md` beside the weights."""
    reference = reference_of([row for row in rank(card.rows) if not row.fine_tuned])
    text = _environment().get_template("model_card.md.j2").render(
        card=card,
        rows=rank(card.rows),
        headline=headline(card.row, reference, card.comparisons),
        front_matter=Markup(yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=1000)),
        base=card.base_model if card.base_revision else Path(card.base_model).name,
        usage=_usage(card),
        example=_example_answer(card.contract),
        pixels=get_family(card.contract.family).coordinates == "resized_pixels",
        failures=_failures(card.row),
    )  # fmt: skip
    write_text(path, text)
    return path


def front_matter(card: Card) -> dict[str, Any]:
    """What the hub reads: links only to what is on the hub, and no metric that is undefined."""
    links = {
        "base_model": card.base_model if card.base_revision else None,
        "datasets": [card.dataset] if card.dataset_revision else None,
    }
    return {
        "license": card.licence,
        "library_name": card.library_name,
        "pipeline_tag": TASK,
        **{key: value for key, value in links.items() if value},
        "tags": list(card.tags),
        "model-index": [{"name": card.name, "results": [_result(card)]}],
    }


def _result(card: Card) -> dict[str, Any]:
    scores = card.row.scores
    revision = {"revision": card.dataset_revision} if card.dataset_revision else {}
    return {
        "task": {"type": TASK},
        "dataset": {"name": card.dataset, "type": card.dataset, "split": scores.split, **revision},
        "metrics": [_metric(card.row, name) for name in HEADLINE if math.isfinite(scores.metrics[name].value)],
    }


def _metric(row: Row, name: str) -> dict[str, Any]:
    """The hub has no field for an interval: it stands in the name, for people, and in `args`, for programs."""
    estimate, photos = row.scores.metrics[name], _photos(row, name)
    interval = {"low": estimate.low, "high": estimate.high}
    args = {key: round(value, 4) for key, value in interval.items() if math.isfinite(value)} | {"n": photos}
    text = f"{wording.label(name)}, 95 % interval {wording.interval_text(name, estimate)}, n = {photos}"
    return {"type": name, "name": text, "value": round(estimate.value, 4), "args": args}


def _photos(row: Row, metric: str) -> int:
    return row.scores.negatives if metric == "false_detection_rate" else row.scores.photos


def _failures(row: Row) -> dict[str, int]:
    """What went wrong, in words, most frequent first; outcomes that never happened are left out."""
    counts = count_outcomes(row.samples)
    wrong = {MEANING[name]: number for name, number in counts.items() if number and name is not Outcome.RIGHT}
    return dict(sorted(wrong.items(), key=lambda item: -item[1]))


def _usage(card: Card) -> str:
    """Python that asks the question the model was trained on, at the size it was trained on."""
    family = get_family(card.contract.family)
    return _environment().get_template("usage.py.j2").render(
        card=card, family=family, messages=prompt_messages(card.contract)
    )  # fmt: skip


def _example_answer(contract: Contract) -> str:
    side = math.isqrt(contract.max_pixels)
    return contract.write([_EXAMPLE], (side, side))


def _environment() -> Environment:
    """Markdown may hold HTML, so values are escaped as in HTML; Python source has quoting of its own."""
    environment = Environment(
        loader=PackageLoader("nutridet_core"),
        autoescape=lambda name: not str(name).endswith(".py.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "fenced": _fenced, "source": _source, "verdict": verdict}
    environment.globals |= {"words": wording, "HEADLINE": HEADLINE}
    return environment


def _cell(value: object) -> Markup:
    """One line of a table cell, escaped."""
    return Markup(str(escape(" ".join(str(value).split()))).replace("|", "\\|"))


def _source(value: object) -> str:
    """Text, lists and dicts as Python source, in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _fenced(text: str, language: str = "") -> Markup:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")
