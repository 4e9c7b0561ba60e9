"""Dataset: one validated, split, fingerprinted dataset, and a report about it."""

from __future__ import annotations

from nutridet_core.artifacts.store import Manifest
from nutridet_core.data.dataset import DatasetSpec
from nutridet_core.data.dataset import prepare_dataset as prepare
from nutridet_core.pipeline.context import Context
from nutridet_core.report.dataset import report_dataset as report


def prepare_dataset(context: Context) -> Manifest:
    """Load, validate, deduplicate and split the photos of the source."""
    settings = context.settings
    spec = DatasetSpec(source=settings.source or context.profile.source, test_source=settings.test_source)
    return prepare(spec, context.layout.dataset, log=context.log)


def report_dataset(context: Context) -> Manifest:
    """Counts, distributions and a sample sheet."""
    return report(context.layout.dataset, context.layout.dataset_report, log=context.log)
