"""The figures of `docs/promises.md`, from `benchmarks/results/torture.json`.

Belongs here: markdown. Does not belong here: anything that imports what the campaign needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parents[1] / "results" / "torture.json"
_OUTCOMES = ("survived", "resumed", "refused", "lost")


def render_torture() -> str:
    """Faults by outcomes, and the soak."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    metrics = result["metrics"]
    rows = [_row(fault, counts) for fault, counts in metrics["by_fault"].items()]
    head = [f"| fault | n | {' | '.join(_OUTCOMES)} |", f"|---|{'---|' * (1 + len(_OUTCOMES))}"]
    lines = [*head, *rows, _row("all", metrics), "", _summary(result)]
    return "\n".join(lines + (["", _soak(metrics["soak"])] if "soak" in metrics else [])) + "\n"


def most_lost(lost: int, injections: int) -> float:
    """Share that may be lost in the long run, with 95 % confidence: Clopper and Pearson's upper end."""
    from scipy.stats import beta

    return float(beta.ppf(0.95, lost + 1, injections - lost)) if lost < injections else 1.0


def _row(name: str, counts: dict[str, Any]) -> str:
    found = [int(counts.get(outcome, 0)) for outcome in _OUTCOMES]
    return f"| {name} | {sum(found)} | {' | '.join(map(str, found))} |"


def _summary(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    share = most_lost(metrics["lost"], metrics["injections"])
    note = f" Note: {result['note']}." if "note" in result else ""
    return (
        f"Seed {result['seed']}, n = {metrics['injections']}, {metrics['lost']} lost: with 95 % confidence at most "
        f"{share:.1%} of such injections are. {metrics['too_late']} came when the verb was over or "
        f"changed nothing, and count as what the verb did. Of the {metrics['refused']} refusals {metrics['unclear']} "
        f"came as an error of another library, without a remedy.{note}"
    )


def _soak(soak: dict[str, Any]) -> str:
    statuses = soak["statuses"]
    verdict = f"**Not kept: {'; '.join(soak['failures'])}.**" if soak["failures"] else "All kept."
    note = f" Meanwhile {soak['note']}." if "note" in soak else ""
    return (
        f"Soak of {soak['minutes']:g} minutes at twice the capacity of {soak['capacity']:.1f} photos/s: "
        f"n = {soak['sent']}, {statuses.get('200', 0)} answered, {statuses.get('429', 0)} refused with Retry-After, "
        f"{soak['lost']} lost; p99 of the answered {soak['p99_s']:.2f} s, bound {soak['p99_bound_s']:.2f} s; "
        f"memory {soak['mib_least']:.0f} to {soak['mib_most']:.0f} MiB, growth {soak['memory_growth']:.1%}. "
        f"{verdict}{note}"
    )
