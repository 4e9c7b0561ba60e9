"""Rollback: the alias goes back to files that are whole, what happened is written down, and it stays that way."""

from __future__ import annotations

import getpass
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nutridet_core import cli
from nutridet_core.artifacts.locks import claimed
from nutridet_core.errors import ArtifactError
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import current_release, model_registry, read_release, register_release
from nutridet_core.pipeline.rollback import plan_rollback
from nutridet_core.release.registry import CHAMPION, Registry, Release
from tests.release_samples import flip_bit, make_champion, open_home, write_release


@pytest.fixture(scope="module")
def three_champions(release_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where three versions were champion, one after another: to copy, not to change."""
    home = Path(shutil.copytree(release_home, tmp_path_factory.mktemp("three") / "home"))
    context = open_home(home)
    register_release(context)
    for content in ("second", "third"):
        write_release(context, content)
        register_release(context)
    return home


@pytest.fixture
def context(three_champions: Path, tmp_path: Path) -> Context:
    """A copy of that home, and versions whose weights lie in the copy."""
    copied = open_home(Path(shutil.copytree(three_champions, tmp_path / "home")))
    registry = model_registry(copied)
    for version in ("1", "2", "3"):
        release = registry.release_of(version)
        moved = replace(release, merged=copied.layout.merged(release.name), fp8=copied.layout.fp8(release.name))
        for name in ("merged", "fp8"):
            tag = f"nutridet.{name}"
            copied.tracker.client.set_model_version_tag(registry.model, version, tag, moved.tags[tag])
    return copied


@pytest.fixture
def registry(context: Context) -> Registry:
    return model_registry(context)


def champion(registry: Registry) -> str:
    holder = registry.holder(CHAMPION)
    assert holder is not None
    return holder[0]


def tags(registry: Registry, version: str) -> dict[str, str]:
    return dict(registry.tracker.client.get_model_version(registry.model, version).tags)


def rollback(context: Context, *arguments: str, answer: str = "") -> Result:
    environment = {"NUTRIDET_HOME": str(context.settings.home)}
    return CliRunner().invoke(cli.app, ["rollback", *arguments], env=environment, input=answer)


def test_one_command_makes_the_version_before_champion(context: Context, registry: Registry) -> None:
    result = rollback(context, "--why", "misses small tables", "--yes")
    assert result.exit_code == 0, result.output
    assert "champion moves from version 3" in result.stdout
    assert champion(registry) == "2"


def test_who_when_and_why_are_written_down(context: Context, registry: Registry) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    rollback(context, "--why", "misses small tables", "--yes")
    for version, what in (("3", "champion.withdrawn"), ("2", "champion.promoted")):
        found = tags(registry, version)
        assert (found[f"{what}.by"], found[f"{what}.why"]) == (getpass.getuser(), "misses small tables")
        assert before <= datetime.fromisoformat(found[f"{what}.at"]) <= datetime.now(UTC)


def test_promotions_say_why_and_in_whose_place(registry: Registry) -> None:
    assert tags(registry, "1")["champion.promoted.why"] == "first champion"
    assert "champion.replaced" not in tags(registry, "1")
    assert tags(registry, "3")["champion.replaced"] == "2"
    assert "v3 against champion v2" in tags(registry, "3")["champion.promoted.why"]


def test_a_second_rollback_goes_further_back_and_a_third_says_that_there_is_nothing_left(
    context: Context, registry: Registry
) -> None:
    rollback(context, "--yes")
    rollback(context, "--yes")
    assert champion(registry) == "1"
    result = rollback(context, "--yes")
    assert result.exit_code == 1
    assert "no version is known that version 1, the champion, replaced" in result.stderr
    assert "rollback --to VERSION" in result.stderr
    assert champion(registry) == "1"


def test_what_was_withdrawn_is_not_promoted_by_the_next_run(context: Context, registry: Registry) -> None:
    rollback(context, "--why", "misses small tables", "--yes")
    verdict = str(register_release(context)["verdict"])
    assert verdict.startswith("stays challenger: withdrawn by ")
    assert "misses small tables" in verdict
    assert champion(registry) == "2"
    assert rollback(context, "--to", "3", "--yes").exit_code == 0
    assert champion(registry) == "3"
    assert register_release(context)["verdict"] == "is champion already"
    assert registry.withdrawn("3") is None
    assert "withdrawn by" in str(registry.withdrawn("2"))


def test_a_new_release_may_replace_what_was_rolled_back_to(context: Context, registry: Registry) -> None:
    rollback(context, "--yes")
    write_release(context, "fourth")
    register_release(context)
    assert champion(registry) == "4"
    rollback(context, "--yes")
    assert champion(registry) == "2", "and not the version that was withdrawn"


@pytest.mark.parametrize(("answer", "left"), [("y\n", "2"), ("n\n", "3"), ("\n", "3"), ("", "3")])
def test_the_operator_is_asked(context: Context, registry: Registry, answer: str, left: str) -> None:
    assert (rollback(context, answer=answer).exit_code == 0) is (left == "2")
    assert champion(registry) == left


@pytest.mark.parametrize("weights", ["merged", "fp8"])
def test_the_alias_never_moves_to_files_that_are_not_whole(context: Context, registry: Registry, weights: str) -> None:
    flip_bit(getattr(registry.release_of("2"), weights) / "model.safetensors")
    result = rollback(context, "--yes")
    assert result.exit_code == 1
    assert "weights of version 2 of nutridet-tiny: file has changed" in result.stderr
    assert "rollback --to VERSION" in result.stderr
    assert champion(registry) == "3"
    assert not [tag for tag in tags(registry, "3") if "withdrawn" in tag]
    assert rollback(context, "--to", "1", "--yes").exit_code == 0
    assert champion(registry) == "1"


def test_a_champion_whose_files_are_lost_is_replaced_by_one_command(context: Context, registry: Registry) -> None:
    lost = read_release(context, current_release(context))
    write_release(context, "fourth")
    shutil.rmtree(lost.merged)
    with pytest.raises(ArtifactError, match="weights of the champion, version 3") as error:
        register_release(context)
    assert "`nutridet rollback` gives it to version 2" in str(error.value.remedy)
    assert rollback(context, "--yes").exit_code == 0
    assert champion(registry) == "2"
    assert register_release(context)["verdict"].startswith("new champion: v4 against champion v2")


@pytest.mark.parametrize(
    ("to", "problem"), [("3", "is champion already"), ("9", "no version 9"), ("x", "no version x")]
)
def test_a_wrong_version_is_one_line_with_its_remedy(
    context: Context, registry: Registry, to: str, problem: str
) -> None:
    result = rollback(context, "--to", to, "--yes")
    assert result.exit_code == 1
    assert problem in result.stderr
    assert "There are: 1, 2, 3." in result.stderr or "--to VERSION" in result.stderr
    assert champion(registry) == "3"


def test_without_a_champion_there_is_nothing_to_roll_back(context: Context, registry: Registry) -> None:
    registry.tracker.client.delete_registered_model_alias(registry.model, CHAMPION)
    assert "no champion" in rollback(context, "--yes").stderr


def test_an_alias_moved_by_hand_is_not_guessed_about(context: Context, registry: Registry) -> None:
    registry.tracker.client.delete_model_version_tag(registry.model, "3", "champion.replaced")
    with pytest.raises(ArtifactError, match="no version is known"):
        plan_rollback(context)


def test_an_alias_that_moved_while_the_operator_thought_is_left_alone(context: Context, registry: Registry) -> None:
    plan = plan_rollback(context)
    make_champion(registry, "1", "by someone else")
    with pytest.raises(ArtifactError, match="version 1 has become champion meanwhile"):
        plan.carry_out("too late")
    assert champion(registry) == "1"


def test_whoever_moves_the_alias_waits_for_the_others_and_then_looks_again(
    context: Context, registry: Registry
) -> None:
    """Else both find version 3 and both write, and the database refuses the second in its own words."""
    plan = plan_rollback(context)
    with ThreadPoolExecutor(1) as operator:
        with claimed(context.settings.home / CHAMPION):
            move = operator.submit(plan.carry_out, "at the same moment")
            assert not wait([move], timeout=0.3).done
            registry.tracker.client.set_registered_model_alias(registry.model, CHAMPION, "1")
        with pytest.raises(ArtifactError, match="version 1 has become champion meanwhile"):
            move.result()
    assert "champion.withdrawn.why" not in tags(registry, "3")
    assert "champion.withdrawn.why" not in tags(registry, "1")


def test_a_challenger_takes_the_place_of_no_one_that_it_was_not_compared_with(
    context: Context, registry: Registry
) -> None:
    make_champion(registry, "2", "while version 3 was compared with version 1")
    with pytest.raises(ArtifactError, match="version 2 has become champion meanwhile"):
        registry.promote("3", "better than version 1", over="1")
    registry.tracker.client.delete_registered_model_alias(registry.model, CHAMPION)
    with pytest.raises(ArtifactError, match="the champion is gone"):
        registry.promote("3", "better than version 1", over="1")


def test_records_of_moves_do_not_change_what_a_version_stands_for(context: Context, registry: Registry) -> None:
    before = registry.release_of("3")
    rollback(context, "--yes")
    assert registry.release_of("3") == before == Release.from_tags(tags(registry, "3"))
