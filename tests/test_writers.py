"""Who writes artefacts at the same time: claims, drafts and their end, on one machine and on two that share a disk.

The two machines are two mounts of one folder: like NFS, FUSE passes locks on files to the server of the disk and keeps
locks on folders to the mount.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nutridet_core.artifacts.locks import claimed, lock_of
from nutridet_core.artifacts.store import Manifest, clear_abandoned, read_manifest, reusable, seal, writing
from nutridet_core.errors import ArtifactError

_WRITER = """
import sys, time
from pathlib import Path
from nutridet_core.artifacts.store import Manifest, seal, writing
with writing(Path(sys.argv[1])) as draft:
    (draft / "weights").write_bytes(b"w" * 2**20)
    print("ready", flush=True)
    if sys.argv[2] == "forever":
        time.sleep(3600)
    seal(draft, Manifest(kind="model", name="m", config={"by": sys.argv[2]}))
"""
_CLAIMER = """
import sys, time
from pathlib import Path
from nutridet_core.artifacts.locks import claimed
with claimed(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(3600)
"""


@pytest.fixture(params=["one machine", "two machines"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """One folder as two processes see it: at the same path, or mounted twice."""
    if request.param == "one machine":
        yield tmp_path, tmp_path
        return
    if shutil.which("bindfs") is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("bindfs is not installed, or may not mount")
    (tmp_path / "server").mkdir()
    with mounted(tmp_path / "server", tmp_path / "a") as here, mounted(tmp_path / "server", tmp_path / "b") as there:
        yield here, there


@contextmanager
def mounted(server: Path, place: Path) -> Iterator[Path]:
    """The server's folder on another machine, without its caches."""
    place.mkdir()
    options = ["--enable-lock-forwarding", "--multithreaded", "-o", "entry_timeout=0,attr_timeout=0"]
    subprocess.run(["bindfs", *options, server, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def process(program: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has got as far as saying that it is ready; killed at the end."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def make(folder: Path, by: str) -> Manifest:
    with writing(folder) as draft:
        (draft / "weights").write_text(by)
        return seal(draft, Manifest(kind="model", name="m", config={"by": by}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("asked", ["written again", "asked for"])
def test_what_a_killed_writer_left_is_cleared_by_the_next(disk: tuple[Path, Path], asked: str) -> None:
    here, there = disk
    make(here / "m", "before")
    with process(_WRITER, there / "m", "forever"):
        draft, lock, _ = names(here)
    assert here / lock == lock_of(here / draft)
    with claimed(here / draft, wait=True):  # FUSE gives back the locks of the dead when it gets round to it
        pass
    if asked == "asked for":
        assert reusable(here / "m", "model", {"by": "before"})
    else:
        make(here / "m", "after")
    assert names(here) == ["m"]


def test_the_draft_of_a_living_writer_stays(disk: tuple[Path, Path]) -> None:
    here, there = disk
    with process(_WRITER, there / "m", "forever"):
        before = names(here)
        clear_abandoned(here / "m")
        make(here / "m", "meanwhile")
        assert names(here) == [*before, "m"]


def test_of_two_writers_one_artefact_is_left_and_it_is_whole(disk: tuple[Path, Path]) -> None:
    here, there = disk
    with process(_WRITER, here / "m", "0") as first, process(_WRITER, there / "m", "1") as second:
        assert [first.wait(), second.wait()] == [0, 0]
    assert read_manifest(here / "m").config["by"] in ("0", "1")
    assert names(here) == ["m"]


def test_a_folder_that_appears_between_the_renames_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two writers that end at the same moment, the later one stays."""
    folder, replace = tmp_path / "m", Path.replace
    make(folder, "before")
    others = iter(["another writer's"])

    def slowly(self: Path, target: Path) -> Path:
        if target == folder and (by := next(others, None)):
            make(folder, by)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", slowly)
    make(folder, "mine")
    assert read_manifest(folder).config["by"] == "mine"
    assert names(tmp_path) == ["m"]


def test_a_path_is_claimed_once_and_given_back_by_a_death(disk: tuple[Path, Path]) -> None:
    here, there = disk
    with process(_CLAIMER, there / "exp1a") as other:
        with pytest.raises(ArtifactError, match="another process is writing here"), claimed(here / "exp1a"):
            pass
        with claimed(here / "exp1b"):
            pass
        other.kill()
        other.wait()
        with claimed(here / "exp1a", wait=True):
            pass


def test_a_lock_that_was_deleted_is_a_lock_on_nothing(tmp_path: Path) -> None:
    """Whoever waited for a draft that its writer has finished must not take the dead file for the lock."""
    path = tmp_path / "m"
    with claimed(path):
        lock_of(path).unlink()
        with claimed(path):
            assert lock_of(path).exists()
