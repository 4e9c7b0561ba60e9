"""One base model for all checkpoints: loaded once, its photos prepared once and seen once by the vision tower.

Belongs here: what the checkpoints of a base share while they are scored. Does not belong here: which are scored
(`training`), or how one is put on (`models.attach_adapter`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutridet_core.data.examples import Split
from nutridet_core.pipeline.context import Context, split_batches

if TYPE_CHECKING:
    from nutridet_core.predict import Batches

_KEEP_BYTES = 8 * 2**30
"""Of host memory for prepared photos: 600 tokens at 7B are 11 MB, so about 750 photos."""


class AdaptedBase:
    """The profile's base model, which wears one adapter after another. Nothing is loaded before it is needed."""

    def __init__(self, context: Context) -> None:
        from nutridet_core.features import FeatureStore
        from nutridet_core.release.merge import TemporaryMerge

        self.context, self.features, self._merge = context, FeatureStore(), TemporaryMerge()
        self._batches: dict[Split, Batches] = {}
        self._adapted: Any = None

    def wear(self, adapter: Path) -> tuple[Any, Any]:
        """(model, processor) with this adapter and no other, beside the base's weights."""
        from nutridet_core.features import cache_features
        from nutridet_core.models import attach_adapter

        profile, model = self.context.profile, self._adapted or self._load()
        self._merge.take_out(model)
        self._adapted = attach_adapter(model, adapter, profile.contract)
        cache_features(self._adapted.requires_grad_(False), profile.architecture, self.features)
        return self._adapted, self.processor

    def prepare(self, model: Any, split: Split, *, merged: bool) -> Batches:
        """The photos of a split, in batches that the first model to ask has room for.

        Args:
            merged: add the adapter to the weights before, where there is memory for that. Whoever wants to look at the
                base beside its adapter does so before: PEFT takes a merged adapter out for it, and leaves it out.
        """
        if merged and not self._merge.put_in(model):
            self.context.log(
                "no memory for a second copy of the weights: the adapter stays beside them, which takes longer"
            )
        if split not in self._batches:
            self._batches[split] = split_batches(self.context, model, self.processor, split, keep_bytes=_KEEP_BYTES)
        return self._batches[split]

    @cached_property
    def processor(self) -> Any:
        """The base's."""
        from nutridet_core.models import base_source, load_processor

        profile = self.context.profile
        return load_processor(base_source(profile), profile.architecture, profile.contract)

    def _load(self) -> Any:
        from nutridet_core.models import base_source, load_model

        profile = self.context.profile
        self.context.log(f"loading {profile.base_model} in {profile.scoring_precision}")
        return load_model(base_source(profile), profile.architecture, profile.scoring_precision, profile.contract)
