"""Tables of docs/serving.md: vLLM on a GPU.

Belongs here: rendering the result file. Does not belong here: what is compared with what (`report`).
"""

from __future__ import annotations

from typing import Any

from benchmarks.performance import interval, read

_OWN, _OWN_ALL, _RULED, _CLIENT = "own answers", "own answers, all", "grammar", "client's mean"


def render_serving() -> str:
    """Speed and agreement of each server that was measured, and the parts of one request."""
    result = read("serving")
    return "\n".join([*_table(result), "", *_breakdown(result["breakdown_ms"]), "", *_crowds(result), ""])


def render_first_serving() -> str:
    """An earlier run of more configurations."""
    return "\n".join([*_table(read("serving_first")), ""])


def _table(result: dict[str, Any]) -> list[str]:
    head = [
        "server", "drawn photos, one at a time, p50 ms", "speed", "576 image tokens, one at a time, p50 ms", "speed",
        "drawn photos, 32 together, photos/s", "576 image tokens, 128 together, photos/s", "weights",
        "IoU of boxes with bf16",
    ]  # fmt: skip
    rows = [_row(result, server) for server in result["servers"] if server["state"] == "measured"]
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "transformers", "vllm"))
    device = result["device"].splitlines()[0].split(",")[0]
    made = f"({device}, {versions}; {result['note']} `{result['command']}`)"
    return [*(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows]), "", made]


def _row(result: dict[str, Any], server: dict[str, Any]) -> list[str]:
    name = server["server"]
    own, ruled = (_find(result["single_stream"], name, row) for row in (_OWN, _RULED))
    crowd, many = _find(result["together"], name, _OWN_ALL), _find(result["together"], name, _RULED, 128)
    alike = _find(result["answers"], name, _OWN_ALL)
    return [
        f"`{name}`: {server['shows']}",
        *_single(own),
        *_single(ruled),
        interval(crowd["photos_per_s"]) if crowd else "",
        interval(many["photos_per_s"]) if many else "",
        f"{server['weights_gib']:.1f} GiB",
        interval(alike["iou"], 3) if alike else "",
    ]


def _single(row: dict[str, Any] | None) -> tuple[str, str]:
    """Time and speed."""
    return (interval(row["p50_ms"]), interval(row["speedup"], 2)) if row else ("", "")


def _breakdown(parts: dict[str, Any]) -> list[str]:
    """Of a request to stock vLLM."""
    named = {name: value for name, value in parts.items() if name not in ("n", "sum", _CLIENT)}
    lines = [f"| one request to stock vLLM in bf16, means, n = {parts['n']} | ms |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in named.items()]
    return [*lines, f"| sum / the client's mean | {parts['sum']:.1f} / {parts[_CLIENT]:.1f} |"]


def _crowds(result: dict[str, Any]) -> list[str]:
    """Throughput with 128 requests under way, and what the gateway takes."""
    crowd = [row for row in result["together"] if row["together"] == 128]
    rates = ", ".join(f"`{row['server']}` ({row['row']}) {interval(row['photos_per_s'])}" for row in crowd)
    alone, many = result["gateway"]
    lost = f"{100 * many['lost']['value']:.0f} % of the throughput with 128 together (n = {many['n']})"
    return [
        f"128 together, n = {crowd[0]['n']}, photos/s: {rates}.",
        "",
        f"The gateway before `{alone['server']}`: {interval(alone['overhead_ms'])} ms beside decoding, one at a time "
        f"(n = {alone['n']}); {lost}.",
    ]


def _find(rows: list[dict[str, Any]], server: str, row: str, together: int | None = None) -> dict[str, Any] | None:
    return next(
        (
            each
            for each in rows
            if (each["server"], each["row"]) == (server, row) and together in (None, each.get("together"))
        ),
        None,
    )
