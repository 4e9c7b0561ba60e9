"""Dataset: validated photos, and a report about them."""

import dagster as dg

from nutridet_assets import checks, metadata
from nutridet_assets.assets.declare import asset
from nutridet_assets.resources import Results, Worker, artifacts


@asset("dataset", checks=["boxes_valid", "splits_disjoint"], kinds={"huggingface", "python"})
def nutrition_dataset(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """Photos and boxes of the source: upright, validated, deduplicated, split by product, fingerprinted."""
    yield from worker.run(context, "prepare_dataset")
    from nutridet_core.artifacts.store import read_manifest
    from nutridet_core.evaluation.gate import dataset_audits

    folder = artifacts().dataset
    manifest = read_manifest(folder, kind="dataset", verify=False)
    splits, set_aside = manifest.facts["splits"], manifest.facts["set_aside"]
    yield dg.MaterializeResult(
        metadata={
            "source": manifest.name,
            "photos": sum(splits.values()),
            **metadata.numbers(splits, "photos in "),
            "set aside": metadata.plain(set_aside),
            **metadata.artifact(folder),
        },
        data_version=dg.DataVersion(str(manifest.data_fingerprint)),  # stays when Arrow writes the same photos anew
        check_results=[*checks.results("nutrition_dataset", {"dataset": dataset_audits(folder)})],
    )


@asset("dataset", deps=["nutrition_dataset"], kinds={"matplotlib"})
def dataset_report(context: dg.AssetExecutionContext, worker: Worker) -> Results:
    """Counts, distributions, a sample sheet, what was set aside, and what trivial answers would score."""
    yield from worker.run(context, "report_dataset")
    folder = artifacts().dataset_report
    facts = metadata.facts(folder)
    priors = [(split, name, text) for split, of in facts["priors"].items() for name, text in of.items()]
    yield dg.MaterializeResult(
        metadata={
            **metadata.numbers(facts),
            "flagged photos": len(facts["flagged"]),
            "splits": metadata.plain(facts["splits"]),
            "trivial answers": metadata.rows(("split", "answer", "scores"), priors),
            **metadata.picture(folder / "samples.png"),
            **metadata.picture(folder / "distributions.png"),
            **metadata.artifact(folder),
        },
        data_version=metadata.version(folder),
    )
