"""Inputs: what the photos that a release was trained on were like, kept with it.

Belongs here: keeping and reading those measurements. Does not belong here: measuring or judging (`evaluation.drift`).

They are kept because the dataset is made anew when its source changes, training photos included: compared
with those of the same day, photos would never seem to drift.
"""

from __future__ import annotations

import json

from nutridet_core.artifacts.store import Manifest, is_complete, read_manifest, seal, write_json, writing
from nutridet_core.evaluation.drift import Inputs, measure
from nutridet_core.pipeline.context import Context

_FILE = "inputs.json"
_KIND = "inputs"


def keep_training_inputs(context: Context, release: str) -> None:
    """Measure the training photos of today's dataset, unless this release has such measurements."""
    folder = context.layout.training_inputs(release)
    if is_complete(folder):
        return
    with writing(folder) as draft:
        write_json(draft / _FILE, measure(context.layout.dataset, "train").to_dict())
        seal(draft, Manifest(kind=_KIND, name=release, data_fingerprint=context.fingerprint))


def training_inputs(context: Context, release: str) -> Inputs:
    """What was kept; nothing for a release that was registered before such measurements were."""
    folder = context.layout.training_inputs(release)
    if not is_complete(folder):
        return Inputs(0, {})
    read_manifest(folder, kind=_KIND)
    return Inputs.from_dict(json.loads((folder / _FILE).read_text(encoding="utf-8")))
