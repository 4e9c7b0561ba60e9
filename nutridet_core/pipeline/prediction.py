"""Prediction: boxes in photos that nobody has labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nutridet_core.data.examples import load_photo
from nutridet_core.models import Source, base_source, load_model, load_processor
from nutridet_core.overlay import draw_boxes
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import current_release
from nutridet_core.predict import Prediction, predict
from nutridet_core.store import is_complete


def predict_files(context: Context, photos: Sequence[Path], *, model: Path | None, out: Path) -> Iterator[str]:
    """A line per photo; the photo with its boxes drawn goes to `out`.

    Raises:
        DataError: naming the photo that cannot be read.
    """
    profile = context.profile
    images = [load_photo(path) for path in photos]
    source = _weights(context, model)
    network = load_model(source, profile.architecture, profile.scoring_precision, profile.contract)
    processor = load_processor(source, profile.architecture, profile.contract)
    predictions = predict(
        network,
        processor,
        profile.contract,
        [lambda image=image: image for image in images],  # type: ignore[misc]
        batch_size=profile.score_batch_size,
        max_new_tokens=profile.max_new_tokens,
    )
    out.mkdir(parents=True, exist_ok=True)
    for path, image, prediction in zip(photos, images, predictions, strict=True):
        target = out / f"{path.stem}.boxes.png"
        draw_boxes(image, [], prediction.answer.boxes, caption=f"score {prediction.score:.2f}", max_side=1024).save(
            target
        )
        yield f"{path}: {describe(prediction, image.size)} -> {target}"


def describe(prediction: Prediction, size: tuple[int, int]) -> str:
    """Boxes in pixels of the upright photo, or why there are none."""
    if prediction.answer.boxes:
        corners = [tuple(round(value) for value in box.to_px(*size)) for box in prediction.answer.boxes]
        return f"{', '.join(f'nutrition table{c}' for c in corners)} (score {prediction.score:.2f})"
    if prediction.answer.failed:
        return f"unreadable answer {prediction.answer.text!r}"
    return f"no nutrition table (score {prediction.score:.2f})"


def _weights(context: Context, model: Path | None) -> Source:
    """The folder named; else the current release; else the base, which knows the task only roughly."""
    if model is not None:
        return Source(str(model))
    if is_complete(context.layout.current_release):
        return Source(str(context.layout.merged(current_release(context)["release"])))
    context.log("no release yet: answering with the untuned base model")
    return base_source(context.profile)
