"""Artefacts on disk: a folder exists when its manifest does, and the manifest is written last.

Belongs here: manifests, hashes, atomic writes. Does not belong here: what an artefact means
(`pipeline`) or who may use it (`evaluation.audits`).

A writer fills a temporary sibling folder, every file is hashed and flushed, the manifest goes in
last, and one `os.replace` puts the folder in its place. A reader that finds no valid manifest
finds no artefact.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nutridet_core.artifacts.layout import MADE_BY
from nutridet_core.artifacts.locks import claimed, lock_of
from nutridet_core.errors import ArtifactError

MANIFEST = "nutridet.json"
_REMEDY = "Make it (again): materialise its asset, or run the command that writes it."
_STACK = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "compressed-tensors")


class Manifest(BaseModel):
    """What an artefact is made of and how it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")  # a NaN reads back as one

    kind: str
    """What sort of artefact: dataset, adapter, checkpoint, scores, model, report."""
    name: str
    files: dict[str, str] = Field(default_factory=dict)
    """sha256 of every file, by its path relative to the folder."""
    contract: str | None = None
    """Hash of the contract the artefact was made under (`prompts.Contract`)."""
    data_fingerprint: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    """Everything needed to make it again."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """What was measured while making it, audits included."""
    versions: dict[str, str] = Field(default_factory=dict)
    git_commit: str | None = None
    mlflow_run_id: str | None = None
    created: str = ""
    checksum: str | None = None
    """sha256 of all of the above, so that no flipped bit passes for another value; older manifests have none."""

    @property
    def digest(self) -> str:
        """One hash for the content of the artefact: its files, not its time of writing."""
        return digest(self.files)

    @property
    def is_intact(self) -> bool:
        """Whether it says what it said when it was sealed."""
        return self.checksum in (None, self._checksum)

    def write(self, folder: Path) -> Manifest:
        """Itself with its checksum, as it now lies in the folder."""
        complete = self.model_copy(update={"checksum": self._checksum})
        write_text(folder / MANIFEST, complete.model_dump_json(indent=1) + "\n")
        return complete

    @property
    def _checksum(self) -> str:
        """Of what is read back: JSON has no tuples."""
        return digest(json.loads(self.model_dump_json(exclude={"checksum"})))


def digest(value: object) -> str:
    """sha256 of a JSON-serialisable value in canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()


def canonical(value: object) -> bytes:
    """A value as JSON in the one form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash what lies in `folder` and write its manifest, last. Returns the completed manifest."""
    _set_modes(folder)
    complete = manifest.model_copy(
        update={
            "files": _hash_files(folder),
            "versions": stack_versions(),
            "git_commit": git_commit(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    return complete.write(folder)


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A temporary sibling of `folder` that takes its place when the block ends without an error.

    The block must `seal` the folder it is given; an unsealed folder is refused.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    with claimed(temporary, wait=True):  # first: nobody may find the draft without its claim
        temporary.mkdir()
        try:
            yield temporary
            if not (temporary / MANIFEST).is_file():
                raise ArtifactError("was written without a manifest", where=folder)
            _replace_folder(temporary, folder)
        finally:
            _clear(temporary)


def clear_abandoned(folder: Path) -> None:
    """Delete the drafts of `folder` that a killed writer left; a living one has claimed its own."""
    if not os.access(folder.parent, os.W_OK):  # or it is not there
        return
    for draft in {found for path in folder.parent.iterdir() if (found := _draft_of(folder, path))}:
        with suppress(ArtifactError), claimed(draft):
            _clear(draft)


def read_manifest(folder: Path, *, kind: str | None = None, verify: bool = True) -> Manifest:
    """The manifest of an artefact; with `verify`, after hashing every file it names.

    Raises:
        ArtifactError: when the manifest is missing or unreadable, or a file is missing or changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        remedy = f"Make it: `{MADE_BY[kind]}`, or materialise its asset." if kind in MADE_BY else _REMEDY
        raise ArtifactError("no manifest, so there is no artefact here", where=folder, remedy=remedy)
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(
            f"manifest is torn or foreign: {error.errors()[0]['msg']}", where=path, remedy=_REMEDY
        ) from error
    if not manifest.is_intact:
        raise ArtifactError("manifest has changed since it was written", where=path, remedy=_REMEDY)
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"is a {manifest.kind}, not a {kind}", where=path, field="kind")
    if verify:
        try:
            _verify_files(folder, manifest)
        except (OSError, ValueError) as error:  # a disk that fails, or a name that no file can have
            raise ArtifactError(f"cannot be verified ({error})", where=folder, field="files", remedy=_REMEDY) from error
    return manifest


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds an artefact whose every file matches its manifest."""
    try:
        read_manifest(folder)
    except ArtifactError:
        return False
    return True


def reusable(folder: Path, kind: str, config: dict[str, Any]) -> Manifest | None:
    """The manifest of a complete artefact made from exactly this configuration, if there is one.

    Asked by who would write it otherwise, so what a killed writer left beside it is deleted.
    """
    clear_abandoned(folder)
    try:
        manifest = read_manifest(folder, kind=kind)
    except ArtifactError:
        return None
    return manifest if digest(manifest.config) == digest(config) else None


def stack_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers; those not installed are left out."""
    versions = {"python": platform.python_version()}
    for package in _STACK:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Commit of the checkout this package runs from, `-dirty` when it has changes; None outside one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def _set_modes(folder: Path) -> None:
    """What the umask asks for: safetensors writes files that only their owner may read."""
    umask = os.umask(0o077)  # it can only be read by setting it; a file that another thread makes meanwhile is private
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != 0o666 & ~umask:
            path.chmod(0o666 & ~umask)


def _hash_files(folder: Path) -> dict[str, str]:
    """Hashes of all files below; a sealed folder inside is vouched for by its own manifest alone."""
    paths = list(_vouched_for(folder))
    with ThreadPoolExecutor() as pool:  # a 7B model is 17 GB in several files
        hashes = pool.map(_flushed_sha256, paths)
        return {str(path.relative_to(folder)): value for path, value in zip(paths, hashes, strict=True)}


def _vouched_for(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != MANIFEST:
            yield path
        elif (path / MANIFEST).is_file():
            yield path / MANIFEST
        elif path.is_dir():
            yield from _vouched_for(path)


def _flushed_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())  # a manifest must not outlive, in a power cut, the file it vouches for
    return file_sha256(path)


def _verify_files(folder: Path, manifest: Manifest) -> None:
    paths = [_inside(folder, name) for name in manifest.files]
    for path in paths:
        if not path.is_file():
            raise ArtifactError("file is missing", where=path, remedy=_REMEDY)
    with ThreadPoolExecutor() as pool:
        for path, expected, found in zip(paths, manifest.files.values(), pool.map(file_sha256, paths), strict=True):
            if found != expected:
                raise ArtifactError("file has changed since it was written", where=path, remedy=_REMEDY)


def _draft_of(folder: Path, path: Path) -> Path | None:
    """The draft of `folder` that a path is, or is a lock on; None for other paths."""
    found = re.fullmatch(rf"(\.{re.escape(folder.name)}\.[0-9a-f]{{32}}(\.old)?)(\.lock)?", path.name)
    return path.with_name(found[1]) if found else None


def _clear(draft: Path) -> None:
    """Delete a draft that was claimed, if it is there, and its lock."""
    shutil.rmtree(draft, ignore_errors=True)
    lock_of(draft).unlink(missing_ok=True)


def _inside(folder: Path, name: str) -> Path:
    """Nobody's manifest may have this program read, or vouch for, what lies elsewhere."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ArtifactError(
            f"names a file outside its folder: {name[:200]!r}", where=folder / MANIFEST, field="files",
            remedy=_REMEDY,
        )  # fmt: skip
    return folder / name


def _replace_folder(new: Path, folder: Path) -> None:
    """Two renames: a crash between them leaves no folder, which readers see as no artefact.

    Whoever else puts a folder there between them is replaced as well.
    """
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    while True:
        with suppress(FileNotFoundError):
            folder.replace(old)
        try:
            new.replace(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        finally:
            shutil.rmtree(old, ignore_errors=True)
