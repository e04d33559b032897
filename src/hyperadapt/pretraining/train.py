"""A pretraining run: prepared, tried out, begun, trained and finished as one on tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import SequentialSampler
from transformers import Trainer
from transformers.utils import is_torch_bf16_gpu_available

from hyperadapt import threads
from hyperadapt.architectures import architecture_of, check_encoder_decoder
from hyperadapt.conditioning import mean_state
from hyperadapt.config.sections import ModelConfig, ObjectiveConfig
from hyperadapt.config.written import PretrainConfig
from hyperadapt.files import manifest
from hyperadapt.files.writing import write_atomically, writing
from hyperadapt.pretraining.objectives import CorruptedText, TaskRows, TaughtSentences, collate, window_length
from hyperadapt.pretraining.text import held_out_split, read_texts, read_tokens, tokenize
from hyperadapt.pretraining.tokenizer import sentinel_ids, trained_by_one
from hyperadapt.runs import results_file, same_data
from hyperadapt.runs.base_model import build_base, load_tokenizer
from hyperadapt.runs.resume import checkpoint_to_start_from, clear, marked
from hyperadapt.runs.run import MADE_OF, TRAINED, load_tasks, write_tasks
from hyperadapt.runs.train import check_trackers, held, versions
from hyperadapt.training.arguments import training_arguments
from hyperadapt.training.callbacks import CheckpointLastStep, show_progress
from hyperadapt.training.resumable import ResumableTrainer
from hyperadapt.training.stopping import train_until_stopped
from hyperadapt.training.trainer import TrainingStoppedError, t5_adafactor
from hyperadapt.training.trial import making_trainer, try_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments

    from hyperadapt.tasks import Task


class PretrainingTrainer(ResumableTrainer):
    """Trainer whose examples come in the order of their numbers, as they are random already.

    Args:
        args: from `training_arguments`.
        t5s_optimizer: whether `t5_adafactor` is to train.
        distillation_weight: of the sentences' loss, where there are sentences.
        arguments: Trainer's others.
    """

    def __init__(
        self,
        args: TrainingArguments,
        t5s_optimizer: bool,
        distillation_weight: float = 0.0,
        **arguments: Any,
    ) -> None:
        if t5s_optimizer:
            arguments["optimizer_cls_and_kwargs"] = t5_adafactor(args.learning_rate)
        super().__init__(args=args, callbacks=[CheckpointLastStep()], **arguments)
        self.shares = args.world_size * args.gradient_accumulation_steps
        self.distillation_weight = distillation_weight
        # Only its forward names what the loss takes; it does not count the tokens of accumulated batches.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Evaluate; a lap does not go on across it."""
        self.clock.lap(self.state.global_step)
        return super().evaluate(*args, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with each loss, how many tokens of windows, or of tasks' rows in their place, a second takes.

        Raises:
            TrainingStoppedError: if a loss is not finite.
        """
        for name, value in logs.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise TrainingStoppedError(
                    f"the loss is {value} by step {self.state.global_step}; try a smaller training.learning_rate"
                )
        if "loss" in logs and (lap := self.clock.lap(self.state.global_step)):
            examples = lap[0] * self.args.train_batch_size * self.shares
            tokens = examples * cast("CorruptedText", self.train_dataset).length
            logs["tokens_per_second"] = round(tokens / lap[1])
        super().log(logs, start_time)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """Add to the loss of the text that of the sentences: 1 - cosine of predicted and given vectors.

        Two predictions count alike: from the mean of the encoder's states, and from the decoder's first state, which
        sees the sentence by its cross-attention alone and is where a task's answer begins.
        """
        ids, mask = inputs.pop("sentence_ids", None), inputs.pop("sentence_mask", None)
        vectors = inputs.pop("sentence_vectors", None)
        loss: Any = super().compute_loss(model, inputs, *rest, **options)
        if ids is None:
            return loss
        bare = self.accelerator.unwrap_model(model)
        with self.compute_loss_context_manager():
            states = bare.encoder(input_ids=ids, attention_mask=mask)[0]
            start = ids.new_full((len(ids), 1), bare.config.decoder_start_token_id)
            decoder = bare.decoder(
                input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
            )
        from_encoder, from_decoder = bare.sentence_projections
        predicted = torch.stack(
            [from_encoder(mean_state(states, mask)), from_decoder(decoder[0][:, 0].float())]
        )
        distance = 1 - F.cosine_similarity(predicted, vectors.float(), dim=-1)
        return loss + self.distillation_weight * distance.mean()


def pretrain(
    config: PretrainConfig, resume: bool = False, allow_changed_data: bool = False
) -> dict[str, Any]:
    """Pretrain a model; all that was given is checked and tried out before anything is written.

    Args:
        config: what to run.
        resume: go on from the last checkpoint.
        allow_changed_data: go on though rows of the tasks have changed since.

    Returns:
        Held-out losses, tokens seen, and seconds.

    Raises:
        UserError: for anything wrong with what was given.
        Interrupted: after SIGTERM or Ctrl-C.
    """
    threads.use(config.training.threads)
    directory, training = Path(config.output_dir), config.training
    if is_torch_bf16_gpu_available() and not training.arguments.model_fields_set & {"bf16", "fp16"}:
        arguments = training.arguments.model_copy(update={"bf16": True})
        training = training.model_copy(update={"arguments": arguments})
    args = training_arguments(
        training, config.seed, directory / "checkpoints", best=f"{next(iter(held_out_kinds(config)))}_loss"
    )
    check_trackers(args.report_to)
    with held(directory, args):
        last = checkpoint_to_start_from(directory, config, resume)
        prepared = prepare(config, args, last, allow_changed_data)
        args.distributed_state.wait_for_everyone()  # or a process would find the run that another has begun
        if args.process_index == 0:
            with writing(directory):
                begin(directory, config, prepared, resumed=last is not None)
        outcome = train_until_stopped(prepared.trainer, last)
        with writing(directory):
            return finish(directory, prepared, outcome.metrics)


def held_out_kinds(config: PretrainConfig) -> dict[str, ObjectiveConfig]:
    """Name the kinds of examples that are trained, each of which is measured by itself."""
    objective = config.objective
    kinds = {
        "span_corruption": objective.model_copy(update={"prefix_lm_share": 0.0}),
        "prefix_lm": objective.model_copy(update={"prefix_lm_share": 1.0}),
    }
    if objective.prefix_lm_share in (0.0, 1.0):
        del kinds["prefix_lm" if objective.prefix_lm_share == 0.0 else "span_corruption"]
    return kinds


@dataclass(frozen=True)
class Prepared:
    """All that a pretraining needs, read, checked and tried out; nothing of it has been written yet.

    Attributes:
        tokenizer: given or trained.
        tokens: the whole text, (tokens,).
        rest: of it what is not held out, (tokens,).
        tasks: among it.
        digests: of their rows, and of the sentences.
        model: which sentences are taught to.
        trainer: with its optimizer.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens: np.ndarray
    rest: np.ndarray
    tasks: tuple[Task, ...]
    digests: same_data.Digests
    model: Any
    trainer: PretrainingTrainer


def prepare(
    config: PretrainConfig, args: TrainingArguments, last: Path | None, allow_changed_data: bool = False
) -> Prepared:
    """Read, check and try out all that a pretraining needs, and write nothing.

    Args:
        config: what to run.
        args: Trainer's, made of it.
        last: the checkpoint that it goes on from.
        allow_changed_data: as of `pretrain`.

    Raises:
        UserError: for anything wrong with what was given.
    """
    directory, training, objective = Path(config.output_dir), config.training, config.objective
    if last is not None:
        tokenizer = load_tokenizer(ModelConfig(name=str(directory / "tokenizer")))
        tokens = read_tokens(directory / "tokens.npy")
    else:
        tokenizer = (
            load_tokenizer(config.model)
            if config.tokenizer is None
            else trained_by_one(config.text, config.tokenizer, args)
        )
    model = build_base(config.model, config.seed)
    check_encoder_decoder(model, "hyperadapt pretrain")
    architecture_of(model).check(model, tokenizer)
    sentinel_ids(tokenizer)
    if last is None:
        tokens = tokenize(read_texts(config.text), tokenizer)
    held_out, rest = held_out_split(tokens, config.text.held_out_tokens, window_length(objective))
    tasks = None if config.multitask is None else TaskRows(config.multitask, tokenizer)
    distillation = config.distillation
    sentences = None if distillation is None else TaughtSentences(distillation, tokenizer)
    digests = {} if tasks is None else dict(tasks.digests)
    if sentences is not None:
        digests["distillation"] = {"sentence": sentences.digest}
    if last is not None:
        check_same_data(directory, tasks, digests, allow_changed_data)
    digests = marked(directory, digests, last)
    if sentences is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            sizes = model.config.d_model, sentences.vectors.shape[1]
            model.sentence_projections = torch.nn.ModuleList([torch.nn.Linear(*sizes) for _ in range(2)])
    examples = training.max_steps * training.batch_size
    train_set = CorruptedText(
        rest, tokenizer, objective, examples, training.batch_size, config.seed, tasks, sentences
    )
    kinds = held_out_kinds(config)
    held_out_sets = {name: CorruptedText(held_out, tokenizer, kind) for name, kind in kinds.items()}
    args.per_device_eval_batch_size = training.batch_size
    args.remove_unused_columns = False  # the model's forward does not name the sentences
    args.ddp_find_unused_parameters = False  # every parameter is used, but some beside the model's forward
    with making_trainer(args, directory, training.arguments.chosen()):
        trainer = PretrainingTrainer(
            args,
            t5s_optimizer=training.t5_adafactor,
            distillation_weight=0.0 if distillation is None else distillation.weight,
            model=model,
            train_dataset=train_set,
            eval_dataset=held_out_sets,
            data_collator=collate,
        )
    show_progress(trainer)
    try_out(trainer)
    return Prepared(
        tokenizer, tokens, rest, () if tasks is None else tuple(tasks.tasks), digests, model, trainer
    )


def check_same_data(
    directory: Path, tasks: TaskRows | None, digests: same_data.Digests, allowed: bool
) -> None:
    """Check that tasks, their rows and sentences are those of the run that is resumed.

    Args:
        directory: the run's.
        tasks: among its text.
        digests: of their rows, and of the sentences.
        allowed: only say so where rows or sentences are others.

    Raises:
        UserError: naming what has changed.
    """
    where = f"cannot go on with {directory}"
    if tasks is not None and (directory / "tasks.yaml").is_file():  # earlier versions kept none
        same_data.check_tasks(load_tasks(directory / "tasks.yaml"), tasks.tasks, where)
    if (kept := same_data.read(directory)) is not None:
        same_data.check_rows(kept, digests, where, allowed)


def begin(directory: Path, config: PretrainConfig, prepared: Prepared, resumed: bool) -> None:
    """Write what a pretraining is made of: config.yaml first, which marks it as a run, and last the manifest."""
    manifest.remove(directory)
    config.save(directory / "config.yaml")
    if not resumed:
        clear(directory)
        prepared.tokenizer.save_pretrained(str(directory / "tokenizer"))
        np.save(directory / "tokens.npy", prepared.tokens)
    if prepared.tasks:
        write_tasks(directory / "tasks.yaml", prepared.tasks)
    write_atomically(directory / same_data.FILE, json.dumps(prepared.digests, indent=1).encode())
    manifest.add(directory, [*MADE_OF, "tokens.npy"])


def finish(directory: Path, prepared: Prepared, totals: Mapping[str, float]) -> dict[str, Any]:
    """Measure what a pretraining has come to, and write it. All processes call it, the first one writes."""
    model, trainer = prepared.model, prepared.trainer
    if hasattr(model, "sentence_projections"):
        del model.sentence_projections
    text_tokens = cast("CorruptedText", trainer.train_dataset).text_tokens()
    results = {
        **{f"held_out_{name}_loss": loss for name, loss in held_out_losses(trainer).items()},
        "tokens": text_tokens,
        "passes": text_tokens / len(prepared.rest),
        "train_loss": totals["train_loss"],
        "train_seconds": round(totals["train_runtime"], 1),
        "parameters": model.num_parameters(),
    }
    if trainer.args.process_index == 0:
        history = json.dumps(trainer.state.log_history, indent=1).encode()
        write_atomically(directory / "history.json", history)
        model.save_pretrained(str(directory / "model"))
        prepared.tokenizer.save_pretrained(str(directory / "model"))
        manifest.add(directory, TRAINED)
        changed = same_data.since_steps(prepared.digests)
        facts = {"versions": versions(), **({"changed_data": changed} if changed else {})}
        results_file.write(directory, {**results, **facts})
    return results


def held_out_losses(trainer: Trainer) -> dict[str, float]:
    """Measure the loss of each kind of example on the held-out text."""
    metrics = trainer.evaluate()
    names: dict[str, Any] = trainer.eval_dataset  # type: ignore[assignment]
    return {name: metrics[f"eval_{name}_loss"] for name in names}
