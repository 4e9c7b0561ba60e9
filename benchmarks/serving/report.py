"""From raw times to `benchmarks/results/serving.json`, every number with its n and interval.

    python -m benchmarks.serving.report WORK [OUT]

Belongs here: which rows are compared, and the breakdown. Does not belong here: measuring (`measure`), or
intervals (`numbers`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.measures import ratio
from benchmarks.serving.numbers import Agreement, agreement, percentile_of, rate_of, ratio_of_medians
from benchmarks.serving.servers import SERVERS
from nutridet_core.artifacts.store import stack_versions, write_json
from nutridet_core.prompts import Contract

STOCK, STOCK_ROW, OWN = "bf16", "24 tokens", "own answers"
BASES = {"cpu": "cpu", "cpu-drafts": "cpu", "cpu-fp8": "cpu", "tiny-bf16": "tiny-bf16", "tiny-fp8": "tiny-bf16"}
"""What servers are compared with, if not with stock vLLM on a GPU."""
PUBLISHED = {"bf16_ms": 600, "fp8_ms": 375, "weights_gib": [15.0, 8.8], "n": 1, "device": "RTX 6000 Ada"}
"""The published run's table (docs/published-run.md)."""

Row = dict[str, Any]


class Rows:
    """All raw rows of a work folder."""

    def __init__(self, rows: list[Row]) -> None:
        self.all = rows

    def find(self, server: str, row: str, together: int = 1) -> Row | None:
        """The row of that name; the last one, if it was measured again."""
        found = [
            each
            for each in self.all
            if (each.get("server"), each["row"], each.get("together", together)) == (server, row, together)
        ]
        return found[-1] if found else None

    def named(self, row: str) -> list[Row]:
        """All rows of that name."""
        return [each for each in self.all if each["row"] == row]


def write(work: Path, out: Path) -> None:
    """The result file."""
    rows = Rows([row for path in sorted(work.glob("raw-*.json")) for row in json.loads(path.read_text())])
    write_json(out, result_of(rows, *(_read(work / f"{name}.json") for name in ("device", "offline", "texts"))))


def result_of(
    rows: Rows, machine: dict[str, Any], offline: dict[str, Any], texts: dict[str, list[str]]
) -> dict[str, Any]:
    """What is published; what was not measured is left out."""
    singles, crowds, alike = single_stream(rows), together_of(rows), answers(rows, texts.get("transformers", []))
    result = {
        "command": machine.get("command", "python -m benchmarks.serving --photos PHOTOS --work WORK"),
        "device": machine.get("device", "unknown"),
        "note": machine.get("note", ""),
        "versions": machine.get("versions") or stack_versions(),
        "n": min((row["n"] for row in [*singles, *alike]), default=0),
        "metrics": headline(singles, crowds, rows) | of_answers(offline, alike),
        "breakdown_ms": breakdown(rows),
        "image_work_ms": image_work(rows),
        "single_stream": singles,
        "together": crowds,
        "answers": alike,
        "gateway": gateway(rows),
        "offline": offline,
        "servers": [_server(rows, each.name, each.shows) for each in SERVERS],
        "published": PUBLISHED,
    }
    return {key: value for key, value in result.items() if value not in ({}, [], "") or key == "metrics"}


def headline(singles: list[Row], crowds: list[Row], rows: Rows) -> dict[str, Any]:
    """The keys that the README and the docs show."""
    own = [row for row in singles if row["row"] == OWN and row["server"] != STOCK and row["speedup"]]
    best = max(own, key=lambda row: row["speedup"]["value"], default=None)
    fp8 = next((row for row in singles if (row["server"], row["row"]) == ("fp8", "32 tokens")), None)
    crowd = [row for row in crowds if (row["together"], row["row"]) == (128, OWN)]
    top, stock = _of_the_one_behind_the_gateway(crowd, rows), _first(crowd, {STOCK})
    found = {
        "best_speedup_single_stream": best and best["speedup"], "best_server": best and best["server"],
        "fp8_speedup_single_stream": fp8 and fp8["speedup"],
        "photos_per_s_at_128": top and top["photos_per_s"], "photos_per_s_at_128_server": top and top["server"],
        "speedup_at_128": top and stock and ratio(top["photos_per_s"], stock["photos_per_s"]),
    }  # fmt: skip
    for weights in ("fp8", "fp8-all"):
        found[f"weights_ratio_{weights}"] = _weights_ratio(rows, weights)
    for row in gateway(rows):
        key = "gateway_overhead_ms" if row["together"] == 1 else "gateway_share_of_throughput"
        found[key] = row["overhead_ms"] if row["together"] == 1 else row["lost"]
    return {key: value for key, value in found.items() if value is not None}


def _of_the_one_behind_the_gateway(crowd: list[Row], rows: Rows) -> Row | None:
    """The server recommended for many clients; the fastest, where none was asked through a gateway."""
    fastest = max(crowd, key=lambda row: float(row["photos_per_s"]["value"]), default=None)
    return _first(crowd, {row["server"] for row in rows.named("gateway")}) or fastest


def _first(found: list[Row], servers: set[str]) -> Row | None:
    return next((row for row in found if row["server"] in servers), None)


def of_answers(offline: dict[str, Any], alike: list[Row]) -> dict[str, Any]:
    """What drafts and FP8 change about answers, and the passes that one takes."""
    found = {f"answer_{name}": value for name, value in offline.get("passes", {}).items()}
    for row in alike:
        if (row["server"], row["compared_with"]) in (("cpu-drafts", "cpu"), ("bf16-drafts", STOCK)):
            found[f"same_texts_{row['server']}"] = row["same_texts"]
        if (row["server"], row["compared_with"]) in (("cpu-fp8", "cpu"), ("fp8", STOCK)):
            found |= {f"same_texts_{row['server']}": row["same_texts"], f"box_iou_{row['server']}": row["iou"]}
    return found


def single_stream(rows: Rows) -> list[Row]:
    """One request at a time, compared with stock vLLM on the same photos."""
    results = []
    for row in rows.all:
        if row.get("together") != 1 or "seconds" not in row:
            continue
        name = row["row"] if row["row"] in ("32 tokens", OWN) else STOCK_ROW
        base = rows.find(BASES.get(row["server"], STOCK), name)
        results.append(
            {
                "server": row["server"], "row": row["row"], "n": len(row["seconds"]),
                "tokens": sum(row["tokens"]) / len(row["tokens"]), "steps": _steps(row),
                "p50_ms": percentile_of(row["seconds"], 50, 1000), "p95_ms": percentile_of(row["seconds"], 95, 1000),
                "compared_with": name, "speedup": base and ratio_of_medians(base["seconds"], row["seconds"]),
            }
        )  # fmt: skip
    return results


def together_of(rows: Rows) -> list[Row]:
    """Requests together: photos/s, and what each waits."""
    return [
        {
            "server": row["server"], "row": row["row"], "together": row["together"], "n": len(row["seconds"]),
            "tokens": sum(row["tokens"]) / len(row["tokens"]),
            "photos_per_s": rate_of(row["seconds"], row["wall"]),
            "p50_ms": percentile_of(row["seconds"], 50, 1000), "p95_ms": percentile_of(row["seconds"], 95, 1000),
        }
        for row in rows.all
        if row.get("together", 1) > 1 and "seconds" in row
    ]  # fmt: skip


def breakdown(rows: Rows) -> dict[str, Any]:
    """Where stock vLLM's time for 32 tokens goes: means of vLLM's own clocks, and what they leave of the client's."""
    row, blind, seeing = (
        rows.find(STOCK, "32 tokens"), rows.find(STOCK, "one token, no photo"), rows.find(STOCK, "one token"),
    )  # fmt: skip
    if not (row and blind and seeing):
        return {}
    total, clock = 1000 * sum(row["seconds"]) / len(row["seconds"]), _clock(row)
    reading = _clock(blind)["prefill"]
    seen = max(0.0, _clock(seeing)["prefill"] - reading)
    parts = {
        "HTTP, JSON, base64 and detokenising": total - clock["e2e"],
        "image decoding, processor and tokenising": clock["e2e"] - clock["queue"] - clock["prefill"] - clock["decode"],
        "waiting for a place in a batch": clock["queue"],
        "vision tower": seen,
        "reading the prompt": clock["prefill"] - seen,
        "31 decode steps": clock["decode"],
    }
    sums = {"sum": sum(parts.values()), "client's mean": total}
    return {"n": len(row["seconds"]), **{name: round(value, 2) for name, value in (parts | sums).items()}}


def image_work(rows: Rows) -> dict[str, Any]:
    """Medians of the steps on the CPU."""
    found = rows.named("image work")
    steps = found[-1]["steps"] if found else {}
    return {name: {**percentile_of(seconds, 50, 1000), "n": len(seconds)} for name, seconds in steps.items()}


def answers(rows: Rows, transformers: list[str]) -> list[Row]:
    """The embedded model's own answers, compared with those of vLLM as it comes, and of transformers."""
    contract, results = _contract(), []
    for row in [*rows.named("own answers, all"), *rows.named("begun, all")]:
        name = BASES.get(row["server"], STOCK)
        base = rows.find(name, "own answers, all", 32)
        for other, texts in ((name, base and base["texts"]), ("transformers", transformers)):
            if texts and other != row["server"]:
                alike = _shown(agreement(contract, texts, _written(row)))
                results.append({"server": row["server"], "row": row["row"], "compared_with": other, **alike})
    return results


def gateway(rows: Rows) -> list[Row]:
    """What the gateway adds to one request beside decoding, and takes from many."""
    results = []
    for row in rows.named("gateway"):
        beside = [
            1000 * (through - direct) - clocks["decode"]
            for direct, through, clocks in zip(row["direct"], row["through"], row["clocks_ms"], strict=True)
        ]
        direct, through = (
            rate_of(row[way], wall) for way, wall in zip(("direct", "through"), row["walls"], strict=True)
        )
        results.append(
            {
                "server": row["server"], "together": row["together"], "n": len(beside),
                "direct_p50_ms": percentile_of(row["direct"], 50, 1000),
                "through_p50_ms": percentile_of(row["through"], 50, 1000),
                "decode_p50_ms": percentile_of([clocks["decode"] for clocks in row["clocks_ms"]], 50),
                "overhead_ms": percentile_of(beside, 50), "photos_per_s": [direct, through],
                "lost": {"value": 1 - row["walls"][0] / row["walls"][1], "n": len(beside)},
                "same_texts": row["same_texts"],
            }
        )  # fmt: skip
    return results


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _server(rows: Rows, name: str, shows: str) -> Row:
    """What came of it; one that failed at a later row keeps those before."""
    start = rows.find(name, "start")
    asked = any(row.get("server") == name and "tokens" in row for row in rows.all)
    gone = rows.find(name, "did not start") or rows.find(name, "failed")
    state = "measured" if asked else "did not run" if gone else "not measured"
    return {"server": name, "shows": shows, "state": state, **{key: start[key] for key in
            ("seconds", "weights_gib") if start}}  # fmt: skip


def _weights_ratio(rows: Rows, weights: str) -> float | None:
    """Of stock's, as vLLM says; of the first server measured with these weights."""
    starts = (rows.find(server.name, "start") for server in SERVERS if server.weights == weights)
    own, base = next(filter(None, starts), None), rows.find(STOCK, "start")
    if not (own and base and own["weights_gib"] and base["weights_gib"]):
        return None
    return float(round(own["weights_gib"] / base["weights_gib"], 4))


def _clock(row: Row) -> dict[str, float]:
    """Means of vLLM's clocks over the row's requests, ms."""
    names = {"e2e": "e2e_request_latency", "queue": "request_queue_time", "prefill": "request_prefill_time",
             "decode": "request_decode_time"}  # fmt: skip
    count = len(row["seconds"])
    return {key: 1000 * row["clocks"].get(f"{name}_seconds_sum", 0.0) / count for key, name in names.items()}


def _steps(row: Row) -> float | None:
    """Forward passes of an answer, the prompt's included: tokens less those that drafts saved."""
    drafted = row["clocks"].get("spec_decode_num_drafts_total")
    saved = row["clocks"].get("spec_decode_num_accepted_tokens_total", 0.0)
    return None if drafted is None else (sum(row["tokens"]) - saved) / len(row["tokens"])


def _written(row: Row) -> list[str]:
    from benchmarks.serving.questions import SKELETON

    return [SKELETON + text for text in row["texts"]] if row["row"].startswith("begun") else list(row["texts"])


def _shown(found: Agreement) -> Row:
    return {"n": found.photos, "same_texts": found.same_texts, "same_boxes": found.same_boxes,
            "iou": found.iou, "boxes": found.boxes, "tables_where_none": found.invented}  # fmt: skip


def _contract() -> Contract:
    from nutridet_core.profiles import TINY

    return TINY.contract


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("benchmarks/results/serving.json"))
