"""Trainer's arguments: what a run's configuration decides of them, and what is left to choose."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import Seq2SeqTrainingArguments
from transformers.training_args import OptimizerNames, trainer_log_levels

from hyperadapt.errors import UserError, in_plain_words, nearest
from hyperadapt.fields import AS_WRITTEN

if TYPE_CHECKING:
    from hyperadapt.config.sections import TrainingConfig


# Fields of Seq2SeqTrainingArguments that the configuration decides -> its own field; "" where there is no choice.
DECIDED = {
    "output_dir": "output_dir",
    "seed": "seed",
    "data_seed": "seed",
    "max_steps": "training.max_steps",
    "num_train_epochs": "training.epochs",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "learning_rate": "training.learning_rate",
    "lr_scheduler_type": "training.lr_scheduler_type",
    "warmup_steps": "training.warmup_steps",
    "weight_decay": "training.weight_decay",
    "label_smoothing_factor": "training.label_smoothing",
    "eval_steps": "training.eval_steps",
    "save_steps": "training.eval_steps",
    "save_total_limit": "training.save_total_limit",
    "logging_steps": "training.logging_steps",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "generation_num_beams": "evaluation.num_beams",
    "generation_max_length": "a task's max_target_length",
    "train_sampling_strategy": "data.group_by_length",
    "load_best_model_at_end": "training.keep",
    "metric_for_best_model": "training.best_by",
    "resume_from_checkpoint": "--resume",
    **dict.fromkeys(
        (
            "eval_strategy",
            "save_strategy",
            "save_only_model",
            "greater_is_better",
            "logging_nan_inf_filter",
            "remove_unused_columns",
            "label_names",
            "length_column_name",
            "sortish_sampler",
            "predict_with_generate",
            "prediction_loss_only",
            "generation_config",
            "dataloader_drop_last",
            "auto_find_batch_size",
            "ignore_data_skip",
            "enable_jit_checkpoint",
            "push_to_hub",
            "do_train",
            "do_eval",
            "do_predict",
        ),
        "",
    ),
}


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
        UserError: if `training.arguments` has an unknown field or one that the configuration sets itself, or the
            batch does not divide by processes and accumulation.
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
    chosen = checked_arguments(training.arguments)
    try:
        args = Seq2SeqTrainingArguments(**{**defaults, **chosen, **ours})
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
        "hyperadapt.fast is needed, which is not installed": find_spec("hyperadapt.fast") is None,
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


def checked_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Check `training.arguments`: transformers itself checks neither names nor types.

    Raises:
        UserError: as `training_arguments`.
    """
    known = get_type_hints(Seq2SeqTrainingArguments)
    fields = Seq2SeqTrainingArguments.__dataclass_fields__
    free = [name for name in fields if name not in DECIDED]
    for name, value in given.items():
        if name not in fields:
            raise UserError(f"training.arguments: field '{name}' is unknown; {nearest(name, free)}")
        if name in DECIDED:
            instead = f"set {DECIDED[name]}" if DECIDED[name] else "it is not open to choice"
            raise UserError(f"training.arguments: '{name}' is decided by the run's configuration; {instead}")
        try:
            kind: Any = Annotated[known[name], AS_WRITTEN]
            TypeAdapter(kind, config={"arbitrary_types_allowed": True}).validate_python(value)
        except ValidationError as error:
            reason = in_plain_words(dict(error.errors()[0]))
            raise UserError(f"training.arguments: {name} is {value!r}: {reason}") from None
        takes = (known[name], *get_args(known[name]))
        if (
            isinstance(value, str) and bool in takes and str not in takes
        ):  # passed on as it is: "no" would be true
            raise UserError(f"training.arguments: {name} is {value!r}: write true or false")
    choices = [optimizer.value for optimizer in OptimizerNames]
    if (optimizer := given.get("optim", "adamw_torch")) not in choices:
        raise UserError(f"training.arguments: optim '{optimizer}' is unknown; {nearest(optimizer, choices)}")
    for name in ("log_level", "log_level_replica"):
        if (level := given.get(name, "passive")) not in trainer_log_levels:
            raise UserError(
                f"training.arguments: {name} '{level}' is unknown; {nearest(level, trainer_log_levels)}"
            )
    for name, value in given.items():
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"training.arguments: {name} is {value}, which is no number")
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= given.get(name, 0) < 1:
            raise UserError(f"training.arguments: {name} is {given[name]}; it must be from 0 to below 1")
    for name in ("dataloader_num_workers", "max_grad_norm", "adam_epsilon"):
        if given.get(name, 0) < 0:
            raise UserError(f"training.arguments: {name} is {given[name]}; it must not be negative")
    checkpointing = given.get("gradient_checkpointing_kwargs")
    if isinstance(checkpointing, dict) and checkpointing.get("use_reentrant"):
        raise UserError(
            "training.arguments: gradient_checkpointing_kwargs: use_reentrant must be false, as it is by default; the "
            "reentrant kind goes backward through the generated weights once a block"
        )
    return given
