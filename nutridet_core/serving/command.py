"""`nutridet serve`: from the command line's values to a running gateway.

Belongs here: checking and translating arguments. Does not belong here: declaring them (`cli`).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import get_args

from nutridet_core.data.photos import PhotoLimits
from nutridet_core.errors import SettingsError
from nutridet_core.pipeline.context import Context
from nutridet_core.serving.detector import Limits
from nutridet_core.serving.gateway import GatewayOptions
from nutridet_core.serving.launch import EngineKind, LaunchOptions, launch
from nutridet_core.serving.photos import parse_origin
from nutridet_core.serving.run import listen, serve
from nutridet_core.serving.vllm_command import VllmOptions
from nutridet_core.serving.weights import Precision

KEY = "NUTRIDET_API_KEY"
ENGINE_KEY = "NUTRIDET_ENGINE_KEY"


@dataclass(frozen=True)
class ServeArguments:
    """As typed."""

    model: str | None
    engine: str
    url: str | None
    weights: str
    host: str
    port: int
    places: int
    seconds: float
    max_mb: int
    max_megapixels: int
    allow_host: tuple[str, ...]
    poll_seconds: float
    vllm: str
    gpu_share: float
    drafts: bool = False
    graphs: bool = False
    vllm_flags: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def serve_model(context: Context, given: ServeArguments) -> None:
    """Serve until told to stop. Keys are read from the environment: every user of a machine sees command lines.

    Raises:
        NutridetError: when the model does not load, or the address cannot be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    key = os.environ.get(KEY) or None
    gateway, engine = gateway_options(given, key), launch_options(given)
    bound = listen(given.host, given.port, key=key)
    serve(bound, lambda: launch(context, engine), gateway, context.log)


def gateway_options(given: ServeArguments, key: str | None) -> GatewayOptions:
    """What the gateway accepts."""
    photo = PhotoLimits(bytes=given.max_mb * 2**20, pixels=given.max_megapixels * 1_000_000)
    return GatewayOptions(
        limits=Limits(photo=photo, places=given.places, seconds=given.seconds),
        key=key,
        allowed_origins=tuple(parse_origin(host) for host in given.allow_host),
    )


def launch_options(given: ServeArguments) -> LaunchOptions:
    """What answers."""
    return LaunchOptions(
        engine=EngineKind(_one_of("engine", given.engine, [kind.value for kind in EngineKind])),
        model=given.model,
        precision=_one_of("weights", given.weights, list(get_args(Precision))),  # type: ignore[arg-type]
        url=given.url,
        key=os.environ.get(ENGINE_KEY) or None,
        vllm=VllmOptions(given.vllm, given.gpu_share, drafts=given.drafts, graphs=given.graphs, flags=given.vllm_flags),
        poll_seconds=given.poll_seconds,
        beside=given.beside,
    )


def _one_of(field: str, value: str, known: list[str]) -> str:
    if value not in known:
        raise SettingsError(f"no such value {value!r}", field=field, remedy=f"Known: {', '.join(known)}.")
    return value
