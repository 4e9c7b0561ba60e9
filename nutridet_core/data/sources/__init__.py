"""Sources: where photos come from, named by one string.

Belongs here: reading a source into candidates, one module per source. Does not belong here: judging
what was read (`validate`). A broken index raises; a broken photo or box is left to `validate`.

| string | photos |
|---|---|
| `generated:COUNT`, `generated:COUNT:SEED` | drawn by `data.generated` |
| `hub@REVISION` | Open Food Facts' dataset at that commit of the Hugging Face hub |
| `hub:/path` | the same dataset as parquet: a folder or one file |
| `coco:/path` | a folder with `annotations.json` (see `coco`) |
| `imagefolder:/path` | a folder with `metadata.jsonl` (see `imagefolder`) |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nutridet_core.artifacts.store import digest, file_sha256
from nutridet_core.data.examples import Candidate
from nutridet_core.data.fingerprint import digest_rows
from nutridet_core.data.sources.coco import read_coco
from nutridet_core.data.sources.generated import read_generated
from nutridet_core.data.sources.hub import read_hub, read_parquet
from nutridet_core.data.sources.imagefolder import read_imagefolder
from nutridet_core.data.sources.index import to_folder
from nutridet_core.errors import SettingsError

NAMED_BY_FILE = frozenset({"coco", "imagefolder"})
"""Sources whose photos are called what their files are called: a name says nothing about another folder's photos."""
FORMS = "generated:COUNT[:SEED], hub@REVISION, hub:/path, coco:/path or imagefolder:/path"


def open_source(spec: str) -> Iterator[Candidate]:
    """The candidates of a source, read as they are asked for.

    Raises:
        SettingsError: at once, when the string names no source.
        DataError: at once or later, when the source's index is missing or broken.
    """
    kind, rest = _parse(spec)
    if kind == "hub@":
        return read_hub(rest)
    if kind == "generated":
        return read_generated(rest)
    if kind == "hub":
        return read_parquet(to_folder(rest))
    return read_coco(to_folder(rest)) if kind == "coco" else read_imagefolder(to_folder(rest))


def require_source(spec: str) -> None:
    """Whether a string names a source, and its folder is there; nothing in it is looked at.

    Raises:
        SettingsError: when the string names no source.
        DataError: when its folder does not exist.
    """
    kind, rest = _parse(spec)
    if kind not in ("hub@", "generated"):
        to_folder(rest)


def source_signature(spec: str) -> str | None:
    """What changes when the photos behind a string may have: cheap to compute, no photo is read.

    A folder: names, sizes and times of its files, but those in hidden folders, where a home may lie. Drawn photos: the
    code that draws them. A pinned commit cannot change, so it has none.

    Raises:
        SettingsError: when the string names no source.
        DataError: when its folder does not exist.
    """
    kind, rest = _parse(spec)
    if kind == "hub@":
        return None
    if kind == "generated":
        code = sorted((Path(__file__).parents[1] / "generated").glob("*.py"))
        return digest([[path.name, file_sha256(path)] for path in code])
    path = to_folder(rest)
    folder = path.parent if kind == "coco" and path.is_file() else path  # photos lie beside their JSON
    files = [folder] if folder.is_file() else _files_below(folder)
    return digest_rows([str(file.relative_to(folder)), *_size_and_time(file)] for file in files)


def _files_below(folder: Path) -> Iterator[Path]:
    """In the order of sorted paths, with the names of one folder at a time in memory; no linked folder is entered."""
    for name in sorted(path.name for path in folder.iterdir()):
        path = folder / name
        if path.is_dir() and not path.is_symlink() and not name.startswith("."):
            yield from _files_below(path)
        elif path.is_file():
            yield path


def _size_and_time(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _parse(spec: str) -> tuple[str, str]:
    """Kind and the rest; the pinned hub has the kind `hub@`."""
    if spec == "hub" or spec.startswith("hub@"):
        return "hub@", spec.partition("@")[2]
    kind, _, rest = spec.partition(":")
    if not rest or kind not in ("generated", "hub", "coco", "imagefolder"):
        raise SettingsError(f"{spec!r} names no photo source", field="source", remedy=f"Use {FORMS}.")
    return kind, rest
