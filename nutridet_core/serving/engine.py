"""What answers: the protocol of engines, and one that only pretends.

Belongs here: what the gateway may expect of an engine. Does not belong here: engines that need a model
(`local`, `remote`) or reading their answers (`detector`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from nutridet_core.errors import NutridetError
from nutridet_core.serving.arriving import ArrivingPhoto


class EngineError(NutridetError):
    """An engine that is gone, or answers with something that is no answer."""


@dataclass(frozen=True)
class Reply:
    """What a model wrote about one photo."""

    text: str
    """With the grammar's own tokens, without the terminator."""
    score: float | None
    """Geometric mean of the token probabilities, 0..1; None where the engine does not tell them."""
    waited: float = 0.0
    """Seconds before its batch began; the engine's own queue, where it has one."""


class Engine(Protocol):
    """One loaded model. Many photos may be asked about at once; how they are batched is the engine's affair."""

    @property
    def name(self) -> str:
        """Kind of engine, as the API reports it."""

    async def answer(self, photo: ArrivingPhoto) -> Reply:
        """What the model says about a photo when asked the contract's question.

        Raises:
            EngineError: when there is no answer.
            PhotoError: when its pixels are needed, and cannot be decoded.
        """

    async def ready(self) -> bool:
        """Whether it would answer now."""

    async def close(self) -> None:
        """Give back memory and processes. Not called while a photo is being answered."""


@dataclass
class FakeEngine:
    """An engine without a model: says the same about every photo. For tests of clients, and of the gateway.

    Args:
        text: what it answers.
        seconds: how long it takes over each photo, all of them at once.
        failure: raised instead of an answer.
    """

    text: str = "<|object_ref_start|>nutrition table<|object_ref_end|><|box_start|>(273,304),(713,679)<|box_end|>"
    score: float | None = 0.9
    seconds: float = 0.0
    failure: Exception | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of the upright photos it was asked about."""
    closed: bool = False
    name: str = "fake"

    async def answer(self, photo: ArrivingPhoto) -> Reply:
        """The text, after `seconds`."""
        self.sizes.append((await photo.pixels()).image.size)
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        return Reply(self.text, self.score)

    async def ready(self) -> bool:
        """Until it is closed."""
        return not self.closed

    async def close(self) -> None:
        """Remembered in `closed`."""
        self.closed = True
