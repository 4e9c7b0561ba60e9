"""Prediction: boxes in photos that nobody has labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nutridet_core.artifacts.store import is_complete, read_manifest
from nutridet_core.data.photos import load_photo
from nutridet_core.errors import DataError
from nutridet_core.models import Source, attach_adapter, base_source, load_model, load_processor
from nutridet_core.overlay import predicted_files, save_predicted
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import current_release
from nutridet_core.predict import Prediction, predict
from nutridet_core.profiles import TINY_TUNED, Profile
from nutridet_core.release.merge import merge_into


def predict_files(
    context: Context, photos: Sequence[Path], *, model: Path | None, out: Path
) -> Iterator[tuple[str, bool]]:
    """(line, whether the photo was answered) for each photo, those that cannot be read first; the others are drawn into
    `out` with their boxes.
    """
    images: dict[Path, Image.Image] = {}
    for path in photos:
        try:
            images[path] = load_photo(path)
        except DataError as error:
            yield f"error: {error}", False
    if not images:
        return
    network, processor = load_answering(context, model)
    predictions = predict(
        network,
        processor,
        context.profile.contract,
        [lambda image=image: image for image in images.values()],  # type: ignore[misc]
        batch_size=context.profile.score_batch_size,
        max_new_tokens=context.profile.max_new_tokens,
    )
    targets = predicted_files(list(images), out)
    for (path, image), target, prediction in zip(images.items(), targets, predictions, strict=True):
        save_predicted(image, prediction.answer.boxes, prediction.score, target)
        yield f"{path}: {describe(prediction, image.size)} -> {target}", True


def describe(prediction: Prediction, size: tuple[int, int]) -> str:
    """Boxes in pixels of the upright photo, or why there are none."""
    if prediction.answer.boxes:
        corners = [tuple(round(value) for value in box.to_px(*size)) for box in prediction.answer.boxes]
        return f"{', '.join(f'nutrition table{c}' for c in corners)} (score {prediction.score:.2f})"
    if prediction.answer.failed:
        return f"unreadable answer {prediction.answer.text!r}"
    return f"no nutrition table (score {prediction.score:.2f})"


def load_answering(context: Context, model: Path | None) -> tuple[Any, Any]:
    """(model, processor): the folder named; else the current release; else the base with its shipped adapter."""
    source = _released(context) if model is None else Source(str(model))
    network, processor = _load(context.profile, source or base_source(context.profile))
    return (network if source else _with_shipped_adapter(context, network)), processor


def load_untuned(context: Context) -> tuple[Any, Any]:
    """(model, processor) of the profile's base as it is."""
    return _load(context.profile, base_source(context.profile))


def _load(profile: Profile, source: Source) -> tuple[Any, Any]:
    network = load_model(source, profile.architecture, profile.scoring_precision, profile.contract)
    return network, load_processor(source, profile.architecture, profile.contract)


def _released(context: Context) -> Source | None:
    if not is_complete(context.layout.current_release):
        return None
    return Source(str(context.layout.merged(current_release(context)["release"])))


def _with_shipped_adapter(context: Context, network: Any) -> Any:
    """The base with its adapter merged: the base alone knows the task only roughly, and an adapter beside it takes as
    long as the base itself.
    """
    adapter = shipped_adapter(context.profile)
    if adapter is not None:
        context.log("no release yet: answering with the base and the adapter that ships with it")
        return merge_into(attach_adapter(network, adapter, context.profile.contract))
    context.log("no release yet: answering with the untuned base model")
    return network


def shipped_adapter(profile: Profile) -> Path | None:
    """The adapter in this package that was tuned on exactly the weights of the profile's base, if there is one."""
    if is_complete(TINY_TUNED) and read_manifest(TINY_TUNED).config["base"] == profile.base_identity:
        return TINY_TUNED
    return None
