"""Publication: the model card and the Triton repository of the current release."""

from __future__ import annotations

from collections.abc import Sequence

from nutridet_core.artifacts.store import Manifest, digest, read_manifest, reusable, seal, writing
from nutridet_core.evaluation.compare import compare
from nutridet_core.evaluation.evaluate import load_samples, load_scores
from nutridet_core.pipeline.baseline import BASELINE
from nutridet_core.pipeline.comparison import leaderboard_rows
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import current_release, subject, weight_bytes
from nutridet_core.release.model_card import Card, write_model_card
from nutridet_core.release.triton import engine_arguments, write_repository
from nutridet_core.report import Row

_INTENDED_USE = (
    "Finding nutrition tables in photos of packaged food, as the first step of reading them. "
    "A person or a later step must check what is read: the boxes are not proof that a table is complete."
)


def write_card(context: Context, names: Sequence[str]) -> Manifest:
    """The card of the current release, every value from manifests and scores."""
    current = current_release(context)
    weights = read_manifest(context.layout.merged(current["release"]), kind="model")
    rows = [*leaderboard_rows(context, names), *_release_rows(context, current["release"])]
    config = {"weights": weights.digest, "rows": {row.name: digest(row.scores.to_dict()) for row in rows}}
    if kept := reusable(context.layout.model_card, "model_card", config):
        return kept
    with writing(context.layout.model_card) as draft:
        write_model_card(draft / "README.md", _card(context, current, weights, rows))
        manifest = Manifest(
            kind="model_card",
            name=current["release"],
            contract=context.profile.contract.hash,
            data_fingerprint=context.fingerprint,
            config=config,
        )
        return seal(draft, manifest)


def build_triton_repository(context: Context) -> Manifest:
    """A Triton model repository that serves the current release's FP8 weights."""
    from nutridet_core.models import Source, load_processor
    from nutridet_core.prompts import prompt_text

    release, profile = current_release(context)["release"], context.profile
    weights = context.layout.fp8(release)
    config = {
        "fp8": read_manifest(weights, kind="model").digest,
        "contract": profile.contract.hash,
        "engine": engine_arguments(profile, weights),
    }
    if kept := reusable(context.layout.triton, "triton_repository", config):
        return kept
    processor = load_processor(Source(str(weights)), profile.architecture, profile.contract)
    with writing(context.layout.triton) as draft:
        write_repository(draft, profile=profile, weights=weights, prompt=prompt_text(profile.contract, processor))
        return seal(
            draft, Manifest(kind="triton_repository", name=release, contract=profile.contract.hash, config=config)
        )


def _release_rows(context: Context, release: str) -> list[Row]:
    summaries = {"merged": "merged into bf16", "fp8": "FP8 W8A8, dynamic"}
    folders = {"merged": context.layout.merged(release), "fp8": context.layout.fp8(release)}
    scored = {name: context.layout.scores(subject(release, name), "test") for name in folders}
    return [
        Row(
            name,
            summaries[name],
            "release",
            load_scores(scored[name]),
            load_samples(scored[name]),
            weight_bytes(folder),
        )
        for name, folder in folders.items()
    ]


def _card(context: Context, current: dict[str, str], weights: Manifest, rows: Sequence[Row]) -> Card:
    profile, experiment = context.profile, context.experiment(current["experiment"])
    samples = {row.name: row.samples for row in rows}
    training = read_manifest(context.layout.adapter(experiment.name), kind="adapter", verify=False)
    source = context.settings.test_source or context.settings.source or profile.source
    return Card(
        name=f"nutridet-{profile.name}",
        summary="Finds nutrition tables in product photos and answers with their boxes.",
        intended_use=_INTENDED_USE,
        licence="apache-2.0",
        library_name="transformers",
        base_model=profile.base_model,
        base_revision=profile.revision,
        dataset=source,
        dataset_revision=None,
        contract=profile.contract,
        max_new_tokens=profile.max_new_tokens,
        manifest=weights,
        rows=rows,
        subject="merged",
        training={
            "experiment": f"{experiment.name}: {experiment.summary}",
            "checkpoint": current["checkpoint"],
            "LoRA": f"rank {experiment.rank}, alpha {experiment.alpha}, dropout {experiment.dropout}",
            "precision": profile.training_precision,
            "steps": training.facts["steps"],
            "images per second": training.facts["images_per_s"],
            "device": training.facts["device"],
        },
        comparisons=[compare(BASELINE, "merged", samples[BASELINE], samples["merged"])],
        tags=("nutrition", "object-detection", "qwen2_vl"),
    )
