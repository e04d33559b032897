"""SIGTERM and Ctrl-C: the step is finished, a checkpoint written, and the training stops."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hyperadapt.errors import Interrupted, UserError
from hyperadapt.signals import heard_by
from hyperadapt.training.checkpoints import is_whole, step_of
from hyperadapt.training.trial import blamed_on

STEPS_BETWEEN_SIGNAL_CHECKS = 10  # where processes must agree: each check waits for the device


class StopCleanly(TrainerCallback):
    """On SIGTERM or Ctrl-C, finish the step, save a checkpoint and stop; a second Ctrl-C ends at once.

    Not Trainer's own enable_jit_checkpoint: that hears SIGTERM alone, three seconds later, and of several processes
    each saves at the step at which it was told, where it waits for the others for ever.

    Attributes:
        signal: the number of the first signal that asked to stop, 0 if none has.
        at_once: what heard Ctrl-C before, and hears the second.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.at_once = signal.getsignal(signal.SIGINT)

    def hear(self, number: int, frame: Any) -> None:
        """Note that a signal has come."""
        if self.signal and number == signal.SIGINT and callable(self.at_once):
            self.at_once(number, frame)
        if not self.signal and int(os.environ.get("RANK", "0")) == 0:
            # Not with print: a signal may come in the middle of one.
            os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C ends at once\n")
        self.signal = self.signal or number

    def agree(self, args: TrainingArguments) -> int:
        """Return the signal that any of the processes has heard, 0 if none has; all must ask at the same time."""
        if args.world_size > 1:
            heard = torch.tensor(self.signal, device=args.device)
            torch.distributed.all_reduce(heard, torch.distributed.ReduceOp.MAX)
            self.signal = int(heard.item())
        return self.signal

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Processes must stop at the same step, or one waits for the others for ever.
        if args.world_size > 1 and state.global_step % STEPS_BETWEEN_SIGNAL_CHECKS:
            return
        if self.agree(args):
            control.should_save = control.should_training_stop = True


def train_until_stopped(trainer: Trainer, last: Path | None) -> TrainOutput:
    """Train to the end, or until a signal comes.

    Args:
        trainer: whose checkpoints have a folder in the run's directory.
        last: the checkpoint to go on from.

    Raises:
        Interrupted: after a signal.
        UserError: if a checkpoint cannot be written.
    """
    stop, checkpoints = StopCleanly(), Path(str(trainer.args.output_dir))
    first = 0 if last is None else step_of(last)
    trainer.add_callback(stop)
    try:
        with heard_by(stop.hear):
            outcome = trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except UserError:
        # What was not written to its end: on a full disk it is in the way of the next.
        begun = checkpoints / f"checkpoint-{trainer.state.global_step}"
        if trainer.args.process_index == 0 and not is_whole(begun):
            shutil.rmtree(begun, ignore_errors=True)
        raise
    except Exception as error:
        if trainer.state.global_step > first:
            raise
        with blamed_on("training fails before its first step is done"):
            raise error
    if number := stop.agree(trainer.args):
        step, steps = trainer.state.global_step, trainer.args.max_steps
        raise Interrupted(
            f"stopped at step {step} of {steps}; its checkpoint is in {checkpoints.parent}; go on with --resume",
            number,
        )
    return outcome
