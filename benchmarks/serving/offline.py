"""What needs no server: how alike FP8 answers in transformers, and how many passes drafts save.

    python -m benchmarks.serving.offline --photos FOLDER --work FOLDER

Belongs here: answers of the embedded model under FP8 schemes, and counting. Does not belong here: speed. A draft
is kept exactly when it is what the model writes, so the passes of an answer follow from the answer.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.serving.numbers import agreement, mean_of
from benchmarks.serving.photos import DrawnPhoto, read
from nutridet_core.merge import merge
from nutridet_core.models import Source, load_model, load_processor
from nutridet_core.predict import predict
from nutridet_core.profiles import TINY, TINY_TUNED
from nutridet_core.quantize import ignored_modules, set_fp8_scales
from nutridet_core.serving.in_vllm.answer_drafts import TEMPLATE, Template
from nutridet_core.serving.vllm_command import DRAFTED, VllmOptions, environment
from nutridet_core.store import write_json

_BATCH = 16
_END = "<|im_end|>"
_VISION = rf"re:^{TINY.architecture.vision_module}\..*"


@dataclass(frozen=True)
class Scheme:
    """What is in FP8."""

    name: str
    ignored: tuple[str, ...]
    """Linear layers that stay in bf16."""


SCHEMES = (
    Scheme("fp8", ignored_modules(TINY.architecture)),
    Scheme("fp8-head", (_VISION,)),
    Scheme("fp8-vision", ("lm_head",)),
    Scheme("fp8-all", ()),
)
"""What ships; with the head; with the vision tower; with both."""


def main() -> None:
    """Write `offline.json` and `texts.json` into the work folder; `report` takes them from there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="from python -m benchmarks.serving.photos")
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    photos = read(given.photos)
    texts = {"bf16": answers(None, photos, given.work)}
    for scheme in SCHEMES:
        texts[scheme.name] = answers(scheme, photos, given.work)
        print(scheme.name, shown(texts["bf16"], texts[scheme.name]), flush=True)
    write_json(given.work / "texts.json", texts)
    found = {name: shown(texts["bf16"], other) for name, other in texts.items() if name != "bf16"}
    write_json(given.work / "offline.json", {"n": len(photos), "agreement": found, "passes": passes(texts["bf16"])})


def answers(scheme: Scheme | None, photos: Sequence[DrawnPhoto], work: Path) -> list[str]:
    """What transformers makes of each photo, with weights and activations rounded as the scheme says."""
    folder = work / "tiny-bf16"
    merge(TINY, TINY_TUNED, folder, name="tiny")
    source = Source(str(folder))
    model = load_model(source, TINY.architecture, "float32", TINY.contract)
    if scheme is not None:
        set_fp8_scales(model, scheme.ignored)  # from now on its layers round what they read and hold
    processor = load_processor(source, TINY.architecture, TINY.contract)
    opened: list[Callable[[], Image.Image]] = [lambda photo=photo: _open(photo) for photo in photos]  # type: ignore[misc]
    found = predict(model, processor, TINY.contract, opened, batch_size=_BATCH, max_new_tokens=TINY.max_new_tokens)
    return [each.answer.text for each in found]


def shown(first: Sequence[str], second: Sequence[str]) -> dict[str, Any]:
    """How alike, as numbers."""
    found = agreement(TINY.contract, first, second)
    return {"n": found.photos, "same_texts": found.same_texts, "same_boxes": found.same_boxes,
            "iou": found.iou, "boxes": found.boxes, "tables_where_none": found.invented}  # fmt: skip


def passes(texts: Sequence[str]) -> dict[str, Any]:
    """Tokens of the answers, and the passes that they take with drafts, the prompt's own among them."""
    tokenizer = load_processor(Source(TINY.base_model), TINY.architecture, TINY.contract).tokenizer
    template = template_of(tokenizer)
    written = [tokenizer.encode(text + _END) for text in texts]
    with_guesses, without = (
        [count_passes(template, tokens, guess=guess) for tokens in written] for guess in (True, False)
    )
    return {
        "tokens": mean_of([len(tokens) for tokens in written]),
        "with_guesses": mean_of(with_guesses), "without_guesses": mean_of(without),
    }  # fmt: skip


def template_of(tokenizer: Any) -> Template:
    """As `AnswerDrafts` has it."""
    digits = frozenset(tokenizer.encode(str(digit))[-1] for digit in range(10))
    return Template(tokenizer.encode(environment(TINY, "", VllmOptions(drafts=True))[TEMPLATE]), digits)


def count_passes(template: Template, tokens: Sequence[int], *, guess: bool) -> int:
    """Passes until the last token: each gives one token beside the drafted ones that are right."""
    written, count = 1, 1
    while written < len(tokens):
        for draft in template.draft(tokens[:written], DRAFTED, guess=guess):
            if written == len(tokens) or draft != tokens[written]:
                break
            written += 1
        written, count = written + 1, count + 1
    return count


def _open(photo: DrawnPhoto) -> Image.Image:
    return Image.open(io.BytesIO(photo.content)).convert("RGB")


if __name__ == "__main__":
    main()
