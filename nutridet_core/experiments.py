"""Experiments: what is compared. Frozen literals from which partitions, CLI and leaderboard follow.

Belongs here: the hyper-parameters of a fine-tuning run. Does not belong here: which base model,
data or hardware it runs on (`profiles`).

To add one without touching code, write it in a TOML file and name the file in
`NUTRIDET_EXPERIMENTS`:

    [exp3]
    summary = "vision and language, rank 16"
    towers = ["language", "vision"]
    rank = 16
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nutridet_core.errors import SettingsError
from nutridet_core.families import TOWERS, Tower

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
_TAKEN = re.compile(r"baseline|peer|leaderboard|merged|fp8|prior-.*|release-.*")
"""Names that scores and leaderboards give to what is no experiment."""
_RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, 4096), "alpha": (1, 65536), "epochs": (1, 10_000), "dropout": (0, 0.99), "learning_rate": (1e-12, 10),
    "warmup_share": (0, 0.99), "weight_decay": (0, 10), "max_grad_norm": (1e-6, 1e6), "seed": (0, 2**32 - 1),
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One QLoRA fine-tuning run."""

    name: str
    summary: str
    towers: frozenset[Tower]
    """Towers that get LoRA; the module audit holds training to exactly these."""
    mask_prompt: bool
    """Whether the loss is on the answer only (and its terminator), or on every token of the chat."""
    rank: int = 64
    alpha: int = 16
    dropout: float = 0.05
    epochs: int = 7
    learning_rate: float = 1e-4
    """Before the profile's `learning_rate_scale`."""
    warmup_share: float = 0.03
    """Share of all steps."""
    weight_decay: float = 0.01
    max_grad_norm: float = 0.3
    seed: int = 42

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SettingsError(
                f"{self.name!r} is not a name", field="name", remedy="Use a-z, 0-9, - and _, at most 41 characters."
            )
        if _TAKEN.fullmatch(self.name):
            raise SettingsError(f"{self.name!r} is no experiment's name", field="name", remedy="Choose another one.")
        if not self.towers or not self.towers <= set(TOWERS):
            raise SettingsError(
                f"towers are {sorted(self.towers)}",
                where=self.name,
                field="towers",
                remedy=f"Use one or more of {TOWERS}.",
            )
        for field, (low, high) in _RANGES.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise SettingsError(
                    f"is {_shown(value)}", where=self.name, field=field, remedy=f"Use {low:g} to {high:g}."
                )


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment("exp1a", "language model, prompt masked", frozenset({"language"}), mask_prompt=True),
    Experiment("exp1b", "language model, no masking", frozenset({"language"}), mask_prompt=False),
    Experiment("exp2", "vision and language model, prompt masked", frozenset(TOWERS), mask_prompt=True),
)


def load_experiments(extra: Path | None = None) -> dict[str, Experiment]:
    """The built-in experiments and those of a TOML file, by name.

    Raises:
        SettingsError: naming the file and the field, when one is unknown, missing or taken.
    """
    experiments = {experiment.name: experiment for experiment in EXPERIMENTS}
    for name, table in _read_toml(extra).items() if extra else ():
        if name in experiments:
            raise SettingsError(
                "this experiment exists already", where=extra, field=name, remedy="Choose another name."
            )
        experiments[name] = _from_table(name, table, extra)
    return experiments


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{error.strerror}", where=path, remedy="Correct NUTRIDET_EXPERIMENTS.") from error
    except (ValueError, RecursionError) as error:  # also of numbers and nesting without end
        raise SettingsError(f"is not TOML: {error}", where=path) from error


def _from_table(name: str, table: object, where: Path | None) -> Experiment:
    if not isinstance(table, dict):
        raise SettingsError("must be a table", where=where, field=name, remedy=f"Write [{name}].")
    known = {field.name: field for field in fields(Experiment)}
    for key in table:
        if key not in known or key == "name":
            raise SettingsError(
                "no such field",
                where=where,
                field=f"{name}.{key}",
                remedy=f"Known: {', '.join(sorted(set(known) - {'name'}))}.",
            )
    values = {"summary": name, "mask_prompt": True, "towers": ["language"], **table}
    for key, value in values.items():
        _require_type(value, known[key].type, where, f"{name}.{key}")
    try:
        return Experiment(**{**values, "name": name, "towers": frozenset(values["towers"])})
    except SettingsError as error:
        field = error.field if error.field == "name" else f"{name}.{error.field}"
        raise SettingsError(error.problem, where=where, field=field, remedy=error.remedy) from error


def _shown(value: object) -> str:
    try:
        return repr(value)[:200]
    except ValueError:  # Python does not write integers of more than 4300 digits
        return "too long to be written here"


_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}


def _require_type(value: object, declared: object, where: Path | None, field: str) -> None:
    """TOML has types of its own; `epochs = "7"` should fail here and not inside a trainer."""
    accepted = _TYPES.get(str(declared), (list,))
    strings = not isinstance(value, list) or all(isinstance(item, str) for item in value)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted) or not strings:
        raise SettingsError(f"is {_shown(value)}", where=where, field=field, remedy=f"Write a {accepted[-1].__name__}.")
