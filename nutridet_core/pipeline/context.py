"""What every verb is given, and what most of them do: score a model and keep the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutridet_core.artifacts.layout import Layout
from nutridet_core.artifacts.store import Manifest, digest, read_manifest, reusable
from nutridet_core.data.dataset import load_records
from nutridet_core.data.examples import Split
from nutridet_core.errors import ArtifactError, SettingsError
from nutridet_core.evaluation.evaluate import (
    answer_split,
    load_samples,
    load_scores,
    prepare_split,
    save_scores,
    with_products,
)
from nutridet_core.evaluation.scores import Sample, Scores
from nutridet_core.experiments import Experiment
from nutridet_core.profiles import Profile
from nutridet_core.settings import Settings
from nutridet_core.tracking import Tracker, open_tracker

if TYPE_CHECKING:
    from nutridet_core.predict import Batches

_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Context:
    """Settings and a place to report progress."""

    settings: Settings
    log: Callable[[str], None] = print

    @cached_property
    def profile(self) -> Profile:
        """What to run on."""
        return self.settings.active_profile

    @cached_property
    def layout(self) -> Layout:
        """Where artefacts lie."""
        return Layout(self.settings.artifacts)

    @cached_property
    def tracker(self) -> Tracker:
        """MLflow, one experiment per profile."""
        return open_tracker(self.settings)

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name.

        Raises:
            SettingsError: naming those there are.
        """
        experiments = self.settings.all_experiments
        if name not in experiments:
            raise SettingsError(f"no experiment {name!r}", remedy=f"Known: {', '.join(experiments)}.")
        return experiments[name]

    @property
    def fingerprint(self) -> str:
        """Of the dataset as it lies there now.

        Raises:
            ArtifactError: when there is none yet.
        """
        manifest = read_manifest(self.layout.dataset, kind="dataset", verify=False)
        if manifest.data_fingerprint is None:
            raise ArtifactError("dataset without a fingerprint", where=self.layout.dataset, remedy="Prepare it again.")
        return manifest.data_fingerprint

    def open_run(self, name: str, config: Any, *, stage: str) -> str:
        """The MLflow run of a subject, the same for the same inputs, shown under the run of the dataset."""
        tags = {"nutridet.stage": stage}
        run = self.tracker.open_run(name, digest([name, config]), tags=tags, parent=self.dataset_run)
        self.tracker.log_params(run, config)
        self._log_dataset(run)
        return run

    @property
    def dataset_run(self) -> str:
        """The MLflow run of today's dataset: what was made from the same photos is shown under it."""
        tags = {"nutridet.stage": "dataset"}
        run = self.tracker.open_group(f"dataset {self.fingerprint[:7]}", self.fingerprint, tags=tags)
        # Nothing that the fingerprint does not decide: MLflow refuses another value of a parameter.
        self.tracker.log_params(run, {"data_fingerprint": self.fingerprint, "photos": self._photos})
        self._log_dataset(run)
        return run

    @property
    def _photos(self) -> dict[str, int]:
        """By split."""
        facts = read_manifest(self.layout.dataset, kind="dataset", verify=False).facts
        return dict(facts.get("splits", {}))

    def _log_dataset(self, run_id: str) -> None:
        source = self.settings.source or self.profile.source
        self.tracker.log_dataset(run_id, "nutrition_dataset", self.fingerprint, source, self._photos)

    def run_of(self, manifest: Manifest, name: str, *, stage: str) -> str:
        """The MLflow run that made an artefact; opened anew where MLflow no longer has it."""
        made_it = manifest.mlflow_run_id
        if made_it and self.tracker.has_run(made_it):
            return made_it
        return self.open_run(name, manifest.config, stage=stage)


def score_model(
    context: Context,
    subject: str,
    split: Split,
    *,
    weights: str,
    load: Callable[[], tuple[Any, Any]],
    run_id: str,
    step: int = 0,
    model_id: str | None = None,
    check: Callable[[Any, Any], dict[str, Any]] = lambda model, processor: {},
    prepare: Callable[[Any], Batches] | None = None,
) -> Scores:
    """Score a model on a split, or take the scores that are there.

    Args:
        step: where on MLflow's step axis the scores go: a checkpoint's training step.
        model_id: MLflow's logged model, which the scores are shown with.
        weights: digest of what is scored; with the dataset and the contract it decides about reuse.
        load: gives (model, processor); not called when the scores are there.
        check: looks at the loaded model before it answers; what it returns goes into the manifest.
        prepare: makes the checked model ready, and gives the split's photos for it, where several models share them.
    """
    config = scores_config(context, weights)
    kept = kept_scores(context, subject, split, config=config, run_id=run_id, step=step, model_id=model_id)
    if kept:
        return kept
    model, processor = load()
    facts = check(model, processor)
    photos = prepare(model) if prepare else split_batches(context, model, processor, split)
    facts |= {"photos_at_once": photos.batch_size}
    report = progress(context, f"{subject} on {split}")
    samples = answer_split(model, photos, context.profile, context.layout.dataset, split, progress=report)
    return keep_scores(
        context, subject, split, samples, config=config, facts=facts, run_id=run_id, step=step, model_id=model_id
    )


def split_batches(context: Context, model: Any, processor: Any, split: Split, *, keep_bytes: int = 0) -> Batches:
    """The photos of a split, ready for a model."""
    return prepare_split(model, processor, context.profile, context.layout.dataset, split, keep_bytes=keep_bytes)


def scores_config(context: Context, weights: str) -> dict[str, Any]:
    """What a set of scores depends on."""
    return {
        "weights": weights,
        "data_fingerprint": context.fingerprint,
        "contract": context.profile.contract.hash,
        "max_new_tokens": context.profile.max_new_tokens,
    }


def current_scores(context: Context, folder: Path, weights: str, *, remedy: str) -> Manifest:
    """The manifest of scores that are of the weights, photos and contract of today.

    Raises:
        ArtifactError: when they are of others.
    """
    manifest = read_manifest(folder, kind="scores")
    if manifest.config != scores_config(context, weights):
        raise ArtifactError(
            "are of other weights, photos or another contract than today's", where=folder, field="config", remedy=remedy
        )
    return manifest


def kept_scores(
    context: Context,
    subject: str,
    split: Split,
    *,
    config: dict[str, Any],
    run_id: str,
    step: int = 0,
    model_id: str | None = None,
) -> Scores | None:
    """The scores that are there under this configuration, if there are any.

    Their products are those that the dataset names now: a barcode may be corrected while photos and splits stay.

    MLflow is told of them where it does not know: their process may have been killed before it could.

    Args:
        run_id: where they are logged when the run that their manifest names is gone.
    """
    folder = context.layout.scores(subject, split)
    manifest = reusable(folder, "scores", config)
    if manifest is None:
        return None
    context.log(f"{subject}: already scored on {split}")
    samples, own = load_samples(folder), manifest.mlflow_run_id
    named = with_products(samples, load_records(context.layout.dataset, split))
    scores = load_scores(folder) if named == samples else save_scores(folder, subject, split, named, manifest)
    _record(context, folder, scores, own if own and context.tracker.has_run(own) else run_id, step, model_id)
    return scores


def keep_scores(
    context: Context,
    subject: str,
    split: Split,
    samples: list[Sample],
    *,
    config: dict[str, Any],
    facts: dict[str, Any],
    run_id: str,
    step: int = 0,
    model_id: str | None = None,
) -> Scores:
    """Write samples and scores, and tell MLflow."""
    folder = context.layout.scores(subject, split)
    manifest = Manifest(
        kind="scores",
        name=f"{subject}/{split}",
        contract=context.profile.contract.hash,
        data_fingerprint=context.fingerprint,
        config=config,
        facts=facts,
        mlflow_run_id=run_id,
    )
    scores = save_scores(folder, subject, split, samples, manifest)
    _record(context, folder, scores, run_id, step, model_id)
    context.log(f"{subject} on {split}: {scores.headline}")
    return scores


def _record(
    context: Context, folder: Path, scores: Scores, run_id: str, step: int, model_id: str | None = None
) -> None:
    """Log scores to MLflow, metrics last: where they are, the files are too."""
    if not context.tracker.has_metrics(run_id, scores.mlflow_metrics, step):
        context.tracker.log_folder(run_id, folder, f"scores/{scores.subject}/{scores.split}")
        context.tracker.log_metrics(run_id, scores.mlflow_metrics, step, model_id=model_id)


def progress(context: Context, what: str) -> Callable[[int, int], None]:
    """A line every few seconds."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            last = now
            context.log(f"{what}: {done}/{total} photos")

    return report
