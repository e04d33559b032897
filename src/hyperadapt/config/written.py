"""Whole configurations: of a training on tasks, of a pretraining on text, and of a comparison of runs.

A resolved copy is saved with every run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

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

from hyperadapt import bundled
from hyperadapt.config.aliases import ALIASES
from hyperadapt.config.reading import merged, parse_overrides, read_fields, read_mapping
from hyperadapt.config.sections import (
    PLACED,
    DataConfig,
    DistillationConfig,
    EvaluationConfig,
    ModelConfig,
    MultitaskConfig,
    ObjectiveConfig,
    PathText,
    PretrainTrainingConfig,
    Section,
    Seed,
    StartConfig,
    TextConfig,
    TokenizerConfig,
    TrainingConfig,
    named,
)
from hyperadapt.config.trainer import CLOSED, INSTEAD
from hyperadapt.errors import CheckpointError, UserError, printable, section_of, siblings, validation_message
from hyperadapt.files import manifest
from hyperadapt.files.paths import placed
from hyperadapt.files.writing import write_atomically
from hyperadapt.files.yaml_and_json import dump_yaml
from hyperadapt.methods import METHODS, Method, method_from
from hyperadapt.tasks import Task

END = "# end\n"  # of a written configuration, which is cut short without it


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
        return cls.from_values(merged(values, parse_overrides(overrides)), str(path))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str) -> Self:
        """Make a configuration of its fields.

        Args:
            values: section by section, with absolute paths (hyperadapt.files.paths.placed).
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
        config = cls.from_values(cls.as_before(read_mapping(path)), str(path))
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
    def as_before(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Say what was done before there was a field for it, where its default is now another."""
        return values

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
        if self.model.config is not None and self.model.tokenizer is None:
            raise ValueError(
                "model: a model built from a config needs a tokenizer; model.tokenizer: bytes needs no file"
            )
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

    @classmethod
    def as_before(cls, values: dict[str, Any]) -> dict[str, Any]:
        evaluation = values.get("evaluation")
        if not isinstance(evaluation, dict) or "answers" in evaluation:
            return values
        return {**values, "evaluation": {**evaluation, "answers": "generate"}}

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
        brings_one = self.model.tokenizer is not None or self.model.name is not None
        if brings_one == (self.tokenizer is not None):
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
                    if reserved := own.keys() & values.keys():
                        raise UserError(f"{section}: {min(reserved)} is decided by the comparison")
                values = {**merged(self.base, changes), **own}
                runs[variant, seed] = RunConfig.from_values(values, f"variants.{variant}")
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


def sections() -> list[tuple[str, str, type[WrittenConfig | Section]]]:
    """List every configuration and its sections: the command that takes it, name and class; what two share, once.

    A configuration itself has the name of its command, a section within another both names, "training.arguments".
    """
    found: list[tuple[str, str, type[Any]]] = []
    for kind in KINDS:
        for name, section in ((kind.command, kind), *within(kind)):
            if section not in (known for _, _, known in found):
                found.append((kind.command, name, section))
    return found


def within(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[Any]]]:
    """List the sections of a configuration or of a section, each before those within it."""
    for name, info in section.model_fields.items():
        if (inner := section_of(info)) is not None:
            yield f"{prefix}{name}", inner
            yield from within(inner, f"{prefix}{name}.")


def commands_of(section: type[BaseModel]) -> list[str]:
    """Name the commands whose configurations have this very section."""
    return [kind.command for kind in KINDS if section in (inner for _, inner in within(kind))]


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
    if name in INSTEAD:
        return [INSTEAD[name]], ""
    return ([], f"transformers' {name} is not open to choice" if name in CLOSED else "")
