"""Training, one partition per experiment: adapters, their checkpoints, the best one, its test scores.

A run covers any number of partitions with one worker per asset; metadata is kept per partition.
"""

from pathlib import Path

import dagster as dg
from pydantic import Field

from nutridet_assets import checks, metadata
from nutridet_assets.assets.declare import asset
from nutridet_assets.partitions import experiments
from nutridet_assets.resources import Results, Worker, artifacts
from nutridet_core.artifacts.layout import Layout


class Training(dg.Config):
    """What a launch may change about training; what is compared stands in the experiments."""

    max_epochs: int | None = Field(
        None, ge=1, le=10_000, description="Cuts every experiment short, for a first look. Empty: as the profile says."
    )


@asset(
    "training",
    deps=["nutrition_dataset"],
    checks=["label_audit", "module_audit", "gradient_audit"],
    partitions=experiments,
    kinds={"pytorch", "huggingface", "mlflow"},
)
def adapter(context: dg.AssetExecutionContext, config: Training, worker: Worker) -> Results:
    """QLoRA fine-tuning; every epoch leaves a sealed checkpoint, and a killed run continues from the last one."""
    names, layout = context.partition_keys, artifacts()
    cut = {"NUTRIDET_MAX_EPOCHS": str(config.max_epochs)} if config.max_epochs else {}
    yield from worker.run(context, "train_experiments", names, cut)
    from nutridet_core.evaluation.gate import adapter_audits

    for name in names:
        folder = layout.adapter(name)
        facts = metadata.facts(folder)
        loss = [entry["loss"] for entry in facts["loss"]]
        shown = {"device": facts["device"], "first and last loss": f"{loss[0]:.3f}, {loss[-1]:.3f}" if loss else "none"}
        values = {**metadata.numbers(facts), **metadata.numbers(facts["parameters"]), **shown}
        context.add_asset_metadata({**values, **metadata.artifact(folder)}, partition_key=name)
    yield dg.MaterializeResult(
        data_version=metadata.version(*(layout.adapter(name) for name in names)),
        check_results=[*checks.results("adapter", {name: adapter_audits(layout, name) for name in names})],
    )


@asset(
    "training",
    deps=["nutrition_dataset", "adapter"],
    checks=["contract_audit", "adapter_active"],
    partitions=experiments,
    kinds={"pytorch", "huggingface"},
)
def checkpoint_scores(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """Every checkpoint scored on selection, by changing adapters on one loaded base model."""
    names, layout = context.partition_keys, artifacts()
    yield from worker.run(context, "score_checkpoints", names)
    from nutridet_core.evaluation.gate import checkpoint_audits

    folders = []
    for name in names:
        scored = _scored_checkpoints(layout, name)
        rows = [(folder.parent.name, metadata.read_scores(folder).headline) for folder in scored]
        table = metadata.rows(("checkpoint", "on selection"), rows)
        context.add_asset_metadata({"checkpoints": len(scored), "scores": table}, partition_key=name)
        folders += scored
    yield dg.MaterializeResult(
        data_version=metadata.version(*folders),
        check_results=[*checks.results("checkpoint_scores", {name: checkpoint_audits(layout, name) for name in names})],
    )


@asset("training", deps=["checkpoint_scores"], partitions=experiments, in_worker=False, kinds={"python"})
def best_checkpoint(context: dg.AssetExecutionContext) -> Results:
    """The checkpoint with the highest mean IoU on selection, and the curve that says so. Test decides nothing."""
    from nutridet_core.evaluation.intervals import Estimate
    from nutridet_core.pipeline.context import Context
    from nutridet_core.pipeline.training import choose_checkpoint
    from nutridet_core.settings import Settings

    core = Context(Settings(), log=context.log.info)
    for name in context.partition_keys:
        facts, folder = choose_checkpoint(core, name).facts, core.layout.choice(name)
        mean_iou = Estimate(**facts["mean_iou"])
        shown = {"chosen": facts["chosen"], "on selection": f"mean IoU {mean_iou}, n = {facts['photos']}"}
        values = {**shown, **metadata.numbers({"mean_iou": mean_iou.value}), **metadata.artifact(folder)}
        context.add_asset_metadata(values, partition_key=name)
        context.log.info(f"{name}: {facts['chosen']}, mean IoU {mean_iou} on selection, n = {facts['photos']}")
    yield dg.MaterializeResult(
        data_version=metadata.version(*(core.layout.choice(name) for name in context.partition_keys))
    )


@asset(
    "training",
    deps=["nutrition_dataset", "best_checkpoint"],
    checks=["parse_failures"],
    partitions=experiments,
    kinds={"pytorch", "huggingface"},
)
def experiment_scores(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """The chosen checkpoint of each experiment scored on test, once."""
    names, layout = context.partition_keys, artifacts()
    yield from worker.run(context, "score_experiments", names)
    from nutridet_core.evaluation.gate import experiment_audits

    for name in names:
        context.add_asset_metadata(metadata.scored(layout.scores(name, "test")), partition_key=name)
    yield dg.MaterializeResult(
        data_version=metadata.version(*(layout.scores(name, "test") for name in names)),
        check_results=[*checks.results("experiment_scores", {name: experiment_audits(layout, name) for name in names})],
    )


def _scored_checkpoints(layout: Layout, name: str) -> list[Path]:
    """Selection scores of the checkpoints that there are now, by step; an earlier, longer training leaves others."""
    checkpoints = sorted(layout.adapter(name).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return [layout.scores(f"{name}/{path.name}", "selection") for path in checkpoints]
