"""Disk space: asked for before gigabytes are written, and not found missing when they are half there.

Belongs here: the one check. Does not belong here: how much something needs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from nutridet_core.errors import ArtifactError


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be, in bytes."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free


def require_space(folder: Path, needed: int, what: str, *, setting: str = "NUTRIDET_HOME") -> None:
    """Refuse to begin what cannot be finished.

    Args:
        needed: in bytes.
        what: is going to be written.
        setting: environment variable that puts `folder` on another disk.

    Raises:
        ArtifactError: naming the folder, what is needed and what is free.
    """
    free = free_bytes(folder)
    if needed > free:
        raise ArtifactError(
            f"{what} would take {gigabytes(needed)}, and {gigabytes(free)} are free",
            where=folder,
            remedy=f"Free {gigabytes(needed - free)} there, or set {setting} to a folder on a larger disk.",
        )


def gigabytes(size: int) -> str:
    """A number of bytes for people: `16.6 GB` or `70.8 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
