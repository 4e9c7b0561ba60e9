"""Examples: what a source yields, what a dataset holds, and what is set aside.

Belongs here: `Candidate`, `Example`, `Record`, `Rejection`. Does not belong here: decoding (`photos`), judging boxes
(`validate`), finding photos (`sources`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from nutridet_core.boxes import Box
from nutridet_core.data.photos import Reason, load_photo

Split = Literal["train", "selection", "test"]
SPLITS: tuple[Split, ...] = ("train", "selection", "test")
BoxFormat = Literal["yxyx_unit", "xyxy_unit", "xyxy_px", "xywh_px"]


@dataclass(frozen=True)
class Candidate:
    """A photo with its boxes as a source has them, nothing checked."""

    id: str
    image: bytes | Path
    boxes: tuple[tuple[float, ...], ...]
    """Four numbers each, in `box_format`, in the frame of the EXIF-transposed photo."""
    box_format: BoxFormat
    barcode: str
    """The product; the id where the source does not know it."""
    split: Split | None
    """The split that the source demands; None leaves it to `split`."""
    where: str
    """File and row, for messages."""
    source: str = ""
    """Kind of the source: generated, hub, coco or imagefolder."""
    size: tuple[int, int] | None = None
    """Width and height that the source claims, px."""
    categories: tuple[str, ...] = ()
    """Name of every annotation, those that are no nutrition table included."""


@dataclass(frozen=True)
class Rejection:
    """A photo that was set aside: where it lies, why, and what exactly was seen."""

    id: str
    where: str
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Example:
    """A validated photo: upright RGB, every box inside it."""

    id: str
    image: bytes
    """Encoded RGB JPEG or PNG that needs no EXIF rotation."""
    width: int
    height: int
    boxes: tuple[Box, ...]
    barcode: str
    pixels_sha256: str
    """Hash of the upright RGB pixels as first decoded, the same for any container of them."""
    source: str
    flags: tuple[str, ...]

    def open(self) -> Image.Image:
        """The photo, RGB, `width` x `height` px."""
        return load_photo(self.image, where=self.id)

    @property
    def record(self) -> Record:
        """Everything but the photo."""
        return Record(
            self.id, self.width, self.height, self.boxes, self.barcode,
            self.pixels_sha256, self.source, self.flags,
        )  # fmt: skip


@dataclass(frozen=True)
class Record:
    """An example without its photo: cheap to hold for a whole dataset."""

    id: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    barcode: str
    pixels_sha256: str
    source: str
    flags: tuple[str, ...]
