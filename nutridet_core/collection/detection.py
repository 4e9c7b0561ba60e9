"""Detection over a collection: list it, answer what is not answered yet, sum up.

Belongs here: the verbs, as the command line and the assets call them. Does not belong here: how any of it is done.

    OUT/listing/PART                       references of the photos, in shards
    OUT/detections/MODEL/PART/SHARD        detections.parquet, a row per photo
    OUT/detections/MODEL/PART/summary      counts, speed, a sheet of photos with their boxes

Every step is idempotent: what is whole and was made with the same model and contract is kept.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nutridet_core.artifacts.layout import collection_name
from nutridet_core.artifacts.locks import claimed
from nutridet_core.artifacts.store import Manifest, digest, read_manifest
from nutridet_core.collection.files import Files, open_files
from nutridet_core.collection.listing import DETECTIONS, LISTING, Listing, Part, read_parts, update
from nutridet_core.collection.progress import Progress
from nutridet_core.collection.replica import Job, Outcome, Shard, score_here
from nutridet_core.collection.shards import Target, total
from nutridet_core.collection.summary import summarise
from nutridet_core.errors import ArtifactError, SettingsError
from nutridet_core.pipeline.context import Context
from nutridet_core.serving.launch import EngineKind, LaunchOptions, launch
from nutridet_core.serving.weights import Weights, find_alias, find_weights

ENGINE_KEY = "NUTRIDET_ENGINE_KEY"
_IN_REPLICAS = (EngineKind.TRANSFORMERS, EngineKind.VLLM)


@dataclass(frozen=True)
class Request:
    """What is to be answered, and with what."""

    collection: str
    """Folder, parquet file, or `s3://BUCKET/PREFIX`."""
    out: Path
    model: str | None = None
    """As for `nutridet serve`: folder, alias, or the name that a running server gives it."""
    engine: str = EngineKind.TRANSFORMERS.value
    """transformers and vllm are loaded by each replica; the others run already."""
    url: str | None = None
    """Of a server that runs already."""
    replicas: int | None = None
    """None: one per GPU of the cluster, or one per core where there is none."""
    shard: int = 1000
    """Photos in a shard: what is repeated when a replica dies."""
    column: str = "image"
    """Of parquet files."""
    local: bool = False
    """In this process, without Ray."""

    @property
    def engine_kind(self) -> EngineKind:
        """The engine, by its name.

        Raises:
            SettingsError: naming those there are.
        """
        try:
            return EngineKind(self.engine)
        except ValueError as error:
            known = ", ".join(EngineKind)
            raise SettingsError(f"no engine {self.engine!r}", field="engine", remedy=f"Known: {known}.") from error


@dataclass(frozen=True)
class Detections:
    """What there is of a collection, by one model."""

    folder: Path
    parts: tuple[Manifest, ...]
    """The summary of each."""

    @property
    def photos(self) -> int:
        """In all parts."""
        return total(self.parts)["photos"]

    @property
    def text(self) -> str:
        """In one line."""
        counts = total(self.parts)
        problems = ", ".join(f"{counts[name]} {name.partition(': ')[2]}" for name in sorted(counts) if ": " in name)
        return (
            f"{counts['photos']} photos: {counts['with_box']} with a table, {counts['no_box']} without, "
            f"{counts['failed_answer']} unreadable answers, {counts['no_answer']} without an answer"
            f"{f' ({problems})' if problems else ''}; rows in {self.folder}"
        )


def list_photos(context: Context, request: Request) -> Listing:
    """Look at the collection, and add a part for what is new.

    Raises:
        ArtifactError: when another process is at work in the same folder.
    """
    files = open_files(request.collection)
    with _claimed(request.out):
        listing = update(request.out / LISTING, files, column=request.column, shard=request.shard)
    context.log(f"{files.uri}: {listing.text}")
    return listing


def detect(context: Context, request: Request, names: Sequence[str] | None = None) -> Detections:
    """Answer the photos of parts that are listed.

    Args:
        names: of parts; all when not given.

    Raises:
        ArtifactError: when another process is at work in the same folder, or a part is not listed.
    """
    files = open_files(request.collection)
    with _claimed(request.out):
        parts = _named(read_parts(request.out / LISTING), names)
        job = _job(context, request, files)
        _answer(context, request, job, parts)
        return Detections(job.target.folder, tuple(summarise(job, part) for part in parts))


def answer_collection(context: Context, request: Request) -> Detections:
    """List and answer."""
    list_photos(context, request)
    return detect(context, request)


def list_collection(context: Context) -> dict[str, object]:
    """The verb of the asset `collection_listing`."""
    listing = list_photos(context, collection_request(context))
    return {"new": listing.new, "known": listing.known, "gone": listing.gone, "skipped": sum(listing.skipped.values())}


def detect_parts(context: Context, names: Sequence[str]) -> dict[str, object]:
    """The verb of the asset `detections`; `names` are partitions.

    Raises:
        SettingsError: when one is of another collection than the settings name.
    """
    request = collection_request(context)
    parts = [_part_of(name, request.collection) for name in names]
    found = detect(context, request, parts)
    return {"photos": found.photos, "folder": str(found.folder)}


def _part_of(partition: str, collection: str) -> str:
    """The part that a partition stands for; parts of all collections have the same names."""
    owner, _, part = partition.rpartition(".")
    if owner != collection_name(collection):
        raise SettingsError(
            f"is a partition of another collection than {collection}", where=partition, field="NUTRIDET_COLLECTION",
            remedy=f"Set it to the collection of {owner}, or take partitions of {collection_name(collection)}.",
        )  # fmt: skip
    return part


def collection_request(context: Context) -> Request:
    """The collection that the settings name.

    Raises:
        SettingsError: when they name none.
    """
    settings = context.settings
    if settings.collection is None:
        raise SettingsError("is not set", field="NUTRIDET_COLLECTION", remedy="Name a folder or s3://BUCKET/PREFIX.")
    return Request(
        settings.collection,
        context.layout.collection(settings.collection),
        engine=settings.detection_engine,
        url=settings.detection_url,
        local=settings.detection_local,
        column=settings.collection_column,
    )


def _answer(context: Context, request: Request, job: Job, parts: Sequence[Part]) -> None:
    wanted = [Shard(part, number) for part in parts for number in range(len(part.shards))]
    shards = [shard for shard in wanted if job.target.kept(shard.part, shard.number) is None]
    context.log(f"{len(wanted) - len(shards)} of {len(wanted)} shards are there already, in {job.target.folder}")
    if not shards:
        return
    progress = Progress(sum(shard.photos for shard in shards), len(shards), context.log)
    for outcome in _outcomes(request, job, shards, progress):
        progress.wrote(outcome)
    context.log(progress.summary)


def _outcomes(request: Request, job: Job, shards: Sequence[Shard], progress: Progress) -> Iterator[Outcome]:
    if request.local:
        return score_here(job, shards, progress.seen)
    from nutridet_core.collection.ray_pool import score_with_ray

    return score_with_ray(job, shards, request.replicas, progress.seen)


def _job(context: Context, request: Request, files: Files) -> Job:
    settings, profile = context.settings, context.profile
    options = LaunchOptions(
        request.engine_kind, model=request.model, url=request.url, key=os.environ.get(ENGINE_KEY) or None
    )
    weights = _weights(context, request) if request.engine_kind in _IN_REPLICAS else None
    model = _digest(context, weights) if weights else _running(context, options)
    folder = request.out / DETECTIONS / _folder_name(model)
    return Job(
        home=settings.home,
        profile=profile.name,
        revision=settings.revision,
        engine=options,
        weights=weights,
        files=files,
        column=request.column,
        target=Target(folder, model, profile.contract.hash, profile.max_new_tokens),
    )


def _weights(context: Context, request: Request) -> Weights:
    """Looked up once: an alias may move while replicas come and go."""
    alias = find_alias(context, request.model, "merged")
    weights = alias.find() if alias else find_weights(context, request.model)
    return replace(weights, folder=weights.folder.absolute()) if weights.folder else weights


def _digest(context: Context, weights: Weights) -> str:
    """Of the weights, and of the adapter that the base answers with until there is a release."""
    from nutridet_core.pipeline.prediction import shipped_adapter  # which imports torch

    adapter = shipped_adapter(context.profile) if weights.folder is None else None
    return digest([weights.identity.digest, read_manifest(adapter).digest]) if adapter else weights.identity.digest


def _running(context: Context, options: LaunchOptions) -> str:
    """The name of the model that a server answers with."""

    async def ask() -> str:
        holder = (await launch(context, options)).holder
        await holder.close()
        return holder.served.identity.digest or holder.served.identity.name

    return asyncio.run(ask())


def _folder_name(model: str) -> str:
    return model[:12] if re.fullmatch("[0-9a-f]{64}", model) else re.sub(r"[^A-Za-z0-9._-]+", "-", model)


def _named(parts: Sequence[Part], names: Sequence[str] | None) -> list[Part]:
    found = {part.name: part for part in parts}
    absent = [name for name in names or () if name not in found]
    if absent:
        raise ArtifactError("is not listed", where=absent[0], remedy="List the collection again.")
    return list(parts) if names is None else [found[name] for name in names]


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """One driver per folder."""
    out.mkdir(parents=True, exist_ok=True)
    with claimed(out / LISTING):
        yield
