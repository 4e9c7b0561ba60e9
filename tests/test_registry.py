"""The registry: one version per release, two aliases, and weights that are compared before anyone uses them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nutridet_core.artifacts.store import is_complete, read_manifest
from nutridet_core.errors import ArtifactError, ContractError
from nutridet_core.evaluation.compare import Comparison, compare
from nutridet_core.evaluation.evaluate import load_samples, save_scores
from nutridet_core.evaluation.intervals import Estimate
from nutridet_core.evaluation.scores import Sample
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.monitoring import reevaluate_champion
from nutridet_core.pipeline.release import current_release, model_registry, read_release, register_release, subject
from nutridet_core.pipeline.rollback import plan_rollback
from nutridet_core.release.registry import CHALLENGER, CHAMPION, Registry, Release, may_replace
from nutridet_core.tracking import Tracker
from tests.release_samples import change, flip_bit, open_home, write_release


@pytest.fixture
def context(release_home: Path, tmp_path: Path) -> Context:
    return open_home(Path(shutil.copytree(release_home, tmp_path / "home")))


def released(context: Context) -> Release:
    return read_release(context, current_release(context))


def test_the_first_release_becomes_challenger_and_champion(context: Context) -> None:
    facts = register_release(context)
    assert (facts["model"], facts["version"], facts["verdict"]) == ("nutridet-tiny", "1", "first champion")
    registry = model_registry(context)
    assert registry.holder(CHALLENGER) == registry.holder(CHAMPION) == ("1", released(context))
    version = context.tracker.client.get_model_version("nutridet-tiny", "1")
    assert version.run_id == read_manifest(context.layout.release_report).mlflow_run_id
    assert "test mean IoU" in version.description
    assert "n = " in version.description


def test_registering_again_makes_no_second_version(context: Context) -> None:
    first = register_release(context)
    second = register_release(context)
    assert second["version"] == first["version"]
    assert second["verdict"] == "is champion already"
    assert len(context.tracker.client.search_model_versions("name = 'nutridet-tiny'")) == 1


def test_the_version_carries_what_was_scored(context: Context) -> None:
    register_release(context)
    version = context.tracker.client.get_model_version("nutridet-tiny", "1")
    logged = context.tracker.client.get_logged_model(version.source.removeprefix("models:/"))
    scores = {metric.key: metric.value for metric in logged.metrics}
    assert {"test.mean_iou", "test.mean_iou_low", "test.mean_iou_high", "test.photos"} <= scores.keys()
    assert is_complete(context.layout.reference_scores(released(context).name))


@pytest.mark.parametrize(
    ("offset", "verdict"), [(0.0, "new champion"), (0.02, "new champion"), (0.2, "stays challenger")]
)
def test_a_challenger_replaces_a_champion_that_is_not_better(context: Context, offset: float, verdict: str) -> None:
    register_release(context)
    champion = released(context)
    write_release(context, "other weights", offset=offset)
    facts = register_release(context)
    assert facts["verdict"].startswith(f"{verdict}: v2 against champion v1: ")
    registry = model_registry(context)
    assert registry.holder(CHALLENGER) == ("2", released(context))
    assert registry.holder(CHAMPION) == (("1", champion) if verdict == "stays challenger" else ("2", released(context)))
    champion.verify()  # the next release did not touch its weights


def test_reference_scores_outlive_later_scores(context: Context) -> None:
    register_release(context)
    release = released(context)
    reference = context.layout.reference_scores(release.name)
    before = load_samples(reference)
    folder = context.layout.scores(subject(release.name, "merged"), "test")
    save_scores(folder, "later", "test", [replace(each, predicted=()) for each in before], read_manifest(folder))
    register_release(context)
    assert load_samples(reference) == before


def test_a_champion_that_was_changed_is_neither_compared_nor_replaced(context: Context) -> None:
    register_release(context)
    champion = released(context)
    write_release(context, "other weights")
    flip_bit(champion.merged / "model.safetensors")
    with pytest.raises(ArtifactError, match="has changed"):
        register_release(context)
    assert model_registry(context).holder(CHAMPION) == ("1", champion)


@pytest.mark.parametrize("weights", ["merged", "fp8"])
def test_a_champion_whose_weights_are_lost_is_replaced_only_knowingly(context: Context, weights: str) -> None:
    register_release(context)
    champion, registry = released(context), model_registry(context)
    write_release(context, "other weights")
    lost: Path = getattr(champion, weights)
    shutil.rmtree(lost)
    for verb in (register_release, reevaluate_champion):
        with pytest.raises(ArtifactError, match="no manifest") as error:
            verb(context)
        assert str(error.value).startswith(f"{lost}: weights of the champion, version 1 of nutridet-tiny: ")
        assert "rollback --to VERSION" in str(error.value.remedy)
    assert registry.holder(CHAMPION) == ("1", champion)
    plan_rollback(context, "2").carry_out("the champion's files are lost")  # what the remedy says
    assert registry.holder(CHAMPION) == ("2", released(context))
    assert register_release(context)["verdict"] == "is champion already"


def test_a_champion_of_another_contract_is_replaced_only_knowingly(context: Context) -> None:
    """What was asked another question, or shown another size, cannot be compared."""
    register_release(context)
    champion = released(context)
    write_release(context, "other weights")
    change(champion.merged, contract="another")
    verdict = register_release(context)["verdict"]
    assert verdict.startswith("stays challenger: the champion was asked in another way")
    assert "rollback --to 2" in verdict
    with pytest.raises(ContractError, match="rollback --to VERSION"):
        reevaluate_champion(context)
    plan_rollback(context, "2").carry_out("another contract")  # what the remedy says
    assert register_release(context)["verdict"] == "is champion already"


def test_other_fp8_weights_are_another_version(context: Context) -> None:
    registry, run = model_registry(context), context.tracker.open_run("planted", "key")
    release = released(context)
    assert registry.register(release, run, {}, "one") == "1"
    assert registry.register(replace(release, fp8_digest="other"), run, {}, "two") == "2"
    assert registry.register(release, run, {}, "three") == "1"
    assert registry.holder(CHALLENGER) == ("1", release)


def test_a_moved_home_can_be_registered_again(context: Context) -> None:
    """The paths of before are of no use to anyone."""
    registry, run = model_registry(context), context.tracker.open_run("planted", "key")
    release = released(context)
    registry.register(release, run, {}, "here")
    moved = replace(release, merged=Path("/elsewhere/merged"), fp8=Path("/elsewhere/fp8"))
    assert registry.register(moved, run, {}, "there") == "2"
    assert registry.holder(CHALLENGER) == ("2", moved)


@pytest.mark.parametrize("weights", ["merged", "fp8"])
def test_weights_are_verified(context: Context, weights: str) -> None:
    release = released(context)
    release.verify()
    with pytest.raises(ArtifactError, match="is not what was registered"):
        replace(release, **{f"{weights}_digest": "0" * 64}).verify()  # type: ignore[arg-type]
    folder: Path = getattr(release, weights)
    flip_bit(folder / "model.safetensors")
    with pytest.raises(ArtifactError, match="has changed"):
        release.verify()
    shutil.rmtree(folder)
    with pytest.raises(ArtifactError, match="no manifest"):
        release.verify()


def test_tags_read_back(context: Context) -> None:
    release = released(context)
    assert Release.from_tags({**release.tags, "mlflow.source": "something else"}) == release


def test_profiles_have_champions_of_their_own(context: Context) -> None:
    register_release(context)
    assert Registry(context.tracker, "nutridet-other", context.settings.home).holder(CHAMPION) is None


def test_a_registry_that_does_not_answer_is_no_registry_without_a_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever registers during an outage becomes the first champion, unchallenged."""
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nobody = Tracker("http://127.0.0.1:9", "nutridet/tiny", tmp_path.as_uri())
    with pytest.raises(MlflowException):
        Registry(nobody, "nutridet-tiny", tmp_path).holder(CHAMPION)


@pytest.mark.parametrize(("value", "allowed"), [(-0.001, False), (0.0, True), (0.2, True)])
def test_who_may_replace(value: float, allowed: bool) -> None:
    difference = Estimate(value, value - 0.1, value + 0.1)
    assert may_replace(Comparison("champion", "challenger", 40, difference, difference, 0.5)) is allowed


def test_nobody_is_replaced_by_what_cannot_be_compared() -> None:
    """On photos without a table there is no IoU."""
    empty = [Sample(f"p{n}", 10, 10, (), (), 0.9, "", "negative", (), 0.1) for n in range(4)]
    assert not may_replace(compare("champion", "challenger", empty, empty))
