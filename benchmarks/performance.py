"""Tables of docs/performance.md: what was measured on GPUs.

Belongs here: rendering those result files. Does not belong here: writing into pages (`readme`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def render_training() -> str:
    """Rows of both runs, and how they were made."""
    result = read("training")
    lines = ["| run | recipe | images/s | ratio | peak |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        cells = (row["run"], row["name"], interval(row["images_per_s"]), interval(row["ratio_to_published"]))
        lines.append(f"| {' | '.join(cells)} | {row['peak_gib']:.1f} GiB |")
    return "\n".join([*lines, "", made(result), ""])


def render_memory() -> str:
    """Peaks of each training, by how many activations were kept."""
    head = "| 20 steps in NF4, r = 64, batches of 8 | activations | peak | images/s | loss, first and last five steps |"
    lines = [head, "|---|---|---|---|---|"]
    for file, kept in (
        ("gpu_smoke", "none kept"),
        ("gpu_smoke_24gb", "as many kept as a card of 24 GB holds"),
        ("gpu_smoke_kept", "all kept"),
    ):
        result = read(file)
        lines += [_memory_row(result, name, f"{kept}, {result['device']}") for name in ("exp1a", "exp1b", "exp2")]
    return "\n".join([*lines, ""])


def _memory_row(result: dict[str, Any], name: str, how: str) -> str:
    found = result["steps"][f"training {name}"]
    losses = f"{found['losses'][0]:.2f}, {found['losses'][-1]:.2f}"
    resumed = ", killed and resumed" if found["resumed_from"] else ""
    peak, speed = f"{found['training_peak_gib']:.1f} GiB", f"{found['images_per_s']:.1f}"
    return f"| {name}{resumed} | {how} | {peak} | {speed} | {losses} |"


def render_evaluation() -> str:
    """Both ways of scoring, and their ratio."""
    result = read("evaluation")
    metrics, together = result["metrics"], result["all_at_once"]["photos_at_once"]
    return "\n".join(
        [
            "| way | photos/s | in all |",
            "|---|---|---|",
            f"| one photo at a time, the model loaded for each checkpoint | "
            f"{interval(metrics['photos_per_s_one_by_one'])} | {metrics['one_by_one_seconds']:.0f} s, counted from "
            f"{metrics['photos_per_s_one_by_one']['n']} photos |",
            f"| adapters swapped and merged, batches of {together}, cached features | "
            f"{interval(metrics['photos_per_s'])} | {metrics['seconds']:.0f} s, measured: "
            f"{metrics['ratio_to_one_by_one']:.1f} times faster |",
            "",
            made(result),
            "",
            _same_answers(),
            "",
        ]
    )


def _same_answers() -> str:
    """What random weights cannot show."""
    result = read("evaluation_tiny")
    same = f"{percent(result['same_answers'])} of n = {result['same_answers']['n']} answers"
    faster = f"{result['metrics']['ratio_to_one_by_one']:.1f} times faster"
    trained = f"{result['checkpoints']} trained checkpoints on {result['n']} photos"
    return (
        f"With weights that mean something (the embedded model, {trained}): {same} the same, {faster}. {made(result)}"
    )


def render_smoke() -> str:
    """Agreement of answers and sizes of files."""
    result = read("gpu_smoke_24gb")
    head = "| against the adapter in batches of 16, n = 200 | equal answers | equal or parted within rounding |"
    lines = [head, "|---|---|---|"]
    for name, found in result["parity"]["agreement"].items():
        both = (percent(found["same"]), percent(found["same_or_parted_within_rounding"]))
        lines.append(f"| {name} | {both[0]} | {both[1]} |")
    merged, fp8 = (result["steps"][name]["bytes"] / 1e9 for name in ("merge", "quantise"))
    sizes = f"bf16 {merged:.1f} GB, FP8 {fp8:.1f} GB, {100 * fp8 / merged:.1f} %"
    page = "[decision 16](decisions/0016-fp8-has-the-head.md)"
    return "\n".join([*lines, "", f"Files: {sizes} ({page}). {made(result)}", ""])


def render_two_gpus() -> str:
    """Rows of each way to train on two GPUs, compared with one."""
    result = read("two_gpus")
    metrics = result["metrics"]
    head = "| way | images/s | to one process | peak of a GPU | largest difference of a loss |"
    lines = [head, "|---|---|---|---|---|"]
    for row in result["rows"]:
        name = row["name"]
        apart = metrics["loss_difference"].get(name)
        cells = (
            f"{name}, {row['batch']} photos a step",
            f"{interval(metrics['images_per_s'][name])} (n = {metrics['images_per_s'][name]['n']})",
            interval(metrics["scaling"][name], 2),
            f"{row['peak_gib']:.1f} GiB",
            "" if apart is None else f"{100 * apart:.2f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{result.get('note', '')} {made(result)}".strip(), "", *_killed(), ""])


def _killed() -> list[str]:
    """What became of the training whose one process was killed."""
    result = read("two_gpus_killed")
    row, apart = result["rows"][-1], result["metrics"]["loss_difference"]["DDP, one killed"]
    steps = sum(int(step) > int(row["resumed_from"].split("-")[1]) for step in row["losses"])
    return [
        "One of two processes killed after a checkpoint (SIGKILL, NCCL): the launcher and the other one ended within "
        f"{row['seconds_to_end']:.1f} s, {row['left_behind']} were left; started again, the training went on from "
        f"`{row['resumed_from']}`, and its losses differ from those of one process by at most {100 * apart:.2f} % "
        f"(n = {steps} after it); all checkpoints whole: {'yes' if row['complete'] else 'no'}. {result['note']} "
        f"{made(result)}",
    ]


def render_demo() -> str:
    """Where `make demo` spends its time, the longest step first."""
    result = read("demo")
    steps = sorted(result["metrics"]["seconds_by_step"].items(), key=lambda step: -step[1])
    lines = ["| step of `make demo` | s |", "|---|---|", *(f"| {name} | {seconds:.0f} |" for name, seconds in steps)]
    total = f"| all, n = 1 run | {result['metrics']['seconds']:.0f} |"
    return "\n".join([*lines, total, "", f"({result['device']}; `{result['command']}`)", ""])


def made(result: dict[str, Any]) -> str:
    """How it was made."""
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "transformers", "trl", "peft"))
    return f"({result['device']}, {versions}; `{result['command']}`)"


def interval(estimate: dict[str, Any], digits: int = 1) -> str:
    """A number with its interval."""
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def render_headline() -> str:
    """What was measured of the 7B model without its weights."""
    training, smoke, scoring, serving = (
        read(name)["metrics"] for name in ("training", "gpu_smoke_24gb", "evaluation", "serving")
    )
    alone, many = (interval(serving[key], 2) for key in ("best_speedup_single_stream", "speedup_at_128"))
    peak = smoke["qlora_r64_bs8_peak_gib"]
    scored = f"{scoring['ratio_to_one_by_one']:.0f} times as fast"
    rate, ratio = interval(training["images_per_s"]), interval(training["ratio_to_seed_recipe"])
    return (
        f"Qwen2-VL-7B's shape with random weights: training at {rate} images/s on an H100, {ratio} times the published "
        f"recipe with the same LoRA; checkpoints scored {scored}; on an H200 vLLM answers "
        f"one client {alone} and 128 clients {many} times as fast as by itself, and QLoRA takes {peak:.1f} GiB, held "
        "to 24 GB; [more](docs/performance.md)."
    )


def read(name: str) -> dict[str, Any]:
    """A result file."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def percent(estimate: dict[str, Any]) -> str:
    """A share with its interval."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"
