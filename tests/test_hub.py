"""The hub path against a hub on loopback: pinned commits, broken connections, no network, no space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from nutridet_core.artifacts import disk
from nutridet_core.artifacts.disk import require_space
from nutridet_core.artifacts.hub import Remote, fetch, find_cached, list_files
from nutridet_core.data.sources import open_source
from nutridet_core.data.sources.hub import REPO
from nutridet_core.errors import ArtifactError, DataError, SettingsError
from nutridet_core.families import get_family
from nutridet_core.models import Source, base_source, load_model, load_processor
from nutridet_core.settings import Settings
from tests.family_models import profile_of, write_models
from tests.hub_server import Hub, serving
from tests.photo_files import rows, write_hub

OLD, NEW = "1" * 40, "2" * 40
MODEL = Remote("owner/model", OLD)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client asks, and an empty cache. The client reads its variables when it is imported."""
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        yield server


@pytest.fixture
def repository(tmp_path: Path, hub: Hub) -> Path:
    """Two shards and their index, a configuration, and pickled weights that nobody should fetch."""
    folder = tmp_path / "repository"
    folder.mkdir()
    shards = {f"model-0000{n}-of-00002.safetensors": {f"w{n}": torch.full((5000,), float(n))} for n in (1, 2)}
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    index = {"weight_map": {key: name for name, tensors in shards.items() for key in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    hub.commits[MODEL.repo, OLD] = folder
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wanted(repository: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(repository).items() if not name.endswith(".bin")}


# --- what is fetched ---------------------------------------------------------------------------


def test_a_dry_run_lists_sizes_and_fetches_nothing(hub: Hub, repository: Path) -> None:
    files = list_files(MODEL)
    assert {file.name: file.size for file in files} == {name: len(data) for name, data in wanted(repository).items()}
    assert not any(file.here for file in files)
    assert hub.fetched() == []
    fetch(MODEL)
    assert all(file.here for file in list_files(MODEL))


def test_every_wanted_file_is_fetched_once(hub: Hub, repository: Path) -> None:
    assert find_cached(MODEL) is None
    assert content(fetch(MODEL)) == wanted(repository)
    assert sorted(hub.fetched()) == sorted(wanted(repository))
    before = len(hub.requests)
    assert content(fetch(MODEL)) == wanted(repository)
    assert len(hub.requests) == before, "a whole commit in the cache needs no network"


def test_the_commit_decides_what_comes(hub: Hub, repository: Path, tmp_path: Path) -> None:
    """The repository moves on, and a run of today gets what it got then."""
    newer = tmp_path / "newer"
    newer.mkdir()
    save_file({"w1": torch.zeros(3)}, newer / "model.safetensors")
    hub.commits[MODEL.repo, NEW] = newer
    assert content(fetch(MODEL)) == wanted(repository)
    assert content(fetch(replace(MODEL, revision=NEW))) == content(newer)
    assert content(fetch(MODEL)) == wanted(repository)


def test_a_commit_that_the_hub_does_not_know_is_named(hub: Hub, repository: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"owner/model@{NEW} \[revision\]: could not be listed"):
        fetch(replace(MODEL, revision=NEW))


@pytest.mark.parametrize("revision", ["main", "v1.0", "1234567", OLD.upper() + "A"])
def test_a_branch_or_tag_is_refused(revision: str) -> None:
    with pytest.raises(SettingsError, match=r"is no commit, so two runs could load different weights") as error:
        Source("owner/model", revision).fetch()
    assert "https://huggingface.co/owner/model/commits/main" in str(error.value)


# --- interrupted -------------------------------------------------------------------------------

SECOND = "model-00002-of-00002.safetensors"


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub, repository: Path) -> None:
    hub.cut_after[SECOND] = 9000
    assert content(fetch(MODEL)) == wanted(repository)
    ranges = [asked for method, name, asked in hub.requests if (method, name) == ("GET", SECOND)]
    assert ranges == [None, "bytes=8192-"]


def test_what_was_finished_before_a_failure_is_not_fetched_again(hub: Hub, repository: Path) -> None:
    hub.broken.add(SECOND)
    with pytest.raises(ArtifactError, match=r"could not be downloaded .* what is downloaded already is kept"):
        fetch(MODEL)
    assert find_cached(MODEL) is None
    hub.broken.clear()
    hub.requests.clear()
    assert content(fetch(MODEL)) == wanted(repository)
    assert hub.fetched() == [SECOND]


# --- offline -----------------------------------------------------------------------------------


def test_offline_a_whole_commit_is_used(hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(MODEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert content(fetch(MODEL)) == wanted(repository)
    assert hub.requests == []


def test_offline_a_missing_shard_is_an_error_and_not_half_a_model(
    hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fetch(MODEL) / SECOND).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match=r"is not whole in .* HF_HUB_OFFLINE forbids to fetch it"):
        fetch(MODEL)


@pytest.mark.parametrize("absent", [(SECOND,), ("*.safetensors", "*.index.json")], ids=["a shard", "all weights"])
def test_a_cache_without_a_list_of_its_files_is_looked_into(
    hub: Hub, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...]
) -> None:
    """As an older client of the hub left it; today's takes any folder for whole then."""
    fetch(MODEL)
    other = tmp_path / "older"
    shutil.copytree(tmp_path / "cache", other, symlinks=True, ignore=shutil.ignore_patterns("trees", *absent))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(other))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match=r"is not whole in .*older, and HF_HUB_OFFLINE forbids to fetch it"):
        fetch(MODEL)
    assert fetch(replace(MODEL, patterns=("config.json",))).name == OLD


def test_a_repository_without_all_its_weights_is_refused(hub: Hub, repository: Path) -> None:
    (repository / SECOND).unlink()
    with pytest.raises(ArtifactError, match=rf"owner/model@{OLD}: has no weights in safetensors, or not all that"):
        fetch(MODEL)
    assert fetch(replace(MODEL, patterns=("config.json",))).name == OLD


# --- space -------------------------------------------------------------------------------------


def test_a_download_that_does_not_fit_is_not_begun(hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 30_000)
    with pytest.raises(ArtifactError, match=r"cache: the download of owner/model would take .* are free") as error:
        fetch(MODEL)
    assert "HF_HOME" in str(error.value)
    assert hub.fetched() == []
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 60_000)
    assert content(fetch(MODEL)) == wanted(repository)


def test_only_what_is_missing_needs_space(hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.broken.add(SECOND)
    with pytest.raises(ArtifactError):
        fetch(MODEL)
    hub.broken.clear()
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 30_000)
    assert content(fetch(MODEL)) == wanted(repository)


def test_a_write_that_does_not_fit_names_what_is_needed_and_free(tmp_path: Path) -> None:
    below = tmp_path / "not" / "there" / "yet"
    require_space(below, 1, "next to nothing")
    with pytest.raises(ArtifactError, match=rf"{below}: the model would take 1000000000\.0 GB, and .* free") as error:
        require_space(below, 10**18, "the model")
    assert "set NUTRIDET_HOME to a folder on a larger disk" in str(error.value)


# --- through the pipeline's own loaders --------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("families"))["qwen2.5-vl"]


def test_a_profile_on_the_hub_loads_at_its_commit(hub: Hub, tiny: Path) -> None:
    hub.commits["owner/tiny", OLD] = tiny
    local = profile_of(get_family("qwen2.5-vl"), tiny)
    profile = replace(local, base_model="owner/tiny", revision=OLD)
    models = [
        load_model(base_source(each), each.architecture, "float32", each.contract).state_dict()
        for each in (profile, local)
    ]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    fetched = len(hub.requests)
    processor = load_processor(base_source(profile), profile.architecture, profile.contract)
    assert processor.image_processor.size["longest_edge"] == profile.max_pixels
    assert len(hub.requests) == fetched


def test_the_photos_come_at_their_commit(hub: Hub, tmp_path: Path) -> None:
    write_hub(tmp_path / "photos", rows(6))
    (tmp_path / "photos" / "README.md").write_text("not wanted", encoding="utf-8")
    hub.commits[f"datasets/{REPO}", OLD] = tmp_path / "photos"
    assert [candidate.split for candidate in open_source(f"hub@{OLD}")] == [None] * 4 + ["test"] * 2
    assert all(name.endswith(".parquet") for name in hub.fetched())
    with pytest.raises(DataError, match=rf"{REPO}@{NEW} \[revision\]: could not be listed"):
        open_source(f"hub@{NEW}")


def test_a_revision_in_the_settings_replaces_the_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_PROFILE", "qwen2-vl-7b")
    pinned = Settings().active_profile
    assert pinned.revision and len(pinned.revision) == 40
    monkeypatch.setenv("NUTRIDET_REVISION", NEW)
    assert Settings().active_profile == replace(pinned, revision=NEW)
    monkeypatch.setenv("NUTRIDET_REVISION", "main")
    with pytest.raises(SettingsError, match=r"Qwen2-VL-7B-Instruct \[NUTRIDET_REVISION\]: 'main' is no commit"):
        _ = Settings().active_profile
    monkeypatch.setenv("NUTRIDET_PROFILE", "tiny")
    with pytest.raises(SettingsError, match=r"NUTRIDET_REVISION.*'tiny' is a folder"):
        _ = Settings().active_profile
