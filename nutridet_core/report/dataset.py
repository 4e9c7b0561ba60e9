"""The dataset, looked at: counts, distributions, a sample sheet, and what trivial answers would score.

Belongs here: the report of a prepared dataset. Does not belong here: preparing it (`data.dataset`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nutridet_core.artifacts.store import Manifest, read_manifest, reusable, seal, write_json, writing
from nutridet_core.data.dataset import SET_ASIDE, load_records, open_photos
from nutridet_core.data.examples import SPLITS, Record, Split
from nutridet_core.evaluation.priors import trivial_priors
from nutridet_core.overlay import contact_sheet, mark_boxes

REPORT, SHEET, DISTRIBUTIONS = "report.json", "samples.png", "distributions.png"
_TILES, _COLUMNS, _TILE_PX = 18, 6, 260
_SPLIT_COLOURS = {"train": "#4c72b0", "selection": "#dd8452", "test": "#55a868"}


def report_dataset(dataset: Path, folder: Path, *, log: Callable[[str], None] = print) -> Manifest:
    """Write `report.json`, `samples.png` and `distributions.png`, or keep those of the same dataset."""
    prepared = read_manifest(dataset, kind="dataset", verify=False)
    config = {"dataset": prepared.digest}  # not its fingerprint: what was set aside and barcodes are not in it
    if kept := reusable(folder, "dataset_report", config):
        return kept
    records = {split: load_records(dataset, split) for split in SPLITS}
    facts = describe(dataset, records)
    with writing(folder) as draft:
        write_json(draft / REPORT, facts)
        sample_sheet(dataset).save(draft / SHEET)
        plot_distributions(records).savefig(draft / DISTRIBUTIONS, dpi=110)
        log(f"dataset report: {facts['photos']} photos, {facts['boxes']} boxes, {facts['negatives']} without a table")
        manifest = Manifest(
            kind="dataset_report",
            name=prepared.name,
            data_fingerprint=prepared.data_fingerprint,
            config=config,
            facts=facts,
        )
        return seal(draft, manifest)


def describe(dataset: Path, records: dict[Split, list[Record]]) -> dict[str, Any]:
    """Counts per split and category, flags, what was set aside, and the priors on selection and test."""
    everything = [record for members in records.values() for record in members]
    prepared = json.loads((dataset / SET_ASIDE).read_text(encoding="utf-8"))
    flagged = {record.id: list(record.flags) for record in everything if record.flags}
    priors = {
        split: {prior.name: prior.scores.headline for prior in trivial_priors(dataset, split)}
        for split in SPLITS
        if split != "train"
    }
    return {
        "photos": len(everything),
        "boxes": sum(len(record.boxes) for record in everything),
        "negatives": sum(not record.boxes for record in everything),
        "splits": {split: _count(members) for split, members in records.items()},
        "categories": prepared["categories"],
        "set_aside": prepared["set_aside"],
        "flagged": flagged,
        "priors": priors,
    }


def sample_sheet(dataset: Path) -> Any:
    """A contact sheet of photos spread evenly over train, labels drawn on."""
    records, photos = load_records(dataset, "train"), open_photos(dataset, "train")
    chosen = np.unique(np.linspace(0, len(records) - 1, _TILES).astype(int))
    tiles = [mark_boxes(photos[i](), records[i].boxes, (), max_side=_TILE_PX) for i in chosen]
    return contact_sheet(tiles, _COLUMNS)


def plot_distributions(records: dict[Split, list[Record]]) -> Figure:
    """Histograms per split: box area, box aspect, photo size, photo aspect."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for panel, (title, values) in zip(panels, _distributions(records).items(), strict=True):
        drawn = {split: numbers for split, numbers in values.items() if numbers}  # none: no density
        labels = [f"{split}, n = {len(numbers)}" for split, numbers in drawn.items()]
        colours = [_SPLIT_COLOURS[split] for split in drawn]
        panel.hist(list(drawn.values()), bins=12, density=True, label=labels, color=colours)
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_yticks([])
        panel.legend(fontsize=8, frameon=False)
        panel.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _distributions(records: dict[Split, list[Record]]) -> dict[str, dict[Split, list[float]]]:
    return {
        "box area, share of the photo": _per_split(records, lambda r: [box.area for box in r.boxes]),
        "box aspect, width to height (log 2)": _per_split(records, _box_aspects),
        "photo size, megapixels": _per_split(records, lambda r: [r.width * r.height / 1e6]),
        "photo aspect, width to height (log 2)": _per_split(records, lambda r: [_log2(r.width / r.height)]),
    }


def _per_split(
    records: dict[Split, list[Record]], measure: Callable[[Record], Sequence[float]]
) -> dict[Split, list[float]]:
    return {split: [value for record in members for value in measure(record)] for split, members in records.items()}


def _box_aspects(record: Record) -> list[float]:
    return [_log2((box.x1 - box.x0) * record.width / ((box.y1 - box.y0) * record.height)) for box in record.boxes]


def _log2(value: float) -> float:
    return float(np.log2(value))


def _count(members: Sequence[Record]) -> dict[str, int]:
    boxes = [len(record.boxes) for record in members]
    return {
        "photos": len(members),
        "boxes": sum(boxes),
        "negatives": boxes.count(0),
        "products": len({record.barcode for record in members}),
    }
