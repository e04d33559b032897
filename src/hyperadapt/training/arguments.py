"""Trainer's arguments: what a run's configuration decides of them, and what is left to choose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.training_args import OptimizerNames

from hyperadapt.errors import UserError, nearest
from hyperadapt.model import optional

if TYPE_CHECKING:
    from hyperadapt.config.sections import TrainingConfig


def kept_by(training: TrainingConfig) -> str | None:
    """Name the metric of `MixtureTrainer.evaluate` that picks the checkpoint of the model; None takes the last."""
    if training.keep == "last":
        return None
    return "best_by" if training.best_by else "average"


def training_arguments(
    training: TrainingConfig, seed: int, output_dir: Path, best: str | None
) -> Seq2SeqTrainingArguments:
    """Translate a run's configuration for Trainer.

    Args:
        training: the section.
        seed: the run's.
        output_dir: of checkpoints.
        best: the metric that picks the best checkpoint; of one whose name ends in "loss" the lowest. None keeps the
            last.

    Raises:
        UserError: if Trainer does not take them, or the batch does not divide by processes and accumulation.
    """
    ours: dict[str, Any] = {
        "output_dir": str(output_dir),
        "seed": seed,
        "max_steps": training.max_steps,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": training.warmup_steps,
        "weight_decay": training.weight_decay,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": training.eval_steps,
        "save_steps": training.eval_steps,
        "save_total_limit": training.save_total_limit,
        "logging_steps": training.logging_steps,
        "logging_nan_inf_filter": False,  # a loss that is not finite is an error here, not a gap in the log
        "load_best_model_at_end": best is not None,
        "metric_for_best_model": best,
        "greater_is_better": None if best is None else not best.endswith("loss"),
    }
    # Where there is no accelerator, Accelerate starts processes together only if it is told to use the CPU.
    defaults = {"report_to": "none", "use_cpu": not torch.accelerator.is_available()}
    check_optimizer(training.arguments.optim)
    try:
        args = Seq2SeqTrainingArguments(**{**defaults, **training.arguments.chosen(), **ours})
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise UserError(f"training: {' '.join(str(error).split())}") from None
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) != args.world_size:
        raise UserError(
            f"training: {launched} processes were launched, but Trainer found {args.world_size}; each would train "
            "alone, and all write into the same run"
        )
    args.per_device_train_batch_size = training.rows_at_once(args.world_size)
    if training.cuda_graphs:
        check_graphs(args)
    return args


def check_graphs(args: Seq2SeqTrainingArguments) -> None:
    """Check that steps can be CUDA graphs.

    Raises:
        UserError: if not, with what is in the way.
    """
    optimizer = OptimizerNames(args.optim).value
    in_the_way = {
        "hyperadapt.fast is needed, which is not installed": not optional.IS_THERE,
        "a GPU is needed, and there is none": not torch.cuda.is_available() or args.use_cpu,
        f"one GPU alone, not {args.n_gpu}": args.n_gpu > 1,
        f"one process alone, not {args.world_size}": args.world_size > 1,
        "not with fp16, whose loss is scaled anew at each step; set bf16": args.mixed_precision == "fp16",
        f"not with arguments.optim {optimizer}, which takes its step within the backward": any(
            word in optimizer for word in ("lomo", "layerwise")
        ),
        "not with arguments.deepspeed": args.deepspeed is not None,
        "not with arguments.fsdp": bool(args.fsdp),
        "not with arguments.gradient_checkpointing": args.gradient_checkpointing,
        "not with arguments.torch_compile, which makes graphs of its own": args.torch_compile,
        "not with arguments.torch_empty_cache_steps": args.torch_empty_cache_steps is not None,
    }
    if reasons := [reason for reason, holds in in_the_way.items() if holds]:
        raise UserError(f"training.cuda_graphs: {reasons[0]}")


def check_optimizer(name: str) -> None:
    """Check that Trainer knows an optimizer.

    Raises:
        UserError: naming the nearest that it knows.
    """
    choices = [optimizer.value for optimizer in OptimizerNames]
    if name not in choices:
        raise UserError(f"training.arguments: optim '{name}' is unknown; {nearest(name, choices)}")
