"""The gate: one missing or failed audit, or one artefact of something else, and nothing is registered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nutridet_core.answers import Problem
from nutridet_core.artifacts.store import Manifest, read_manifest, seal
from nutridet_core.errors import ArtifactError, AuditError
from nutridet_core.evaluation import gate
from nutridet_core.evaluation.evaluate import load_samples, save_scores
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import current_release, model_registry, register_release
from nutridet_core.pipeline.training import choose_checkpoint, chosen_checkpoint
from nutridet_core.release.registry import CHALLENGER, CHAMPION
from tests.release_samples import EXPERIMENT, audit, change, flip_bit, folders_of, open_home, write, write_release

AUDITS = [(asset, name) for asset, names in gate.REQUIRED.items() for name in names if asset != "champion_reevaluation"]


@pytest.fixture
def context(release_home: Path, tmp_path: Path) -> Context:
    return open_home(Path(shutil.copytree(release_home, tmp_path / "home")))


@pytest.fixture
def release(context: Context) -> str:
    return current_release(context)["release"]


def refused(context: Context) -> str:
    """What `register_release` says when it refuses; nothing may be registered then."""
    with pytest.raises(AuditError) as caught:
        register_release(context)
    registry = model_registry(context)
    assert (registry.holder(CHALLENGER), registry.holder(CHAMPION)) == (None, None)
    return str(caught.value)


def test_a_whole_release_passes(context: Context, release: str) -> None:
    audits = gate.release_audits(context.layout, release, EXPERIMENT)
    assert all(found.passed for found in audits), audits
    expected = {name for _, name in AUDITS} | {"same_release", "boxes_valid", "splits_disjoint", "parse_failures"}
    assert {found.name for found in audits} == expected


@pytest.mark.parametrize("state", ["missing", "failed"])
@pytest.mark.parametrize(("asset", "name"), AUDITS, ids=[name for _, name in AUDITS])
def test_each_audit_shuts_the_gate(context: Context, release: str, asset: str, name: str, state: str) -> None:
    folder = folders_of(context.layout, release)[asset]
    facts = read_manifest(folder).facts
    others = {key: value for key, value in facts["audits"].items() if key != name}
    planted = {} if state == "missing" else {name: audit(name, passed=False)}
    change(folder, facts={**facts, "audits": {**others, **planted}})
    failed = [found.name for found in gate.release_audits(context.layout, release, EXPERIMENT) if not found.passed]
    assert failed == [name]
    assert f"{name}: " in refused(context)


def test_no_scored_checkpoint_shuts_the_gate(context: Context) -> None:
    shutil.rmtree(context.layout.scores(f"{EXPERIMENT}/checkpoint-4", "selection"))
    assert "contract_audit: not recorded" in refused(context)


def test_unreadable_answers_shut_the_gate(context: Context) -> None:
    folder = context.layout.scores(EXPERIMENT, "test")
    bad = [replace(answer, predicted=(), problems=(Problem.TRUNCATED.value,)) for answer in load_samples(folder)]
    save_scores(folder, EXPERIMENT, "test", bad, read_manifest(folder))
    assert "parse_failures: " in refused(context)


def test_splits_that_share_photos_shut_the_gate(context: Context) -> None:
    shutil.rmtree(context.layout.dataset / "selection")
    shutil.copytree(context.layout.dataset / "test", context.layout.dataset / "selection")
    seal(context.layout.dataset, read_manifest(context.layout.dataset, verify=False))
    assert "splits_disjoint: " in refused(context)


Change = Callable[[Context, str], tuple[Path, dict[str, Any]]]
OTHERS: dict[str, Change] = {
    "adapter is of another dataset": lambda c, r: (c.layout.adapter(EXPERIMENT), {"data_fingerprint": "other"}),
    "leaderboard is of another dataset": lambda c, r: (c.layout.leaderboard, {"data_fingerprint": "other"}),
    "parity is of another dataset": lambda c, r: (c.layout.release_report, {"data_fingerprint": None}),
    "scores is of another checkpoint": lambda c, r: (c.layout.scores(EXPERIMENT, "test"), {"config": {"weights": "x"}}),
    "merged is of another checkpoint": lambda c, r: (c.layout.merged(r), {"config": {"adapter": "x"}}),
    "fp8 is of another merged model": lambda c, r: (c.layout.fp8(r), {"config": {"merged": "x"}}),
    "parity is of another release": lambda c, r: (c.layout.release_report, {"config": {}}),
}


@pytest.mark.parametrize("problem", OTHERS)
def test_an_artefact_of_something_else_shuts_the_gate(context: Context, release: str, problem: str) -> None:
    """Every verb may run alone: a folder can hold what an earlier run made of something else."""
    folder, fields = OTHERS[problem](context, release)
    change(folder, **fields)
    assert problem in refused(context)


def test_weights_outlive_a_corrected_test_label(context: Context, release: str) -> None:
    """Trained again on the same photos they are the same, and kept; what was measured is of today's labels."""
    for weights in (context.layout.merged(release), context.layout.fp8(release)):
        change(weights, data_fingerprint="that of then")
    assert register_release(context)["verdict"] == "first champion"


def test_a_leaderboard_that_another_experiment_won_shuts_the_gate(context: Context) -> None:
    facts = read_manifest(context.layout.leaderboard).facts
    change(context.layout.leaderboard, facts={**facts, "winner": "exp2"})
    assert "leaderboard is of another winner" in refused(context)


def test_scores_that_the_leaderboard_has_not_seen_shut_the_gate(context: Context) -> None:
    folder = context.layout.scores(EXPERIMENT, "test")
    other = [replace(answer, predicted=answer.truth) for answer in load_samples(folder)]
    save_scores(folder, EXPERIMENT, "test", other, read_manifest(folder))
    assert "leaderboard is of another scoring" in refused(context)


def test_parity_of_the_release_before_shuts_the_gate(context: Context) -> None:
    """Merged and quantised again, but not scored again."""
    kept = shutil.copytree(context.layout.release_report, context.layout.root / "kept")
    write_release(context, "other weights")
    shutil.rmtree(context.layout.release_report)
    kept.rename(context.layout.release_report)
    assert "parity is of another release" in refused(context)


@pytest.mark.parametrize("missing", ["leaderboard", "release_report", "dataset"])
def test_a_missing_artefact_is_named(context: Context, missing: str) -> None:
    shutil.rmtree(context.layout.root / missing)
    with pytest.raises(ArtifactError, match=f"{missing}: no manifest"):
        register_release(context)


@pytest.mark.parametrize("weights", ["merged", "fp8"])
def test_a_flipped_bit_in_the_weights_is_refused(context: Context, release: str, weights: str) -> None:
    flip_bit(context.layout.root / "releases" / release / weights / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.safetensors: file has changed since it was written"):
        register_release(context)
    assert model_registry(context).holder(CHALLENGER) is None


def test_of_several_manifests_the_failed_one_counts(tmp_path: Path) -> None:

    folders = []
    for name, passed in (("first", True), ("second", False), ("third", True)):
        (tmp_path / name).mkdir()
        audits = {
            key: audit(key, passed=passed or key == "adapter_active") for key in ("contract_audit", "adapter_active")
        }
        seal(tmp_path / name, Manifest(kind="scores", name=name, facts={"audits": audits}))
        folders.append(tmp_path / name)
    found = {each.name: each.passed for each in gate.recorded_audits("checkpoint_scores", folders)}
    assert found == {"contract_audit": False, "adapter_active": True}


def test_every_failure_is_named_at_once() -> None:
    from nutridet_core.evaluation.audits import Audit

    audits = [Audit("a", False, "first"), Audit("b", True, "fine"), Audit("c", False, "second", {"n": 1})]
    with pytest.raises(AuditError, match=r"a: first; c: second\. The gate stays shut") as caught:
        gate.require(audits)
    assert caught.value.evidence == {"a": {}, "c": {"n": 1}}


# ---------------------------------------------------------------- the choice is of today's checkpoints


def train_again(context: Context, content: str) -> None:
    """Other weights in the checkpoint that was scored and chosen."""
    folder = context.layout.adapter(EXPERIMENT)
    write(context, folder / "checkpoint-4", "checkpoint", content, facts={"step": 4})
    seal(folder, read_manifest(folder, verify=False))


def test_scores_of_other_weights_decide_nothing(context: Context) -> None:
    assert choose_checkpoint(context, EXPERIMENT).facts["chosen"] == "checkpoint-4"
    train_again(context, "trained again")
    with pytest.raises(ArtifactError, match="other weights, photos or another contract") as caught:
        choose_checkpoint(context, EXPERIMENT)
    assert "checkpoint-4/selection" in str(caught.value) and "nutridet checkpoints" in str(caught.value)


def test_a_checkpoint_that_was_trained_again_is_not_the_one_that_was_chosen(context: Context) -> None:
    choose_checkpoint(context, EXPERIMENT)
    assert chosen_checkpoint(context, EXPERIMENT).name == "checkpoint-4"
    train_again(context, "trained again")
    with pytest.raises(ArtifactError, match="other weights than when it was chosen"):
        chosen_checkpoint(context, EXPERIMENT)


def test_no_choice_among_fewer_checkpoints_than_were_trained(context: Context) -> None:
    folder = context.layout.adapter(EXPERIMENT)
    second = folder / "checkpoint-8"
    write(context, second, "checkpoint", "the second epoch", facts={"step": 8})
    seal(folder, read_manifest(folder, verify=False))
    shutil.rmtree(second)
    with pytest.raises(ArtifactError, match=r"checkpoint-8/nutridet\.json: file is missing"):
        choose_checkpoint(context, EXPERIMENT)
