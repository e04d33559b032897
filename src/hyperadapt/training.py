"""Training on a mixture of tasks: a thin layer over transformers' Seq2SeqTrainer.

What is ours: batches come from the mixture, evaluation generates for all tasks at once, a loss that is not finite
stops the run, and SIGTERM leaves a checkpoint. All else (DDP, FSDP, bf16, trackers, resume) is Trainer's own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast, get_type_hints

import psutil
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import (
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.optimization import Adafactor
from transformers.trainer_callback import ProgressCallback
from transformers.training_args import OptimizerNames

from hyperadapt.errors import UserError, nearest
from hyperadapt.evaluation import SECONDS_BEFORE_PROGRESS_SHOWS, EvaluationSet, Results, evaluate
from hyperadapt.graphs import CapturedSteps
from hyperadapt.mixing import MixtureBatchSampler
from hyperadapt.tasks.chunks import answer_within, chunked

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.config import RunConfig, TrainingConfig

IGNORED = -100
ROWS_TOKENIZED_AT_ONCE = 10_000
NUM_ITEMS = "num_items_in_batch"
GRAPH_WIDTHS = 8  # batches are as wide as a multiple of it, so that few widths, each with a graph, occur
STEPS_BETWEEN_SIGNAL_CHECKS = 10  # where processes must agree: each check waits for the device

# Fields of Seq2SeqTrainingArguments that the configuration decides -> its own field; "" where there is no choice.
DECIDED = {
    "output_dir": "output_dir",
    "seed": "seed",
    "data_seed": "seed",
    "max_steps": "training.max_steps",
    "num_train_epochs": "training.max_steps",
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
    "resume_from_checkpoint": "--resume",
    **dict.fromkeys(
        (
            "eval_strategy",
            "save_strategy",
            "save_only_model",
            "load_best_model_at_end",
            "metric_for_best_model",
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
            "push_to_hub",
            "do_train",
            "do_eval",
            "do_predict",
        ),
        "",
    ),
}


class TrainingStoppedError(UserError):
    """Training cannot go on: the loss is not finite."""


def tokenize_rows(
    rows: Dataset,
    task_id: int,
    tokenizer: PreTrainedTokenizerBase,
    max_source_length: int,
    max_target_length: int,
    overlap: int,
) -> Dataset:
    """Tokenize one task's training rows into input_ids, labels and task_ids, contexts chunk by chunk.

    Args:
        rows: from `load_split`.
        task_id: of all of them.
        tokenizer: the base model's.
        max_source_length, max_target_length: tokens; what is longer is cut.
        overlap: of chunks, in tokens.
    """
    from datasets import Dataset, concatenate_datasets

    parts = []
    starts = range(0, len(rows), ROWS_TOKENIZED_AT_ONCE)
    for start in tqdm(starts, desc="tokenizing", leave=False, delay=SECONDS_BEFORE_PROGRESS_SHOWS):
        batch = rows[start : start + ROWS_TOKENIZED_AT_ONCE]
        if "context" in batch:
            of_rows = chunked(batch["source"], batch["context"], tokenizer, max_source_length, overlap)
            pairs = [
                (chunk.ids, answer_within(references, spans, chunk))
                for found, references, spans in zip(of_rows, batch["references"], batch["spans"], strict=True)
                for chunk in found
            ]
            inputs, targets = [ids for ids, _ in pairs], [target for _, target in pairs]
        else:
            inputs = tokenizer(batch["source"], truncation=True, max_length=max_source_length)["input_ids"]
            targets = batch["target"]
        labels = tokenizer(text_target=targets, truncation=True, max_length=max_target_length)["input_ids"]
        parts.append(
            Dataset.from_dict({"input_ids": inputs, "labels": labels, "task_ids": [task_id] * len(inputs)})
        )
    return concatenate_datasets(parts)


def token_loss(label_smoothing: float, logits: Tensor, labels: Tensor, num_items: Tensor | None) -> Tensor:
    """Compute the cross-entropy per target token, with label smoothing.

    Args:
        label_smoothing: epsilon.
        logits: (batch, target, vocabulary).
        labels: (batch, target), -100 where there is no token.
        num_items: tokens in the whole step, over all processes and accumulated batches; None for this batch's.
    """
    total = F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return total / (labels.ne(IGNORED).sum() if num_items is None else num_items)


def t5_adafactor(learning_rate: float) -> tuple[type[Adafactor], dict[str, Any]]:
    """Name T5's optimizer and its arguments (Raffel et al. 2020, section 3.1.2; Shazeer & Stern 2018, section 8).

    Its step for each tensor is in proportion to the size of its values, so that embeddings of size 1 learn as fast as
    matrices; Trainer's own "adafactor" takes the rate as it is.
    """
    return Adafactor, {"lr": learning_rate, "scale_parameter": True, "relative_step": False}


class MixtureTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer over a mixture of tasks.

    Args:
        model: an adapted model.
        config: the run's.
        args: from `training_arguments`.
        train_rows: tokenized rows of each task, in the order of their ids.
        evaluation_set: the validation rows of all tasks.
        tokenizer: the base model's.
    """

    def __init__(
        self,
        model: Any,
        config: RunConfig,
        args: Seq2SeqTrainingArguments,
        train_rows: Sequence[Dataset],
        evaluation_set: EvaluationSet,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        from datasets import concatenate_datasets

        epsilon, clock = config.training.label_smoothing, StepClock()
        self.config, self.evaluation_set, self.tokenizer = config, evaluation_set, tokenizer
        self.lengths = [[len(ids) for ids in rows["input_ids"]] for rows in train_rows]
        self.unchecked: list[tuple[int, Tensor, Tensor]] = []
        super().__init__(
            model=model,
            args=args,
            train_dataset=concatenate_datasets(list(train_rows)),
            eval_dataset=concatenate_datasets(
                [rows.select([0]) for rows in train_rows]
            ),  # ours are in evaluation_set
            data_collator=DataCollatorForSeq2Seq(
                tokenizer,
                model=model,
                label_pad_token_id=IGNORED,
                pad_to_multiple_of=GRAPH_WIDTHS if config.training.cuda_graphs else None,
            ),
            compute_loss_func=lambda outputs, labels, num_items_in_batch=None: token_loss(
                epsilon, outputs.logits, labels, num_items_in_batch
            ),
            callbacks=[StopCleanly(), CheckpointLastStep(), clock],
        )
        if config.training.t5_adafactor:
            self.optimizer_cls_and_kwargs = t5_adafactor(args.learning_rate)
        self.clock = clock
        self.repeated: CapturedSteps | None = None
        show_progress(self)

    def get_train_dataloader(self) -> DataLoader:
        """Load the mixture's batches; each process takes its share of every one."""
        data, training, args = self.config.data, self.config.training, self.args
        sampler = MixtureBatchSampler(
            self.lengths,
            batch_size=training.batch_size // training.gradient_accumulation_steps,
            num_batches=training.max_steps * training.gradient_accumulation_steps,
            temperature=data.temperature,
            size_limit=data.size_limit,
            mixed=data.mixed_batches,
            seed=self.config.seed,
            rank=args.process_index,
            world_size=args.world_size,
            group_by_length=data.group_by_length,
        )
        # Not prepared by Accelerate, which would share out the batches a second time.
        return DataLoader(
            cast("Dataset", self.train_dataset),
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and torch.accelerator.is_available(),
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer, in which some parameters of the method have a learning rate of their own."""
        if self.optimizer is not None:
            return super().create_optimizer(model)
        optimizer = super().create_optimizer(model)
        for parameter, rate in cast(Any, self.model).hyperadapt.learning_rates():
            for group in list(optimizer.param_groups):
                rest = [other for other in group["params"] if other is not parameter]
                if len(rest) < len(group["params"]):
                    group["params"] = rest
                    optimizer.add_param_group({**group, "params": [parameter], "lr": rate})
        return optimizer

    def _prepare_input(self, data: Any) -> Any:
        """Move a batch to the device without waiting, from pinned memory, for the step before to end."""
        if isinstance(data, Tensor):
            return data.to(self.args.device, non_blocking=data.is_pinned())
        return super()._prepare_input(data)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count the step's target tokens where the batch is, unless others count too: a copy waits for the device."""
        alone = max(self.args.world_size, self.args.n_gpu) == 1
        return super()._get_num_items_in_batch(batch_samples, torch.device("cpu") if alone else device)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Take the step, and keep its loss to be checked."""
        task_ids = inputs["task_ids"]
        if self.config.training.cuda_graphs:
            loss = self.repeated_step(model, inputs, num_items_in_batch)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.unchecked.append((self.state.global_step + 1, task_ids, loss))
        # Reading a loss waits for the device, so elsewhere it is read where Trainer itself waits.
        batches = self.args.logging_steps * self.args.gradient_accumulation_steps
        if loss.device.type == "cpu" or len(self.unchecked) >= batches:
            self.check_losses()
        return loss

    def repeated_step(self, model: Any, inputs: dict[str, Any], num_items: Tensor) -> Tensor:
        """Take the step as `CapturedSteps` does, the number of the step's target tokens one of its inputs."""
        if self.repeated is None:

            def step(batch: dict[str, Tensor]) -> Tensor:
                rest = {name: tensor for name, tensor in batch.items() if name != NUM_ITEMS}
                return super(MixtureTrainer, self).training_step(model, rest, batch[NUM_ITEMS])

            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            self.repeated = CapturedSteps(step, trained)
        return self.repeated({**self._prepare_inputs(inputs), NUM_ITEMS: torch.as_tensor(num_items)})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a loss has been waited for, and ends a lap."""
        if "loss" in logs:
            self.clock.lap(self.state.global_step)
        super().log(logs, start_time)

    def check_losses(self) -> None:
        """Stop at a loss that is not finite.

        Raises:
            TrainingStoppedError: naming the first such step and the tasks in its batch.
        """
        unchecked, self.unchecked = self.unchecked, []
        if not unchecked:
            return
        finite = torch.isfinite(torch.stack([loss for _, _, loss in unchecked])).tolist()
        for (step, task_ids, loss), is_finite in zip(unchecked, finite, strict=True):
            if not is_finite:
                names = [task.name for task in self.evaluation_set.tasks]
                tasks = sorted({names[index] for index in task_ids.tolist()}, key=names.index)
                raise TrainingStoppedError(
                    f"the loss is {loss.item()} at step {step}, in a batch of {', '.join(tasks)}; no checkpoint after "
                    "it is kept. Try a smaller training.learning_rate, or model.dtype=float32"
                )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_losses()
        super()._save_checkpoint(model, trial)

    def score(self, rows: EvaluationSet) -> Results:
        """Generate for the rows of all tasks, shared out to the processes, and score them."""
        model: Any = self.accelerator.unwrap_model(self.model)
        # A model in shards runs on all processes or on none: each then predicts all rows.
        share = (0, 1) if self.is_fsdp_enabled else (self.args.process_index, self.args.world_size)
        options = self.config.evaluation
        with gathered(model):
            return evaluate(model, self.tokenizer, rows, options.batch_size, options.num_beams, *share)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval", **_: Any
    ) -> dict[str, float]:
        """Generate for the validation rows of all tasks and score them; "eval_average" picks the best checkpoint."""
        self.check_losses()
        self.clock.lap(self.state.global_step)
        with self.accelerator.autocast():
            results = self.score(self.evaluation_set)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in results.flat().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


@contextmanager
def gathered(model: torch.nn.Module) -> Iterator[None]:
    """Gather a model's shards (FSDP2) to generate: its own forward does so, but `generate` runs the stacks alone."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()


class StopCleanly(TrainerCallback):
    """On SIGTERM, finish the step, save a checkpoint and stop."""

    def __init__(self) -> None:
        self.asked = False
        self.previous: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        def ask(*_: object) -> None:
            self.asked = True

        self.previous = signal.signal(signal.SIGTERM, ask)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        asked = self.asked
        if args.world_size > 1:
            # All processes must stop at the same step, or one waits for the others for ever.
            if state.global_step % STEPS_BETWEEN_SIGNAL_CHECKS:
                return
            votes = torch.tensor(int(asked), device=args.device)
            torch.distributed.all_reduce(votes)
            asked = bool(votes.item())
        if asked:
            self.asked = control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        signal.signal(signal.SIGTERM, self.previous)


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


def held_memory() -> int:
    """Return the bytes that the device's allocator, or on the CPU the process, holds now."""
    if torch.accelerator.is_available():
        return torch.accelerator.memory_allocated()
    return psutil.Process().memory_info().rss


def peak_memory() -> int:
    """Return the most bytes that the device's allocator, or on the CPU the process, has held at once."""
    if torch.accelerator.is_available():
        return torch.accelerator.max_memory_allocated()
    import resource

    kibibytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes


class CheckpointLastStep(TrainerCallback):
    """Evaluate and save the last step too, wherever it falls between two checkpoints."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


def training_arguments(
    training: TrainingConfig, seed: int, output_dir: Path, best: str
) -> Seq2SeqTrainingArguments:
    """Translate a run's configuration for Trainer.

    Args:
        training: the section.
        seed: the run's.
        output_dir: of checkpoints.
        best: the metric that picks the best checkpoint; of one whose name ends in "loss" the lowest.

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
        "load_best_model_at_end": True,
        "metric_for_best_model": best,
        "greater_is_better": not best.endswith("loss"),
    }
    # Where there is no accelerator, Accelerate starts processes together only if it is told to use the CPU.
    defaults = {"report_to": "none", "use_cpu": not torch.accelerator.is_available()}
    try:
        args = Seq2SeqTrainingArguments(**{**defaults, **checked_arguments(training.arguments), **ours})
    except (ValueError, TypeError, ImportError) as error:
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
            TypeAdapter(known[name], config={"arbitrary_types_allowed": True}).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"training.arguments: {name} is {value!r}: {reason}") from None
    choices = [optimizer.value for optimizer in OptimizerNames]
    if (optimizer := given.get("optim", "adamw_torch")) not in choices:
        raise UserError(f"training.arguments: optim '{optimizer}' is unknown; {nearest(optimizer, choices)}")
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


def last_checkpoint(directory: Path) -> Path | None:
    """Find the last whole checkpoint: Trainer writes trainer_state.json last, so one without it was cut short."""
    numbered = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(numbered):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return checkpoint
    return None
