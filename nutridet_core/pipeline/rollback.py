"""Rollback: the champion's alias given back to the version before it, or to one that an operator names.

Belongs here: which version that is, and what must hold before the alias moves. Does not belong here: the
registry's tags (`release.registry`), or asking the operator (`cli`). Gateways that serve the alias follow it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nutridet_core.errors import ArtifactError
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import model_registry
from nutridet_core.release.registry import Registry

_NAME_ONE = "Name the version that shall be champion: nutridet rollback --to VERSION."


@dataclass(frozen=True)
class Rollback:
    """A move of the alias that may be made: the target's files were verified."""

    registry: Registry
    champion: str
    """The version that has the alias now."""
    target: str

    @property
    def text(self) -> str:
        """What will happen, for the operator."""
        before, after = (self.registry.release_of(version).name for version in (self.champion, self.target))
        return (
            f"{self.registry.model}: champion moves from version {self.champion} (release {before}) "
            f"to version {self.target} (release {after}, every file verified)"
        )

    def carry_out(self, why: str) -> None:
        """Move the alias, and write down who did it, when and why.

        Raises:
            ArtifactError: when the alias has moved since this was planned.
        """
        self.registry.withdraw(self.champion, self.target, why)


def plan_rollback(context: Context, to: str | None = None) -> Rollback:
    """The move back from today's champion.

    Args:
        to: the version to give the alias to; the one that the champion replaced when not given.

    Raises:
        ArtifactError: when there is no champion, no version to go back to, or that version's files are lost.
    """
    registry = model_registry(context)
    champion, _ = registry.champion()
    target = to or registry.replaced_by(champion)
    if target is None:
        raise ArtifactError(
            f"no version is known that version {champion}, the champion, replaced",
            where=registry.model,
            remedy=_NAME_ONE,
        )
    if target == champion:
        raise ArtifactError(f"version {target} is champion already", where=registry.model, remedy=_NAME_ONE)
    release = registry.release_of(target)
    remedy = f"Restore {release.name}, or name another version: nutridet rollback --to VERSION."
    registry.verify(f"version {target}", release, remedy=remedy)
    return Rollback(registry, champion, target)
