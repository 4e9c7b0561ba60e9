"""Declaring an asset: `dg.asset` with what all assets of this project have in common.

Belongs here: owners, versions, the pool of the workers, one run for many partitions. Does not belong here:
anything about one asset, which stands on its own decorator.
"""

from collections.abc import Callable, Iterable
from typing import Any

import dagster as dg

from nutridet_assets import checks as asset_checks
from nutridet_assets.partitions import one_run
from nutridet_assets.resources import GPU, Results

_OWNERS = ["team:nutridet"]

Body = Callable[..., Results]


def asset(
    group: str,
    *,
    kinds: set[str],
    deps: Iterable[str] = (),
    checks: Iterable[str] = (),
    blocking: bool = True,
    partitions: dg.PartitionsDefinition[str] | None = None,
    in_worker: bool = True,
    code_version: str = "1",
    **options: Any,
) -> Callable[[Body], dg.AssetsDefinition]:
    """Make a function an asset of its own name and docstring.

    Args:
        checks: names of the checks that it evaluates itself.
        blocking: whether a failed one stops what lies downstream.
        partitions: one run handles any number of them.
        in_worker: whether its work is done in a worker process, which takes the slot of the pool.
        options: of `dg.asset`, for what only one asset has.
    """

    def declare(body: Body) -> dg.AssetsDefinition:
        made: dg.AssetsDefinition = dg.asset(
            group_name=group,
            deps=list(deps),
            kinds=kinds,
            check_specs=asset_checks.specs(body.__name__, *checks, blocking=blocking),
            partitions_def=partitions,
            backfill_policy=one_run if partitions else None,
            owners=_OWNERS,
            code_version=code_version,
            tags={"runs_in": "worker" if in_worker else "step"},
            pool=GPU if in_worker else None,
            **options,
        )(body)
        return made

    return declare
