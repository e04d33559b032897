"""A task as data: where its rows come from, how they are split, what texts they give, labels and metrics.

The built-in tasks and a user's YAML file have the same schema, `Task`; `load_split` reads a split's texts.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from hyperadapt.errors import UserError, as_written, nearest, nothing_at, notice, validation_message
from hyperadapt.fields import Fields
from hyperadapt.metrics import LARGEST_SCORE, METRICS, METRICS_OF_KIND, REPORTED_ONLY, read_score
from hyperadapt.tasks.chunks import Span, read_answers
from hyperadapt.tasks.scores import chosen_step, number_text, to_step
from hyperadapt.tasks.sources import (
    NO_LABEL,
    SUFFIXES,
    MissingColumn,
    MissingData,
    PlacedRow,
    Row,
    WrongCell,
    as_text,
    check_hub_name,
    naming,
    read_each,
    read_file,
    read_hub,
    suffix_of,
    text_of,
    value_of,
    was_loaded,
    why_not_asked,
)
from hyperadapt.yaml_and_json import read_yaml

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# The split protocols of the papers, for tasks with fewer and with more than 10,000 training rows (HyperFormer, section
# 3; Hyperdecoders, section 3.1.1).
HALVE_VALIDATION: dict[Split, str] = {
    "train": "train",
    "validation": "validation[:50%]",
    "test": "validation[50%:]",
}
HOLD_OUT_TRAIN: dict[Split, str] = {
    "train": "train[1000:]",
    "validation": "train[:1000]",
    "test": "validation",
}

# A slice is taken of rows in this order, whatever the seed of the run: no run trains on another's test rows.
SPLIT_SEED = 42

_SLICE = re.compile(r"(?P<source>[\w+-]+)(\[(?P<start>\d+%?)?:(?P<stop>\d+%?)?\])?")

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")

# Generated tokens, the end token included: any tokenizer writes a class number or a score within these.
_TARGET_LENGTH = {"class": 5, "score": 8, "text": 128, "question_answering": 64, "coreference": 32}
_NAME_LENGTH = 16

MOST_LISTED = 12  # labels, or tasks, of which a message tells


def _target_length(fields: dict[str, Any]) -> int:
    return _NAME_LENGTH if fields.get("writes") == "name" else _TARGET_LENGTH[fields["kind"]]


def _generated_length(fields: dict[str, Any]) -> int:
    return fields.get("max_target_length", 1)  # a wrong one is an error of its own


class Preprocessor(NamedTuple):
    """What rewrites a task's rows before its fields are read.

    Attributes:
        columns: that it needs, and what each holds, in words.
        rewrite: makes columns of a row, new ones or in place of those that it has.
        new: columns that no row has before.
        answers: those of the columns that rows to be predicted need not have.
    """

    columns: Mapping[str, str]
    rewrite: Callable[[Row], Mapping[str, Any]]
    new: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


PREPROCESSORS: dict[str, Preprocessor] = {}


def preprocessor(name: str, columns: Mapping[str, str], **more: tuple[str, ...]) -> Callable[[Any], Any]:
    """Name a function that rewrites rows, for `Task.preprocess`; the arguments are those of `Preprocessor`."""

    def named(rewrite: Callable[[Row], Mapping[str, Any]]) -> Callable[[Row], Mapping[str, Any]]:
        PREPROCESSORS[name] = Preprocessor(columns, rewrite, **more)
        return rewrite

    return named


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
    given = [files] if isinstance(files, str) else files
    if not isinstance(given, list) or not given or not all(isinstance(file, str) and file for file in given):
        return files
    raise UserError(f"write {_mapping_of(dict(zip(SPLITS, given, strict=False)))}")


def _where_texts(where: object) -> object:
    for column, value in where.items() if isinstance(where, dict) else ():
        if isinstance(value, bool):
            text = as_written(value)
            raise UserError(
                f'write {column}: "{value}", with the quotes; or "{text}", where the column holds that text'
            )
    return where


def _label_texts(labels: object) -> object:
    if isinstance(labels, dict) and labels:
        raise UserError(f"write a list, {_list_of_labels(labels)}")
    if isinstance(labels, str | bool | int | float):
        apart = isinstance(labels, str) and "," in labels
        raise UserError(
            f"{as_written(labels)} is no list of the answers; write [{labels if apart else 'bad, good'}]"
        )
    if not isinstance(labels, list | tuple):
        return labels
    if any(isinstance(label, bool) for label in labels):
        if all(isinstance(label, bool) for label in labels):
            labels = sorted(labels)  # so that a column of 0 and 1 means the same
        in_quotes = ", ".join(
            f'"{label if isinstance(label, str) else as_written(label)}"' for label in labels
        )
        raise UserError(f"a label must be a text; write [{in_quotes}], with the quotes")
    if None in labels:
        raise UserError('a label must be a text; write "null", with the quotes, or "" for empty cells')
    # Labels that are numbers are matched as numbers.
    return [str(label) if type(label) in (int, float) and math.isfinite(label) else label for label in labels]


def _list_of_labels(labels: Mapping[str, object]) -> str:
    """Write the list that a mapping of names and numbers, either way round, stands for."""
    pairs = [
        (number, name)
        for key, value in labels.items()
        for number, name in ((str(key), str(value)), (str(value), str(key)))
        if number.isdecimal()
    ]
    if len(pairs) != len(labels):  # no numbers, or nothing else
        return f"[{', '.join(map(str, labels.values()))}]"
    pairs.sort(key=lambda pair: int(pair[0]))
    numbers, names = (", ".join(part) for part in zip(*pairs, strict=True))
    if numbers == ", ".join(map(str, range(len(pairs)))):
        return f"[{names}]: a label's number is its place there, from 0"
    return f"as the column has them: [{numbers}] or [{names}]"


def _one_or_more(names: object) -> object:
    return (names,) if isinstance(names, str) else names


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


def _splits_as_given(fields: dict[str, Any]) -> dict[Split, str]:
    files = fields.get("files") or SPLITS
    return {split: split for split in SPLITS if split in files}


def _mapping_of(values: Mapping[str, str]) -> str:
    """Write names and texts as YAML that can be pasted, with quotes where a text needs them."""
    quoted = {
        name: text if re.fullmatch(r"[\w./-]+", text) else json.dumps(text, ensure_ascii=False)
        for name, text in values.items()
    }
    return "{" + ", ".join(f"{name}: {text}" for name, text in quoted.items()) + "}"


def _source_of(part: object) -> str:
    """The source of a split, "" where the split is written wrongly."""
    match = _SLICE.fullmatch(part) if isinstance(part, str) else None
    return match["source"] if match else ""


def in_parts(splits: Mapping[Any, object], files: Iterable[str], *asked: str) -> str:
    """Write splits that have validation, and all that are there or asked for, to be pasted into a task file.

    Those that have a source or a file of their own keep it. The others are parts of one source, which is that of train
    where it has one.

    Args:
        splits: that are there, maybe written wrongly.
        files: the names of the sources; none where they are the hub's.
        asked: names of splits.
    """
    files = list(files)

    def is_there(source: str) -> bool:
        return bool(source) and (not files or set(source.split("+")) <= set(files))

    source = next(filter(is_there, (_source_of(splits.get("train")), "train", *files)))
    own, held_out = dict[str, object](), []
    for split in (name for name in SPLITS[1:] if name in {"validation", *splits, *asked, *files}):
        part = splits.get(split)
        if not is_there(_source_of(part)):
            part = split if split in files else source
        if _source_of(part) == source:
            held_out.append(split)
        else:
            own[split] = part
    share = 20 // max(len(held_out), 1)
    parts = {"train": f"{source}[20%:]" if held_out else source, **own}
    for place, split in enumerate(held_out):
        parts[split] = f"{source}[{f'{place * share}%' if place else ''}:{(place + 1) * share}%]"
    return f"splits: {_mapping_of({split: str(parts[split]) for split in SPLITS if split in parts})}"


def _named_protocol(splits: object, task: ValidationInfo) -> object:
    files = task.data.get("files") or ()
    if isinstance(splits, dict):
        for split, part in splits.items():
            if split not in SPLITS:
                raise UserError(f"'{split}' is no split; {nearest(split, SPLITS)}")
            if not _source_of(part):
                raise UserError(
                    f"{as_written(part)} for {split} is neither SOURCE nor SOURCE[from:to]; write "
                    f"{in_parts(splits, files)}"
                )
        return splits
    if not isinstance(splits, str):
        raise UserError(f"{as_written(splits)} names no parts; write {in_parts({}, files)}")
    protocols = {
        "as_given": _splits_as_given(task.data),
        "halve_validation": HALVE_VALIDATION,
        "hold_out_train": HOLD_OUT_TRAIN,
    }
    if splits not in protocols:
        raise UserError(
            f"'{splits}' is no split protocol; {nearest(splits, protocols)}; or write {in_parts({}, files)}"
        )
    return protocols[splits]


@lru_cache(1024)
def label_key(text: str) -> str | Decimal:
    """What all texts of one label share: numbers their value (1, "1.0"), true and false whatever their case."""
    if _NUMBER.fullmatch(text):
        return Decimal(text)
    return text.lower() if text.lower() in ("true", "false") else text


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
    the tasks of hyperadapt.tasks.builtin are `generated`.

    `splits` says what train, validation and test are. Each is a source (the file or hub split of that name)
    or a slice of one, "train[1000:]" or "validation[50%:]", of its rows in an order drawn once with seed 42.
    The name of a protocol stands for all three: "halve_validation", "hold_out_train", or "as_given". The
    default is as given, with `files` those that have a file. Nothing is split unasked: without a test file,
    and without `splits` that make one, a task has no test split.

    The rows of a source that several tasks share are those `where` a column holds a value: {subset: SQuAD}. The
    input of methods that do not know the task otherwise begins with `prefix`, the task's name unless it is given.
    A field without a name ("") is its column's text alone.

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
    first (hyperadapt.tasks.superglue). Of kind "question_answering" a training row is one for `every_answer`, or
    for its first alone.

    Attributes:
        name: of letters, digits, - and _.
        hub: a data set's name on the hub, as OWNER/NAME, in place of files.
        hub_config: the configuration of that data set.
        local: a folder below data.data_dir that holds a SOURCE.parquet for each source, in place of files.
        files: source -> a file of rows beside the task file, as {train: train.csv, validation: dev.csv}.
        generated: of the tasks that come with the package alone.
        fields: the columns that are read, as [title, body], which read "title: … body: …"; or name -> column.
        label: the column of the answer.
        labels: all answers of kind class, as [bad, good]; the column holds them, or numbers from 0.
        where: column -> text: only rows that hold it are read.
        prefix: what stands before the input where the task is to be named there; by default its name.
        kind: class; score, a number; text, a free text; question_answering, whose last field is a context of any
            length; coreference, where a candidate is right or not.
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
    label: str = "label"
    labels: Annotated[tuple[str, ...], BeforeValidator(_label_texts)] | None = None
    where: Annotated[dict[str, str], BeforeValidator(_where_texts)] | None = None
    prefix: str | None = None
    kind: Literal["class", "score", "text", "question_answering", "coreference"] = "class"
    writes: Literal["number", "name"] = "number"
    step: float | None = Field(None, gt=0)
    candidate: str | None = None
    group: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ()
    every_answer: bool = False
    preprocess: str | None = None
    metrics: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = Field((), min_length=1)
    scored_by: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ()
    splits: Annotated[dict[Split, str], BeforeValidator(_named_protocol)] = Field(
        default_factory=_splits_as_given, validate_default=True
    )
    max_target_length: int = Field(default_factory=_target_length, ge=1)
    max_generated_length: int = Field(default_factory=_generated_length, ge=1)
    min_generated_length: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        self._check_source()
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

    def _check_splits(self) -> None:
        files = self.files or {}
        used = [
            (split, source) for split, part in self.splits.items() for source in _source_of(part).split("+")
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
        if (self.kind == "coreference") != (self.candidate is not None):
            raise UserError("kind 'coreference', and no other, needs the column of the candidate")
        if self.kind != "class" and (self.writes == "name" or self.group):
            raise UserError(
                f"writes and group are for kind 'class', but kind is '{self.kind}'; leave them out"
            )
        if self.kind != "score" and self.step is not None:
            raise UserError(
                f"step is for kind 'score', but kind is '{self.kind}'; leave it out, or write kind: score"
            )
        if self.preprocess is not None and self.preprocess not in PREPROCESSORS:
            raise UserError(
                f"preprocess: '{self.preprocess}' is unknown; {nearest(self.preprocess, PREPROCESSORS)}"
            )
        if self.min_generated_length > self.max_generated_length:
            raise UserError(
                f"min_generated_length {self.min_generated_length} is more than max_generated_length "
                f"{self.max_generated_length}"
            )
        if self.kind == "coreference":
            if len(self.labels or ()) != 2:
                raise UserError(
                    "kind 'coreference' needs two labels: for wrong candidates, and for right ones"
                )
        elif self.kind != "class":
            if self.labels is not None:
                raise UserError(
                    f"labels are for kind 'class', but kind is '{self.kind}'; leave them out, or write kind: class"
                )
        elif self.labels is None:
            raise UserError(
                "kind 'class' needs labels, the names of the answers, as labels: [bad, good]; where the answers are "
                "numbers or free texts, write kind: score or kind: text"
            )
        elif len(self.labels) < 2:
            raise UserError("labels: there must be at least two, all that the column holds, as [bad, good]")
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
        fitting = METRICS_OF_KIND[self.kind]
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
    def sources(self) -> dict[str, int]:
        """What the splits take rows of, and how many rows of it they count off: of train[1000:] 1,000, of a share none.

        A source is a file, or a split of the hub's data set.
        """
        counted: dict[str, int] = {}
        for part in self.splits.values():
            match = _SLICE.fullmatch(part)
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
        return _joined(self.fields, row, self._prefix if prefix else "")[0]

    def inputs(self, row: Row, prefix: bool) -> dict[str, Any]:
        """The input of a row: its `source`, and of kind "question_answering" the `context` that follows it.

        The source then is the question, "question: … context: "; all else as `source_text`. Where there are several
        fields, `places` tell from which to which character of the source each one's text stands.
        """
        if self.kind != "question_answering":
            source, places = _joined(self.fields, row, self._prefix if prefix else "")
            return {"source": source, "places": places} if len(places) > 1 else {"source": source}
        *names, last = self.fields
        question, _ = _joined(
            {name: self.fields[name] for name in names}, row, self._prefix if prefix else ""
        )
        return {"source": f"{question} {last}: ".lstrip(), "context": text_of(row, self.fields[last])}

    @property
    def columns(self) -> dict[str, str]:
        """The columns of its rows that are read, and what each holds, in words."""
        texts = [*self.fields.values(), *self.group, *filter(None, [self.candidate])]
        held = dict.fromkeys(texts, "text") | {self.label: self._answer_in_words}
        for column, text in (self.where or {}).items():
            held[column] = f'"{text}" in rows of this task'
        if self.preprocess is None:
            return held
        of = PREPROCESSORS[self.preprocess]
        return {column: words for column, words in {**held, **of.columns}.items() if column not in of.new}

    @property
    def columns_in_words(self) -> str:
        """The columns that are read, each with what it holds."""
        return ", ".join(f"{column} ({words})" for column, words in self.columns.items())

    @property
    def _answer_in_words(self) -> str:
        """What the label column holds."""
        if self.kind not in ("class", "coreference"):
            return {
                "score": "number",
                "text": "text",
                "question_answering": "list of texts, or {text: [...], answer_start: [...]}",
            }[self.kind]
        by_name = self._label_choices.keys() <= set(self._label_names.values())
        labels = [name if by_name else f"{number} {name}" for number, name in self._label_names.items()]
        listed = ", ".join(labels[:MOST_LISTED]) + (", …" if len(labels) > MOST_LISTED else "")
        return listed if by_name else f"{listed}: the number or the name"

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
            of = PREPROCESSORS[self.preprocess]
            read = [column for column in (*read, *of.columns) if column not in (*of.new, *of.answers)]
        return json.dumps(dict.fromkeys(read, "…"), ensure_ascii=False)

    @property
    def generated_lengths(self) -> tuple[int, int]:
        """The fewest and the most tokens of a prediction."""
        return self.min_generated_length, self.max_generated_length

    def without_prefix(self, text: str) -> str:
        """An input without the task's name before it, if it has it."""
        return text.removeprefix(self._prefix).lstrip()

    @property
    def _prefix(self) -> str:
        return self.name if self.prefix is None else self.prefix

    def answers(self, row: Row) -> tuple[list[str], list[Span]]:
        """The references of a row of kind "question_answering", and where in the context they stand.

        Raises:
            UserError: the label column is missing, or holds no answers.
        """
        value = self._answer_of(row)
        text = as_text(value)
        try:
            return read_answers(
                value if text is None else text, text_of(row, self.fields[next(reversed(self.fields))])
            )
        except UserError as error:
            raise UserError(f"column '{self.label}': {error}") from None

    def target_text(self, row: Row) -> str:
        """The target text of a row; of a score its own number, whatever the step.

        Raises:
            UserError: the label column is missing, or holds no label of this task.
        """
        if self.kind == "text":
            return text_of({self.label: self._answer_of(row)}, self.label)
        if self.kind == "question_answering":
            return self.answers(row)[0][0]
        if self.candidate is not None:
            return text_of(row, self.candidate)
        if self.kind == "class":
            number = self.label_number(row)
            return self._label_names[number] if self.writes == "name" else number
        value = self._answer_of(row)
        text = as_text(value)
        score = None if text is None else read_score(text)
        if score is None:
            is_too_large = isinstance(value, int | float) and LARGEST_SCORE < abs(value) < math.inf
            limit = f": the largest is {LARGEST_SCORE:g}" if is_too_large else ""
            if text is not None and read_score(text.replace(",", ".")) is not None:
                limit = ": its decimals must stand behind a point, not a comma"
            raise WrongCell(self.label, value, "is no score", limit)
        return number_text(score)

    def written(self, target: str) -> str:
        """What the model is to write for a target: a score to the nearest multiple of the step, all else as it is."""
        if self.kind != "score":
            return target
        assert self.step is not None, "with_step knows it"
        return to_step(target, self.step)

    def on_development_set(self) -> Task:
        """The task with its published development rows, whole, as validation and test rows, and all training rows.

        So no row is held out by us, and a checkpoint that is chosen is chosen by the rows that are reported.

        Raises:
            UserError: if its test rows are not of a development set.
        """
        train, reported = (_source_of(self.splits.get(split)) for split in ("train", "test"))
        if not reported.startswith("validation") or not train:
            raise UserError(
                f"task '{self.name}' is not tested on development rows, but on "
                f"'{self.splits.get('test', 'none')}': leave ':dev' out"
            )
        return self.model_copy(update={"splits": {"train": train, "validation": reported, "test": reported}})

    def with_step(self, targets: Iterable[str]) -> Task:
        """The task with a step for its scores: its own, or one that fits its training targets, which is said.

        It is said too if its own is so coarse that all are written alike.
        """
        if self.kind != "score":
            return self
        scores = sorted(set(targets), key=float)
        task = self.model_copy(update={"step": self.step or chosen_step(scores)})
        written = {task.written(score) for score in scores}
        what = f"task '{self.name}': scores from {scores[0]} to {scores[-1]}"
        if self.step is None:
            merged = f"; {len(scores):,} different ones become {len(written):,}" * (
                len(written) < len(scores)
            )
            notice(
                f"{what} are written to the nearest {task.step:g}{merged} (`step` in its file says another)"
            )
        elif len(written) == 1 < len(scores):
            finer = f"; step: {chosen_step(scores):g} tells them apart"
            notice(f"{what} are all written '{written.pop()}' with step {self.step:g}{finer}")
        return task

    def label_number(self, row: Row) -> str:
        """The number of a row's label, as text.

        Raises:
            UserError: the label column is missing, or holds no label of this task.
        """
        value = self._answer_of(row)
        text = as_text(value)
        number = None if text is None else self._label_numbers.get(label_key(text))
        if number is None:
            are_truth_values = isinstance(value, bool) and len(self._label_names) == 2
            remedy = (
                '; for truth values write labels: ["false", "true"]'
                if are_truth_values or self._contradict_their_numbers
                else ""
            )
            raise WrongCell(self.label, value, NO_LABEL, f"; {nearest(value, self._label_choices)}{remedy}")
        return number

    def _answer_of(self, row: Row) -> Any:
        """What the label column of a row holds."""
        if self.label not in row and self.label == Task.model_fields["label"].default:
            raise MissingColumn(self.label, row, "; in the task file, label: names the column of the answer")
        return value_of(row, self.label)

    def references(self, row: Row) -> tuple[str, ...] | None:
        """What a prediction is compared with, where that is not the target text alone.

        The answers that would be right; the candidate and the number of its label; the target and its group.
        """
        if self.kind == "question_answering":
            return tuple(self.answers(row)[0])
        if self.candidate is not None:
            return text_of(row, self.candidate), self.label_number(row)
        if self.group:
            return self.target_text(row), self.group_of(row)
        return None

    def group_of(self, row: Row) -> str:
        """What names the group of a row."""
        return json.dumps([text_of(row, column) for column in self.group])

    def preprocessed(self, row: Row) -> Row:
        """The row as its fields are read from it."""
        return row if self.preprocess is None else {**row, **PREPROCESSORS[self.preprocess].rewrite(row)}

    @property
    def label_texts(self) -> tuple[str, ...]:
        """What a model writes for each label of kind "class"."""
        if self.kind != "class":
            return ()
        return tuple(self._label_names.values() if self.writes == "name" else self._label_names)

    @cached_property
    def _label_names(self) -> dict[str, str]:
        """The label's number, as text -> its name."""
        return {str(number): name for number, name in enumerate(self.labels or ())}

    @cached_property
    def _label_choices(self) -> dict[str, str]:
        """What a label column may hold, as text -> the label's number, as text."""
        by_name = {name: number for number, name in self._label_names.items()}
        by_number = {number: number for number in self._label_names}
        return by_name if self._names_are_numbers or self._contradict_their_numbers else by_name | by_number

    @cached_property
    def _label_numbers(self) -> dict[str | Decimal, str]:
        """What a label column may hold, however it is written -> the label's number, as text."""
        return {label_key(text): number for text, number in self._label_choices.items()}

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
                f"from 0 there, or name them as the column does: labels: [{names}]"
            )

    def label_name(self, text: str) -> str | None:
        """The label that a predicted text stands for ("1" -> "acceptable"), or None where it is no answer.

        A score or a free text stands for itself.
        """
        text = text.strip()
        if self.kind == "class":
            return self._label_names.get(self.number_written(text))
        return text if self.kind != "score" or read_score(text) is not None else None

    def number_written(self, text: str) -> str:
        """The number of the label that a text of kind "class" writes; what writes none stays no number of a label."""
        if self.writes == "number":
            return text
        numbers = {name: number for number, name in self._label_names.items()}
        return numbers.get(text, "<no name>")  # not the text, which may be another task's number

    def is_valid(self, text: str) -> bool:
        """Whether a predicted text is an answer at all."""
        return self.label_name(text) is not None


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


def load_task_file(path: str | Path) -> Task:
    """The task that a YAML file describes; the paths of its files are relative to the YAML file.

    Raises:
        UserError: the file is missing or no YAML, or a field is unknown, missing or wrong.
    """
    path = _existing(Path(path), "task file")
    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected fields and their values (name: …), got {type(fields).__name__}")
    if {"data", "extends", "base"} & fields.keys():  # of a configuration; a task has none of these
        data = fields.get("data")
        named = _one_or_more(data.get("tasks")) if isinstance(data, dict) else ()
        tasks = (
            f"; its tasks: {', '.join(map(str, named))}" if named and isinstance(named, list | tuple) else ""
        )
        raise UserError(
            f"{path} is a configuration, no task{tasks}; `hyperadapt init DIR` writes one of each"
        )
    try:
        task = Task(**fields)
    except ValidationError as error:
        raise UserError(f"{path}: {validation_message(error, Task)}") from None
    if task.files is None:
        return task
    # Absolute, so that a saved run finds them from another working directory.
    files = {source: Path(os.path.abspath(path.parent / file)) for source, file in task.files.items()}
    return task.model_copy(update={"files": files})


def read_split(
    task: Task,
    split: str,
    data_dir: str | Path | None = None,
    max_rows: int | None = None,
    seed: int = 42,
    balanced: bool = False,
) -> list[PlacedRow]:
    """The rows of one split of a task, as they are, each with the place that errors name; all else as `load_split`."""
    part = _SLICE.fullmatch(_rows_of(task, split))
    assert part is not None
    rows = _read(task, part["source"], data_dir)
    if task.preprocess is not None:
        places = [place for place, _ in rows]
        rows = list(zip(places, read_each(rows, task.preprocessed), strict=True))
    with naming(f"task '{task.name}', {split} rows"):
        task.check_numbering(row for _, row in rows)
    there = len(rows)
    rows = _slice(rows, part["start"], part["stop"], task.group_of if task.group else None)
    if not rows:
        wanted = " and ".join(f"'{text}' in column '{column}'" for column, text in (task.where or {}).items())
        having = f" with {wanted}" if wanted else ""
        raise UserError(
            f"task '{task.name}': split '{split}' ({part[0]}) is empty: '{part['source']}' has {there} "
            f"rows{having}"
        )
    if max_rows is None:
        return rows
    drawn = _shuffled(rows, seed)
    return (_class_by_class(task, drawn) if balanced else drawn)[:max_rows]


def _rows_of(task: Task, split: str) -> str:
    """Which rows a split has: a source, or a slice of one; an error if the task has no such split."""
    if split not in task.splits:
        remedy = nearest(split, task.splits)
        if task.files and split in SPLITS:
            remedy = f"name a file for it, or part one, as {in_parts(task.splits, task.files, split)}"
        raise UserError(f"task '{task.name}' has no split '{split}'; {remedy}")
    return task.splits[split]


def load_split(
    task: Task,
    split: str,
    data_dir: str | Path | None = None,
    max_rows: int | None = None,
    seed: int = 42,
    prefix: bool = False,
    balanced: bool = False,
) -> Dataset:
    """The texts of one split of a task: columns `source` and `target`, one row each.

    The target is what the row holds: a score its own number, not what the step makes of it (`Task.written`). Where
    there are several fields, `places` say where in the source their texts stand. Of kind "question_answering" the
    source is the question, and there are `context`, `references` and `spans`, the
    places of the references in the context, beside it.

    Args:
        task: says where the rows are and which of them belong to the split.
        split: "train", "validation" or "test".
        data_dir: folder of local copies, in which `task.local` lies; None: the hub. Not for tasks of `files`.
        max_rows: take at most this many rows, drawn by `seed`; the rows for fewer are among the rows for more.
        seed: of the draw of max_rows. The split itself never depends on it.
        prefix: put the task's name in front of the input.
        balanced: of those max_rows, take as many of each class, while it lasts; of kind "class" alone.

    Raises:
        UserError: the task has no such split, a file is missing or unreadable, a row is wrong, or no row is left.
    """
    from datasets import Dataset
    from tqdm.auto import tqdm

    rows = read_split(task, split, data_dir, max_rows, seed, balanced)

    def texts_of(row: Row) -> list[dict[str, Any]]:
        if split == "train" and task.candidate is not None and task.label_number(row) == "0":
            return []  # what the pronoun does stand for is not said
        of_row: dict[str, Any] = {**task.inputs(row, prefix), "target": task.target_text(row)}
        if (references := task.references(row)) is not None:
            of_row["references"] = list(references)
        if task.kind == "question_answering":
            answers, spans = task.answers(row)
            of_row["spans"] = [list(span) for span in spans]
            if task.every_answer and split == "train":
                return [{**of_row, **_only(answers, spans, number)} for number in range(len(answers))]
        return [of_row]

    counted = tqdm(rows, desc=f"{task.name} {split}", unit=" rows", delay=2, leave=False)
    texts = [text for of_row in read_each(counted, texts_of) for text in of_row]
    read = [*task.fields.values(), *([task.label] if task.kind == "text" else [])]
    _say_what_is_empty(f"task '{task.name}', {split}", [row for _, row in rows], read)
    if not texts:
        raise UserError(
            f"task '{task.name}': none of the {len(rows)} training rows has a right candidate, which alone can be "
            f"trained on; raise max_rows, or see column '{task.label}'"
        )
    return Dataset.from_list(texts)


def _only(answers: list[str], spans: list[Span], number: int) -> dict[str, Any]:
    """What a row becomes whose only answer is this one."""
    own = [[start, end, 0] for start, end, of in spans if of == number]
    return {"target": answers[number], "references": [answers[number]], "spans": own}


def input_texts(task: Task, rows: Sequence[PlacedRow], prefix: bool) -> dict[str, list[Any]]:
    """The input texts of rows to be predicted, whose labels need not be there.

    They are in columns as those of `load_split`: `source` with `places`, and of questions `context`.

    Args:
        task: whose `fields` are read.
        rows: each with the place that errors name.
        prefix: put the task's name in front of each.

    Raises:
        UserError: a row has not a text in every field's column.
    """
    preprocessed = read_each(rows, task.preprocessed)
    places = [place for place, _ in rows]
    texts = read_each(zip(places, preprocessed, strict=True), lambda row: task.inputs(row, prefix))
    _say_what_is_empty(f"task '{task.name}'", preprocessed, task.fields.values())
    return {column: [of_row[column] for of_row in texts] for column in (texts[0] if texts else ())}


def _say_what_is_empty(what: str, rows: Sequence[Row], columns: Iterable[str]) -> None:
    """Say in how many rows a column that is read has no text, as what a table misses is the empty text."""
    empty = {
        column: sum(not text_of(row, column).strip() for row in rows) for column in dict.fromkeys(columns)
    }
    if told := ", ".join(f"'{column}' is empty in {number}" for column, number in empty.items() if number):
        notice(f"{what}: of {len(rows)} rows, {told}")


def _slice(
    rows: list[PlacedRow], start: str | None, stop: str | None, group_of: Callable[[Row], str] | None = None
) -> list[PlacedRow]:
    """Rows start … stop - 1 in the order of SPLIT_SEED; a bound is a count or a percentage of the rows.

    The rows of a group stand together, where its first one would, and are in the slice if that first one is.
    """
    if start is None and stop is None:
        return rows

    def bound(text: str) -> int:
        return len(rows) * int(text[:-1]) // 100 if text.endswith("%") else int(text)

    bounds = slice(bound(start or "0%"), bound(stop or "100%"))
    ordered = _shuffled(rows, SPLIT_SEED)
    if group_of is None:
        return ordered[bounds]
    groups: dict[str, list[PlacedRow]] = {}
    for placed in ordered:
        groups.setdefault(group_of(placed[1]), []).append(placed)
    places = range(len(rows))[bounds]
    begins, kept = 0, []
    for members in groups.values():
        kept += members if begins in places else []
        begins += len(members)
    return kept


def _shuffled(rows: list[PlacedRow], seed: int) -> list[PlacedRow]:
    return [rows[index] for index in drawn_order(len(rows), seed)]


def drawn_order(count: int, seed: int = SPLIT_SEED) -> list[int]:
    """The numbers of rows in the order of a seed, by default of that in which slices take them."""
    import torch

    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _class_by_class(task: Task, rows: list[PlacedRow]) -> list[PlacedRow]:
    """Order rows so that the first n hold as many of each class, for any n, while a class lasts."""
    if task.kind != "class":
        return rows
    seen: Counter[str] = Counter()
    rank = []
    for number in read_each(rows, task.label_number):
        seen[number] += 1
        rank.append(seen[number])
    return [rows[index] for index in sorted(range(len(rows)), key=rank.__getitem__)]


def _read(task: Task, sources: str, data_dir: str | Path | None) -> list[PlacedRow]:
    """All rows of the task in one source, or in several one after another ("train_r1+train_r2"), in order."""
    return [placed for source in sources.split("+") for placed in _read_source(task, source, data_dir)]


def _read_source(task: Task, source: str, data_dir: str | Path | None) -> Iterable[PlacedRow]:
    if task.generated:
        from hyperadapt.tasks.builtin import generate_rows

        return [(f"task '{task.name}'", row) for row in generate_rows(task.name, source)]
    if (path := _file(task, source, data_dir)) is not None:
        return read_file(path, list(task.columns), task.where)
    assert task.hub is not None
    with naming(f"task '{task.name}'"):
        try:
            return read_hub(task.hub, task.hub_config, source, list(task.columns), task.where)
        except MissingData as error:
            raise _with_data_set(task, error) from None


def _file(task: Task, source: str, data_dir: str | Path | None) -> Path | None:
    """The file of a source's rows, None where they come from elsewhere; an error if it is not there."""
    if task.files is not None:
        return _existing(task.files[source], f"task '{task.name}', {source} file")
    if task.local is not None and data_dir is not None:
        path = Path(data_dir) / task.local / f"{source}.parquet"
        try:
            return _existing(path, f"task '{task.name}', {source} rows")
        except UserError as error:
            raise _with_data_set(task, error) from None
    if task.hub is None and not task.generated:
        raise _with_data_set(
            task, f"task '{task.name}' has its rows in the folder {task.local}: data_dir must say where"
        )
    return None


def _with_data_set(task: Task, missing: object) -> MissingData:
    return MissingData(f"{missing}; {task.data_set_in_words}")


def check_trainable(tasks: Sequence[Task], data_dir: str | Path | None) -> None:
    """Check that tasks have the splits of a training, and that their rows can be had, as `check_there` does.

    Raises:
        UserError: if a split is missing, and what is there instead; or as `check_there`.
    """
    for task in tasks:
        for split in SPLITS[:2]:
            _rows_of(task, split)
    check_there(tasks, data_dir)


def check_there(tasks: Sequence[Task], data_dir: str | Path | None, splits: Sequence[str] = SPLITS) -> None:
    """Check that the files of tasks are there, and that the hub answers where data sets must be loaded from it.

    What the hub answers to all else, reading finds out.

    Args:
        tasks: any.
        data_dir: as of `load_split`.
        splits: that are needed, of the tasks that have them.

    Raises:
        UserError: some have no rows: which is the first, what its data set is and where to get it, and which the
            others are.
    """
    missing: dict[str, MissingData] = {}
    unloaded: dict[str, Task] = {}
    for task in tasks:
        try:
            if _must_be_loaded(task, data_dir, splits):
                unloaded[task.name] = task
        except MissingData as error:
            missing[task.name] = error
    if (why := why_not_asked(task.hub for task in unloaded.values())) is not None:
        for name, task in unloaded.items():
            told = f"task '{name}': {task.hub_in_words} cannot be had from the hub: {why}"
            missing[name] = _with_data_set(task, told)
    if not missing:
        return
    first, *others = dict.fromkeys(task.name for task in tasks if task.name in missing)
    if not others:
        raise missing[first]
    lack = "1 more task lacks its" if len(others) == 1 else f"{len(others)} more tasks lack their"
    names = ", ".join([*others[:MOST_LISTED], *["…"] * (len(others) > MOST_LISTED)])
    raise MissingData(f"{missing[first]}; {lack} rows: {names}")


def _must_be_loaded(task: Task, data_dir: str | Path | None, splits: Sequence[str]) -> bool:
    """Whether rows of splits are the hub's, and none were loaded before; an error if they are files, and not there."""
    parts = [task.splits[split] for split in splits if split in task.splits]
    files = [_file(task, source, data_dir) for part in parts for source in _source_of(part).split("+")]
    if task.hub is None or None not in files:
        return False
    with naming(f"task '{task.name}'"):
        check_hub_name(task.hub)
    return not was_loaded(task.hub)


def _existing(path: Path, what: str) -> Path:
    """The path, if it is a file; else an error that says how far it leads and what is there instead."""
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{what}: {path} is a folder, expected a file")
    raise UserError(f"{what}: {path} does not exist: {nothing_at(path)}")
