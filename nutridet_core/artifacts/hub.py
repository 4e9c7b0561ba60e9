"""A Hugging Face repository at one commit: what lies in it, what of it is here, and all of it in a folder.

Belongs here: listing and downloading through the hub's own client, which takes `HF_ENDPOINT`, `HF_HOME` and
`HF_HUB_OFFLINE` from the environment. Does not belong here: which repository (`profiles`, `data.sources`).

A commit cannot change, so what is whole in the cache is used without asking the network. The client goes on
with a file whose connection broke, and keeps every finished file; it drops the file in hand when the process
ends. Files are therefore fetched one after another: a killed download loses part of one shard, not of five.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nutridet_core.artifacts.disk import require_space
from nutridet_core.errors import ArtifactError, SettingsError

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt")
"""What transformers reads. Pickled weights are never fetched."""


@dataclass(frozen=True)
class Remote:
    """A repository at a commit, and which of its files are wanted."""

    repo: str
    revision: str
    kind: Literal["model", "dataset"] = "model"
    patterns: tuple[str, ...] = MODEL_FILES

    @property
    def name(self) -> str:
        """`owner/name@commit`."""
        return f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository."""

    name: str
    size: int
    """In bytes."""
    here: bool
    """Whether it is in the cache."""


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit hash: a branch or tag can be moved."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def require_commit(revision: str, *, where: str, field: str) -> str:
    """The revision.

    Raises:
        SettingsError: when it is no full commit hash.
    """
    if not is_commit(revision):
        raise SettingsError(
            f"{revision!r} is no commit, so two runs could load different weights", where=where, field=field,
            remedy=f"Use the full 40-digit hash from https://huggingface.co/{where}/commits/main.",
        )  # fmt: skip
    return revision


def cache_folder() -> Path:
    """Where the hub's client keeps what it downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def list_files(remote: Remote) -> list[RemoteFile]:
    """The wanted files, with their sizes; nothing is downloaded.

    Raises:
        ArtifactError: when the hub does not answer, or does not know the commit.
    """
    from huggingface_hub import snapshot_download

    try:
        files = snapshot_download(**_request(remote), dry_run=True)
    except Exception as error:  # the hub client lets through errors of every HTTP layer below it
        raise _failure(remote, "could not be listed", error) from error
    return sorted((RemoteFile(f.filename, f.file_size or 0, f.is_cached) for f in files), key=lambda file: file.name)


def fetch(remote: Remote) -> Path:
    """The folder with all wanted files, downloaded where they are not in the cache.

    Raises:
        ArtifactError: when they are not and cannot be: no answer, no such commit, no network allowed, no space.
    """
    from huggingface_hub import snapshot_download

    if cached := find_cached(remote):
        return cached
    _require_online(remote)
    missing = sum(file.size for file in list_files(remote) if not file.here)
    require_space(cache_folder(), missing, f"the download of {remote.repo}", setting="HF_HOME")
    try:
        folder = Path(snapshot_download(**_request(remote), max_workers=1))
    except Exception as error:
        raise _failure(remote, "could not be downloaded", error) from error
    if not _is_whole(folder, remote):
        raise ArtifactError(
            "has no weights in safetensors, or not all that its index names", where=remote.name,
            remedy="Name another commit; pickled weights are never read.",
        )  # fmt: skip
    return folder


def find_cached(remote: Remote) -> Path | None:
    """The folder in the cache, if every wanted file is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(**_request(remote), local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _is_whole(folder, remote) else None


def _request(remote: Remote) -> dict[str, Any]:
    return {
        "repo_id": remote.repo, "revision": remote.revision, "repo_type": remote.kind,
        "allow_patterns": list(remote.patterns),
    }  # fmt: skip


def _is_whole(folder: Path, remote: Remote) -> bool:
    """Older clients of the hub kept no list of a commit's files, and the client of today then trusts any folder."""
    if "*.safetensors" not in remote.patterns:
        return True
    return any(folder.glob("*.safetensors")) and not _absent_shards(folder)


def _absent_shards(folder: Path) -> list[str]:
    """Shards that an index names and the folder lacks."""
    absent = []
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        absent += sorted(name for name in shards if not (folder / name).is_file())
    return absent


def _require_online(remote: Remote) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ArtifactError(
            f"is not whole in {cache_folder()}, and HF_HUB_OFFLINE forbids to fetch it", where=remote.name,
            remedy="Unset HF_HUB_OFFLINE once, copy the cache of a machine that has it, or name a local folder.",
        )  # fmt: skip


def _failure(remote: Remote, what: str, error: Exception) -> ArtifactError:
    lines = str(error).strip().splitlines() or [""]
    return ArtifactError(
        f"{what} ({type(error).__name__}: {lines[0]})", where=remote.name, field="revision",
        remedy="Check network, access rights (HF_TOKEN) and commit; what is downloaded already is kept.",
    )  # fmt: skip
