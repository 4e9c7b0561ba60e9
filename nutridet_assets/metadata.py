"""Metadata: what the UI shows about an artefact, taken from its manifest and the files beside it.

Belongs here: turning manifests, scores and pictures into Dagster's metadata values. Does not belong
here: measuring or formatting a number, which `Scores` does for every reader alike.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from nutridet_core.artifacts.store import digest, read_manifest
from nutridet_core.evaluation.scores import Scores
from nutridet_core.settings import Settings

SCORES = "scores.json"
_PICTURE_WIDTH = 1000
_JPEG_QUALITY = 70
_SHOWN_METRICS = ("mean_iou", "f1_50", "ap", "parse_failure_rate", "false_detection_rate")


def artifact(folder: Path) -> dict[str, Any]:
    """Where an artefact lies and what its manifest says about its making."""
    manifest = read_manifest(folder, verify=False)
    run = manifest.mlflow_run_id
    known = {
        "path": dg.MetadataValue.path(str(folder)),
        "digest": manifest.digest[:12],
        "made": manifest.created,
        "git commit": manifest.git_commit,
        "MLflow run": mlflow_link(f"/runs/{run}") if run else None,
        "data fingerprint": (manifest.data_fingerprint or "")[:12],
        "contract": (manifest.contract or "")[:12],
    }
    return {name: value for name, value in known.items() if value}


def mlflow_link(page: str) -> dg.UrlMetadataValue:
    """To a page of MLflow. It finds a run by its id alone, whatever stands where the experiment's should."""
    return dg.MetadataValue.url(f"{Settings().mlflow_page}/#{page}")


def version(*folders: Path) -> dg.DataVersion:
    """The manifest's digest; of several artefacts, one digest over theirs.

    All partitions of one run share it: Dagster takes one data version per output, not per partition.
    """
    digests = [read_manifest(folder, verify=False).digest for folder in folders]
    return dg.DataVersion(digests[0] if len(digests) == 1 else digest(digests))


def facts(folder: Path) -> dict[str, Any]:
    """The manifest's facts without its audits, which are checks."""
    return dict(read_manifest(folder, verify=False).facts)


def read_scores(folder: Path) -> Scores:
    """Scores as they lie in their folder. `evaluate.load_scores` would import pyarrow for it."""
    return Scores.from_dict(json.loads((folder / SCORES).read_text(encoding="utf-8")))


def scored(folder: Path) -> dict[str, Any]:
    """Scores with intervals for people, their numbers for plots over time, and the artefact."""
    scores = read_scores(folder)
    return {
        "headline": scores.headline,
        "scores": dg.MetadataValue.md(scores.markdown),
        **numbers(scores.metadata),
        **artifact(folder),
    }


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float | int]:
    """The finite numbers among values: Dagster plots them, and JSON has no NaN."""
    return {
        f"{prefix}{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def picture(path: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """A picture of an artefact inside the metadata, small; nothing when the artefact has none."""
    if not path.is_file():
        return {}
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((_PICTURE_WIDTH, 3 * _PICTURE_WIDTH))
        image.convert("RGB").save(stream, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(stream.getvalue()).decode()
    return {f"{path.stem} picture": dg.MetadataValue.md(f"![{path.stem}](data:image/jpeg;base64,{data})")}


def leaderboard(ranked: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Rows of `leaderboard.json` as a table, every number with its interval and n."""
    records = [_record(place, row) for place, row in enumerate(ranked, start=1)]
    columns = [dg.TableColumn(name, "int" if name == "place" else "string") for name in records[0].data]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def rows(header: Sequence[str], cells: Sequence[Sequence[str]]) -> dg.MarkdownMetadataValue:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *cells]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def plain(value: Any) -> dg.JsonMetadataValue:
    """Evidence as JSON, without NaN and of bounded size."""
    return dg.MetadataValue.json(_json_ready(value))


def _record(place: int, row: Mapping[str, Any]) -> dg.TableRecord:
    metrics = row["scores"]["metrics"]
    shown = {name: _with_interval(metrics[name]) for name in _SHOWN_METRICS if name in metrics}
    return dg.TableRecord(
        {"place": place, "name": row["name"], "kind": row["kind"], **shown, "n": str(row["scores"]["photos"])}
    )


def _with_interval(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[part] for part in ("value", "low", "high"))
    if value is None:
        return ""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
