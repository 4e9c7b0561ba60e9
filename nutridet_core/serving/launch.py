"""From a model's name to a gateway's parts: the engine loaded, and what follows its alias.

Belongs here: which engine gets which weights. Does not belong here: the engines themselves, or HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from nutridet_core.artifacts.store import read_manifest
from nutridet_core.errors import SettingsError
from nutridet_core.pipeline.context import Context
from nutridet_core.serving.detector import Detector
from nutridet_core.serving.engine import Engine, FakeEngine
from nutridet_core.serving.gateway import Background
from nutridet_core.serving.holder import Holder, Identity, Served, follow
from nutridet_core.serving.vllm_command import VllmOptions
from nutridet_core.serving.weights import Alias, Precision, Weights, find_alias, find_beside, find_weights


class EngineKind(StrEnum):
    """What answers."""

    TRANSFORMERS = "transformers"
    """In this process."""
    VLLM = "vllm"
    """A vLLM started here."""
    OPENAI = "openai"
    """Any server with OpenAI's chat endpoint that runs already."""
    TRITON = "triton"
    """A Triton that runs already, on the asset `triton_repository`."""
    FAKE = "fake"
    """No model: the same box in every photo, to try a client."""


@dataclass(frozen=True)
class LaunchOptions:
    """What to serve, and with what."""

    engine: EngineKind
    model: str | None = None
    """Folder or alias; see `weights`."""
    precision: Precision = "merged"
    """Weights of a registered release."""
    url: str | None = None
    """Of a server that runs already."""
    key: str | None = None
    """Of that server."""
    vllm: VllmOptions = field(default_factory=VllmOptions)
    poll_seconds: float = 30.0
    """Between two looks at an alias."""
    beside: tuple[str, ...] = ()
    """Models to compare with; see `weights.find_beside`. They stay when an alias moves."""


@dataclass(frozen=True)
class Launched:
    """What `gateway.create_app` needs."""

    holder: Holder
    background: tuple[Background, ...] = ()
    beside: Mapping[str, Holder] = field(default_factory=dict)


async def launch(context: Context, options: LaunchOptions) -> Launched:
    """Load the model, and follow it if it is named by an alias.

    Raises:
        NutridetError: when there is no such model, it does not hold what its manifest says, or it does not start.
    """
    if options.engine in (EngineKind.OPENAI, EngineKind.TRITON, EngineKind.FAKE):
        if options.beside:
            raise SettingsError(
                f"the engine {options.engine.value!r} has one model", field="beside", remedy="Use transformers or vllm."
            )
        return Launched(Holder(await _connect(context, options)))
    alias = await asyncio.to_thread(find_alias, context, options.model, options.precision)
    weights = await asyncio.to_thread(
        alias.find if alias else lambda: find_weights(context, options.model, options.precision)
    )
    others = await asyncio.to_thread(_find_all_beside, context, options.beside)
    holder, *beside = [Holder(each) for each in await _load_all(context, options, [weights, *others.values()])]
    background = (_following(context, options, alias, holder),) if alias else ()
    return Launched(holder, background, dict(zip(others, beside, strict=True)))


def _find_all_beside(context: Context, texts: Sequence[str]) -> dict[str, Weights]:
    """Weights by name.

    Raises:
        NutridetError: when one is not there, or two have the same name.
    """
    found: dict[str, Weights] = {}
    for name, weights in (find_beside(context, text) for text in texts):
        if name in found:
            raise SettingsError(
                f"two models are called {name!r}", field="beside", remedy="Name each once, or another as NAME=FOLDER."
            )
        found[name] = weights
    return found


async def _load_all(context: Context, options: LaunchOptions, wanted: Sequence[Weights]) -> list[Served]:
    """All, or none: those loaded before one that does not load, or before a signal, are closed."""
    loaded = []
    async with AsyncExitStack() as closing:
        for weights in wanted:
            loaded.append(await load(context, options, weights))
            closing.push_async_callback(loaded[-1].engine.close)
        closing.pop_all()  # from here on the gateway closes them
    return loaded


async def load(context: Context, options: LaunchOptions, weights: Weights) -> Served:
    """The model, verified and ready to answer."""
    context.log(f"loading {weights.identity.name} ({weights.folder or 'base'}) into {options.engine.value}")
    await asyncio.to_thread(weights.verify, context.profile.contract)
    engine = await (
        _local(context, weights) if options.engine is EngineKind.TRANSFORMERS else _vllm(context, options, weights)
    )
    return Served(engine, context.profile.contract, weights.identity)


def _following(context: Context, options: LaunchOptions, alias: Alias, holder: Holder) -> Background:
    async def find() -> Identity:
        return (await asyncio.to_thread(alias.find)).identity

    async def load_wanted(wanted: Identity) -> Served:
        return await load(context, options, await asyncio.to_thread(alias.find))

    async def run(detector: Detector) -> None:
        await follow(holder, find, load_wanted, every=options.poll_seconds, report=detector.metrics.exchanged)

    return run


async def _connect(context: Context, options: LaunchOptions) -> Served:
    """An engine that runs already, or none at all."""
    connect: Callable[[Context, LaunchOptions], Awaitable[tuple[Engine, Identity]]] = {
        EngineKind.OPENAI: _openai, EngineKind.TRITON: _triton, EngineKind.FAKE: _fake,
    }[options.engine]  # fmt: skip
    engine, identity = await connect(context, options)
    return Served(engine, context.profile.contract, identity)


async def _fake(context: Context, options: LaunchOptions) -> tuple[Engine, Identity]:
    return FakeEngine(), Identity("fake", None, "")


async def _openai(context: Context, options: LaunchOptions) -> tuple[Engine, Identity]:
    from nutridet_core.serving.remote import OpenAIEngine, first_model

    url = _url(options)
    model = options.model or await first_model(url, options.key)
    tokens = context.profile.max_new_tokens
    engine = OpenAIEngine(url, model, context.profile.contract, max_new_tokens=tokens, key=options.key)
    return engine, Identity(model, None, "")


async def _triton(context: Context, options: LaunchOptions) -> tuple[Engine, Identity]:
    """The prompt lies in the repository that Triton serves; so does what it was made of."""
    from nutridet_core.serving.remote import TritonEngine

    url, folder = _url(options), Path(options.model) if options.model else context.layout.triton
    manifest = read_manifest(folder, kind="triton_repository")
    context.profile.contract.require(manifest, folder)
    prompt = (folder / "prompt.txt").read_text(encoding="utf-8")
    return TritonEngine(url, prompt, context.profile), Identity(manifest.name, None, str(manifest.config["fp8"]))


async def _local(context: Context, weights: Weights) -> Engine:
    def read() -> Engine:
        from nutridet_core.pipeline.prediction import load_answering, load_untuned
        from nutridet_core.serving.local import TransformersEngine

        profile = context.profile
        model, processor = load_untuned(context) if weights.untuned else load_answering(context, weights.folder)
        return TransformersEngine(
            model, processor, profile.contract,
            batch_size=profile.score_batch_size, max_new_tokens=profile.max_new_tokens,
        )  # fmt: skip

    return await asyncio.to_thread(read)


async def _vllm(context: Context, options: LaunchOptions, weights: Weights) -> Engine:
    """Without a release, the base with the adapter that ships for it, which vLLM serves as LoRA."""
    from nutridet_core.pipeline.prediction import shipped_adapter
    from nutridet_core.serving.vllm import start

    if weights.folder is not None:
        return await start(context.profile, str(weights.folder), options.vllm, context.log)
    adapter = None if weights.untuned else shipped_adapter(context.profile)
    return await start(context.profile, context.profile.base_model, replace(options.vllm, adapter=adapter), context.log)


def _url(options: LaunchOptions) -> str:
    if options.url is None:
        raise SettingsError(
            f"the engine {options.engine.value!r} runs elsewhere", field="url", remedy="Say where, with --url."
        )
    return options.url
