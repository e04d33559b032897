"""Trying a training out before anything is written: a batch forward, an optimizer, two generated tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from hyperadapt.architectures import Answering, Request, architecture_of
from hyperadapt.errors import UserError
from hyperadapt.training.process import same_random_state
from hyperadapt.training.trainer import MixtureTrainer


@contextmanager
def making_trainer(args: TrainingArguments, directory: Path, chosen: Iterable[str]) -> Iterator[None]:
    """Make a Trainer without its folder of checkpoints, as nothing of a run is written before all of it is checked.

    Args:
        args: Trainer's.
        directory: one that is there, which Trainer takes in place of its own.
        chosen: names of the arguments that the user has chosen.

    Raises:
        UserError: if Trainer refuses the arguments.
    """
    checkpoints, args.output_dir = args.output_dir, str(directory)
    try:
        with blamed_on(
            f"training.arguments ({', '.join(chosen) or 'none are given'}): Trainer does not take them"
        ):
            yield
    finally:
        args.output_dir = checkpoints


def try_out(trainer: Trainer) -> None:
    """Make the optimizer and its schedule, load a batch as training will, and run it forward.

    So that what fails does so before anything is written. It writes nothing, changes no weight, and leaves the random
    numbers as they were.

    Raises:
        UserError: naming the field that is to blame, as far as that can be told.
    """
    args, training = trainer.args, "training.arguments"
    schedule = f"training.lr_scheduler_type {SchedulerType(args.lr_scheduler_type).value}"
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # these make and place everything later
    with same_random_state():
        if not sharded:
            with blamed_on(f"{training}.optim {OptimizerNames(args.optim).value}"):
                trainer.create_optimizer()
            with blamed_on(
                f"{schedule} (with lr_scheduler_kwargs {args.lr_scheduler_kwargs or 'not given'})"
            ):
                trainer.create_scheduler(args.max_steps)  # Trainer makes it anew when it begins
        with blamed_on(
            f"a batch cannot be loaded ({training}.dataloader_num_workers {args.dataloader_num_workers})"
        ):
            batch = next(iter(trainer.get_train_dataloader()))
        if sharded:
            return
        model: Any = trainer.model
        was_training = model.training
        model.eval()
        try:
            with (
                blamed_on("the model cannot run a batch"),
                torch.no_grad(),
                trainer.compute_loss_context_manager(),
            ):
                # Where the model is: Trainer moves one that is evaluated in half precision only when it begins.
                trainer.compute_loss(model, send_to_device(batch, model.device))
        finally:
            model.train(was_training)


def try_to_answer(trainer: MixtureTrainer) -> None:
    """Generate two tokens for a row, with as many beams as an evaluation takes, and rate one's labels, as far as asked.

    So this fails at once too.

    Raises:
        UserError: if it cannot be done.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    options, rows = trainer.config.evaluation, trainer.evaluation_set
    model: Any = trainer.model
    architecture, how = architecture_of(model), Answering(options.batch_size, options.num_beams)
    requests = [
        Request(model.task_id(task.name), ids, (1, 2), choices=choices)
        for task, sources, choices in zip(rows.tasks, rows.sources, rows.choices, strict=True)
        for ids in sources
    ]
    generated = [request for request in requests if request.choices is None]
    rated = [request for request in requests if request.choices is not None]
    with (
        same_random_state(),
        blamed_on(
            f"evaluation (answers: {options.answers}, num_beams: {options.num_beams}): the model cannot answer"
        ),
    ):
        architecture.check_memory(model, requests, how)
        architecture.answer(model, trainer.tokenizer, [*generated[:1], *rated[:1]], how)


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """Say in one line what was tried, where anything at all goes wrong with it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of transformers, torch, a loader's worker, or an optimizer's package
        reason = " ".join(str(error).split())[-300:]
        raise UserError(f"{what}: {type(error).__name__}: {reason}") from error
