"""The sections of a configuration; defaults are the values of HyperFormer (section 3, appendix A)."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from hyperadapt.config.trainer import TrainerConfig
from hyperadapt.errors import UserError
from hyperadapt.fields import Fields, one_or_more
from hyperadapt.files.paths import absolute, model_or_directory, task_or_file
from hyperadapt.tasks.chunks import ChunkRule, default_overlap
from hyperadapt.tasks.input_format import InputFormat, Truncation

# bitsandbytes says it on some processors when it is imported, in many lines: of a kernel that would be faster.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


PLACED = "placed"  # pydantic's context of values whose paths are absolute already, as those of files are


def model_of_python(name: str, info: ValidationInfo) -> str:
    """Take the name of a model, which in Python is relative to the working directory.

    One of a file was looked for beside that file: what is not there is on the hub, whatever the working directory has.
    """
    return name if info.context == PLACED else model_or_directory(name)


Seed = Annotated[int, Field(ge=0, lt=2**32)]
PathText = Annotated[str, AfterValidator(absolute)]
ModelName = Annotated[str, AfterValidator(model_of_python)]
TaskNames = Annotated[
    tuple[Annotated[str, AfterValidator(task_or_file)], ...],
    BeforeValidator(one_or_more),
    Field(min_length=1),
]


class Section(Fields):
    """A part of a configuration: frozen, and no field unknown to it."""


class ModelConfig(Section):
    """The base model.

    Attributes:
        name: a hub name or a local directory; or none, with `config` or `gguf`.
        gguf: a GGUF file, in place of a name; the package gguf reads it (pip install "hyperadapt[gguf]").
        config: the fields of a configuration of transformers, for a base model with random weights; its `model_type`
            is t5 unless it is given.
        tokenizer: a hub name or a local directory, by default `name`; "bytes" is ByT5's, which needs no file.
        seed: of the random weights, by default the run's.
        dtype: of the base model's weights.
        quantization: how they are kept while they are frozen, transformers' quantization_config, as {quant_method:
            bitsandbytes, load_in_4bit: true, bnb_4bit_quant_type: nf4}; by default they are not quantised.
        attn_implementation: that of transformers, as "sdpa" or "eager"; by default the one it chooses. On a CPU in
            bf16, "eager" is the fast one.
        pooling: what the heads of tasks read where the model is an encoder alone: the "mean" of a row's last states, or
            that of its first token, "cls".
    """

    name: ModelName | None = None
    gguf: PathText | None = None
    config: dict[str, Any] | None = None
    tokenizer: ModelName | None = None
    seed: Seed | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantization: dict[str, Any] | None = None
    attn_implementation: str | None = None
    pooling: Literal["mean", "cls"] = "mean"

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if sum(source is not None for source in (self.name, self.config, self.gguf)) != 1:
            raise ValueError("give either a name or a config, or a gguf")
        if self.name is None and self.quantization is not None:
            raise ValueError("quantization is of weights that are loaded: give it with a name")
        return self


def named(method: Any) -> Any:
    """Take a method's name for the method with its defaults."""
    return {"name": method} if isinstance(method, str) else method


class DataConfig(Section):
    """Tasks and how they are mixed.

    Attributes:
        tasks: names of tasks or suites, or paths of task files; a task's id is its place here.
        data_dir: a local copy of the data sets; without one they come from the hub.
        max_source_length: tokens; longer inputs are cut, contexts of questions into chunks. Without an encoder
            it is the prompt that is cut, and never the target behind it.
        truncation: where inputs are cut: at their "end", or "longest_first", a token at a time of the field that is the
            longest then, so that a long field does not push out the others.
        chunk_overlap: tokens that two chunks share; a quarter of max_source_length by default.
        max_train_rows: training rows of each task at most, drawn by `subsample_seed`; null keeps all. The rows for
            fewer are among the rows for more.
        max_eval_rows: the same of validation rows.
        max_test_rows: the same of test rows.
        subsample_seed: null is the run's seed, for training rows; for the others 42.
        balanced: draw training rows so that each class has as many as the others, while it lasts.
        temperature: tasks are sampled in proportion to size^(1/temperature) (HyperFormer, section 3).
        size_limit: rows that a task counts as at most in that proportion.
        mixed_batches: rows of several tasks in one batch, or one task a batch, as HyperFormer's code has it.
        group_by_length: batch rows of like length together.
        chat_template: write inputs as the tokenizer's chat template has them, where there is no encoder.
        prefix: put the task's name before the input; null does so for the methods whose papers do, and not for
            HyperFormer (section 2.3).
    """

    tasks: TaskNames
    data_dir: PathText | None = None
    max_source_length: int = Field(128, ge=2)
    truncation: Truncation = "end"
    chunk_overlap: int | None = Field(None, ge=0)
    max_train_rows: int | None = Field(None, ge=1)
    max_eval_rows: int | None = Field(None, ge=1)
    max_test_rows: int | None = Field(None, ge=1)
    subsample_seed: int | None = 42
    balanced: bool = False
    temperature: float = Field(10.0, gt=0)
    size_limit: int | None = Field(None, ge=1)
    mixed_batches: bool = True
    group_by_length: bool = True
    chat_template: bool = False
    prefix: bool | None = None

    @property
    def input_format(self) -> InputFormat:
        """How inputs are written."""
        return InputFormat(self.max_source_length, self.overlap, self.truncation, self.chat_template)

    @property
    def overlap(self) -> int:
        """Tokens that two chunks of a context share."""
        return default_overlap(self.max_source_length) if self.chunk_overlap is None else self.chunk_overlap

    @model_validator(mode="after")
    def _chunks_advance(self) -> DataConfig:
        if self.max_source_length <= 2 * self.overlap + 1:
            raise ValueError(
                f"chunk_overlap {self.chunk_overlap} is too large for max_source_length {self.max_source_length}; "
                f"the largest is {(self.max_source_length - 2) // 2}"
            )
        return self


class TrainingConfig(Section):
    """Optimisation and checkpoints.

    Steps, learning rate, schedule and `eval_steps` are HyperFormer's by default (section 3), and so is the batch size,
    that of T5-base (appendix A).

    Attributes:
        max_steps: optimizer steps.
        epochs: in place of max_steps, how often as many rows are drawn as there are of all tasks; a chunk of a long
            context is a row.
        keep: which checkpoint becomes the model: the "best" on the validation rows, or the "last". With "best_per_task"
            it is the best too, but the run's scores are each task's by the checkpoint that is best for it alone
            (Hyperdecoders, Table 2). But for "last", scores on the validation rows are of the rows by which checkpoints
            were chosen.
        best_by: tasks and suites whose average score tells the best; by default all tasks.
        patience: evaluations without a better one, with best_per_task of any task, after which training stops; by
            default it goes to its end.
        batch_size: rows in a step, over all processes and accumulated batches.
        gradient_accumulation_steps: batches in a step.
        learning_rate: of AdamW, or of the optimizer that is chosen; the highest of its schedule.
        head_learning_rate: of the heads of tasks, where the model is an encoder alone; by default that of all else.
        lr_scheduler_type: how the learning rate goes on after the warm-up, as constant, linear or cosine, as
            transformers names them.
        warmup_steps: in which the learning rate grows from 0; with "constant" it does not, "constant_with_warmup" does.
        weight_decay: of AdamW, of all that is trained but biases and layer norms.
        t5_adafactor: train with T5's Adafactor, whose steps are relative to the size of each tensor, in place of
            AdamW or of what `arguments.optim` names.
        label_smoothing: share of the probability that is spread over all tokens, in the loss; 0 is none.
        eval_steps: steps between checkpoints, each evaluated on the validation rows.
        save_total_limit: checkpoints kept: the best, with best_per_task that of each task too, and the last, and older
            ones up to this number.
        logging_steps: steps between logged losses.
        threads: with which PyTorch computes on a CPU; the command line decides it by what is free, unless
            OMP_NUM_THREADS does, and keeps it for resuming.
        cuda_graphs: on one GPU, record what forward and backward launch once for each shape of a batch, and repeat it;
            at most 64 shapes, of widths that are multiples of 8. A shape's first step holds its own activations beside
            those of the graphs.
        arguments: of transformers' Trainer, as {bf16: true, report_to: tensorboard}.
    """

    max_steps: int = Field(262_144, ge=1)
    epochs: float | None = Field(None, gt=0)
    keep: Literal["best", "best_per_task", "last"] = "best"
    best_by: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = ()
    patience: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    head_learning_rate: float | None = Field(None, gt=0)
    lr_scheduler_type: str = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    t5_adafactor: bool = False
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    eval_steps: int = Field(1000, ge=1)
    save_total_limit: int = Field(2, ge=2)
    logging_steps: int = Field(100, ge=1)
    threads: int | None = Field(None, ge=1)
    cuda_graphs: bool = False
    arguments: TrainerConfig = TrainerConfig()

    @model_validator(mode="after")
    def _one_optimizer(self) -> TrainingConfig:
        if self.t5_adafactor and "optim" in self.arguments.chosen():
            raise ValueError(
                f"t5_adafactor takes the place of arguments.optim {self.arguments.optim!r}; set one of them"
            )
        return self

    @model_validator(mode="after")
    def _one_choice(self) -> TrainingConfig:
        if self.keep == "last" and (self.best_by or self.patience):
            named = "best_by" if self.best_by else "patience"
            raise ValueError(f"keep: last keeps the last checkpoint, whatever it scores; leave {named} out")
        if self.keep == "best_per_task" and self.best_by:
            raise ValueError("keep: best_per_task keeps each task's best by its own score; leave best_by out")
        return self

    def with_steps(self, rows: int) -> TrainingConfig:
        """Return the section with the steps that its epochs take.

        Args:
            rows: of training, of all tasks; a chunk of a long context is one.
        """
        if self.epochs is None:
            return self
        return self.model_copy(update={"max_steps": max(1, round(self.epochs * rows / self.batch_size))})

    def rows_at_once(self, processes: int) -> int:
        """Return the rows of a process's share of a step that run at once.

        Raises:
            UserError: if the batch does not divide by processes and accumulation.
        """
        shares = processes * self.gradient_accumulation_steps
        if self.batch_size % shares:
            raise UserError(
                f"training.batch_size {self.batch_size} does not divide by {processes} processes times "
                f"{self.gradient_accumulation_steps} accumulated batches"
            )
        return self.batch_size // shares


class StartConfig(Section):
    """A trained run from which another goes on, with tasks that it need not have.

    Attributes:
        run: its directory; base model and method are to be the same, but for what of the method is trained.
        init_from: the task of it whose parameters a new task starts from (HyperFormer, section 3.2), or several, from
            whose mean; none draws them anew.
    """

    run: PathText
    init_from: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = ()


class EvaluationConfig(Section):
    """How rows are answered.

    Attributes:
        batch_size: rows a batch.
        answers: "rate" gives a task of classes the label that is the likeliest of all, with its probability, so that no
            answer is invalid; "generate" lets the model write it, as the papers do. All else is generated.
        num_beams: 1 is greedy.
        empty_answers: a chunk of a long context may be answered with nothing (Hyperdecoders, section 3.1.2).
        rank_chunks: of the answers to a question's chunks the one wins whose log-likelihood is the highest, in all
            ("sum") or for each token ("mean").
    """

    batch_size: int = Field(64, ge=1)
    answers: Literal["rate", "generate"] = "rate"
    num_beams: int = Field(1, ge=1)
    empty_answers: bool = False
    rank_chunks: Literal["sum", "mean"] = "sum"

    @property
    def rule(self) -> ChunkRule:
        """How a question's answer is chosen."""
        return ChunkRule(self.empty_answers, self.rank_chunks)


class PretrainTrainingConfig(TrainingConfig):
    """Optimisation and checkpoints of pretraining, an example a row.

    Attributes:
        learning_rate: T5 holds the default for 10,000 steps, and lets it fall as 1 / sqrt(step) then.
        label_smoothing: none; the models' own loss has none.
        cuda_graphs: none; its batches are numbers that Python reads.
        epochs, head_learning_rate, keep, best_by, patience: as they are; the checkpoint of the lowest held-out loss is
            kept.
    """

    learning_rate: float = Field(1e-2, gt=0)
    t5_adafactor: bool = True
    cuda_graphs: Literal[False] = False
    epochs: None = None
    head_learning_rate: None = None
    keep: Literal["best"] = "best"
    best_by: Annotated[tuple[()], BeforeValidator(one_or_more)] = ()
    patience: None = None
    label_smoothing: float = Field(0.0, ge=0, le=0)


class TextConfig(Section):
    """Text to pretrain on.

    Attributes:
        files: .txt with a document a line, or .jsonl, also as .xz or .gz.
        column: of .jsonl files.
        held_out_tokens: in pieces from all over the text, on which the loss is measured and of which no example is
            made. Sentences and tasks that are given beside the text may hold them.
    """

    files: Annotated[tuple[PathText, ...], BeforeValidator(one_or_more)] = Field(min_length=1)
    column: str = "text"
    held_out_tokens: int = Field(200_000, ge=2)


class TokenizerConfig(Section):
    """A tokenizer to train on the text.

    Attributes:
        kind: "unigram" (T5's; two trainings on the same text may differ in rare tokens) or "bpe".
        vocab_size: with T5's 103 special tokens.
    """

    kind: Literal["unigram", "bpe"] = "unigram"
    vocab_size: int = Field(8000, ge=512)


class ObjectiveConfig(Section):
    """What pretraining predicts; the defaults are T5's.

    Attributes:
        source_length: tokens of an input.
        corruption_rate: share of the tokens that are left out, and to be predicted.
        mean_span_length: tokens that are left out together, on average.
        prefix_lm_share: share of the examples in which the rest of a text is predicted from its beginning instead.
    """

    source_length: int = Field(512, ge=8)
    corruption_rate: float = Field(0.15, gt=0, lt=1)
    mean_span_length: float = Field(3.0, ge=1)
    prefix_lm_share: float = Field(0.0, ge=0, le=1)


class MultitaskConfig(Section):
    """Tasks in text-to-text form among the examples of text (Raffel et al. 2020, section 3.5.3).

    Attributes:
        share: of the examples.
        tasks: names of tasks or suites, or paths of task files; the task's name stands before the input.
        data_dir: a local copy of the data sets, as in a training run's `data`.
        max_source_length: tokens; longer inputs are cut.
        truncation: where inputs are cut, as in a training run's `data`.
        max_train_rows: of each task at most; null keeps all.
        temperature: tasks are sampled in proportion to size^(1/temperature).
    """

    share: float = Field(gt=0, le=1)
    tasks: TaskNames
    data_dir: PathText | None = None
    max_source_length: int = Field(128, ge=2)
    truncation: Truncation = "end"
    max_train_rows: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, gt=0)


class DistillationConfig(Section):
    """Sentence vectors of another model, which the mean encoder state and the decoder's first state learn to predict.

    Attributes:
        directory: with sentences.txt, a sentence a line, and vectors.npy, (sentences, size).
        sentences_per_example: sentences beside each example of text.
        max_length: tokens of a sentence; what is longer is left out.
        weight: of 1 - cosine in the loss.
    """

    directory: PathText
    sentences_per_example: int = Field(4, ge=1)
    max_length: int = Field(64, ge=2)
    weight: float = Field(1.0, gt=0)
