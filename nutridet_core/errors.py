"""The errors this project raises. Each one says where, what is wrong and what to do about it.

Belongs here: exception classes. Does not belong here: counting a model's bad answers (`answers`),
which are results and not errors.
"""

from __future__ import annotations

from pathlib import Path


class NutridetError(Exception):
    """An error with the place it was found and its remedy.

    Args:
        problem: what is wrong, in one clause.
        where: the file (or URL, or object) it was found in.
        field: the field inside `where`, if there is one.
        remedy: what the user can do.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | Path | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.where, self.field, self.remedy = problem, where, field, remedy
        place = " ".join(
            part for part in (str(where) if where is not None else "", f"[{field}]" if field else "") if part
        )
        text = f"{place}: {problem}" if place else problem
        super().__init__(f"{text}. {remedy}" if remedy else text)


class DataError(NutridetError):
    """A dataset, photo or annotation that cannot be used."""


class SettingsError(NutridetError):
    """A setting, profile or experiment that cannot be used."""


class ArtifactError(NutridetError):
    """An artefact that is missing, torn, changed, or not what its manifest says."""


class ContractError(NutridetError):
    """Two things that must share prompt, resize and answer grammar do not."""


class AuditError(NutridetError):
    """A blocking audit failed. `evidence` is what it saw."""

    def __init__(self, problem: str, *, evidence: dict[str, object] | None = None, remedy: str | None = None) -> None:
        self.evidence = evidence or {}
        super().__init__(problem, remedy=remedy)


class MachineError(NutridetError):
    """The machine, or a server that is needed, cannot do what was asked: disk, memory, MLflow."""
