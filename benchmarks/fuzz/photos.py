"""Photos that were spoiled: real files of every format and mode, cut, flipped, patched, respliced, or made to explode.

Belongs here: bytes. `use` is the image loader as ingest uses it.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
from PIL import Image, PngImagePlugin

from benchmarks.fuzz import damage
from benchmarks.fuzz.outcome import Outcome
from nutridet_core.data.examples import Candidate, Example
from nutridet_core.data.photos import INGEST, open_photo
from nutridet_core.data.validate import accept

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG = ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")
_JPEG = ("L", "RGB", "CMYK")
_WEBP = ("RGB", "RGBA")
_SIZES = ((40, 30), (33, 7), (64, 64), (1, 1), (3, 200))


def make(random: Random) -> bytes:
    """A whole photo now and then, else a spoiled one, seldom a bomb."""
    draw = random.random()
    if draw < 0.05:
        return random.choice(_originals())
    return random.choice(_BOMBS)(random) if draw < 0.052 else _spoil(random.choice(_originals()), random)


def use(content: bytes) -> Outcome:
    """Header, pixels, and the example that a dataset would hold."""
    opened = open_photo(content, where="fuzz")
    claimed, photo = opened.size, opened.decode()
    assert not opened.plain or photo.untouched
    width, height = photo.image.size
    assert photo.image.mode == "RGB"
    assert sorted((width, height)) == sorted(claimed)
    assert width * height <= INGEST.pixels
    if width * height > 1_000_000:
        return Outcome("value", photo.format)
    found = accept(Candidate("a", content, ((0.1, 0.1, 0.9, 0.9),), "xyxy_unit", "1", None, "fuzz"))
    if not isinstance(found, Example):
        return Outcome("problem", found.reason.value)
    assert found.open().size == (width, height)
    return Outcome("value", photo.format)


@cache
def _originals() -> tuple[bytes, ...]:
    random = Random("originals")
    made = [_encode(_picture(mode, size, random), "PNG") for mode in _PNG for size in _SIZES]
    made += [_encode(_picture(mode, _SIZES[0], random), "JPEG", quality=q, progressive=p, exif=_exif(random))
             for mode in _JPEG for q in (1, 80, 100) for p in (False, True)]  # fmt: skip
    made += [_encode(_picture(mode, _SIZES[0], random), "WEBP", lossless=lossless, exif=_exif(random))
             for mode in _WEBP for lossless in (False, True)]  # fmt: skip
    frames = [_picture("RGBA", _SIZES[0], random) for _ in range(3)]
    made += [_encode(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("PNG", "WEBP", "GIF")]
    views = [frame.convert("RGB") for frame in frames]
    made.append(_encode(views[0], "MPO", save_all=True, append_images=views[1:]))
    made += [_encode(_picture(mode, _SIZES[0], random), kind) for mode in ("RGB", "L") for kind in ("TIFF", "BMP")]
    made.append(_encode(_picture("RGB", _SIZES[0], random), "PNG", pnginfo=_notes(), icc_profile=random.randbytes(99)))
    return tuple(made)


def _picture(mode: str, size: tuple[int, int], random: Random) -> Image.Image:
    noise = np.frombuffer(random.randbytes(size[0] * size[1] * 4), np.uint8).reshape(size[1], size[0], 4)
    if mode == "I;16":
        return Image.fromarray(noise[:, :, :2].copy().view(np.uint16)[:, :, 0])
    return Image.fromarray(noise).convert("RGB").convert(mode) if mode != "RGBA" else Image.fromarray(noise)


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _exif(random: Random) -> bytes:
    """An orientation that may be none, and tags that are larger, longer or of another type than they should be."""
    exif = Image.Exif()
    exif[0x0112] = random.choice((1, 3, 6, 8, 0, 9, 65535))
    exif[0x010F] = "x" * random.choice((0, 1, 3000))
    block = bytearray(exif.tobytes())
    if random.random() < 0.5:
        block[random.randrange(6, len(block))] ^= 1 << random.randrange(8)
    return bytes(block)


def _notes() -> PngImagePlugin.PngInfo:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "x" * 500, zip=True)
    notes.add_itxt("XML:com.adobe.xmp", "<x/>")
    return notes


def _spoil(content: bytes, random: Random) -> bytes:
    """By its structure where it has one, else by its bytes; sometimes twice."""
    known = {
        b"\x89PNG": _spoil_png,
        b"RIFF": _spoil_riff,
        b"\xff\xd8\xff\xe0": _spoil_jpeg,
        b"\xff\xd8\xff\xe1": _spoil_jpeg,
    }
    by_structure = known.get(content[:4], damage.spoil_bytes)
    spoiled = random.choice((by_structure, damage.spoil_bytes))(content, random)
    if random.random() < 0.1:
        other = random.choice(_originals())
        spoiled = spoiled[: random.randrange(len(spoiled) + 1)] + other[random.randrange(len(other)) :]
    return spoiled if random.random() < 0.8 else damage.spoil_bytes(spoiled, random)


def _spoil_png(content: bytes, random: Random) -> bytes:
    """Chunks lost, doubled, moved or changed inside, their checksums right again."""
    chunks, position = [], len(_PNG_MAGIC)
    while position + 8 <= len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + length]))
        position += 12 + length
    return _PNG_MAGIC + b"".join(_png_chunk(*chunk) for chunk in damage.spoil_parts(chunks, random))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _spoil_riff(content: bytes, random: Random) -> bytes:
    chunks, position = [], 12
    while position + 8 <= len(content):
        (length,) = struct.unpack("<I", content[position + 4 : position + 8])
        chunks.append((content[position : position + 4], content[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
                    for kind, data in damage.spoil_parts(chunks, random))  # fmt: skip
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _spoil_jpeg(content: bytes, random: Random) -> bytes:
    """Segments before the first scan; what is coded after it stays in one piece."""
    segments, position = [], 2
    while content[position + 1] != 0xDA:
        length = int.from_bytes(content[position + 2 : position + 4])
        segments.append((content[position : position + 2], content[position + 4 : position + 2 + length]))
        position += 2 + length
    head = b"".join(kind + struct.pack(">H", (len(data) + 2) & 0xFFFF) + data
                    for kind, data in damage.spoil_parts(segments, random))  # fmt: skip
    return content[:2] + head + content[position:]


def _giant_png(random: Random) -> bytes:
    """A header that promises more than memory holds."""
    side = random.choice((2**31 - 1, 60_000, 20_000, 9_440))
    header = struct.pack(">IIBBBBB", side, side, random.choice((1, 8, 16)), random.choice((0, 2, 6)), 0, 0, 0)
    return (
        _PNG_MAGIC
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + _png_chunk(b"IEND", b"")
    )


def _largest_png(random: Random) -> bytes:
    """The most that is accepted, in a file of some kilobytes: all its pixels are decoded."""
    return _encode(Image.new(random.choice(("1", "L", "P")), (9_400, 9_400)), "PNG")


def _text_bomb(random: Random) -> bytes:
    """200 MB of text or colour profile in 200 kB."""
    packed = zlib.compress(bytes(200 * 2**20), 9)
    kind, data = random.choice(((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")))
    whole = _encode(Image.new("RGB", (8, 8)), "PNG")
    return whole[:33] + _png_chunk(kind, data + packed) + whole[33:]


def _webp_canvas(random: Random) -> bytes:
    """An extended WebP whose canvas is as large as the format can say."""
    whole = bytearray(_encode(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP"))
    whole[24:30] = struct.pack("<I", random.choice((2**24 - 1, 60_000, 16_383)))[:3] * 2
    return bytes(whole)


def _jpeg_scans(random: Random) -> bytes:
    """One scan, a thousand times."""
    whole = _encode(Image.new("L", (2_000, 2_000), 128), "JPEG", progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * random.choice((40, 1_000)) + whole[-2:]


def _jpeg_canvas(random: Random) -> bytes:
    """65,535 px a side in a file of a kilobyte."""
    whole = bytearray(_encode(Image.new("RGB", (16, 16)), "JPEG", progressive=random.random() < 0.5))
    start = max(whole.find(b"\xff\xc0"), whole.find(b"\xff\xc2"))
    whole[start + 5 : start + 9] = struct.pack(">HH", *random.choice(((65_535, 65_535), (9_000, 9_000), (0, 16))))
    return bytes(whole)


_BOMBS: tuple[Callable[[Random], bytes], ...] = (
    _giant_png, _largest_png, _text_bomb, _webp_canvas, _jpeg_scans, _jpeg_canvas,
)  # fmt: skip
