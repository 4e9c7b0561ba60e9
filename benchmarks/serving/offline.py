"""What needs no server: the answers of transformers, and how many passes drafts would save.

    python -m benchmarks.serving.offline --photos FOLDER --work FOLDER

Belongs here: the embedded model's answers, and counting. Does not belong here: speed, or FP8 (`benchmarks/gpu_smoke.py`
compares its schemes). A draft is kept exactly when it is what the model writes, so the passes of an answer follow
from the answer.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.serving.numbers import mean_of
from benchmarks.serving.photos import DrawnPhoto, read
from nutridet_core.artifacts.store import write_json
from nutridet_core.models import Source, load_model, load_processor
from nutridet_core.predict import predict
from nutridet_core.profiles import TINY, TINY_TUNED
from nutridet_core.release.merge import merge
from nutridet_core.serving.in_vllm.answer_drafts import TEMPLATE, Template
from nutridet_core.serving.vllm_command import DRAFTED, VllmOptions, environment

_BATCH = 16
_END = "<|im_end|>"


def main() -> None:
    """Write `offline.json` and `texts.json` into the work folder; `report` takes them from there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="from python -m benchmarks.serving.photos")
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    texts = answers(read(given.photos), given.work / "tiny-bf16")
    write_json(given.work / "texts.json", {"transformers": texts})
    write_json(given.work / "offline.json", {"n": len(texts), "passes": passes(texts)})


def answers(photos: Sequence[DrawnPhoto], folder: Path) -> list[str]:
    """What transformers makes of each photo, in float32."""
    merge(TINY, TINY_TUNED, folder, name="tiny")
    source = Source(str(folder))
    model = load_model(source, TINY.architecture, "float32", TINY.contract)
    processor = load_processor(source, TINY.architecture, TINY.contract)
    opened: list[Callable[[], Image.Image]] = [lambda photo=photo: _open(photo) for photo in photos]  # type: ignore[misc]
    found = predict(model, processor, TINY.contract, opened, batch_size=_BATCH, max_new_tokens=TINY.max_new_tokens)
    return [each.answer.text for each in found]


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
        "passes_with_guesses": mean_of(with_guesses),
        "passes_without_guesses": mean_of(without),
    }


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
