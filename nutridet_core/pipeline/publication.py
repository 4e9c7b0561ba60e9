"""Publication: the model card and the Triton repository of the current release."""

from __future__ import annotations

from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import current_release
from nutridet_core.store import Manifest, read_manifest, reusable, seal, writing
from nutridet_core.triton import write_repository


def build_triton_repository(context: Context) -> Manifest:
    """A Triton model repository that serves the current release's FP8 weights."""
    from nutridet_core.models import Source, load_processor
    from nutridet_core.prompts import prompt_text

    release, profile = current_release(context)["release"], context.profile
    weights = context.layout.fp8(release)
    config = {"fp8": read_manifest(weights, kind="model").digest, "contract": profile.contract.hash}
    if kept := reusable(context.layout.triton, "triton_repository", config):
        return kept
    processor = load_processor(Source(str(weights)), profile.architecture, profile.contract)
    with writing(context.layout.triton) as draft:
        write_repository(draft, profile=profile, weights=weights, prompt=prompt_text(profile.contract, processor))
        return seal(
            draft, Manifest(kind="triton_repository", name=release, contract=profile.contract.hash, config=config)
        )
