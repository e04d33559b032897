"""What Trainer calls back: totals that survive a resume, the clock of steps, when to evaluate and to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from accelerate.utils import gather
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState, ProgressCallback

from hyperadapt.errors import notice
from hyperadapt.threads import Crowding, own_cores


class Totals(TrainerCallback, ExportableState):
    """What a run has lost and taken so far: saved with each checkpoint, as Trainer itself counts from a resume on.

    Attributes:
        trainer: whose losses and laps these are.
        seconds_before: that earlier trainings of the run took, each up to its last checkpoint.
        kept: the numbers as of the last checkpoint.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.began, self.seconds_before = 0.0, 0.0
        self.kept: dict[str, Any] = {}

    def state(self) -> dict[str, Any]:
        """Return what stands in the checkpoint's trainer_state.json."""
        return {"args": {}, "attributes": self.kept}

    def add_up(self) -> None:
        """Take the numbers as they are now, in all processes."""
        trainer = self.trainer
        self.kept = {
            "seconds": self.seconds_before + time.time() - self.began,
            "laps": trainer.clock.laps,
            "logged_loss": trainer._total_loss_scalar,
            "logged_step": trainer._globalstep_last_logged,
            "unlogged_loss": gather(trainer._tr_loss.clone()).mean().item(),
            "rows_since": getattr(trainer, "rows_since", 0),
            "best_of_task": getattr(trainer, "best_of_task", {}),
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on from the checkpoint's numbers, if it has any; those before this class had none."""
        self.began = time.time()
        saved: Any = state.stateful_callbacks  # of each callback, by the name of its class
        kept = saved.setdefault(type(self).__name__, self.state())["attributes"]
        if not kept:
            return
        trainer, self.kept, self.seconds_before = self.trainer, kept, kept["seconds"]
        trainer.clock.laps = [(steps, seconds) for steps, seconds in kept["laps"]]
        trainer._tr_loss += kept["unlogged_loss"]
        trainer._total_loss_scalar, trainer._globalstep_last_logged = kept["logged_loss"], kept["logged_step"]
        trainer._initial_global_step = 0


def show_progress(trainer: Trainer) -> None:
    """Put our progress in place of Trainer's, where there is any."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(ReadableProgress())


class ReadableProgress(ProgressCallback):
    """Trainer's progress bar, with a line for people at each log instead of a dictionary of every number."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if self.training_bar is None:
            return
        if "loss" in logs:
            speed = f", {logs['tokens_per_second']:,} tokens a second" if "tokens_per_second" in logs else ""
            self.training_bar.write(f"step {state.global_step}: loss {logs['loss']:.4f}{speed}")
        for name, value in logs.items():
            if name.startswith("eval_") and name.endswith("_loss"):
                kind = name.removeprefix("eval_").removesuffix("_loss").replace("_", " ")
                self.training_bar.write(f"step {state.global_step}: held-out loss of {kind} {value:.4f}")
        if "eval_average" in logs:
            scores = {
                name.removeprefix("eval_"): value for name, value in logs.items() if name.endswith("_score")
            }
            tasks = ", ".join(f"{name.removesuffix('_score')} {value:.1f}" for name, value in scores.items())
            average = f"step {state.global_step}: validation average {logs['eval_average']:.2f}"
            self.training_bar.write(f"{average} ({tasks})")


class StepClock(TrainerCallback):
    """Times the steps, without the evaluations and checkpoints between them.

    A lap ends where Trainer waits for the device anyway, so that what the device has yet to do is not left out.
    """

    def __init__(self) -> None:
        self.laps: list[tuple[int, float]] = []  # steps, seconds
        self.began: tuple[int, float] | None = None

    def lap(self, step: int) -> tuple[int, float] | None:
        """End a lap at this step, and return its steps and seconds; None if no step was taken in it."""
        began, self.began = self.began, None
        if began is None or began[0] == step:
            return None
        self.laps.append((step - began[0], time.perf_counter() - began[1]))
        return self.laps[-1]

    def seconds_per_step(self) -> float | None:
        """Return the median over the laps."""
        return median(seconds / steps for steps, seconds in self.laps) if self.laps else None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.began = self.began or (state.global_step, time.perf_counter())


class SayCrowded(TrainerCallback):
    """Says, once, that other work has come to slow the steps down on a CPU, and what to do."""

    def __init__(self) -> None:
        self.crowding: Crowding | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if args.device.type == "cpu" and torch.get_num_threads() > 1:
            self.crowding = Crowding()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.crowding is None:
            return
        taken, cores, threads = self.crowding.look(), len(own_cores()), torch.get_num_threads()
        if cores - taken < threads - 0.5:
            self.crowding = None
            notice(
                f"steps are slow: other work takes {taken:.1f} of the {cores} cores, and PyTorch's {threads} threads "
                f"wait for each other; OMP_NUM_THREADS={max(round(cores - taken), 1)} is faster meanwhile, for a run "
                "that begins, or goes on by --resume"
            )


class CheckpointLastStep(TrainerCallback):
    """Evaluate and save the last step too, wherever it falls between two checkpoints."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


class StopWithoutGain(TrainerCallback):
    """Stops where so many evaluations have brought nothing better.

    What was scored stands in the log, which a checkpoint has; transformers' own callback counts anew on resume.

    Args:
        patience: so many evaluations.
        told_by: the metrics of which one must be better than it ever was.
        since: the step since which they are of the same rows.
    """

    def __init__(self, patience: int, told_by: Sequence[str | None], since: Callable[[], int]) -> None:
        self.patience, self.told_by, self.since = patience, told_by, since

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        metrics = [f"eval_{name}" for name in self.told_by]
        entries = [
            entry for entry in state.log_history if metrics[0] in entry and entry["step"] > self.since()
        ]
        scores = [[entry[metric] for entry in entries] for metric in metrics]
        last_gain = max(of_metric.index(max(of_metric)) for of_metric in scores)
        if len(entries) - 1 - last_gain >= self.patience:
            notice(
                f"training stops after step {state.global_step}: {self.patience} evaluations brought nothing better"
            )
            control.should_training_stop = True
