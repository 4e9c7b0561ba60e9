"""The way of a photo: from bytes to a `Detection`, through limits, queue and engine.

Belongs here: everything between HTTP and engine. Does not belong here: routes (`gateway`), where bytes come
from (`photos`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nutridet_core.answers import LABEL, Answer
from nutridet_core.children import cores
from nutridet_core.data.photos import Photo, PhotoError, PhotoLimits, open_photo
from nutridet_core.families import get_family
from nutridet_core.prompts import Contract, resized_size
from nutridet_core.serving import refusals
from nutridet_core.serving.admission import Admission, PixelBudget
from nutridet_core.serving.arriving import ArrivingPhoto
from nutridet_core.serving.engine import Engine, EngineError, Reply
from nutridet_core.serving.holder import Holder, Served
from nutridet_core.serving.metrics import Metrics
from nutridet_core.serving.refusals import RefusedError
from nutridet_core.serving.schemas import BatchItem, Detection, FoundBox, ModelInfo, Problem, Timing

log = logging.getLogger("nutridet.serving")

_DECODERS = 4
"""Photos decoded at once, in turn. More threads wait for each other and the interpreter, and photos come late to the
engine, all at once: with six threads a gateway on two cores answered a fifth fewer."""


@dataclass(frozen=True)
class Limits:
    """What a gateway accepts."""

    photo: PhotoLimits = field(default_factory=lambda: PhotoLimits(bytes=16 * 2**20, pixels=50_000_000))
    places: int = 64
    """Photos that may wait or be answered at the same time; the next one gets a 429."""
    batch: int = 32
    """Photos in one request."""
    pixels_in_memory: int = 500_000_000
    """Of decoded photos; three bytes each."""
    seconds: float = 60.0
    """Longest time from a photo's last byte to its answer."""
    body_seconds: float = 30.0
    """Longest time that a client may take to send its request."""

    @property
    def together(self) -> int:
        """Most photos in one request that can have their places."""
        return min(self.batch, self.places)

    @property
    def requests(self) -> int:
        """Requests with photos that may be read, wait or be answered at the same time, so that the bodies in memory are
        bounded; the next one gets a 429. More than places: slow senders hold no place.
        """
        return 4 * self.places

    @property
    def body(self) -> int:
        """Bytes of a request with one photo, base64 and a form's wrapping included."""
        return self.photo.bytes * 4 // 3 + 2**16

    @property
    def batch_body(self) -> int:
        """Bytes of a request with several photos: four of the largest, or many small ones."""
        return 4 * self.body


@dataclass(frozen=True)
class _Clock:
    """Readings on a photo's way, s."""

    began: float
    opened: float
    asked: float
    done: float


class Detector:
    """Answers photos with the model that `holder` holds.

    Args:
        holder: the model being served.
        limits: what is accepted, by all models together.
        beside: further models, by the names that requests choose them by.
    """

    def __init__(self, holder: Holder, limits: Limits, beside: Mapping[str, Holder] | None = None) -> None:
        self.holder, self.limits, self.beside = holder, limits, dict(beside or {})
        self.admission = Admission(limits.places)
        self.metrics = Metrics(lambda: self.admission.taken, lambda: holder.served.identity)
        self._pixels = PixelBudget(limits.pixels_in_memory)
        self._decoders = asyncio.Semaphore(min(_DECODERS, cores()))

    def choose(self, model: str | None) -> Holder:
        """The model of that name; without a name the one that is served.

        Raises:
            RefusedError: naming those there are.
        """
        if not model:
            return self.holder
        if model not in self.beside:
            known = ", ".join(self.beside) or "none but the one served, without a name"
            raise refusals.bad_request(
                f"no model {model[:60]!r}", field="model", remedy=f"Known: {known}.", status=404, kind="no_model"
            )
        return self.beside[model]

    async def close(self) -> None:
        """Close all models."""
        for holder in (self.holder, *self.beside.values()):
            await holder.close()

    async def detect(self, content: bytes, field: str = "image", *, model: str | None = None) -> Detection:
        """What the model finds in one photo.

        Raises:
            RefusedError: when there is no place, the photo cannot be used, or no answer comes.
        """
        holder = self.choose(model)
        with self.admission.place():
            return await self._detect(content, field, holder)

    async def detect_all(
        self, contents: Sequence[bytes | RefusedError], field: str = "images", *, model: str | None = None
    ) -> list[BatchItem]:
        """The same for each photo of a batch; one that cannot be used does not cost the others their answer.

        Args:
            contents: or why there are none.

        Raises:
            RefusedError: when there are not places for all of them.
        """
        if len(contents) > self.limits.together:
            raise refusals.too_many_photos(self.limits.together)
        holder = self.choose(model)
        with self.admission.place(len(contents)):
            tasks = [self._item(content, f"{field}[{number}]", holder) for number, content in enumerate(contents)]
            return list(await asyncio.gather(*tasks))

    async def _item(self, content: bytes | RefusedError, field: str, holder: Holder) -> BatchItem:
        try:
            return BatchItem(detection=await self._detect(content, field, holder))
        except RefusedError as refusal:
            return BatchItem(error=Problem(**refusal.body["error"]))

    async def _detect(self, content: bytes | RefusedError, field: str, holder: Holder) -> Detection:
        try:
            if isinstance(content, RefusedError):
                raise content
            detection = await self._answer(content, field, holder)
        except RefusedError as refusal:
            self.metrics.photos.labels("refused" if refusal.status < 500 else "failed").inc()
            raise
        self._count(detection)
        return detection

    async def _answer(self, content: bytes, field: str, holder: Holder) -> Detection:
        """`_see`, with every way in which it can fail told as a refusal."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await self._see(content, holder)
        except PhotoError as error:
            raise refusals.of_photo(error, field) from error
        except TimeoutError as error:
            raise refusals.too_slow(self.limits.seconds) from error
        except EngineError as error:
            log.warning("engine: %s", error)
            raise refusals.no_engine(error.problem) from error
        except Exception as error:
            log.exception("engine failed")
            raise refusals.no_engine("the engine failed") from error

    async def _see(self, content: bytes, holder: Holder) -> Detection:
        began = time.perf_counter()
        file = open_photo(content, where="photo", limits=self.limits.photo)
        width, height = file.size
        opened = time.perf_counter()
        async with self._pixels.hold(width * height), holder.use() as served:
            asked = time.perf_counter()
            photo = ArrivingPhoto(file, self._decoders)
            reply, pixels = await _ask(served.engine, photo)
            clock = _Clock(began, opened, asked, done=time.perf_counter())
        size = pixels.image.size
        answer = _read(served.contract, reply.text, size)
        return _detection(answer, reply, size, served, _timing(clock, photo, reply))

    def _count(self, detection: Detection) -> None:
        outcome = "table" if detection.boxes else "unreadable" if detection.failed else "no_table"
        self.metrics.photos.labels(outcome).inc()
        for problem in detection.problems:
            self.metrics.problems.labels(problem).inc()
        for stage, milliseconds in detection.timing_ms.model_dump().items():
            self.metrics.seconds.labels(stage).observe(milliseconds / 1000)


def model_info(served: Served) -> ModelInfo:
    """The model as the API reports it."""
    identity = served.identity
    return ModelInfo(
        name=identity.name,
        version=identity.version,
        digest=identity.digest,
        contract=served.contract.hash,
        engine=served.engine.name,
    )


def _read(contract: Contract, text: str, size: tuple[int, int]) -> Answer:
    """What the text says; a grid of thousandths needs no resize, and spares a mere gateway loading transformers."""
    resized = size if get_family(contract.family).coordinates == "grid_1000" else resized_size(contract, *size)
    return contract.read(text, resized)


async def _ask(engine: Engine, photo: ArrivingPhoto) -> tuple[Reply, Photo]:
    """What the engine says, while the photo is decoded. One that cannot be used is told before an engine that could
    not use it, and its answer is not waited for.
    """
    asking = asyncio.create_task(engine.answer(photo))
    tasks = (asking, photo.decoding)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        pixels = await photo.pixels()
        return await asking, pixels
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _timing(clock: _Clock, photo: ArrivingPhoto, reply: Reply) -> Timing:
    """Stages that add up: what was decoded while the engine was at work took no time of its own."""
    total, decode = clock.done - clock.began, min(photo.work, photo.blocked)
    stages = {
        "decode": (clock.opened - clock.began) + decode,
        "wait": (clock.asked - clock.opened) + (photo.blocked - decode) + reply.waited,
        "total": total,
    }
    stages["answer"] = total - stages["decode"] - stages["wait"]
    return Timing(**{name: round(seconds * 1000, 3) for name, seconds in stages.items()})


def _detection(answer: Answer, reply: Reply, size: tuple[int, int], served: Served, timing: Timing) -> Detection:
    boxes = [
        FoundBox(label=LABEL, px=_rounded(box.to_px(*size), 2), unit=_rounded(box.as_tuple(), 6))
        for box in answer.boxes
    ]
    return Detection(
        boxes=boxes,
        score=reply.score,
        text=answer.text,
        form=answer.form.value,
        problems=[problem.value for problem in answer.problems],
        failed=answer.failed,
        size=size,
        model=model_info(served),
        timing_ms=timing,
    )


def _rounded(values: tuple[float, float, float, float], digits: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(value, digits) for value in values)
    return x0, y0, x1, y1
