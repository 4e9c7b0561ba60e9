"""Watching a training: progress in words and numbers, the first gradients, checkpoints.

Belongs here: what happens at each of the trainer's events. Does not belong here: setting the trainer up
(`train`), or what an audit looks at (`evaluation.audits`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from nutridet_core.artifacts.store import Manifest, seal
from nutridet_core.evaluation.audits import Audit, audit_gradients
from nutridet_core.experiments import Experiment
from nutridet_core.families import Family
from nutridet_core.training.ranks import Ranks

_SECONDS_BETWEEN_LINES = 10


class Watch(TrainerCallback):
    """Seals checkpoints, audits the first gradients, reports progress.

    Under several ranks each has its own, and the first one writes and speaks.

    Args:
        checkpoint: manifest of every checkpoint, but for its name, step and epoch.
        on_metrics: gets (metrics, step) whenever the trainer logs.
    """

    def __init__(
        self,
        experiment: Experiment,
        family: Family,
        checkpoint: Manifest,
        log: Callable[[str], None],
        on_metrics: Callable[[dict[str, float], int], None],
        ranks: Ranks,
    ) -> None:
        self.experiment, self.family, self.checkpoint = experiment, family, checkpoint
        self.log, self.on_metrics, self.ranks = log, on_metrics, ranks
        self.gradients: Audit | None = None
        self.began, self.first_step, self.last_line = time.monotonic(), 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock after resuming, so that speed counts only what this process did."""
        self.began, self.first_step = time.monotonic(), state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Audit the first gradients."""
        if self.gradients is None:
            self.gradients = self.ranks.all_do(
                lambda: audit_gradients(model, self.family, self.experiment.towers).require()
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A line at least every ten seconds."""
        now = time.monotonic()
        if now - self.last_line < _SECONDS_BETWEEN_LINES and state.global_step < state.max_steps:
            return
        self.last_line = now
        speed = (state.global_step - self.first_step) / max(1e-9, now - self.began)
        left = (state.max_steps - state.global_step) / max(1e-9, speed)
        self.log(
            f"{self.experiment.name}: step {state.global_step}/{state.max_steps}, epoch {state.epoch:.1f}, "
            f"{_loss(state)}{speed * args.train_batch_size * self.ranks.world:.1f} images/s, {left:.0f} s left"
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Pass the trainer's numbers on."""
        self.on_metrics({f"train/{name}": value for name, value in (logs or {}).items()}, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seal the checkpoint that was just written, when all ranks have written theirs: from here on it exists."""
        self.ranks.wait()
        self.ranks.first_does(lambda: self._seal(args, state))

    def _seal(self, args: Any, state: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        audits = {audit.name: audit.to_dict() for audit in [self.gradients] if audit}
        facts = {"step": state.global_step, "epoch": state.epoch, "audits": audits, **self.checkpoint.facts}
        name = f"{self.experiment.name}/{folder.name}"
        seal(folder, self.checkpoint.model_copy(update={"name": name, "facts": facts}))


def _loss(state: Any) -> str:
    """The newest loss, for a line of progress; empty until the trainer has logged one."""
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return f"loss {losses[-1]:.3f}, " if losses else ""
