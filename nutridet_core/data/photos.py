"""The one photo decoder: untrusted bytes in, an upright RGB image or a `PhotoError` out.

Belongs here: formats, limits, orientation, and `load_photo`, which both ingest and serving use, so that a photo looks
the same to the model in training and in production. Does not belong here: boxes (`validate`), finding photos
(`sources`).
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from nutridet_core.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP")  # MPO, what many phones write, is opened as JPEG
_JPEGS = ("JPEG", "MPO")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 89_000_000  # below Pillow's own warning, above any phone's default mode
MAX_ASPECT = 200  # the Qwen2-VL processor raises beyond it
MAX_SCANS = 50
"""Of a JPEG. Encoders write 1 to about 20. Each costs a pass over all pixels, half a second for 81 megapixels, and can
be 119 bytes long: a file of a megabyte would keep a core busy for an hour."""

_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # stuffing and markers without a segment left out
_SCAN, _END = 0xDA, 0xD9
_ORIENTATION_TAG = 0x0112
_UPRIGHT = 1
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Reason(StrEnum):
    """Why a photo or its boxes cannot be used."""

    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_SCANS = "too_many_scans"
    """A JPEG that is decoded in more passes than any encoder writes."""
    EXTREME_ASPECT = "extreme_aspect"
    SIZE_MISMATCH = "size_mismatch"
    """The index gives another photo size than the file has: its boxes belong to another frame."""
    BOX_MALFORMED = "box_malformed"
    BOX_NOT_FINITE = "box_not_finite"
    BOX_SWAPPED = "box_swapped"
    BOX_ZERO_AREA = "box_zero_area"
    BOX_OUTSIDE = "box_outside"
    DUPLICATE_PIXELS = "duplicate_pixels"
    DUPLICATE_ID = "duplicate_id"
    BARCODE_IN_STRICTER_SPLIT = "barcode_in_stricter_split"
    """The source demands one split for this photo and a stricter one for another photo of its product."""


class PhotoError(DataError):
    """A photo that cannot be used; `reason` says why in one word."""

    def __init__(self, reason: Reason, problem: str, *, where: str, field: str, remedy: str) -> None:
        self.reason = reason
        super().__init__(problem, where=where, field=field, remedy=remedy)


@dataclass(frozen=True)
class OpenedPhoto:
    """A photo whose header has been read and is within limits; none of its pixels is decoded yet.

    Args:
        image: as Pillow opened it.
        data: the file.
        format: JPEG, MPO, PNG or WEBP.
        plain: whether the header alone shows an upright RGB JPEG, which any reader decodes alike. A PNG's does not:
            its EXIF block may follow the pixels.
        where: names the photo in messages.
    """

    image: Image.Image
    data: bytes
    format: str
    plain: bool
    where: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored."""
        return self.image.size

    def decode(self) -> Photo:
        """All pixels, upright. Once only.

        Raises:
            PhotoError: when there are not as many as the header says, or they cannot be read.
        """
        upright = _to_rgb(self.image, self.where)
        orientation = _orientation(self.image)
        untouched = self.format != "WEBP" and _is_plain_rgb(self.image) and orientation == _UPRIGHT
        if orientation in _TRANSPOSE:
            upright = upright.transpose(_TRANSPOSE[orientation])
        upright.info = {}  # an ICC profile or EXIF block must not travel into a re-encoded file
        return Photo(upright, self.data, self.format, untouched)


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Args:
        image: upright RGB, without metadata.
        data: the bytes it was decoded from.
        format: JPEG, MPO, PNG or WEBP.
        untouched: whether `data` already is an upright RGB JPEG or PNG that any reader decodes alike.
    """

    image: Image.Image
    data: bytes
    format: str
    untouched: bool


@dataclass(frozen=True)
class PhotoLimits:
    """What a photo may cost: bytes of the file, pixels in all, longer side over shorter. A server may allow less."""

    bytes: int = MAX_BYTES
    pixels: int = MAX_PIXELS
    aspect: int = MAX_ASPECT


INGEST = PhotoLimits()


def load_photo(data: bytes | Path, *, where: str | None = None) -> Image.Image:
    """An upright RGB image from an untrusted JPEG, PNG or WebP: the loader of ingest and of serving.

    Transparency is composited on white. `where` names the photo in messages.

    Raises:
        PhotoError: a `DataError` when the photo is unreadable, truncated, too large or too elongated.
    """
    return decode_photo(data, where=where).image


def decode_photo(data: bytes | Path, *, where: str | None = None, limits: PhotoLimits = INGEST) -> Photo:
    """As `load_photo`, with what it takes to store the photo again."""
    return open_photo(data, where=where, limits=limits).decode()


def open_photo(data: bytes | Path, *, where: str | None = None, limits: PhotoLimits = INGEST) -> OpenedPhoto:
    """The header alone; raises as `load_photo` where that shows it."""
    where = where or (str(data) if isinstance(data, Path) else f"photo of {len(data)} bytes")
    content = _read(data, where, limits)
    image = _open(content, where)
    kind = str(image.format)
    _check_size(image.size, where, limits)
    _check_scans(content, kind, where)
    plain = kind in _JPEGS and _is_plain_rgb(image) and _orientation(image) == _UPRIGHT
    return OpenedPhoto(image, content, kind, plain, where)


def _read(data: bytes | Path, where: str, limits: PhotoLimits) -> bytes:
    try:
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size > limits.bytes:
            raise PhotoError(
                Reason.TOO_MANY_BYTES, f"has {size} bytes, more than {limits.bytes}",
                where=where, field="bytes", remedy="Save it smaller.",
            )  # fmt: skip
        return data.read_bytes() if isinstance(data, Path) else data
    except FileNotFoundError as error:
        raise PhotoError(
            Reason.UNREADABLE, "is not there", where=where, field="file", remedy="Name a photo that is there."
        ) from error
    except IsADirectoryError as error:
        raise PhotoError(
            Reason.UNREADABLE, "is a folder", where=where, field="file",
            remedy="Name photos; `nutridet predict --input FOLDER` takes all of a folder.",
        ) from error  # fmt: skip
    except (OSError, ValueError) as error:
        raise _unreadable(error, where) from error


def _open(content: bytes, where: str) -> Image.Image:
    """Reads the header only."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(str(error), where) from error
    except UnidentifiedImageError as error:
        raise _unreadable("no JPEG, PNG or WebP", where) from error
    except Exception as error:  # decoders meet hostile bytes with errors of every type
        raise _unreadable(error, where) from error


def _check_size(size: tuple[int, int], where: str, limits: PhotoLimits) -> None:
    width, height = size
    if width * height > limits.pixels:
        raise _too_many_pixels(f"is {width} x {height} px, more than {limits.pixels} in all", where)
    if max(size) > limits.aspect * min(size):
        raise PhotoError(
            Reason.EXTREME_ASPECT, f"is {width} x {height} px, more elongated than {limits.aspect}:1",
            where=where, field="size", remedy="Crop it to the product.",
        )  # fmt: skip


def _check_scans(content: bytes, kind: str, where: str) -> None:
    if kind in _JPEGS and _count_scans(content) > MAX_SCANS:
        raise PhotoError(
            Reason.TOO_MANY_SCANS, f"is a JPEG of more than {MAX_SCANS} scans",
            where=where, field="scans", remedy="Save it again with any photo program.",
        )  # fmt: skip


def _count_scans(content: bytes) -> int:
    """Of a JPEG's first image, those of the thumbnail in its EXIF block not counted; no more than one too many."""
    position = scans = 0
    while scans <= MAX_SCANS and (found := _JPEG_MARKER.search(content, position)) and found[0][1] != _END:
        scans += found[0][1] == _SCAN
        position = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    return scans


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    """All pixels decoded, as RGB."""
    try:
        image.load()
        return _convert(image)
    except OSError as error:  # Pillow's wording for a JPEG or PNG that ends early; a WebP's says only that it failed
        cut = any(word in str(error) for word in ("truncated", "broken data", "unrecognized data"))
        if not cut:
            raise _unreadable(error, where) from error
        raise PhotoError(
            Reason.TRUNCATED, f"is cut off ({error})",
            where=where, field="pixels", remedy="Fetch or export the photo again.",
        ) from error  # fmt: skip
    except Exception as error:  # as in `_open`
        raise _unreadable(error, where) from error


def _orientation(image: Image.Image) -> int | None:
    """How an image is turned: a key of `_TRANSPOSE`, or upright; None when its EXIF block cannot be read.

    Not `ImageOps.exif_transpose`, which also rewrites the whole block and fails on an odd tag in it.
    """
    try:
        stated = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # the block is as hostile as the pixels, and the photo is fine without it
        return None
    return stated if stated in _TRANSPOSE else _UPRIGHT


def _is_plain_rgb(image: Image.Image) -> bool:
    return image.mode == "RGB" and not image.has_transparency_data


def _convert(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        return Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _unreadable(problem: object, where: str) -> PhotoError:
    return PhotoError(
        Reason.UNREADABLE, f"is not readable as a photo ({problem})",
        where=where, field="header", remedy="Save it as JPEG, PNG or WebP.",
    )  # fmt: skip


def _too_many_pixels(problem: str, where: str) -> PhotoError:
    return PhotoError(Reason.TOO_MANY_PIXELS, problem, where=where, field="size", remedy="Scale the photo down.")
