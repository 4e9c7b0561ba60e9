"""Release: the winner merged, quantised, measured again, registered through the gate, and described."""

import json
from pathlib import Path

import dagster as dg

from nutridet_assets import checks, metadata
from nutridet_assets.assets.declare import asset
from nutridet_assets.partitions import finished_experiments
from nutridet_assets.resources import Results, Worker, artifacts
from nutridet_core.evaluation.scores import Scores


@asset("release", deps=["leaderboard"], checks=["merge_base"], kinds={"pytorch", "huggingface"})
def merged_model(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """The best experiment's chosen checkpoint merged into pristine bf16 weights, never into 4-bit ones."""
    yield from worker.run(context, "merge_best", finished_experiments(artifacts()))
    yield _model("merged_model", artifacts().merged(_current()["release"]))


@asset("release", deps=["merged_model"], checks=["fp8_modules"], kinds={"pytorch", "huggingface", "vllm"})
def fp8_model(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """FP8 W8A8 with dynamic activations, as compressed-tensors; vision tower and lm_head keep bf16."""
    yield from worker.run(context, "quantize_merged")
    yield _model("fp8_model", artifacts().fp8(_current()["release"]))


@asset(
    "release",
    deps=["experiment_scores", "merged_model", "fp8_model"],
    checks=["merge_parity", "fp8_parity"],
    kinds={"pytorch", "huggingface"},
)
def release_scores(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """Merged and FP8 weights on the full test split, against the adapter they come from: scores, size, latency."""
    yield from worker.run(context, "score_release")
    from nutridet_core.evaluation.gate import recorded_audits

    folder = artifacts().release_report
    parity = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    scores = {name: Scores.from_dict(values) for name, values in parity["scores"].items()}
    rows = [
        (name, scores[name].headline, f"{size / 2**20:.1f}", f"{1000 * scores[name].seconds_per_photo:.1f}")
        for name, size in parity["bytes"].items()
    ]
    yield dg.MaterializeResult(
        metadata={
            "side by side": metadata.rows(("weights", "on test", "MiB", "ms per photo, median"), rows),
            **{f"{name} mean_iou": found.metrics["mean_iou"].value for name, found in scores.items()},
            **metadata.numbers(parity["bytes"], "bytes of "),
            **metadata.artifact(folder),
        },
        data_version=metadata.version(folder),
        check_results=[*checks.results("release_scores", {"release": recorded_audits("release_scores", [folder])})],
    )


@asset("release", deps=["merged_model", "fp8_model", "release_scores"], kinds={"mlflow"})
def registered_model(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """A version in MLflow's registry: `challenger`, and `champion` if it is not worse than the one there.

    The worker reads the whole gate again from the manifests and refuses by itself, whatever this run's checks said.
    """
    facts = yield from worker.run(context, "register_release")
    digests = facts["nutridet.merged_digest"], facts["nutridet.fp8_digest"]
    yield dg.MaterializeResult(
        metadata={name.removeprefix("nutridet."): str(value) for name, value in facts.items()},
        data_version=dg.DataVersion("+".join(digest[:16] for digest in digests)),
    )


@asset("release", deps=["leaderboard", "registered_model"], kinds={"markdown"})
def model_card(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """The card of a release that passed the gate, every value from manifests and scores."""
    yield from worker.run(context, "write_card", finished_experiments(artifacts()))
    folder = artifacts().model_card
    text = (folder / "README.md").read_text(encoding="utf-8")
    yield dg.MaterializeResult(
        metadata={"card": dg.MetadataValue.md(text), **metadata.artifact(folder)}, data_version=metadata.version(folder)
    )


@asset("release", deps=["fp8_model", "registered_model"], kinds={"nvidia", "vllm"})
def triton_repository(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """Model repository for Triton's vLLM backend that serves the FP8 weights of a release that passed the gate."""
    yield from worker.run(context, "build_triton_repository")
    folder = artifacts().triton
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    yield dg.MaterializeResult(
        metadata={"files": metadata.plain(files), **metadata.artifact(folder)}, data_version=metadata.version(folder)
    )


def _current() -> dict[str, str]:
    """`{"release", "experiment", "checkpoint"}` of the last merge."""
    pointer = artifacts().current_release / "release.json"
    return dict(json.loads(pointer.read_text(encoding="utf-8")))


def _model(asset: str, folder: Path) -> dg.MaterializeResult[None]:
    from nutridet_core.evaluation.gate import recorded_audits

    current = _current()
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return dg.MaterializeResult(
        metadata={**current, "MiB of weights": round(weights / 2**20, 1), **metadata.artifact(folder)},
        data_version=metadata.version(folder),
        check_results=[*checks.results(asset, {current["release"]: recorded_audits(asset, [folder])})],
    )
