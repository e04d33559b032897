"""Training on a mixture of tasks: a thin layer over transformers' Seq2SeqTrainer.

What is ours: batches come from the mixture, evaluation generates for all tasks at once, a loss that is not finite
stops the run, and SIGTERM or Ctrl-C leaves a checkpoint. All else (DDP, FSDP, bf16, trackers, resume) is Trainer's own.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_type_hints

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from accelerate.utils import gather
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file
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
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, ProgressCallback
from transformers.trainer_utils import SchedulerType, TrainOutput
from transformers.training_args import OptimizerNames, trainer_log_levels
from transformers.utils import SAFE_WEIGHTS_NAME

from hyperadapt import manifest
from hyperadapt.errors import (
    CheckpointError,
    Interrupted,
    UserError,
    in_plain_words,
    nearest,
    notice,
    reason_of,
)
from hyperadapt.evaluation import (
    SECONDS_BEFORE_PROGRESS_SHOWS,
    EvaluationSet,
    Results,
    check_beams,
    evaluate,
    generate_answers,
    joined,
)
from hyperadapt.fields import AS_WRITTEN
from hyperadapt.files import writing
from hyperadapt.graphs import CapturedSteps
from hyperadapt.mixing import MixtureBatchSampler
from hyperadapt.signals import heard_by
from hyperadapt.tasks import DEV, spelt_out
from hyperadapt.tasks.chunks import answer_within
from hyperadapt.tokenizing import InputTokenizer, TargetTokenizer
from hyperadapt.verbs import check_without_peft

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.config import RunConfig, TrainingConfig
    from hyperadapt.tasks import Task
    from hyperadapt.tokenizing import Truncation

IGNORED = -100
_CHECKPOINT = re.compile(r"checkpoint-[0-9]+")
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


class TrainingStoppedError(UserError):
    """Training cannot go on: the loss is not finite."""


def tokenize_rows(
    rows: Dataset,
    task: Task,
    task_id: int,
    tokenizer: PreTrainedTokenizerBase,
    max_source_length: int,
    overlap: int,
    truncation: Truncation = "end",
) -> Dataset:
    """Tokenize one task's training rows into input_ids, labels and task_ids, contexts chunk by chunk.

    Args:
        rows: from `load_split`.
        task: whose they are; a score task's step is known.
        task_id: of all of them.
        tokenizer: the base model's.
        max_source_length, overlap, truncation: as of an `InputTokenizer`.

    Raises:
        UserError: if a target cannot be written.
    """
    from datasets import Dataset, concatenate_datasets

    tokenize_inputs = InputTokenizer(tokenizer, max_source_length, overlap, truncation)
    tokenize_targets, parts = TargetTokenizer(task, tokenizer), []
    starts = range(0, len(rows), ROWS_TOKENIZED_AT_ONCE)
    for start in tqdm(starts, desc="tokenizing", leave=False, delay=SECONDS_BEFORE_PROGRESS_SHOWS):
        batch = rows[start : start + ROWS_TOKENIZED_AT_ONCE]
        chunks_of_rows = tokenize_inputs(batch)
        targets = batch["target"]
        if "context" in batch:
            places = zip(chunks_of_rows, batch["references"], batch["spans"], strict=True)
            targets = [
                answer_within(references, spans, chunk)
                for chunks, references, spans in places
                for chunk in chunks
            ]
        inputs = [chunk.ids for chunks in chunks_of_rows for chunk in chunks]
        labels = tokenize_targets(targets)
        parts.append(
            Dataset.from_dict({"input_ids": inputs, "labels": labels, "task_ids": [task_id] * len(inputs)})
        )
    tokenize_inputs.say(task, "train rows")
    tokenize_targets.say()
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


class ResumableTrainer(Trainer):
    """Trainer whose checkpoints have manifests, and whose resumed runs add up to what an unbroken one counts."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.clock, self.totals = StepClock(), Totals(self)
        self.add_callback(self.clock)
        self.add_callback(self.totals)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.totals.add_up()
        folder = self.checkpoint(self.state.global_step)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with writing(folder):
                if self.args.should_save:
                    manifest.remove(folder)  # of a damaged checkpoint of this step, which is written over
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # every process writes its own random state
                if self.args.should_save:
                    manifest.add(folder)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit is not None:
            delete_older(folder, limit)  # only now, when this one is whole

    def _init_training_state(self, *arguments: Any) -> Any:
        places = super()._init_training_state(*arguments)
        if self.state.best_global_step:
            # Trainer forgets the best checkpoint of a run that was moved, and would keep the last model for the best.
            self.state.best_model_checkpoint = str(self.checkpoint(self.state.best_global_step))
        return places

    def checkpoint(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return Path(str(self.args.output_dir)) / f"checkpoint-{step}"

    def load_checkpoint(self, step: int) -> None:
        """Give the model the weights that it had after a step, once training has ended."""
        best, self.state.best_model_checkpoint = self.state.best_model_checkpoint, str(self.checkpoint(step))
        try:
            self._load_best_model()  # as Trainer loads the best one, whole or in shards
        finally:
            self.state.best_model_checkpoint = best

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, start_time - self.totals.seconds_before)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        whole_model = best / SAFE_WEIGHTS_NAME
        manifest.check(whole_model if whole_model.is_file() else best)  # in shards there is no such file
        super()._load_best_model()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with loading(resume_from_checkpoint, "the model"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with loading(checkpoint, "optimizer.pt or scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with loading(checkpoint, "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with loading(checkpoint, "a random state (rng_state.pth)"):
            super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            saved = len(list(Path(checkpoint).glob("rng_state*.pth")))
            if saved != self.args.world_size:
                notice(
                    f"{checkpoint} is of {saved} processes, and {self.args.world_size} go on: what they draw at "
                    "random, as in dropout, is not what an unbroken run draws"
                )


@contextmanager
def loading(checkpoint: str | None, what: str) -> Iterator[None]:
    """Say in one line which part of a checkpoint cannot be loaded: damage, a misfit, a pickle that would run code."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch, pickle and zipfile each have errors of their own
        raise CheckpointError(
            f"{checkpoint}: {what} cannot be loaded ({reason_of(error) or type(error).__name__})"
        ) from error


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


class MixtureTrainer(ResumableTrainer, Seq2SeqTrainer):
    """Seq2SeqTrainer over a mixture of tasks.

    Args:
        model: an adapted model.
        config: the run's.
        args: from `training_arguments`.
        train_rows: tokenized rows of each task, in the order of their ids.
        evaluation_set: the validation rows of all tasks.
        tokenizer: the base model's.

    Attributes:
        rows_since: the step since which the validation rows are those of now. A checkpoint that was the best at this
            step or before was so by others, unless it was scored anew.
        best_of_task: with `keep: best_per_task`, each task's best step so far and what it scored.
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

        check_without_peft(model)
        epsilon = config.training.label_smoothing
        self.config, self.evaluation_set, self.tokenizer = config, evaluation_set, tokenizer
        self.lengths = [[len(ids) for ids in rows["input_ids"]] for rows in train_rows]
        self.unchecked: list[tuple[int, Tensor, Tensor]] = []
        self.rows_since = 0
        self.best_of_task: dict[str, tuple[int, float]] = {}
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
            callbacks=[CheckpointLastStep()],
        )
        if config.training.t5_adafactor:
            self.optimizer_cls_and_kwargs = t5_adafactor(args.learning_rate)
        if config.training.patience is not None:
            told_by = [args.metric_for_best_model]
            if config.training.keep == "best_per_task":
                told_by = [f"{task.name}_score" for task in evaluation_set.tasks]
            self.add_callback(StopWithoutGain(config.training.patience, told_by, lambda: self.rows_since))
        self.repeated: CapturedSteps | None = None
        show_progress(self)

    def _init_training_state(self, *arguments: Any) -> Any:
        places = super()._init_training_state(*arguments)
        saved: Any = self.state.stateful_callbacks
        kept = saved.get(Totals.__name__, {}).get("attributes", {})
        self.best_of_task = {
            task: (step, score) for task, (step, score) in kept.get("best_of_task", {}).items()
        }
        best = self.state.best_global_step
        if best and best <= self.rows_since != kept.get("rows_since", 0):
            of_tasks = (step for step, _ in self.best_of_task.values())
            self.choose_best_anew(sorted({best, *of_tasks, self.state.global_step}))
        return places

    def choose_best_anew(self, steps: Sequence[int]) -> None:
        """Score checkpoints on the validation rows of now, and take the best of them for the best so far.

        Args:
            steps: the best by the rows before, and the one that the training goes on from, as which the model is now;
                in their order.
        """
        model: Any = self.accelerator.unwrap_model(self.model)
        now = {name: value.detach().clone() for name, value in model.state_dict().items()}
        scores: dict[int, float] = {}
        self.best_of_task = {}
        with same_random_state():
            for step in steps:
                if step != self.state.global_step:
                    file = self.checkpoint(step) / SAFE_WEIGHTS_NAME
                    if not file.is_file():
                        notice(
                            f"{file.parent} is in shards, which are not scored anew: it is the best no more"
                        )
                        continue
                    model.load_state_dict(load_file(file), strict=False)
                with self.accelerator.autocast():
                    results = self.score(self.evaluation_set)
                scores[step] = self.measure(results)
                self.note_best_of_task(step, results.flat())
                model.load_state_dict(now)
        best = max(scores, key=lambda step: scores[step])
        self.state.best_metric, self.state.best_global_step = scores[best], best
        self.state.best_model_checkpoint = str(self.checkpoint(best))
        told = ", ".join(f"that of step {step} scores {score:.2f}" for step, score in scores.items())
        notice(f"validation rows have changed since the best checkpoint was chosen: on those of now {told}")

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
        rank, world = (0, 1) if self.is_fsdp_enabled else (self.args.process_index, self.args.world_size)
        options = self.config.evaluation
        with gathered(model):
            return evaluate(
                model,
                self.tokenizer,
                rows,
                options.batch_size,
                options.num_beams,
                rank,
                world,
                options.rule,
            )

    def score_kept(self, sets: Mapping[str, EvaluationSet]) -> dict[str, Results]:
        """Score sets of rows by the model that was kept, or each task by its own best checkpoint.

        Args:
            sets: by split, after training.
        """
        if not self.best_of_task:
            return {split: self.score(rows) for split, rows in sets.items()}
        steps = {task: step for task, (step, _) in self.best_of_task.items()}
        parts: dict[str, list[Results]] = {split: [] for split in sets}
        for step in sorted(set(steps.values())):
            self.load_checkpoint(step)
            for split, rows in sets.items():
                of_step = rows.of([task for task in steps if steps[task] == step])
                if of_step.tasks:
                    parts[split].append(self.score(of_step))
        self.load_checkpoint(self.state.best_global_step or self.state.global_step)
        return {split: joined(rows, parts[split], steps) for split, rows in sets.items()}

    def measure(self, results: Results) -> float:
        """Return that of validation results by which the best checkpoint is told."""
        best_by = {name.removesuffix(DEV) for name in spelt_out(self.config.training.best_by)}
        if not best_by:
            return results.average
        return fmean(score.score for score in results.scores if score.task in best_by)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval", **_: Any
    ) -> dict[str, float]:
        """Generate for the validation rows of all tasks and score them; `kept_by` names what picks the checkpoint."""
        self.check_losses()
        self.clock.lap(self.state.global_step)
        with self.accelerator.autocast():
            results = self.score(self.evaluation_set)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in results.flat().items()}
        if self.config.training.best_by:
            metrics[f"{metric_key_prefix}_best_by"] = self.measure(results)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        numbers = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        self.note_best_of_task(self.state.global_step, numbers)
        return super()._determine_best_metric(metrics, trial)

    def note_best_of_task(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keep of each task the step that scores best, of equal ones the first; with `best_per_task` alone.

        Args:
            step: whose checkpoint there is, or is going to be.
            numbers: of its validation `Results`, flat.
        """
        if self.config.training.keep != "best_per_task":
            return
        for task in self.evaluation_set.tasks:
            score = numbers[f"{task.name}_score"]
            if task.name not in self.best_of_task or score > self.best_of_task[task.name][1]:
                self.best_of_task[task.name] = step, score


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


@contextmanager
def making_trainer(args: TrainingArguments, directory: Path, given: Iterable[str]) -> Iterator[None]:
    """Make a Trainer without its folder of checkpoints, as nothing of a run is written before all of it is checked.

    Args:
        args: Trainer's.
        directory: one that is there, which Trainer takes in place of its own.
        given: names of the arguments that the user has chosen.

    Raises:
        UserError: if Trainer refuses the arguments.
    """
    checkpoints, args.output_dir = args.output_dir, str(directory)
    try:
        with blamed_on(
            f"training.arguments ({', '.join(given) or 'none are given'}): Trainer does not take them"
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
                trainer.compute_loss(model, {name: value.to(model.device) for name, value in batch.items()})
        finally:
            model.train(was_training)


def try_to_generate(trainer: MixtureTrainer) -> None:
    """Generate two tokens for a row, with as many beams as an evaluation takes, so that this fails at once too.

    Raises:
        UserError: if it cannot be done.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    options, rows = trainer.config.evaluation, trainer.evaluation_set
    sources = [source for sources in rows.sources for source in sources]
    model: Any = trainer.model
    with (
        same_random_state(),
        blamed_on(f"evaluation.num_beams {options.num_beams}: the model cannot generate"),
    ):
        check_beams(model, sources, options.batch_size, options.num_beams)
        generate_answers(
            model, trainer.tokenizer, sources[:1], [0], [(1, 2)], [False], num_beams=options.num_beams
        )


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


@contextmanager
def same_random_state() -> Iterator[None]:
    """Put all random number generators back to where they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


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


def last_checkpoint(directory: Path) -> Path | None:
    """Find the checkpoint to go on from: the last that is whole, and whose best ones so far are whole too.

    Returns:
        None if there is none, or none that was written to its end.

    Raises:
        CheckpointError: if there are some, but all are damaged.
    """
    faults: list[CheckpointError] = []
    said: list[str] = []
    for checkpoint in reversed(checkpoints_in(directory)):
        try:
            if not is_whole(checkpoint):
                said.append(f"{checkpoint} was cut short")
                continue
        except CheckpointError as error:
            faults.append(error)
            said.append(str(error))
            continue
        if said:
            notice(f"{said[0]}; going on from {checkpoint.name}")
        return checkpoint
    if faults:
        raise CheckpointError(
            f"{faults[0]}; no checkpoint before it is whole: begin again, in another output_dir"
        )
    return None


def checkpoints_in(directory: Path) -> list[Path]:
    """List the checkpoints that were begun, in the order of their steps."""
    named = [folder for folder in directory.glob("checkpoint-*") if _CHECKPOINT.fullmatch(folder.name)]
    return sorted(filter(Path.is_dir, named), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Read from a checkpoint's name after which step it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def was_finished(checkpoint: Path) -> bool:
    """Tell whether a checkpoint was written to its end, though it may have been damaged since."""
    if (checkpoint / manifest.FILE).is_file():
        return True
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        # Before there were manifests, and our totals, Trainer wrote its state last.
        return Totals.__name__ not in (state.get("stateful_callbacks") or {})
    except (OSError, ValueError, AttributeError):
        return False


def best_so_far(checkpoint: Path) -> set[Path]:
    """Read which checkpoints were the best as one was written, of all tasks and of each, without which none goes on."""
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    totals = (state.get("stateful_callbacks") or {}).get(Totals.__name__, {})
    of_task = totals.get("attributes", {}).get("best_of_task", {})
    steps = {state["best_global_step"] or state["global_step"], *(step for step, _ in of_task.values())}
    return {checkpoint.with_name(f"checkpoint-{step}") for step in steps}


def delete_older(last: Path, limit: int) -> None:
    """Delete checkpoints, the oldest first, until so many are left, but neither the last nor a best one."""
    needed = {last, *best_so_far(last)}
    others = [checkpoint for checkpoint in checkpoints_in(last.parent) if checkpoint not in needed]
    for checkpoint in others[: max(0, len(others) + len(needed) - limit)]:
        shutil.rmtree(checkpoint, ignore_errors=True)


def is_whole(checkpoint: Path) -> bool:
    """Check a checkpoint and the best ones that it names; whether it was written to its end.

    Raises:
        CheckpointError: if a file of theirs is missing, or is not what was written.
    """
    if not was_finished(checkpoint):
        return False
    if manifest.check(checkpoint):
        for best in best_so_far(checkpoint) - {checkpoint}:
            if not was_finished(best):
                raise CheckpointError(
                    f"{checkpoint} needs {best.name}, the best so far, which is missing or cut short"
                )
            manifest.check(best)  # without those that were the best as it was written
    return True
