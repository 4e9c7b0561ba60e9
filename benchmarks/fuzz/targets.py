"""The ways into the product that are fuzzed.

Belongs here: the list. Does not belong here: how to spoil a photo (`photos`), an answer (`answers`), an index or a
setting (`configs`), a request (`requests`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks.fuzz import answers, configs, photos, requests
from benchmarks.fuzz.outcome import Feed, Outcome, judged

Drive = Callable[[Feed, int, int, int, Callable[[Outcome], None]], None]
"""(feed, first, last, seed, tell): for a target whose inputs somebody else draws."""


@dataclass(frozen=True)
class Target:
    """One way in."""

    share: float
    """Of all inputs."""
    make: Callable[[Random], Any]
    open: Callable[[], AbstractContextManager[Feed]]
    """What is fed; within it, files and servers that it needs are there."""
    drive: Drive | None = None


TARGETS = {
    "photos": Target(0.25, photos.make, judged(photos.use)),
    "answers": Target(0.42, answers.make, judged(answers.use)),
    "experiments": Target(0.06, configs.make_toml, configs.in_folder(configs.use_experiments)),
    "manifests": Target(0.06, configs.make_manifest, configs.in_folder(configs.use_manifest)),
    "coco": Target(0.06, configs.make_coco, configs.in_folder(configs.use_coco)),
    "imagefolder": Target(0.03, configs.make_lines, configs.in_folder(configs.use_imagefolder)),
    "settings": Target(0.04, configs.make_settings, judged(configs.use_settings)),
    "requests": Target(0.07, requests.make, requests.open_gateway),
    "openapi": Target(0.01, requests.make, requests.open_gateway, requests.drive_by_specification),
}
