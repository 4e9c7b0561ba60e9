"""transformers in this process: photos that wait together are answered together.

Belongs here: micro-batching. Does not belong here: generation (`predict`) or loading (`weights`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from nutridet_core.memory import return_freed_memory
from nutridet_core.predict import Prediction, predict
from nutridet_core.prompts import Contract
from nutridet_core.serving.arriving import ArrivingPhoto
from nutridet_core.serving.engine import EngineError, Reply

log = logging.getLogger("nutridet.serving")


@dataclass
class _Waiting:
    image: Image.Image
    reply: asyncio.Future[Reply]
    since: float = field(default_factory=time.perf_counter)


class TransformersEngine:
    """A model in this process, used by one thread. A batch is whatever waits when the last one is done.

    Args:
        model: as `models.load_model` gives it.
        processor: with the contract's resize.
        batch_size: most photos in a batch.
        max_new_tokens: longest answer, in tokens.
    """

    name = "transformers"

    def __init__(self, model: Any, processor: Any, contract: Contract, *, batch_size: int, max_new_tokens: int) -> None:
        self._model, self._processor, self._contract = model, processor, contract
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nutridet-model")
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def answer(self, photo: ArrivingPhoto) -> Reply:
        """What the model writes, with the others that wait."""
        image = (await photo.pixels()).image
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        waiting = _Waiting(image, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.reply

    async def ready(self) -> bool:
        """Until it is closed, or its worker has ended."""
        return self._model is not None and (self._worker is None or not self._worker.done())

    async def close(self) -> None:
        """End the thread and let the model go."""
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        self._thread.shutdown(wait=False)
        self._model = self._processor = None

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._batch_size and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            wanted = [each for each in batch if not each.reply.done()]  # the others' clients have stopped waiting
            if wanted:
                await self._answer(wanted)

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        """A batch that fails is tried photo by photo, so that one cannot cost the others their answer."""
        began = time.perf_counter()
        try:
            predictions = await self._predict([each.image for each in batch])
        except Exception as error:
            log.exception("a batch of %d photos failed", len(batch))
            if len(batch) > 1:
                for each in batch:
                    await self._answer([each])
                return
            _settle(batch[0], EngineError(f"the model failed ({type(error).__name__})"))
            return
        for each, prediction in zip(batch, predictions, strict=True):
            _settle(each, Reply(prediction.answer.text, prediction.score, began - each.since))

    async def _predict(self, images: Sequence[Image.Image]) -> list[Prediction]:
        def run() -> list[Prediction]:
            predictions = predict(
                self._model,
                self._processor,
                self._contract,
                [lambda image=image: image for image in images],  # type: ignore[misc]
                batch_size=len(images),
                max_new_tokens=self._max_new_tokens,
            )
            return_freed_memory()
            return predictions

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


def _settle(waiting: _Waiting, outcome: Reply | Exception) -> None:
    if waiting.reply.done():
        return
    if isinstance(outcome, Exception):
        waiting.reply.set_exception(outcome)
    else:
        waiting.reply.set_result(outcome)
