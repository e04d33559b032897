"""A task as data: where its rows come from, how they are split, what texts they give, labels and metrics.

The built-in tasks and a user's YAML file have the same schema, `Task`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hyperadapt.errors import UserError, as_written, nearest, shortened
from hyperadapt.fields import Fields, one_or_more
from hyperadapt.tasks.kinds import KINDS, METRICS, REPORTED_ONLY, Kind, References
from hyperadapt.tasks.kinds.classes import NAME_LENGTH
from hyperadapt.tasks.labels import label_key, read_labels
from hyperadapt.tasks.preprocessors import PREPROCESSORS
from hyperadapt.tasks.sources import (
    NO_LABEL,
    SUFFIXES,
    MissingColumn,
    Row,
    WrongCell,
    as_text,
    suffix_of,
    text_of,
    value_of,
)
from hyperadapt.tasks.splits import (
    SLICE,
    SPLITS,
    Split,
    as_yaml_mapping,
    in_parts,
    read_protocol,
    source_of,
    splits_as_given,
)


def _target_length(fields: dict[str, Any]) -> int:
    return NAME_LENGTH if fields.get("writes") == "name" else KINDS[fields["kind"]].target_length


def _generated_length(fields: dict[str, Any]) -> int:
    return fields.get("max_target_length", 1)  # a wrong one is an error of its own


def _named_columns(fields: object) -> object:
    if isinstance(fields, str):
        return {fields: fields}
    if not isinstance(fields, list | tuple):
        return fields
    for column in fields:
        if not isinstance(column, str):
            in_quotes = isinstance(column, bool | int | float)
            written = f'"{as_written(column)}", with the quotes' if in_quotes else "[title, body]"
            raise UserError(f"a column's name must be a text, not {as_written(column)}; write {written}")
    return {column: column for column in fields}


def _named_files(files: object) -> object:
    names = [files] if isinstance(files, str) else files
    if not isinstance(names, list) or not names or not all(isinstance(file, str) and file for file in names):
        return files
    raise UserError(f"write {as_yaml_mapping(dict(zip(SPLITS, names, strict=False)))}")


def _where_texts(where: object) -> object:
    for column, value in where.items() if isinstance(where, dict) else ():
        if isinstance(value, bool):
            text = as_written(value)
            raise UserError(
                f'write {column}: "{value}", with the quotes; or "{text}", where the column holds that text'
            )
    return where


def _said(description: tuple[str, ...]) -> tuple[str, ...]:
    if not all(text.strip() for text in description):
        raise UserError("it is empty; write what is to be done, or leave it out")
    return description


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")
        remedy = f"; write {plain}" if plain else ""
        raise UserError(f"'{name}' must be of letters, digits, - and _ alone{remedy}")
    return name


def _hub_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(
            f"'{name}' is no name on the hub, as OWNER/NAME; for files of your own write files: {{train: …}}"
        )
    return name


class Task(Fields):
    """One task, as data.

    A user's own task is a YAML file of these fields, say:

        name: reviews
        files: {train: train.jsonl, validation: dev.csv}      # beside the YAML file; or .json, .tsv, .parquet
        fields: [title, body]                                 # the input: "title: … body: …"
        label: stars
        labels: [bad, good]
        metrics: [accuracy, macro_f1]

    Rows come from `files`; or from `local`, a folder below the run's data_dir that holds SOURCE.parquet; or,
    without a data_dir or a local folder, from the dataset `hub` with its configuration `hub_config`. The rows of
    the tasks of hyperadapt.tasks.suites.builtin are `generated`.

    `splits` says what train, validation and test are. Each is a source (the file or hub split of that name)
    or a slice of one, "train[1000:]" or "validation[50%:]", of its rows in an order drawn once with seed 42.
    The name of a protocol stands for all three: "halve_validation", "hold_out_train", or "as_given". The
    default is as given, with `files` those that have a file. Nothing is split unasked: without a test file,
    and without `splits` that make one, a task has no test split.

    The rows of a source that several tasks share are those `where` a column holds a value: {subset: SQuAD}. The
    input of methods that do not know the task otherwise begins with `prefix`, the task's name unless it is given.
    A field without a name ("") is its column's text alone. A `template` says otherwise how the input is written, with
    the fields' names in braces: "Review: {body} Sentiment:". What is too long is then cut of the fields alone.

    The target of kind "class" is the label's number in `labels`, as text, or its name, where the task `writes`
    names; of "score" the score, which the model is to write to the nearest multiple of `step`; of "text" the label
    column's own text. Without a step a training chooses one from its rows (`with_step`), and says it. The label
    column of "question_answering" holds all that would be right: texts, or SQuAD's {text: [...], answer_start:
    [...]}; its last field is the context, which is cut into chunks (hyperadapt.tasks.chunks). A class column holds
    names, or numbers from 0; where the names are themselves numbers (labels: [1, 2, 3]), it holds names, which are
    matched as numbers: 1, "1" and 1.0 are one label.
    The task's score, by which the best checkpoint is chosen, is the mean of its `metrics`, but for those that are only
    reported (errors), or of those that it is `scored_by`.
    In training a target is cut at `max_target_length` tokens; no more than `max_generated_length` are generated, the
    same number unless it is given, and no fewer than `min_generated_length`: with 1 every question has an answer.

    Of kind "coreference" the target is the `candidate` column's text; the label, one of two, says whether it is
    right, and only such rows are trained on. Rows with the same values in the columns of `group` belong together:
    slices do not part them, and "group_exact_match" counts them as one. `preprocess` names what rewrites the rows
    first (hyperadapt.tasks.suites.superglue). Of kind "question_answering" a training row is one for `every_answer`, or
    for its first alone.

    Attributes:
        name: of letters, digits, - and _.
        hub: a data set's name on the hub, as OWNER/NAME, in place of files.
        hub_config: the configuration of that data set.
        local: a folder below data.data_dir that holds a SOURCE.parquet for each source, in place of files.
        files: source -> a file of rows beside the task file, as {train: train.csv, validation: dev.csv}.
        generated: of the tasks that come with the package alone.
        fields: the columns that are read, as [title, body], which read "title: … body: …"; or name -> column.
        template: the input, with the names of fields in braces, as "Review: {body}"; fields may be left out then.
        label: the column of the answer.
        labels: all answers of kind class, as [bad, good]; the column holds them, or numbers from 0.
        where: column -> text: only rows that hold it are read.
        prefix: what stands before the input where the task is to be named there; by default its name.
        kind: class; score, a number; text, a free text; question_answering, whose last field is a context of any
            length; coreference, where a candidate is right or not; chat, whose field holds messages, a list of {role,
            content}, the last of which is the answer.
        writes: what the model writes for a class: its number in labels, or its name.
        step: scores are written to its nearest multiple; by default chosen from the training rows, and said.
        candidate: the column of the candidate, of kind coreference.
        group: columns; rows with the same values there are not parted by splits.
        every_answer: train on every answer of a question that has several, not on the first alone.
        preprocess: what rewrites rows before they are read, as some tasks of SuperGLUE need it.
        metrics: by which answers are scored, as [accuracy, macro_f1]; the score is the mean of them.
        scored_by: those of the metrics whose mean is the score in place of all of them's.
        splits: split -> source, or a slice of one, as {train: "train[20%:]", validation: "train[:20%]"}; by default
            each split is the source of its name.
        max_target_length: tokens of an answer; by default 5 of a number, 16 of a name, 128 of a text.
        max_generated_length: tokens that are generated at most; by default max_target_length.
        min_generated_length: tokens that are generated at least.
        description: what is to be done, a sentence or several that say the same: from it methods with
            task_descriptions make the task's parameters.
    """

    name: Annotated[str, AfterValidator(_plain_name)] = Field(examples=["reviews"])
    hub: Annotated[str, AfterValidator(_hub_name)] | None = None
    hub_config: str | None = None
    local: str | None = None
    files: Annotated[dict[str, Path], BeforeValidator(_named_files)] | None = None
    generated: bool = False
    fields: Annotated[dict[str, str], BeforeValidator(_named_columns)] = Field(
        min_length=1, examples=["[title, body]"]
    )
    template: str | None = None
    label: str = "label"
    labels: Annotated[tuple[str, ...], BeforeValidator(read_labels)] | None = None
    where: Annotated[dict[str, str], BeforeValidator(_where_texts)] | None = None
    prefix: str | None = None
    kind: Literal["class", "score", "text", "question_answering", "coreference", "chat"] = "class"
    writes: Literal["number", "name"] = "number"
    step: float | None = Field(None, gt=0)
    candidate: str | None = None
    group: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = ()
    every_answer: bool = False
    preprocess: str | None = None
    metrics: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = Field((), min_length=1)
    scored_by: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = ()
    splits: Annotated[dict[Split, str], BeforeValidator(read_protocol)] = Field(
        default_factory=splits_as_given, validate_default=True
    )
    max_target_length: int = Field(default_factory=_target_length, ge=1)
    max_generated_length: int = Field(default_factory=_generated_length, ge=1)
    min_generated_length: int = Field(0, ge=0)
    description: Annotated[tuple[str, ...], BeforeValidator(one_or_more), AfterValidator(_said)] = ()

    @model_validator(mode="before")
    @classmethod
    def _fields_of_template(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("template"), str) and "fields" not in values:
            if not (names := names_in(values["template"])):
                raise UserError(
                    f"template: {shortened(values['template'])!r} names no field, as {{text}} would"
                )
            return {**values, "fields": {name: name for name in names}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        self._check_source()
        self._check_template()
        self._check_splits()
        self._check_labels()
        self._check_metrics()
        return self

    def _check_source(self) -> None:
        if self.generated:
            if self.files or self.hub or self.local:
                raise UserError("generated is for the built-in tasks alone")
            return
        if (not self.files) == (self.hub is None and self.local is None):
            raise UserError(
                "say where the rows come from: either files, as files: {train: rows.csv}, or hub and/or local"
            )
        for file in (self.files or {}).values():
            if suffix_of(file) not in SUFFIXES:
                raise UserError(f"files: '{file}' is of no known format; {nearest(file.suffix, SUFFIXES)}")

    def _check_template(self) -> None:
        if self.template is None:
            return
        names = names_in(self.template)
        for name in names:
            if name not in self.fields:
                raise UserError(f"template: '{{{name}}}' is no field; {nearest(name, self.fields)}")
        if unread := [name for name in self.fields if name not in names]:
            raise UserError(
                f"template: the field '{unread[0]}' does not stand in it; write {{{unread[0]}}}, or leave it out of "
                "fields"
            )

    def _check_splits(self) -> None:
        files = self.files or {}
        used = [
            (split, source) for split, part in self.splits.items() for source in source_of(part).split("+")
        ]
        for split, source in used:
            if files and source not in files:
                raise UserError(
                    f"splits: {split} takes its rows from '{source}', which has no file; "
                    f"{nearest(source, files)}; or write {in_parts(self.splits, files)}"
                )
        # A protocol may leave a split's own file alone, as one of test rows without labels.
        for file in sorted(set(files) - set(SPLITS) - {source for _, source in used}):
            remedy = "" if self.splits else f"; or write {in_parts({}, files)}"
            raise UserError(f"files: '{file}' is no split; {nearest(file, SPLITS)}{remedy}")
        if not self.splits:
            raise UserError(f"splits: there are none; write {in_parts({}, files)}")

    def _check_labels(self) -> None:
        self.kind_of_task.check(self)
        if self.preprocess is not None and self.preprocess not in PREPROCESSORS:
            raise UserError(
                f"preprocess: '{self.preprocess}' is unknown; {nearest(self.preprocess, PREPROCESSORS)}"
            )
        if self.min_generated_length > self.max_generated_length:
            raise UserError(
                f"min_generated_length {self.min_generated_length} is more than max_generated_length "
                f"{self.max_generated_length}"
            )
        alike: dict[str | Decimal, str] = {}
        for name in self.labels or ():
            key = label_key(name)
            if key in alike:
                twice = f"'{name}' stands there twice; keep one of them"
                raise UserError(
                    f"labels: {twice}"
                    if alike[key] == name
                    else f"labels: '{alike[key]}' and '{name}' would be the same label; keep one of them"
                )
            alike[key] = name

    def _check_metrics(self) -> None:
        fitting = tuple(self.kind_of_task.metrics)
        if not self.metrics:
            raise UserError(
                f"field 'metrics' is missing; of kind '{self.kind}' write one or more of {', '.join(fitting)}, as "
                f"metrics: [{fitting[0]}]"
            )
        for metric in self.metrics:
            if metric not in METRICS:
                raise UserError(f"metric '{metric}' is unknown; {nearest(metric, fitting)}")
            if metric not in fitting:
                raise UserError(f"metric '{metric}' is not for kind '{self.kind}'; {nearest('', fitting)}")
        if set(self.metrics) <= REPORTED_ONLY:
            averaged = ", ".join(metric for metric in fitting if metric not in REPORTED_ONLY)
            raise UserError(
                f"metrics: {', '.join(self.metrics)} {'is' if len(self.metrics) == 1 else 'are'} only reported: a "
                f"task's score, by which the best checkpoint is chosen, needs one of {averaged} beside"
            )
        for metric in self.scored_by:
            if metric not in self.metrics or metric in REPORTED_ONLY:
                able = [name for name in self.metrics if name not in REPORTED_ONLY]
                why = "is only reported" if metric in self.metrics else "is none of the metrics"
                raise UserError(f"scored_by: '{metric}' {why}; {nearest(metric, able)}")
        if "group_exact_match" in self.metrics and not self.group:
            raise UserError("metric 'group_exact_match' needs the columns of a group")
        if "f1" in self.metrics and len(self.labels or ()) != 2:
            raise UserError("metric 'f1' is for two labels; did you mean 'macro_f1'?")

    @property
    def kind_of_task(self) -> Kind:
        """Its kind, which knows what is particular about it."""
        return KINDS[self.kind]

    @property
    def sources(self) -> dict[str, int]:
        """What the splits take rows of, and how many rows of it they count off: of train[1000:] 1,000, of a share none.

        A source is a file, or a split of the hub's data set.
        """
        counted: dict[str, int] = {}
        for part in self.splits.values():
            match = SLICE.fullmatch(part)
            assert match is not None
            counts = [int(bound) for bound in (match["start"], match["stop"]) if bound and bound.isdecimal()]
            for source in match["source"].split("+"):
                counted[source] = max(counted.get(source, 0), *counts, 0)
        return counted

    @property
    def scoring_metrics(self) -> tuple[str, ...]:
        """The metrics whose mean is the task's score."""
        return self.scored_by or tuple(metric for metric in self.metrics if metric not in REPORTED_ONLY)

    def source_text(self, row: Row, prefix: bool) -> str:
        """The input text of a row: "sentence1: … sentence2: …".

        Args:
            row: column -> value; only the columns of `fields` are read.
            prefix: put the task's name in front, for methods that do not know the task otherwise.

        Raises:
            UserError: a column is missing or holds no text.
        """
        return self.joined(row, prefix)[0]

    def joined(
        self, row: Row, prefix: bool, names: Iterable[str] | None = None
    ) -> tuple[str, list[list[int]]]:
        """The text of a row's fields, and from which to which character of it each value stands.

        Args:
            row: column -> value.
            prefix: put the task's name in front.
            names: of the fields; by default all.
        """
        if self.template is not None:
            return _filled(self.template.rstrip(" "), self.fields, row, self.prefix_text if prefix else "")
        fields = self.fields if names is None else {name: self.fields[name] for name in names}
        return _joined(fields, row, self.prefix_text if prefix else "")

    @property
    def names_read(self) -> list[str]:
        """The names of what is read, in the order in which it stands in an input."""
        if self.template is not None:
            return names_in(self.template)
        return [name or column for name, column in self.fields.items()]

    @property
    def cut_in_fields(self) -> bool:
        """Whether of an input that is too long the fields are cut, and what stands between them is left."""
        return self.template is not None or self.kind_of_task.is_chat

    def inputs(self, row: Row, prefix: bool) -> dict[str, Any]:
        """The input of a row, as its kind has it: `source`, and what goes with it; all else as `source_text`."""
        return self.kind_of_task.inputs(self, row, prefix)

    @property
    def columns(self) -> dict[str, str]:
        """The columns of its rows that are read, and what each holds, in words."""
        texts = [*self.fields.values(), *self.group, *filter(None, [self.candidate])]
        kind = self.kind_of_task
        held = dict.fromkeys(texts, "text") | {kind.answer_column(self): kind.answer_in_words(self)}
        for column, text in (self.where or {}).items():
            held[column] = f'"{text}" in rows of this task'
        if self.preprocess is None:
            return held
        preprocessor = PREPROCESSORS[self.preprocess]
        return {
            column: words
            for column, words in {**held, **preprocessor.columns}.items()
            if column not in preprocessor.new
        }

    @property
    def columns_in_words(self) -> str:
        """The columns that are read, each with what it holds."""
        return ", ".join(f"{column} ({words})" for column, words in self.columns.items())

    @property
    def hub_in_words(self) -> str:
        """The name of its data set on the hub, and which configuration of it."""
        return ", config ".join(filter(None, [self.hub, self.hub_config]))

    @property
    def copy_in_words(self) -> str:
        """What a local copy of its data set is, below data_dir."""
        *first, last = (f"{source}.parquet" for source in self.sources)
        return f"{self.local}/ with {' and '.join(filter(None, [', '.join(first), last]))}"

    @property
    def data_set_in_words(self) -> str:
        """What rows of its data set must be like, and where to get them."""
        columns, other = self.columns_in_words, [suffix for suffix in SUFFIXES if suffix != ".parquet"]
        if self.local is None:
            formats = ", ".join(SUFFIXES)
            held = f"rows of your own ({formats}) go by `files` in place of hub, with the columns {columns}"
        else:
            held = (
                f"data_dir is to hold {self.copy_in_words}, whose columns are {columns}; other formats "
                f"({', '.join(other)}) are read as `files` of a task file"
            )
        place = f"its name on the hub is {self.hub_in_words}" if self.hub else "the hub has no such data set"
        return f"{held}; {place}"

    @property
    def row_in_words(self) -> str:
        """A row to be predicted, as JSON, with what the task reads of one."""
        read = list(self.fields.values())
        if self.preprocess is not None:
            preprocessor = PREPROCESSORS[self.preprocess]
            read = [
                column
                for column in (*read, *preprocessor.columns)
                if column not in (*preprocessor.new, *preprocessor.answers)
            ]
        return json.dumps(dict.fromkeys(read, "…"), ensure_ascii=False)

    @property
    def generated_lengths(self) -> tuple[int, int]:
        """The fewest and the most tokens of a prediction."""
        return self.min_generated_length, self.max_generated_length

    def without_prefix(self, text: str) -> str:
        """An input without the task's name before it, if it has it."""
        return text.removeprefix(self.prefix_text).lstrip()

    @property
    def prefix_text(self) -> str:
        """What stands before an input where the task is to be named there."""
        return self.name if self.prefix is None else self.prefix

    def target_text(self, row: Row) -> str:
        """The target text of a row; of a score its own number, whatever the step.

        Raises:
            UserError: the label column is missing, or holds no label of this task.
        """
        return self.kind_of_task.target(self, row)

    def written(self, target: str) -> str:
        """What the model is to write for a target: a score to the nearest multiple of the step, all else as it is."""
        return self.kind_of_task.written(self, target)

    def on_development_set(self) -> Task:
        """The task with its published development rows, whole, as validation and test rows, and all training rows.

        So no row is held out by us, and a checkpoint that is chosen is chosen by the rows that are reported.

        Raises:
            UserError: if its test rows are not of a development set.
        """
        train, reported = (source_of(self.splits.get(split)) for split in ("train", "test"))
        if not reported.startswith("validation") or not train:
            raise UserError(
                f"task '{self.name}' is not tested on development rows, but on "
                f"'{self.splits.get('test', 'none')}': leave ':dev' out"
            )
        return self.model_copy(update={"splits": {"train": train, "validation": reported, "test": reported}})

    def with_step(self, targets: Iterable[str]) -> Task:
        """The task with a step for its scores: its own, or one that fits its training targets, which is said."""
        return self.kind_of_task.fitted(self, targets)

    def label_number(self, row: Row) -> str:
        """The number of a row's label, as text.

        Raises:
            UserError: the label column is missing, or holds no label of this task.
        """
        value = self.answer_of(row)
        text = as_text(value)
        number = None if text is None else self._label_numbers.get(label_key(text))
        if number is None:
            are_truth_values = isinstance(value, bool) and len(self.label_names) == 2
            remedy = (
                '; for truth values write labels: ["false", "true"]'
                if are_truth_values or self._contradict_their_numbers
                else ""
            )
            raise WrongCell(self.label, value, NO_LABEL, f"; {nearest(value, self.label_choices)}{remedy}")
        return number

    def answer_of(self, row: Row) -> Any:
        """What the label column of a row holds."""
        if self.label not in row and self.label == Task.model_fields["label"].default:
            raise MissingColumn(self.label, row, "; in the task file, label: names the column of the answer")
        return value_of(row, self.label)

    def references(self, row: Row) -> References | None:
        """What a prediction is compared with, where that is not the target text alone, as its kind has it."""
        return self.kind_of_task.references(self, row)

    def group_of(self, row: Row) -> str:
        """What names the group of a row."""
        return json.dumps([text_of(row, column) for column in self.group])

    def preprocessed(self, row: Row) -> Row:
        """The row as its fields are read from it."""
        return row if self.preprocess is None else {**row, **PREPROCESSORS[self.preprocess].rewrite(row)}

    @property
    def label_texts(self) -> tuple[str, ...]:
        """What a model writes for each label of kind "class"."""
        return self.kind_of_task.choices(self)

    @cached_property
    def label_names(self) -> dict[str, str]:
        """The label's number, as text -> its name."""
        return {str(number): name for number, name in enumerate(self.labels or ())}

    @cached_property
    def label_choices(self) -> dict[str, str]:
        """What a label column may hold, as text -> the label's number, as text."""
        by_name = {name: number for number, name in self.label_names.items()}
        by_number = {number: number for number in self.label_names}
        return by_name if self._names_are_numbers or self._contradict_their_numbers else by_name | by_number

    @cached_property
    def _label_numbers(self) -> dict[str | Decimal, str]:
        """What a label column may hold, however it is written -> the label's number, as text."""
        return {label_key(text): number for text, number in self.label_choices.items()}

    @property
    def _names_are_numbers(self) -> bool:
        return any(isinstance(label_key(name), Decimal) for name in self.labels or ())

    @property
    def _contradict_their_numbers(self) -> bool:
        """Whether the names are truth values with true first, which a column of 1 for true and 0 for false denies."""
        return [label_key(name) for name in self.labels or ()] == ["true", "false"]

    def check_numbering(self, rows: Iterable[Row]) -> None:
        """Check that a label column of numbers does not count from 1, when every row would be of the class above.

        Args:
            rows: all of a source, as the few that are drawn of it may miss the last class, which tells.

        Raises:
            UserError: it holds the number of labels, which is one too many, but neither 0 nor a label's name.
        """
        if not self.labels or self._names_are_numbers:
            return
        held = {
            label_key(text) for text in {as_text(row.get(self.label)) for row in rows} if text is not None
        }
        if len(self.labels) in held and held.isdisjoint({0, *map(label_key, self.labels)}):
            last = len(self.labels)
            names = ", ".join(map(str, range(1, last + 1))) if last < 6 else f"1, …, {last}"
            raise UserError(
                f"column '{self.label}' holds {last} and never 0, but the {last} labels are numbered from 0; count "
                f"from 0 there, or name all that the column holds, as labels: [{names}]"
            )

    def label_name(self, text: str) -> str | None:
        """The label that a predicted text stands for ("1" -> "acceptable"), or None where it is no answer.

        A score or a free text stands for itself.
        """
        return self.kind_of_task.label_name(self, text.strip())

    def is_valid(self, text: str) -> bool:
        """Whether a predicted text is an answer at all."""
        return self.label_name(text) is not None


def names_in(template: str) -> list[str]:
    """The names in braces, in the order in which they stand.

    Raises:
        UserError: a brace has no other, or holds what is no name; a brace itself is written twice, {{ or }}.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        raise UserError(
            f"template: a brace of {shortened(template)!r} has no other, or they stand in each other; a field is named "
            "as {field}, and a brace itself is written {{ or }}"
        ) from None
    for _, name, form, conversion in parts:
        if name is not None and (not name or form or conversion):
            written = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}}}"
            raise UserError(
                f"template: {written} is no field's name in braces; write {{{{ and }}}} for braces themselves"
            )
    return [name for _, name, _, _ in parts if name is not None]


def _filled(template: str, fields: Mapping[str, str], row: Row, first: str) -> tuple[str, list[list[int]]]:
    """The text of a template behind a first word, and from which to which character of it each value stands."""
    text, places = f"{first} " if first else "", []
    for between, name, _, _ in Formatter().parse(template):
        text += between
        if name is not None:
            value = text_of(row, fields[name])
            places.append([len(text), len(text) + len(value)])
            text += value
    return text, places


def _joined(fields: Mapping[str, str], row: Row, first: str) -> tuple[str, list[list[int]]]:
    """The text of a row's fields behind a first word, and from which to which character of it each value stands."""
    parts = [first] if first else []
    places, end = [], len(first)
    for name, column in fields.items():
        value, heading = text_of(row, column), f"{name}: " if name else ""
        begin = end + bool(parts) + len(heading)
        end = begin + len(value)
        parts.append(heading + value)
        places.append([begin, end])
    return " ".join(parts), places
