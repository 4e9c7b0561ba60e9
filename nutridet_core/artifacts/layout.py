"""Where every artefact lies under the artefact folder of one profile.

Belongs here: names of folders, and PEFT's names of an adapter's files. Does not belong here: what goes into them
(`pipeline`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""What PEFT calls the two files of an adapter."""


MADE_BY = {
    "dataset": "nutridet data", "adapter": "nutridet train", "checkpoint": "nutridet train",
    "choice": "nutridet checkpoints", "scores": "nutridet evaluate", "leaderboard": "nutridet compare",
    "release": "nutridet merge", "model": "nutridet merge", "release_report": "nutridet quantize",
}  # fmt: skip
"""The command that makes each kind of artefact, by the kind in its manifest."""


@dataclass(frozen=True)
class Layout:
    """Folders of one profile. Releases are never overwritten: a champion must outlive the next run."""

    root: Path

    @property
    def dataset(self) -> Path:
        """Validated, split photos."""
        return self.root / "dataset"

    @property
    def dataset_report(self) -> Path:
        """Counts, distributions, sample sheet."""
        return self.root / "dataset_report"

    def scores(self, subject: str, split: str) -> Path:
        """Predictions and scores of one subject on one split."""
        return self.root / "scores" / subject / split

    def adapter(self, experiment: str) -> Path:
        """One experiment's checkpoints."""
        return self.root / "adapters" / experiment

    def choice(self, experiment: str) -> Path:
        """Which checkpoint of an experiment won, and by what."""
        return self.root / "choices" / experiment

    @property
    def leaderboard(self) -> Path:
        """The HTML report and its pieces."""
        return self.root / "leaderboard"

    @property
    def current_release(self) -> Path:
        """A pointer: which release the last run made."""
        return self.root / "release"

    def merged(self, release: str) -> Path:
        """Merged bf16 weights of a release."""
        return self.root / "releases" / release / "merged"

    def fp8(self, release: str) -> Path:
        """FP8 weights of a release."""
        return self.root / "releases" / release / "fp8"

    def reference_scores(self, release: str) -> Path:
        """Test scores of a release's merged weights when it was registered; never overwritten."""
        return self.root / "releases" / release / "reference_scores"

    def training_inputs(self, release: str) -> Path:
        """What was measured on the photos that a release was trained on; never overwritten."""
        return self.root / "releases" / release / "training_inputs"

    @property
    def release_report(self) -> Path:
        """Parity of merged and FP8 weights with what was chosen."""
        return self.root / "release_report"

    @property
    def model_card(self) -> Path:
        """The card of the current release."""
        return self.root / "model_card"

    @property
    def triton(self) -> Path:
        """Model repository for Triton's vLLM backend."""
        return self.root / "triton"

    @property
    def reevaluations(self) -> Path:
        """One folder per re-evaluation of the champion, named by time."""
        return self.root / "reevaluations"

    @property
    def monitoring(self) -> Path:
        """Trend over all re-evaluations, and drift of the newest one's photos."""
        return self.root / "monitoring"

    def collection(self, address: str) -> Path:
        """Listing of a collection of photos, and what was detected in them."""
        return self.root / "collections" / collection_name(address)


def collection_name(address: str) -> str:
    """A name for the folder and the partitions of a collection: the end of its address, and digits of its hash."""
    end = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(address).name).strip("-") or "collection"
    return f"{end[:40]}-{hashlib.sha256(address.encode()).hexdigest()[:6]}"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders of an adapter in order of their steps, complete or not."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))
