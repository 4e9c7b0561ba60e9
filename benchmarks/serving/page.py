"""Tables of docs/serving.md: vLLM on a GPU.

Belongs here: rendering the result file. Does not belong here: what is compared with what (`report`).
"""

from __future__ import annotations

from typing import Any

from benchmarks.performance import interval, read

_OWN, _OWN_ALL, _FORCED, _CLIENT = "own answers", "own answers, all", "32 tokens", "client's mean"


def render_serving() -> str:
    """Speed and agreement of each server that was measured, and the parts of one request."""
    result, earlier = read("serving"), read("serving_h100")
    parts = [
        _table(result),
        _breakdown(result["breakdown_ms"]),
        _crowds(result),
        ["On an H100, earlier:"],
        _table(earlier),
    ]
    return "\n".join(line for part in parts for line in [*part, ""])


def render_gateway() -> str:
    """What the gateway adds to a request, without a GPU."""
    result = read("gateway")
    return (
        f"Median {interval(result['added_ms'])} ms, 95th percentile {interval(result['added_p95_ms'])} ms, decoding "
        f"included (n = {result['n']} photos of {result['photo_kb']} kB, one at a time; {result['device']}). Decoding "
        f"by itself takes {interval(result['decoding_alone_ms'])} ms.\n"
    )


def _table(result: dict[str, Any]) -> list[str]:
    head = [
        "server", "one at a time, p50 ms", "speed", "the same, 32 tokens, p50 ms", "speed",
        "128 together, photos/s", "the same, 32 tokens, photos/s", "weights", "IoU of boxes with bf16",
    ]  # fmt: skip
    rows = [_row(result, server) for server in result["servers"] if server["state"] == "measured"]
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "transformers", "vllm"))
    device = result["device"].splitlines()[0].split(",")[0]
    made = f"({device}, {versions}; {result['note']} `{result['command']}`)"
    return [*(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows]), "", made]


def _row(result: dict[str, Any], server: dict[str, Any]) -> list[str]:
    name = server["server"]
    own, forced = (_find(result["single_stream"], name, row) for row in (_OWN, _FORCED))
    crowds = [_find(result["together"], name, row, 128) for row in (_OWN, _FORCED)]
    alike = _find(result["answers"], name, _OWN_ALL)
    return [
        f"`{name}`: {server['shows']}",
        *_single(own),
        *_single(forced),
        *(interval(crowd["photos_per_s"]) if crowd else "" for crowd in crowds),
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
    """How many photos there were, and what the gateway takes."""
    crowd = next(row for row in result["together"] if row["together"] == 128)
    single = next(row for row in result["single_stream"] if row["row"] == _OWN)
    alone, many = result["gateway"]
    straight, through = (interval(rate) for rate in many["photos_per_s"])
    return [
        f"n = {single['n']} photos one at a time, {crowd['n']} together.",
        "",
        f"The gateway before `{alone['server']}`: {interval(alone['overhead_ms'])} ms beside decoding, one at a time "
        f"(n = {alone['n']}); with {many['together']} together {through} photos/s through it, {straight} straight to "
        f"vLLM (n = {many['n']}).",
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
