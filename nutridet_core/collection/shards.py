"""What is written of a shard: one parquet file with a row per photo, sealed by a manifest.

Belongs here: where shards lie, their rows, and which are there already. Does not belong here: how an answer comes about
(`replica`).

A shard is written in one rename by whoever has finished it. So it is there whole or not at all, and once, however many
have worked on it: one whose node died is begun again, one that two have finished is replaced by its equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.store import Manifest, reusable, seal, writing
from nutridet_core.collection.listing import Part
from nutridet_core.collection.references import WHOLE, Reference
from nutridet_core.serving.schemas import Detection

KIND = "detections"
ROWS = "detections.parquet"
_DIGITS = 5


@dataclass(frozen=True)
class Target:
    """Where the rows of one model lie, and what they are made with."""

    folder: Path
    model: str
    """Digest of the weights; the name of a model whose weights lie elsewhere."""
    contract: str
    max_new_tokens: int

    def shard(self, part: str, number: int) -> Path:
        """Folder of one shard."""
        return self.folder / part / f"{number:0{_DIGITS}}"

    def trial(self, part: str, number: int) -> Path:
        """File of the attempts at one shard."""
        return self.folder / part / f".{number:0{_DIGITS}}.trial"

    def shard_config(self, part: Part, number: int) -> dict[str, Any]:
        """What a shard's rows depend on."""
        return {
            "model": self.model, "contract": self.contract, "max_new_tokens": self.max_new_tokens,
            "part": part.digest, "shard": number,
        }  # fmt: skip

    def kept(self, part: Part, number: int) -> Manifest | None:
        """The manifest of a shard that is whole and was made with the same, if there is one."""
        return reusable(self.shard(part.name, number), KIND, self.shard_config(part, number))

    def write(self, part: Part, number: int, rows: Sequence[dict[str, Any]], facts: Mapping[str, Any]) -> Manifest:
        """Write a shard's rows."""
        import pyarrow.parquet

        manifest = Manifest(
            kind=KIND, name=f"{part.name}/{number:0{_DIGITS}}", contract=self.contract,
            config=self.shard_config(part, number), facts={**facts, "counts": count(rows)},
        )  # fmt: skip
        with writing(self.shard(part.name, number)) as draft:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema()), draft / ROWS)
            return seal(draft, manifest)


def schema() -> Any:
    """Columns of a row: a photo, what was found in it, and by which model."""
    import pyarrow

    box = pyarrow.struct([(name, "float64") for name in ("x0", "y0", "x1", "y1")])
    return pyarrow.schema(
        [
            ("uri", "string"),
            ("row", "int64"),  # of a parquet file; null for a photo that is a file of its own
            ("version", "string"),
            ("width", "int32"),
            ("height", "int32"),
            ("boxes_px", pyarrow.list_(box)),
            ("boxes_unit", pyarrow.list_(box)),
            ("score", "float64"),
            ("text", "string"),
            ("failed", "bool"),  # whether the answer could not be read in full
            ("problems", pyarrow.list_(pyarrow.string())),  # of the answer
            ("problem", "string"),  # why there is no answer; null where there is one
            ("model", "string"),
        ]
    )


def answered(reference: Reference, detection: Detection, model: str) -> dict[str, Any]:
    """The row of a photo that the model has seen."""
    width, height = detection.size
    return {
        **_origin(reference),
        "width": width,
        "height": height,
        "boxes_px": [_corners(box.px) for box in detection.boxes],
        "boxes_unit": [_corners(box.unit) for box in detection.boxes],
        "score": detection.score,
        "text": detection.text,
        "failed": detection.failed,
        "problems": detection.problems,
        "model": model,
    }


def unanswered(reference: Reference, problem: str, model: str) -> dict[str, Any]:
    """The row of a photo that the model has not seen."""
    return {**_origin(reference), "boxes_px": [], "boxes_unit": [], "problems": [], "problem": problem, "model": model}


def count(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Photos by what came of them; `photos` is their sum, `boxes` counts boxes, `problem: ...` tells reasons."""
    found = Counter(photos=len(rows), with_box=0, no_box=0, failed_answer=0, no_answer=0)
    for row in rows:
        found["boxes"] += len(row["boxes_px"])
        if row.get("problem"):
            found["no_answer"] += 1
            found[f"problem: {row['problem']}"] += 1
        elif row["boxes_px"]:
            found["with_box"] += 1
        else:
            found["failed_answer" if row["failed"] else "no_box"] += 1
    return dict(found)


def total(manifests: Iterable[Manifest]) -> Counter[str]:
    """The counts of several shards or parts, added up."""
    counts: Counter[str] = Counter()
    for manifest in manifests:
        counts.update(manifest.facts["counts"])
    return counts


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all shards below a folder, in the order of the listing, one shard in memory."""
    import pyarrow.parquet

    for file in sorted(folder.rglob(ROWS)):
        if not any(part.startswith(".") for part in file.relative_to(folder).parts):  # a draft
            yield from pyarrow.parquet.ParquetFile(file).read().to_pylist()


def _origin(reference: Reference) -> dict[str, Any]:
    row = None if reference.row == WHOLE else reference.row
    return {"uri": reference.uri, "row": row, "version": reference.version}


def _corners(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("x0", "y0", "x1", "y1"), values, strict=True))
