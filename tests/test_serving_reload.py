"""The model being served is exchanged without a request being lost."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nutridet_core.artifacts.store import Manifest, read_manifest, seal
from nutridet_core.errors import ArtifactError, ContractError, SettingsError
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import current_release, model_registry, read_release, register_release
from nutridet_core.profiles import TINY_WEIGHTS
from nutridet_core.release.registry import CHALLENGER, CHAMPION, Release
from nutridet_core.serving.detector import Detector
from nutridet_core.serving.engine import EngineError, FakeEngine
from nutridet_core.serving.holder import Holder, Identity, Served, follow
from nutridet_core.serving.weights import Alias, find_alias, find_beside, find_weights
from tests.gateway_server import CLIENT, CONTRACT, HeldEngine, process, running, served, until
from tests.photo_files import encode, picture
from tests.release_samples import change, flip_bit, make_champion, open_home

PNG = encode(picture(1))


@pytest.fixture
def context(release_home: Path, tmp_path: Path) -> Context:
    return open_home(Path(shutil.copytree(release_home, tmp_path / "home")))


def ask(url: str) -> tuple[int, str | None]:
    response = CLIENT.post(f"{url}/v1/detect", files={"image": PNG})
    return response.status_code, response.json()["model"]["version"]


def test_requests_under_way_are_answered_by_the_old_model() -> None:
    old, new = HeldEngine(), FakeEngine()
    holder = Holder(served(old, "m", "1"))
    exchange = threading.Event()
    exchanged = threading.Event()

    async def swap(detector: Detector) -> None:
        await asyncio.to_thread(exchange.wait)
        await holder.exchange(served(new, "m", "2"))
        exchanged.set()

    with running(holder, background=[swap]) as url, ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(ask, url) for _ in range(2)]
        until(lambda: len(old.sizes) == 2)
        exchange.set()
        until(lambda: holder.served.identity.version == "2")
        assert ask(url) == (200, "2")
        assert not old.closed
        old.let_go.set()
        assert [each.result() for each in waiting] == [(200, "1"), (200, "1")]
        until(exchanged.is_set)
        assert old.closed
        assert not new.closed
    assert new.closed


class Finder:
    """Says which model is wanted; the test changes its mind, or makes it fail."""

    def __init__(self) -> None:
        self.identity = Identity("m", "1", "one")
        self.failures = {"find": 0, "load": 0}
        self.fail: str | None = None

    async def find(self) -> Identity:
        self._maybe_fail("find")
        return self.identity

    async def load(self, wanted: Identity) -> Served:
        self._maybe_fail("load")
        return Served(FakeEngine(), CONTRACT, wanted)

    def _maybe_fail(self, what: str) -> None:
        if self.fail == what:
            self.failures[what] += 1
            raise EngineError("planted")


@pytest.mark.parametrize("failing", ["find", "load"])
def test_what_cannot_be_loaded_leaves_the_model_in_use(failing: str) -> None:
    finder = Finder()
    holder = Holder(Served(FakeEngine(), CONTRACT, finder.identity))

    async def watch(detector: Detector) -> None:
        await follow(holder, finder.find, finder.load, every=0.005, report=detector.metrics.exchanged)

    with running(holder, background=[watch]) as url:
        finder.fail = failing
        finder.identity = Identity("m", "2", "two")
        until(lambda: finder.failures[failing] >= 2)
        assert ask(url) == (200, "1")
        assert 'nutridet_model_exchanges_total{succeeded="false"}' in CLIENT.get(f"{url}/metrics").text
        finder.fail = None
        until(lambda: holder.served.identity.version == "2")
        assert ask(url) == (200, "2")


def alias_of(context: Context, name: str = CHAMPION) -> Alias:
    return Alias(model_registry(context), name, "merged")


def test_a_moved_alias_is_followed_under_load(home: Path) -> None:
    """The whole command with the embedded model: a client asks all the while the champion changes."""
    context = open_home(home)
    registry, run = model_registry(context), context.tracker.open_run("planted", "key")
    first, second = (real_release(context, name) for name in ("one", "two"))
    registry.promote(registry.register(first, run, {}, "first"), "planted", over=None)
    other = registry.register(second, run, {}, "second")
    arguments = ["serve", "--port", "0", "--poll-seconds", "0.5", "--beside", "base"]
    command = f"import nutridet_core.cli as cli\ncli.app({arguments})"
    with process(command, NUTRIDET_HOME=str(home)) as (gateway, url), ThreadPoolExecutor(1) as clients:
        seen: list[tuple[int, str | None]] = []
        asked = clients.submit(ask_until, url, seen, lambda: "2" in {version for _, version in seen})
        until(lambda: len(seen) > 2)
        make_champion(registry, other)
        asked.result()
        base = CLIENT.post(f"{url}/v1/detect?model=base", files={"image": PNG}).json()["model"]
        assert (base["name"], base["digest"]) == ("tiny-base", context.profile.base_identity)
        gateway.terminate()
        assert gateway.wait() == 0
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {"1", "2"}


def real_release(context: Context, name: str) -> Release:
    """The embedded base as if it were a release's merged weights."""
    folder = context.layout.merged(name)
    shutil.copytree(TINY_WEIGHTS, folder)
    (folder / "note.txt").write_text(name)  # so that their digests differ
    manifest = seal(folder, Manifest(kind="model", name=f"{name}/merged", contract=context.profile.contract.hash))
    return Release(name, "exp1a", "checkpoint-1", folder, folder, manifest.digest, manifest.digest)


def ask_until(url: str, seen: list[tuple[int, str | None]], done: Callable[[], bool]) -> None:
    while not done():
        seen.append(ask(url))
        threading.Event().wait(0.1)  # leaves the cores to the model that is being loaded


def test_without_a_name_the_champion_is_served(context: Context) -> None:
    assert find_alias(context, None, "merged") is None
    release = read_release(context, current_release(context))
    assert find_weights(context, None).folder == release.merged  # until there is one: what `predict` uses
    assert find_weights(context, None, "fp8").folder == release.fp8
    register_release(context)
    alias = find_alias(context, None, "fp8")
    assert alias is not None
    weights = alias.find()
    assert weights.identity == Identity("nutridet-tiny", "1", release.fp8_digest)
    assert weights.folder == release.fp8
    weights.verify(context.profile.contract)


def test_a_home_without_anything_serves_the_base(home: Path) -> None:
    context = open_home(home)
    assert find_alias(context, None, "merged") is None
    weights = find_weights(context, None)
    assert weights.folder is None
    assert weights.identity == Identity("tiny-base", None, context.profile.base_identity)


@pytest.mark.parametrize("model", [None, str(TINY_WEIGHTS)])
def test_weights_that_are_not_there_are_not_replaced_in_silence(home: Path, model: str | None) -> None:
    with pytest.raises(SettingsError, match=r"weights.*is for a release"):
        find_weights(open_home(home), model, "fp8")


def test_models_to_compare_with(context: Context, tmp_path: Path) -> None:
    release = read_release(context, current_release(context))
    assert find_beside(context, "fp8")[1].folder == release.fp8  # of the current release
    assert find_beside(context, "base")[1].untuned
    register_release(context)
    name, fp8 = find_beside(context, "fp8")
    assert (name, fp8.folder, fp8.identity.version) == ("fp8", release.fp8, "1")  # of the champion
    assert find_beside(context, "merged")[1].identity == Identity("nutridet-tiny", "1", release.merged_digest)
    assert find_beside(context, f"mine={release.merged}")[0] == "mine"
    for text in ("int4", f"={tmp_path}"):
        with pytest.raises(SettingsError, match=f"no model '{text}'"):
            find_beside(context, text)
    with pytest.raises(ArtifactError, match="no such folder"):
        find_beside(context, f"mine={tmp_path / 'none'}")


def test_aliases_are_read_strictly(context: Context) -> None:
    register_release(context)
    named = find_alias(context, f"models:/nutridet-tiny@{CHALLENGER}", "merged")
    assert named is not None
    assert named.find().identity.version == "1"
    for wrong in ("models:/nutridet-qwen2-vl-7b@champion", "models:/nutridet-tiny", "models:/nutridet-tiny/1"):
        with pytest.raises(SettingsError, match="is no alias of the profile 'tiny'"):
            find_alias(context, wrong, "merged")
    nobody = find_alias(context, "models:/nutridet-tiny@nobody", "merged")
    assert nobody is not None
    with pytest.raises(ArtifactError, match="no version carries the alias 'nobody'"):
        nobody.find()


def test_weights_are_held_to_registration_manifest_and_contract(context: Context) -> None:
    register_release(context)
    weights = alias_of(context).find()
    assert weights.folder is not None
    change(weights.folder, contract="another")
    with pytest.raises(ContractError, match="was made under contract another"):
        weights.verify(context.profile.contract)
    change(weights.folder, contract=context.profile.contract.hash)
    (weights.folder / "model.safetensors").write_text("other weights")
    change(weights.folder)
    with pytest.raises(ArtifactError, match="is not what was registered"):
        weights.verify(context.profile.contract)
    flip_bit(weights.folder / "model.safetensors")
    with pytest.raises(ArtifactError, match="has changed"):
        weights.verify(context.profile.contract)


def test_folders(context: Context, tmp_path: Path) -> None:
    merged = read_release(context, current_release(context)).merged
    assert find_weights(context, str(merged)).identity == Identity("merged", None, read_manifest(merged).digest)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    before = find_weights(context, str(foreign)).identity
    (foreign / "config.json").write_text("{ }")
    assert find_weights(context, str(foreign)).identity != before
    with pytest.raises(ArtifactError, match="no such folder"):
        find_weights(context, str(tmp_path / "none"))
