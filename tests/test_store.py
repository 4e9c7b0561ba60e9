"""Artefacts: an artefact without a valid manifest does not exist."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nutridet_core.artifacts.store import MANIFEST, Manifest, is_complete, read_manifest, reusable, seal, writing
from nutridet_core.errors import ArtifactError


def make(folder: Path, text: str = "weights", **config: object) -> Manifest:
    with writing(folder) as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "model.bin").write_text(text)
        return seal(draft, Manifest(kind="model", name="m", config=dict(config)))


def test_written_and_read_back(tmp_path: Path) -> None:
    sealed = make(tmp_path / "m")
    assert read_manifest(tmp_path / "m", kind="model") == sealed
    assert set(sealed.files) == {"sub/model.bin"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("damage", ["bit", "missing", "torn manifest", "no manifest", "kind"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    make(tmp_path / "m")
    file, manifest = tmp_path / "m" / "sub" / "model.bin", tmp_path / "m" / MANIFEST
    match damage:
        case "bit":
            file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
        case "missing":
            file.unlink()
        case "torn manifest":
            os.truncate(manifest, manifest.stat().st_size // 2)
        case "no manifest":
            manifest.unlink()
    with pytest.raises(ArtifactError) as error:
        read_manifest(tmp_path / "m", kind="adapter" if damage == "kind" else "model")
    assert str(tmp_path) in str(error.value)
    assert is_complete(tmp_path / "m") == (damage == "kind")


def test_no_flipped_bit_of_a_manifest_passes_for_another_value(tmp_path: Path) -> None:
    sealed = make(tmp_path / "m", seed=1, rate=1e-4, experiment="exp1a", limits=(0.5, None))
    path, accepted = tmp_path / "m" / MANIFEST, 0
    whole = path.read_bytes()
    for position, bit in product(range(len(whole)), range(8)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        with suppress(ArtifactError):
            assert read_manifest(tmp_path / "m").model_dump_json() == sealed.model_dump_json()
            accepted += 1
    assert accepted <= whole.count(b"e"), "1e-4 and 1E-4 are the same number"


def test_a_manifest_from_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    sealed = make(tmp_path / "m")
    (tmp_path / "m" / MANIFEST).write_text(sealed.model_dump_json(exclude={"checksum"}))
    assert read_manifest(tmp_path / "m").digest == sealed.digest


def test_a_failed_write_leaves_the_old_artefact(tmp_path: Path) -> None:
    old = make(tmp_path / "m", "old")
    with pytest.raises(RuntimeError), writing(tmp_path / "m") as draft:
        (draft / "half").write_text("new")
        raise RuntimeError("disk full")
    assert read_manifest(tmp_path / "m") == old
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_unsealed_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="without a manifest"), writing(tmp_path / "m") as draft:
        (draft / "file").write_text("x")
    assert not (tmp_path / "m").exists()


def test_reuse_needs_the_same_configuration(tmp_path: Path) -> None:
    sealed = make(tmp_path / "m", seed=1)
    assert reusable(tmp_path / "m", "model", {"seed": 1}) == sealed
    assert reusable(tmp_path / "m", "model", {"seed": 2}) is None


def test_a_number_that_is_not_defined_reads_back(tmp_path: Path) -> None:
    """As null, it would make every artefact whose configuration holds one look changed."""
    config = {"low": float("nan"), "high": float("inf")}
    seal(tmp_path, Manifest(kind="scores", name="x", config=config))
    assert reusable(tmp_path, "scores", config) is not None
    assert math.isnan(read_manifest(tmp_path).config["low"])


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_every_file_has_the_mode_that_the_umask_asks_for(tmp_path: Path, umask: int) -> None:
    """Else nobody but the trainer can serve a model: safetensors makes its files private."""
    before = os.umask(umask)
    try:
        with writing(tmp_path / "m") as draft:
            (draft / "sub").mkdir()
            for name in ("model.safetensors", "sub/model.safetensors"):
                save_file({"weight": torch.zeros(2)}, draft / name)
            (draft / "config.json").write_text("{}")
            seal(draft, Manifest(kind="model", name="m"))
        assert os.umask(umask) == umask, "the process keeps its umask"
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "m").rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o666 & ~umask for path in files}
