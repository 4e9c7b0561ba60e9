"""The weights that are compared, as sealed artefacts: widened bf16, our FP8, FP8 of everything, and the small ones.

Belongs here: writing weights. Does not belong here: what serves them (`servers`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.serving.servers import WIDE
from benchmarks.serving.wide import QWEN2_VL_7B, Shape, widen
from nutridet_core.artifacts.store import Manifest, seal, writing
from nutridet_core.models import Source, load_model, load_processor
from nutridet_core.profiles import TINY, TINY_TUNED, Profile
from nutridet_core.release.merge import merge
from nutridet_core.release.quantize import quantize, set_fp8_scales


def prepare(work: Path, taught: Path, shape: Shape = QWEN2_VL_7B) -> None:
    """Write all of them below `work`, those first that servers wait for longest.

    Args:
        taught: the embedded model that knows large photos (`large`).
    """
    small = work / "tiny-bf16"
    _timed("the taught model's wide form", lambda: write_wide(taught, work / "bf16", shape))
    _timed("FP8 of the language model", lambda: quantize(WIDE, work / "bf16", work / "fp8", name="fp8"))
    _timed("FP8 of everything", lambda: write_all_fp8(WIDE, work / "bf16", work / "fp8-all"))
    _timed("the embedded model, merged", lambda: merge(TINY, TINY_TUNED, small, name="tiny"))
    _timed("FP8 of the embedded model", lambda: quantize(TINY, small, work / "tiny-fp8", name="tiny-fp8"))


def write_wide(small: Path, folder: Path, shape: Shape) -> None:
    """The widened model under the contract of Qwen2-VL-7B."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with writing(folder) as draft:
        widen(small, draft, shape, device)
        load_processor(Source(str(draft)), WIDE.architecture, WIDE.contract).save_pretrained(draft)
        seal(draft, Manifest(kind="model", name="wide", contract=WIDE.contract.hash))


def write_all_fp8(profile: Profile, bf16: Path, folder: Path) -> None:
    """FP8 of every linear layer: language model, vision tower and head; embeddings stay."""
    from compressed_tensors.compressors import ModelCompressor

    source, family, contract = Source(str(bf16)), profile.architecture, profile.contract
    model = load_model(source, family, "bf16", contract).to(torch.bfloat16)
    set_fp8_scales(model, ())
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    with writing(folder) as draft:
        model.save_pretrained(draft, max_shard_size="4GB")
        compressor.update_config(draft)
        load_processor(source, family, contract).save_pretrained(draft)
        seal(draft, Manifest(kind="model", name="fp8-all", contract=contract.hash))


def _timed(what: str, write: Callable[[], Any]) -> None:
    began = time.monotonic()
    write()
    print(f"{what}: written in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
