"""Run configurations: YAML, checked by pydantic, with `key=value` overrides and `extends`.

Paths are relative to the file in which they stand, in overrides to the working directory (hyperadapt.paths).

`RunConfig` is for training on tasks, each field with the paper's value as its default (HyperFormer, section 3
and appendix A), and `PretrainConfig` for pretraining on text. A resolved copy is saved with every run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from hyperadapt import bundled, manifest
from hyperadapt.errors import (
    CheckpointError,
    UserError,
    nearest,
    printable,
    section_of,
    shortened,
    siblings,
    validation_message,
)
from hyperadapt.fields import Fields, one_or_more
from hyperadapt.files import write_atomically
from hyperadapt.methods import METHODS, Method, method_from
from hyperadapt.paths import absolute, model_or_directory, placed, task_or_file
from hyperadapt.tasks import Task
from hyperadapt.tasks.chunks import ChunkRule, default_overlap
from hyperadapt.tasks.sources import SUFFIXES, suffix_of
from hyperadapt.tokenizing import Truncation
from hyperadapt.yaml_and_json import dump_yaml, parse_yaml, read_yaml

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
TrainerArguments = Annotated[
    dict[str, Any], AfterValidator(partial(placed, directory="", section="training.arguments."))
]
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
        name: a hub name or a local directory; or none, with `config`.
        config: the arguments of a T5Config, for a base model with random weights.
        tokenizer: a hub name or a local directory, by default `name`; "bytes" is ByT5's, which needs no file.
        seed: of the random weights, by default the run's.
        dtype: of the base model's weights.
        quantization: how they are kept while they are frozen, transformers' quantization_config, as {quant_method:
            bitsandbytes, load_in_4bit: true, bnb_4bit_quant_type: nf4}; by default they are not quantised.
        attn_implementation: that of transformers, as "sdpa" or "eager"; by default the one it chooses. On a CPU in
            bf16, "eager" is the fast one.
    """

    name: ModelName | None = None
    config: dict[str, Any] | None = None
    tokenizer: ModelName | None = None
    seed: Seed | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantization: dict[str, Any] | None = None
    attn_implementation: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.name is None) == (self.config is None):
            raise ValueError("give either a name or a config")
        if self.config is not None and self.quantization is not None:
            raise ValueError("quantization is of weights that are loaded: give it with a name")
        return self


END = "# end\n"  # of a written configuration, which is cut short without it


def named(method: Any) -> Any:
    """Take a method's name for the method with its defaults."""
    return {"name": method} if isinstance(method, str) else method


class DataConfig(Section):
    """Tasks and how they are mixed.

    Attributes:
        tasks: names of tasks or suites, or paths of task files; a task's id is its place here.
        data_dir: a local copy of the data sets; without one they come from the hub.
        max_source_length: tokens; longer inputs are cut, contexts of questions into chunks.
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
    prefix: bool | None = None

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
        arguments: any other field of transformers' Seq2SeqTrainingArguments, as {bf16: true, report_to: tensorboard}.
    """

    max_steps: int = Field(262_144, ge=1)
    epochs: float | None = Field(None, gt=0)
    keep: Literal["best", "best_per_task", "last"] = "best"
    best_by: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = ()
    patience: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
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
    arguments: TrainerArguments = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_optimizer(self) -> TrainingConfig:
        if self.t5_adafactor and "optim" in self.arguments:
            raise ValueError(
                f"t5_adafactor takes the place of arguments.optim {self.arguments['optim']!r}; set one of them"
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
    """How predictions are generated.

    Attributes:
        batch_size: rows a batch.
        num_beams: 1 is greedy.
        empty_answers: a chunk of a long context may be answered with nothing (Hyperdecoders, section 3.1.2).
        rank_chunks: of the answers to a question's chunks the one wins whose log-likelihood is the highest, in all
            ("sum") or for each token ("mean").
    """

    batch_size: int = Field(64, ge=1)
    num_beams: int = Field(1, ge=1)
    empty_answers: bool = False
    rank_chunks: Literal["sum", "mean"] = "sum"

    @property
    def rule(self) -> ChunkRule:
        """How a question's answer is chosen."""
        return ChunkRule(self.empty_answers, self.rank_chunks)


class WrittenConfig(Section):
    """A whole configuration, as it stands in a file.

    Attributes:
        command: what takes it.
        output_dir: where the outcome is written.
    """

    command: ClassVar[str]
    output_dir: PathText

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a configuration.

        Args:
            path: a YAML file, or the name of one that comes with the package (hyperadapt.bundled); its key `extends`
                names another, relative to it or by such a name, whose values it overrides.
            overrides: as "training.max_steps=100"; values are YAML.

        Raises:
            UserError: if a file is missing or no YAML mapping, or a field is unknown, missing, of the wrong type or
                given twice.
        """
        file = bundled.place_of(Path(path))
        values = read_fields(file)
        if is_task(values):
            raise UserError(
                f"{path} is a task, no configuration; one names it so: data: {{tasks: [{file.name}]}} "
                "(`hyperadapt init DIR` writes both)"
            )
        return cls.of(merged(values, parse_overrides(overrides)), str(path))

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Self:
        """Make a configuration of its fields.

        Args:
            values: section by section, with absolute paths (hyperadapt.paths.placed).
            where: what errors call it.

        Raises:
            UserError: if a field is unknown, missing or of the wrong type, or the fields are another command's.
        """
        try:
            config = cls.model_validate(values, context=PLACED)
            config.resolved()
        except ValidationError as error:
            if (command := command_of(values, cls)) != cls.command:
                raise UserError(
                    f"{where} is a configuration of `hyperadapt {command}`, not of `hyperadapt {cls.command}`"
                ) from None
            raise UserError(f"{where}: {misplaced(error, cls) or validation_message(error, cls)}") from None
        except (TypeError, UserError) as error:
            raise UserError(f"{where}: {error}") from None
        return config

    @classmethod
    def load_saved(cls, path: Path) -> Self:
        """Read a run's configuration, in which every field that there was is written, and paths are as they were.

        One that a later version has added takes its default, which therefore must be what was done before.

        Raises:
            CheckpointError: if it is cut short; what is missing must not silently become a default.
            UserError: as `load`.
        """
        manifest.check(path)
        config = cls.of(read_mapping(path), str(path))
        if path.read_text(encoding="utf-8").endswith(END):
            return config
        sections: list[BaseModel] = [config, *(value for _, value in config if isinstance(value, Section))]
        for section in sections:
            if missing := [
                name for name in type(section).model_fields if name not in section.model_fields_set
            ]:
                raise CheckpointError(f"{path} is damaged: the field '{missing[0]}' is missing")
        return config

    @classmethod
    def wrote(cls, path: Path) -> bool:
        """Tell whether a file is one that `save` has written for a configuration of this kind."""
        try:
            cls.load_saved(path)
        except UserError:
            return False
        return True

    def save(self, path: Path) -> None:
        """Write a configuration with every field."""
        write_atomically(path, (dump_yaml(self.resolved()) + END).encode())

    def resolved(self) -> dict[str, Any]:
        """Return every field's value, as JSON has it."""
        return self.model_dump(mode="json")


class RunConfig(WrittenConfig):
    """A training run.

    Attributes:
        output_dir: where the run is written.
        seed: of the adaptation's initial weights, the mixture and dropout.
        method: name and options of the method, or its name alone; `hyperadapt methods` lists them.
        model, data, training, evaluation: the sections above.
        start: a trained run from which this one goes on.
    """

    command = "train"
    seed: Seed = 42
    model: ModelConfig
    start: StartConfig | None = None
    method: Annotated[dict[str, Any], BeforeValidator(named)]
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _tokenizer(self) -> RunConfig:
        if self.model.name is None and self.model.tokenizer is None:
            raise ValueError("model: a model built from a config needs a tokenizer")
        return self

    @model_validator(mode="after")
    def _graphs(self) -> RunConfig:
        if self.training.cuda_graphs and self.model.quantization is not None:
            raise ValueError("training.cuda_graphs is not for a quantised base model; leave out one of them")
        return self

    def resolved(self) -> dict[str, Any]:
        """Return every field's value, the method's options too.

        Raises:
            UserError: if they are wrong.
        """
        method = self.build_method()
        return super().resolved() | {"method": {"name": method.name, **method.model_dump(mode="json")}}

    @property
    def training_rows_seed(self) -> int:
        """By what max_train_rows are drawn."""
        return self.seed if self.data.subsample_seed is None else self.data.subsample_seed

    def build_method(self) -> Method:
        """Make the method from its options.

        Raises:
            UserError: if one is unknown or wrong.
        """
        if (known := METHODS.get(str(self.method.get("name")))) is not None:
            unknown = [option for option in self.method if option not in ("name", *known.model_fields)]
            for option in unknown:
                if said := elsewhere(f"method.{option}", type(self), list(known.model_fields)):
                    raise UserError(said)
        return method_from(self.method)

    @property
    def prefix(self) -> bool:
        """Whether the task's name stands before the input."""
        return self.build_method().task_in_input if self.data.prefix is None else self.data.prefix


class PretrainTrainingConfig(TrainingConfig):
    """Optimisation and checkpoints of pretraining, an example a row.

    Attributes:
        learning_rate: T5 holds the default for 10,000 steps, and lets it fall as 1 / sqrt(step) then.
        label_smoothing: none; the models' own loss has none.
        cuda_graphs: none; its batches are numbers that Python reads.
        epochs, keep, best_by, patience: as they are; the checkpoint of the lowest held-out loss is kept.
    """

    learning_rate: float = Field(1e-2, gt=0)
    t5_adafactor: bool = True
    cuda_graphs: Literal[False] = False
    epochs: None = None
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


class PretrainConfig(WrittenConfig):
    """A pretraining run.

    Attributes:
        output_dir: where the run is written.
        seed: of the order of the text, what is corrupted, and dropout.
        model: the model, built from a config or pretrained already.
        text, objective, training: the sections above; one example is a row of a batch.
        tokenizer: of a tokenizer to train; without it the model's is used.
        multitask: tasks among the examples of text.
        distillation: from a model of sentence vectors, beside the objective.
    """

    command = "pretrain"
    seed: Seed = 42
    model: ModelConfig
    text: TextConfig
    tokenizer: TokenizerConfig | None = None
    objective: ObjectiveConfig = ObjectiveConfig()
    training: PretrainTrainingConfig = PretrainTrainingConfig()
    multitask: MultitaskConfig | None = None
    distillation: DistillationConfig | None = None

    @model_validator(mode="after")
    def _one_tokenizer(self) -> PretrainConfig:
        given = self.model.tokenizer is not None or self.model.name is not None
        if given == (self.tokenizer is not None):
            raise ValueError(
                "give either the model's tokenizer, model.tokenizer, or train one, tokenizer.kind"
            )
        return self

    @model_validator(mode="after")
    def _vocabulary_fits(self) -> PretrainConfig:
        room = (self.model.config or {}).get("vocab_size")
        if self.tokenizer is not None and room is not None and room < self.tokenizer.vocab_size:
            raise ValueError(
                f"tokenizer.vocab_size {self.tokenizer.vocab_size} is more than the model's, "
                f"model.config.vocab_size {room}"
            )
        return self


def folder_name(variant: str) -> str:
    """Check that a variant can be the name of a folder within the comparison's, and of no other file there.

    Raises:
        ValueError: if not.
    """
    if not variant or re.search(r"^\.|[/\\|\s]", variant) or printable(variant) != variant:
        raise ValueError(
            "a variant names a folder and a row of a table: no space, no /, no \\, no |, no control character, "
            "and no . at the beginning"
        )
    if len(variant.encode()) > 200:
        raise ValueError(f"a variant names a folder: of at most 200 bytes, not {len(variant.encode())}")
    if variant in ("config.yaml", "table.md", "table.csv", "table.svg"):
        raise ValueError("a file of the comparison has this name; give the variant another")
    return variant


class CompareConfig(WrittenConfig):
    """Runs that differ in some fields, each with several seeds.

    Attributes:
        output_dir: where the runs and their table are written.
        base: fields of a run's configuration that all share.
        variants: name -> the fields in which a variant differs from the base; the first is what others are measured by.
        seeds: of every variant's runs.
    """

    command = "compare"
    base: dict[str, Any]
    variants: dict[Annotated[str, AfterValidator(folder_name)], dict[str, Any]] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _paths_of_python(cls, values: Any, info: ValidationInfo) -> Any:
        return values if info.context == PLACED else placed(values, "")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed comes twice")
        return seeds

    def runs(self) -> dict[tuple[str, int], RunConfig]:
        """Make the configuration of every run, by variant and seed.

        Raises:
            UserError: if one is wrong.
        """
        runs = {}
        for variant, changes in self.variants.items():
            for seed in self.seeds:
                own = {"seed": seed, "output_dir": str(Path(self.output_dir) / variant / f"seed-{seed}")}
                for section, values in (("base", self.base), (f"variants.{variant}", changes)):
                    if given := own.keys() & values.keys():
                        raise UserError(f"{section}: {min(given)} is decided by the comparison")
                values = {**merged(self.base, changes), **own}
                runs[variant, seed] = RunConfig.of(values, f"variants.{variant}")
        return runs

    def resolved(self) -> dict[str, Any]:
        """Return every field's value; those of the runs are in the runs' own files.

        Raises:
            UserError: if a run's configuration is wrong.
        """
        self.runs()
        return super().resolved()


KINDS: tuple[type[WrittenConfig], ...] = (RunConfig, PretrainConfig, CompareConfig)


def command_of(values: Mapping[str, Any], asked: type[WrittenConfig]) -> str:
    """Return the command whose configuration the fields fit best, the one that was asked where others fit no better."""
    return min((asked, *KINDS), key=lambda kind: len(values.keys() - kind.model_fields.keys())).command


def is_task(values: Mapping[str, Any]) -> bool:
    """Tell whether fields are a task's rather than a configuration's."""
    of_task = values.keys() & Task.model_fields.keys()
    return len(of_task) > 1 and all(not of_task & kind.model_fields.keys() for kind in KINDS)


def places_of(name: str, kind: type[BaseModel], section: str = "") -> Iterator[str]:
    """Name every field of a configuration that has this name, with its section, as "training.max_steps".

    Args:
        name: of the field.
        kind: of the configuration, or of the section.
        section: where that stands, as "training.".
    """
    for field, info in kind.model_fields.items():
        place = f"{section}{field}"
        if field == name:
            yield place
        if (inner := section_of(info)) is not None:
            yield from places_of(name, inner, f"{place}.")
        elif place == "method" and any(name in method.model_fields for method in METHODS.values()):
            yield f"method.{name}"
        elif place == "base":  # a comparison's, of its runs
            yield from places_of(name, RunConfig, "base.")


class Alias(NamedTuple):
    """What a name of other libraries is called here.

    Attributes:
        places: the fields, as "training.max_steps"; none where there is no such thing.
        remark: what is different.
    """

    places: tuple[str, ...]
    remark: str = ""


_NAMES: dict[Alias, str] = {
    Alias(("training.learning_rate",)): "lr max_lr",
    Alias(("training.max_steps",)): "steps num_steps n_steps total_steps train_steps max_train_steps "
    "num_training_steps",
    Alias(("training.epochs",)): "epoch num_epochs n_epochs max_epochs num_train_epochs",
    Alias(("training.patience",)): "early_stopping early_stopping_patience",
    Alias(("training.batch_size",), "(all rows of a step, over all processes)"): "bs train_batch_size "
    "per_device_train_batch_size per_device_batch_size micro_batch_size",
    Alias(
        ("training.gradient_accumulation_steps",)
    ): "grad_accum accumulate_grad_batches gradient_accumulation",
    Alias(("training.lr_scheduler_type",)): "scheduler lr_scheduler scheduler_type",
    Alias(("training.warmup_steps",)): "warmup num_warmup_steps",
    Alias(("training.eval_steps",), "(a number of steps, after which is scored and saved)"): "eval_every "
    "evaluation_steps eval_strategy evaluation_strategy save_every save_steps save_strategy",
    Alias(("evaluation.num_beams",)): "beams beam_size",
    Alias(
        ("model.name",)
    ): "model_name model_name_or_path base_model base_model_name_or_path pretrained_model "
    "pretrained_model_name_or_path",
    Alias(("model.tokenizer",)): "tokenizer_name tokenizer_name_or_path",
    Alias(("model.quantization",)): "load_in_4bit load_in_8bit quantization_config",
    Alias(("data.max_source_length",)): "max_length max_len max_seq_len max_seq_length max_input_length "
    "model_max_length",
    Alias((), "a task file says its own max_target_length"): "max_target_length max_new_tokens target_length",
    Alias(("data.max_train_rows",)): "max_train_samples",
    Alias(("data.max_eval_rows",)): "max_eval_samples max_val_samples",
    Alias(("data.max_test_rows",)): "max_test_samples max_predict_samples",
    Alias(("data.tasks",)): "task dataset datasets dataset_name train_file",
    Alias(("output_dir",)): "out out_dir save_dir output_directory",
    Alias(("seed",)): "random_seed",
    Alias(
        ("method.rank", "method.reduction_factor"),
        "(a reduction_factor is the model's width over the adapter's: a greater one is a smaller adapter)",
    ): "r lora_r",
    Alias(
        ("method.reduction_factor", "method.encoder_bottleneck_dim")
    ): "adapter_size adapter_dim bottleneck_size bottleneck_dim",
    Alias(("method.positions",), "(of feed_forward and self_attention)"): "target_modules",
    Alias((), "what is added is not scaled; see training.learning_rate"): "lora_alpha alpha",
    Alias(
        (), "dropout is the base model's own, model.config.dropout_rate of one that is built"
    ): "lora_dropout dropout adapter_dropout",
}
# What people bring along from transformers' Trainer, PEFT and others, in lower case.
ALIASES = {name: alias for alias, names in _NAMES.items() for name in names.split()}


def sections() -> list[tuple[str, str, type[WrittenConfig | Section]]]:
    """List every configuration and its sections: the command that takes it, name and class; what two share, once.

    A configuration itself has the name of its command.
    """
    found: list[tuple[str, str, type[Any]]] = []
    for kind in KINDS:
        inner = [(name, section_of(info)) for name, info in kind.model_fields.items()]
        for name, section in [(kind.command, kind), *inner]:
            if section is not None and section not in (known for _, _, known in found):
                found.append((kind.command, name, section))
    return found


def commands_of(section: type[BaseModel]) -> list[str]:
    """Name the commands whose configurations have this very section."""
    return [kind.command for kind in KINDS if section in map(section_of, kind.model_fields.values())]


def default_in_words(field: FieldInfo) -> str:
    """Say what a field is where it is not given, as YAML has it, and what else it can be, where that is a few words."""
    words = [word for kind in (field.annotation, *get_args(field.annotation)) for word in choices_of(kind)]
    if field.default_factory_takes_validated_data:  # its meaning says on what it depends
        return ""
    default = (
        ", required"
        if field.is_required()
        else f" = {json.dumps(field.get_default(call_default_factory=True))}"
    )
    return f"{default} ({' or '.join(words)})" if len(words) > 1 else default


def choices_of(kind: Any) -> list[str]:
    """List what a Literal allows; nothing of another type."""
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []


def misplaced(error: ValidationError, kind: type[WrittenConfig]) -> str | None:
    """Say which field of another section the first unknown one is that has the name of one; None if none has."""
    for mistake in error.errors():
        loc = mistake["loc"]
        if mistake["type"] == "extra_forbidden" and (
            said := elsewhere(".".join(map(str, loc)), kind, siblings(kind, loc))
        ):
            return said
    return None


def elsewhere(field: str, kind: type[WrittenConfig], beside: Sequence[str]) -> str | None:
    """Say where an unknown field stands right; None where no section has one of its name.

    Args:
        field: as "training.max_source_length".
        kind: of the configuration.
        beside: what there is in its section, where it may only be misspelt.
    """
    name = field.rpartition(".")[2]
    found, remark = meant_by(name, kind, beside)
    found = [place for place in found if place != field]
    if not found and not remark:
        return None
    meant = " or ".join(f"'{place}'" for place in found)
    said = [f"did you mean {meant}?"] * bool(found) + [remark] * bool(remark)
    return f"field '{field}' is unknown; {' '.join(said)}"


def meant_by(name: str, kind: type[WrittenConfig], beside: Sequence[str] = ()) -> tuple[list[str], str]:
    """Find the fields of a configuration that an unknown one may stand for, and what is to be said of them.

    Args:
        name: of the field, as it is called here, by transformers' Trainer or by another library.
        kind: of the configuration.
        beside: what there is in its section, where it may only be misspelt; of a method, its options.
    """
    if found := list(places_of(name, kind)):
        return found, ""
    if (alias := ALIASES.get(name.lower())) is not None:
        places = [
            place
            for target in alias.places
            for place in places_of(target.rpartition(".")[2], kind)
            if f".{place}".endswith(f".{target}")
        ]
        own = [place for place in places if place.rpartition(".")[2] in beside]
        return own or places, alias.remark
    if "training" not in kind.model_fields:
        return [], ""
    from transformers import Seq2SeqTrainingArguments

    from hyperadapt.training.arguments import DECIDED

    if name not in Seq2SeqTrainingArguments.__dataclass_fields__:
        return [], ""
    if name not in DECIDED:
        return [f"training.arguments.{name}"], ""
    ours = DECIDED[name]
    return ([ours], "") if ours else ([], f"transformers' {name} is not open to choice")


def read_fields(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a configuration's fields with those that it extends, and paths relative to the file where each stands."""
    if path.resolve() in extended_by:
        raise UserError(f"{path} extends itself")
    if not path.is_file():
        by = f" (extended by {extended_by[-1]})" if extended_by else ""
        if path.is_dir():
            inner = path / "config.yaml"
            meant = f"; did you mean {inner}?" if inner.is_file() else ""
            raise UserError(f"there is no configuration file {path}{by}, which is a directory{meant}")
        there = sorted(map(str, path.parent.glob("*.y*ml")))
        choices = [*there, *bundled.names()]
        raise UserError(f"there is no configuration file {path}{by}; {nearest(path, choices)}")
    if suffix_of(path) in SUFFIXES and suffix_of(path) != ".json":  # JSON is YAML
        raise UserError(
            f"{path} is a file of rows, and a configuration is a YAML file; `hyperadapt init DIR` writes an example"
        )
    values = read_mapping(path)
    base = values.pop("extends", None)
    try:
        values = placed(values, bundled.folder_of_paths(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if base is None:
        return values
    if not isinstance(base, str) or not base.strip():
        raise UserError(f"{path}: extends must be the path of one file, not {base!r}")
    base_file = bundled.place_of(Path(base), path.parent)
    return merged(read_fields(base_file, (*extended_by, path.resolve())), values)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML mapping."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a YAML mapping of fields, not {type(values).__name__}")
    return values


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with changes, section by section; a method of another name starts anew."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other_method = key == "method" and "name" in old and value.get("name") not in (None, old["name"])
            value = value if other_method else merged(old, value)
        result[key] = value
    return result


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Turn overrides into the fields that they change, with paths relative to the working directory.

    Raises:
        UserError: if one is not of the form key=value, or two set the same field.
    """
    changes: dict[str, Any] = {}
    set_by: dict[str, str] = {}
    for override in overrides:
        change, shown = parse_override(override), shortened(override)
        for field in leaves(change):
            for other, earlier in set_by.items():
                if f"{field}.".startswith(f"{other}.") or other.startswith(f"{field}."):
                    raise UserError(f"'{earlier}' and '{shown}' set the same field; keep one of them")
        set_by |= dict.fromkeys(leaves(change), shown)
        try:
            changes = merged(changes, placed(change, ""))
        except ValueError as error:
            raise UserError(f"override '{shown}': {error}") from None
    return changes


def parse_override(override: str) -> dict[str, Any]:
    """Turn "a.b=1" into {"a": {"b": 1}}."""
    key, equals, value = override.partition("=")
    where = f"override '{shortened(override)}'"
    if not equals or not key:
        raise UserError(f"{where} is not of the form key=value, as training.max_steps=100")
    result = parse_yaml(value, where)
    parts = key.split(".")
    result = named(result) if parts[-1] == "method" else result
    for part in reversed(parts):
        result = {part: result}
    return result


def leaves(fields: Mapping[str, Any], path: str = "") -> set[str]:
    """List the fields that are given, as "data.tasks"."""
    found: set[str] = set()
    for name, value in fields.items():
        here = f"{path}{name}"
        found |= leaves(value, f"{here}.") if isinstance(value, dict) else {here}
    return found
