"""A replica: one loaded model that works through shards, many photos of a shard at a time.

Belongs here: from references to rows. Does not belong here: who gives a replica its shards (`ray_pool`), or the way of
one photo (`serving.detector`, the same that the gateway uses: one decoder, one set of limits, one reading of answers).
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nutridet_core.collection.files import Files, MissingError
from nutridet_core.collection.listing import Part, read_shard
from nutridet_core.collection.references import Open, Reference, open_references
from nutridet_core.collection.shards import Target, answered, unanswered
from nutridet_core.collection.trials import Trial
from nutridet_core.data.photos import INGEST
from nutridet_core.errors import ArtifactError, MachineError
from nutridet_core.pipeline.context import Context
from nutridet_core.serving.detector import Detector, Limits
from nutridet_core.serving.holder import Holder, Served
from nutridet_core.serving.launch import EngineKind, LaunchOptions, launch, load
from nutridet_core.serving.refusals import RefusedError
from nutridet_core.serving.weights import Weights, find_weights
from nutridet_core.settings import Settings

Seen = Callable[[int], None]
"""Told how many more photos have been answered."""

_SERVER_ERROR = 500
_ENGINE_PROBLEMS = ("engine_failed", "timeout")
_PAUSES = (1.0, 5.0, 30.0, 120.0)  # s, before a photo is asked about again: a vLLM that died is being started
_SECONDS = 600.0  # longest time for one photo, its place in the queue included
_BATCHES_UNDER_WAY = 2  # one is answered while the next is decoded
_AT_ONCE_REMOTE = 128  # photos under way to a server that batches by itself


@dataclass(frozen=True)
class Job:
    """What every replica of a run must agree on. Can be pickled; holds no setting but these."""

    home: Path
    profile: str
    revision: str | None
    engine: LaunchOptions
    weights: Weights | None
    """None for an engine that runs already."""
    files: Files
    column: str
    target: Target
    at_once: int | None = None
    """Photos under way in a replica, where that should not follow from the engine."""

    @cached_property
    def context(self) -> Context:
        """Where a replica finds base models and artefacts."""
        return Context(Settings(home=self.home, profile=self.profile, revision=self.revision))


@dataclass(frozen=True)
class Shard:
    """A shard to be answered."""

    part: Part
    number: int

    @property
    def photos(self) -> int:
        """How many."""
        return self.part.shards[self.number]


@dataclass(frozen=True)
class Outcome:
    """A shard that is on disk."""

    shard: Shard
    photos: int
    seconds: float
    """That a replica worked on it."""
    counts: dict[str, int]


class Replica:
    """Loads the model when it is made; `close` gives it back."""

    def __init__(self, job: Job) -> None:
        self._job, self._runner = job, asyncio.Runner()
        self._answering: asyncio.Task[Any] | None = None
        self.stopped = False
        """Whether somebody has called `stop`."""
        served = self._runner.run(_serve(job))
        limits = Limits(photo=INGEST, places=self._at_once(served), seconds=_SECONDS)
        self._detector = Detector(Holder(served), limits)

    def score(self, shard: Shard, seen: Seen = lambda photos: None) -> Outcome:
        """Answer a shard and write it, unless it is there: whoever had it before may have died just after."""
        job, began = self._job, time.monotonic()
        manifest = job.target.kept(shard.part, shard.number)
        if manifest is None:
            trial = Trial(job.target.trial(shard.part.name, shard.number))
            with trial.attempt():
                rows = self._runner.run(self._answer(read_shard(shard.part.folder, shard.number), trial, seen))
                _require_some_answer(rows)
                facts = {"seconds": round(time.monotonic() - began, 3)}
                manifest = job.target.write(shard.part, shard.number, rows, facts)
        counts = manifest.facts["counts"]
        return Outcome(shard, counts["photos"], time.monotonic() - began, counts)

    def close(self) -> None:
        """End the engine and whatever it started."""
        self._runner.run(self._detector.close())
        self._runner.close()

    def stop(self) -> None:
        """For a signal's handler: `score` raises CancelledError. What the handler itself raised might be lost in a
        callback, and would leave tasks in the loop that go on with the shard while it is closed.
        """
        self.stopped = True
        if self._answering is not None:
            self._runner.get_loop().call_soon_threadsafe(self._answering.cancel)

    def _at_once(self, served: Served) -> int:
        if self._job.at_once is not None:
            return self._job.at_once
        batch = _BATCHES_UNDER_WAY * self._job.context.profile.score_batch_size
        return batch if served.engine.name == EngineKind.TRANSFORMERS else _AT_ONCE_REMOTE

    async def _answer(self, references: list[Reference], trial: Trial, seen: Seen) -> list[dict[str, Any]]:
        """A row per photo, in order; no more photos in memory than places, and one where a process has ended."""
        self._answering = asyncio.current_task()
        if self.stopped:
            raise asyncio.CancelledError
        places = asyncio.Semaphore(1 if trial.deaths else self._detector.limits.places)
        opened = open_references(self._job.files, references, self._job.column)

        async def row(reference: Reference, read: Open, number: int) -> dict[str, Any]:
            try:
                if number in trial.culprits:
                    return unanswered(reference, "ends_the_process", self._job.target.model)
                return await self._row(reference, read, trial, number)
            finally:
                places.release()
                seen(1)

        tasks: list[asyncio.Task[dict[str, Any]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                while (found := await asyncio.to_thread(_next, opened)) is not None:
                    await places.acquire()
                    tasks.append(group.create_task(row(*found, len(tasks))))
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        return [task.result() for task in tasks]

    async def _row(self, reference: Reference, read: Open, trial: Trial, number: int) -> dict[str, Any]:
        model = self._job.target.model
        trial.touch(number)
        try:
            return answered(reference, await self._detect(await asyncio.to_thread(read), trial, number), model)
        except MissingError:
            return unanswered(reference, "missing", model)
        except RefusedError as refusal:
            return unanswered(reference, refusal.kind, model)

    async def _detect(self, content: bytes, trial: Trial, number: int) -> Any:
        """Asks again when the engine fails. An engine that stays away is an error of the run, not of the photo.

        Raises:
            RefusedError: when the photo cannot be used, or when it alone makes the engine fail.
            MachineError: when the engine is gone.
        """
        for pause in (*_PAUSES, None):
            try:
                return await self._detector.detect(content)
            except RefusedError as refusal:
                if refusal.status < _SERVER_ERROR:
                    raise
                trial.wait()
                if pause is None and await self._detector.holder.served.engine.ready():
                    raise
                if pause is None:
                    raise MachineError(
                        f"the engine does not answer ({refusal.problem})",
                        remedy="See its log; run it again: finished shards are kept.",
                    ) from refusal
            await asyncio.sleep(pause)
            trial.touch(number)
        raise AssertionError


async def _serve(job: Job) -> Served:
    """The engine, with the very weights that the run was begun with.

    Raises:
        ArtifactError: when they have changed, or a release has taken the place of the base since.
    """
    if job.weights is None:
        return (await launch(job.context, job.engine)).holder.served
    if job.weights.folder is None and find_weights(job.context, None) != job.weights:
        raise ArtifactError("there is a release now, the run was begun without", remedy="Run it again.")
    return await load(job.context, job.engine, job.weights)


def _next(opened: Iterator[tuple[Reference, Open]]) -> tuple[Reference, Open] | None:
    return next(opened, None)


def _require_some_answer(rows: Sequence[Mapping[str, Any]]) -> None:
    """One photo may make an engine fail; one that fails on all of them is out of memory, or broken."""
    failed = sum(row.get("problem") in _ENGINE_PROBLEMS for row in rows)
    if failed and failed == len(rows):
        raise MachineError(f"the engine failed on all {failed} photos of a shard", remedy="See its log.")


def score_here(job: Job, shards: Sequence[Shard], seen: Seen) -> Iterator[Outcome]:
    """Answer shards one after the other in this process, without Ray."""
    replica = Replica(job)
    try:
        with _stopped_by_sigterm(replica):
            for shard in shards:
                yield replica.score(shard, seen)
    finally:
        replica.close()


@contextmanager
def _stopped_by_sigterm(replica: Replica) -> Iterator[None]:
    """SIGTERM unwinds, so that it is no death (`trials`); then the former handler has its turn.

    Raises:
        SystemExit: after it.
    """
    former = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or former in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: replica.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
        if replica.stopped:
            if callable(former):
                former(signal.SIGTERM, None)
            raise SystemExit(128 + signal.SIGTERM)
