"""Comparison: all subjects on the same test photos, against the baseline and against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from PIL import Image

from nutridet_core.artifacts.layout import ADAPTER_WEIGHTS
from nutridet_core.artifacts.store import (
    MANIFEST,
    Manifest,
    digest,
    git_commit,
    read_manifest,
    reusable,
    seal,
    stack_versions,
    writing,
)
from nutridet_core.data.dataset import load_records, open_photos
from nutridet_core.evaluation.audits import audit_beats_baseline
from nutridet_core.evaluation.compare import Comparison, compare
from nutridet_core.evaluation.evaluate import load_samples, load_scores
from nutridet_core.evaluation.priors import trivial_priors
from nutridet_core.evaluation.scores import Scores
from nutridet_core.pipeline.baseline import BASELINE, PEER, PEER_VERSION, baseline_weights
from nutridet_core.pipeline.context import Context, current_scores
from nutridet_core.pipeline.training import chosen_checkpoint, read_choice, weights_of
from nutridet_core.report import Curve, Kind, Row, leaderboard_markdown, leaderboard_text, write_report


def build_leaderboard(context: Context, names: Sequence[str]) -> Manifest:
    """One HTML page with intervals, paired comparisons, curves and overlays; also told to MLflow."""
    rows = leaderboard_rows(context, names)
    inputs = {"rows": {row.name: digest(row.scores.to_dict()) for row in rows}, "git_commit": git_commit()}
    folder = context.layout.leaderboard
    if kept := reusable(folder, "leaderboard", inputs):
        context.tracker.settle(context.run_of(kept, "leaderboard", stage="comparison"))
        return kept
    winner = best_experiment(context, names)
    comparisons = _comparisons(rows, names)
    against_baseline = next(c for c in comparisons if (c.first, c.second) == (BASELINE, winner))
    audit = audit_beats_baseline(against_baseline)
    compared = {"experiments": list(names), "data_fingerprint": context.fingerprint}
    run_id = context.open_run("leaderboard", compared, stage="comparison")
    with context.tracker.step(run_id), writing(folder) as draft:
        write_report(
            draft,
            title=f"Nutrition tables, profile {context.profile.name}",
            rows=rows,
            comparisons=comparisons,
            curves=[_curve(context, name) for name in names],
            open_photo=photo_opener(context),
            facts=_facts(context, names),
        )
        facts = {"winner": winner, "audits": {audit.name: audit.to_dict()}, "text": leaderboard_text(rows)}
        manifest = Manifest(
            kind="leaderboard",
            name="leaderboard",
            contract=context.profile.contract.hash,
            data_fingerprint=context.fingerprint,
            config=inputs,
            facts=facts,
            mlflow_run_id=run_id,
        )
        sealed = seal(draft, manifest)
        context.tracker.log_folder(run_id, draft, "leaderboard")
        _tell_mlflow(context, run_id, rows, against_baseline)  # before the page is there: then nobody would
    context.log(leaderboard_text(rows))
    return sealed


def _tell_mlflow(context: Context, run_id: str, rows: Sequence[Row], winner: Comparison) -> None:
    """The table and the winner's scores, also at the run of the dataset: two datasets are compared by these."""
    scores = next(row.scores for row in rows if row.name == winner.second)
    gain = {"gain.mean_iou": winner.mean_iou.value, "gain.mean_iou_low": winner.mean_iou.low}
    metrics = {**scores.mlflow_metrics, **gain, "gain.mean_iou_high": winner.mean_iou.high}
    for run in (run_id, context.dataset_run):
        context.tracker.describe(run, f"{winner.text}\n\n{leaderboard_markdown(rows)}")
        context.tracker.log_metrics(run, metrics)


def leaderboard_rows(context: Context, names: Sequence[str]) -> list[Row]:
    """Priors, baseline, peer (where it was scored: OCR is an extra) and experiments, on the whole test split."""
    priors = [
        Row(prior.name, prior.summary, "prior", prior.scores, prior.samples, None)
        for prior in trivial_priors(context.layout.dataset, "test")
    ]
    subjects: list[tuple[str, str, Kind]] = [
        (PEER, "OCR and nutrient words", "peer"),
        (BASELINE, f"{context.profile.name} base, zero-shot", "baseline"),
        *((name, context.experiment(name).summary, "experiment") for name in names),
    ]
    left_out = set() if (context.layout.scores(PEER, "test") / MANIFEST).is_file() else {PEER}
    return priors + [_row(context, *subject) for subject in subjects if subject[0] not in left_out]


def best_experiment(context: Context, names: Sequence[str]) -> str:
    """The experiment whose chosen checkpoint scored highest on selection. Test decides nothing."""
    return max(names, key=lambda name: chosen_scores(context, name).metrics["mean_iou"].value)


def chosen_scores(context: Context, name: str) -> Scores:
    """Selection scores of the chosen checkpoint of an experiment."""
    choice = read_choice(context, name)
    (point,) = [point for point in choice["curve"] if point["checkpoint"] == choice["chosen"]]
    return Scores.from_dict(point["scores"])


def photo_opener(context: Context) -> Callable[[str], Image.Image]:
    """A function from the id of a test photo to the photo."""
    dataset = context.layout.dataset
    ids = [record.id for record in load_records(dataset, "test")]
    photos = dict(zip(ids, open_photos(dataset, "test"), strict=True))
    return lambda photo_id: photos[photo_id]()


def _row(context: Context, subject: str, summary: str, kind: Kind) -> Row:
    folder = context.layout.scores(subject, "test")
    current_scores(context, folder, _weights(context, subject, kind), remedy="Score again: `nutridet evaluate`.")
    return Row(
        subject, summary, kind, load_scores(folder), load_samples(folder), _adapter_bytes(context, subject, kind)
    )


def _weights(context: Context, subject: str, kind: Kind) -> str:
    """What a subject's scores are of today."""
    if kind == "experiment":
        return weights_of(chosen_checkpoint(context, subject))
    return PEER_VERSION if kind == "peer" else baseline_weights(context.profile)


def _adapter_bytes(context: Context, subject: str, kind: Kind) -> int | None:
    if kind != "experiment":
        return None
    folder = context.layout.adapter(subject) / str(read_choice(context, subject)["chosen"])
    return (folder / ADAPTER_WEIGHTS).stat().st_size


def _comparisons(rows: Sequence[Row], names: Sequence[str]) -> list[Comparison]:
    """Each experiment against the baseline and the peer, then the experiments in pairs."""
    samples = {row.name: row.samples for row in rows}
    references = [reference for reference in (BASELINE, PEER) if reference in samples]
    pairs = [*product(references, names), *combinations(names, 2)]
    return [compare(first, second, samples[first], samples[second]) for first, second in pairs]


def _curve(context: Context, name: str) -> Curve:
    choice = read_choice(context, name)
    points = [(_step(point["checkpoint"]), Scores.from_dict(point["scores"])) for point in choice["curve"]]
    return Curve(name, points, _step(choice["chosen"]))


def _step(checkpoint: str) -> int:
    return int(Path(checkpoint).name.removeprefix("checkpoint-"))


def _facts(context: Context, names: Sequence[str]) -> dict[str, Any]:
    profile = context.profile
    return {
        "profile": profile.name,
        "base model": profile.base_model if profile.revision else Path(profile.base_model).name,
        "source": context.settings.source or profile.source,
        "test source": context.settings.test_source or "split of the source",
        "data fingerprint": context.fingerprint,
        "contract": profile.contract.hash,
        "question": profile.contract.question,
        "training": {name: _training(context, name) for name in names},
        "git commit": git_commit() or "not a checkout",
        **stack_versions(),
    }


def _training(context: Context, name: str) -> dict[str, Any]:
    facts = read_manifest(context.layout.adapter(name), kind="adapter", verify=False).facts
    peak = facts.get("peak_gpu_gib")
    return {
        "steps": facts.get("steps"),
        "images per second": facts.get("images_per_s"),
        "peak GPU memory": f"{peak} GiB" if peak else None,
        "device": facts.get("device"),
    }
