"""The Trainer of a mixture of tasks.

What is ours: batches come from the mixture, evaluation generates for all tasks at once, and a loss that is not finite
stops the run. All else (DDP, FSDP, bf16, trackers, resume) is Trainer's own. Nothing of ours waits for the device in a
step: batches are copied from pinned memory, target tokens are counted before, losses are read where Trainer waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.optimization import Adafactor
from transformers.utils import SAFE_WEIGHTS_NAME

from hyperadapt.architectures import Answering, architecture_of
from hyperadapt.errors import UserError, notice
from hyperadapt.evaluation import EvaluationSet, Results, evaluate, joined
from hyperadapt.model.verbs import check_without_peft
from hyperadapt.tasks import DEV, spelt_out
from hyperadapt.training.callbacks import CheckpointLastStep, StopWithoutGain, Totals, show_progress
from hyperadapt.training.mixing import MixtureBatchSampler
from hyperadapt.training.process import same_random_state
from hyperadapt.training.resumable import ResumableTrainer
from hyperadapt.training.target_scores import PLACES, WithPlaces, scores_at

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.config.written import RunConfig

NUM_ITEMS = "num_items_in_batch"
GRAPH_WIDTHS = 8  # batches are as wide as a multiple of it, so that few widths, each with a graph, occur


class TrainingStoppedError(UserError):
    """Training cannot go on: the loss is not finite."""


def t5_adafactor(learning_rate: float) -> tuple[type[Adafactor], dict[str, Any]]:
    """Name T5's optimizer and its arguments (Raffel et al. 2020, section 3.1.2; Shazeer & Stern 2018, section 8).

    Its step for each tensor is in proportion to the size of its values, so that embeddings of size 1 learn as fast as
    matrices; Trainer's own "adafactor" takes the rate as it is.
    """
    return Adafactor, {"lr": learning_rate, "scale_parameter": True, "relative_step": False}


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
        epsilon, architecture = config.training.label_smoothing, architecture_of(model)
        self.config, self.evaluation_set, self.tokenizer = config, evaluation_set, tokenizer
        self.lengths = [architecture.row_lengths(rows) for rows in train_rows]
        self.unchecked: list[tuple[int, Tensor, Tensor]] = []
        self.rows_since = 0
        self.best_of_task: dict[str, tuple[int, float]] = {}
        collator = architecture.collator(
            model, tokenizer, GRAPH_WIDTHS if config.training.cuda_graphs else None
        )
        # Not where a batch's shape must be one of few, or rows are scattered to devices.
        plain = not (config.training.cuda_graphs or args.torch_compile or args.n_gpu > 1)
        super().__init__(
            model=model,
            args=args,
            train_dataset=concatenate_datasets(list(train_rows)),
            eval_dataset=concatenate_datasets(
                [rows.select([0]) for rows in train_rows]
            ),  # ours are in evaluation_set
            data_collator=WithPlaces(collator) if architecture.can_generate and plain else collator,
            compute_loss_func=lambda outputs, labels, num_items_in_batch=None: architecture.loss(
                outputs, labels, num_items_in_batch, epsilon
            ),
            callbacks=[CheckpointLastStep()],
        )
        # Our labels are the targets themselves, which no loss shifts, and it is our loss that divides by their number.
        self._loss_shifts_labels = self.model_accepts_loss_kwargs = False
        if config.training.t5_adafactor:
            self.optimizer_cls_and_kwargs = t5_adafactor(args.learning_rate)
        if config.training.patience is not None:
            told_by = [args.metric_for_best_model]
            if config.training.keep == "best_per_task":
                told_by = [f"{task.name}_score" for task in evaluation_set.tasks]
            self.add_callback(StopWithoutGain(config.training.patience, told_by, lambda: self.rows_since))
        self.repeated: Callable[[dict[str, Tensor]], Tensor] | None = None
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

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss from the scores of the batch's targets, as far as it tells their places."""
        rest = {name: value for name, value in inputs.items() if name != PLACES}
        if PLACES not in inputs:
            return super().compute_loss(model, rest, return_outputs, num_items_in_batch)
        whole: Any = self.accelerator.unwrap_model(model)
        rest["labels"] = inputs["labels"].flatten()[inputs[PLACES]].unsqueeze(0)
        with scores_at(whole.get_output_embeddings(), inputs[PLACES]):
            return super().compute_loss(model, rest, return_outputs, num_items_in_batch)

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
            from hyperadapt.fast.cuda_graphs import CapturedSteps

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
            how = Answering(
                options.batch_size, options.num_beams, rank=rank, world_size=world, progress="evaluating"
            )
            return evaluate(model, self.tokenizer, rows, how, options.rule)

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
                of_step = rows.only([task for task in steps if steps[task] == step])
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
