"""The rows of a task's splits, and the texts that they give."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hyperadapt.errors import UserError, nearest, nothing_at, notice, validation_message
from hyperadapt.fields import one_or_more
from hyperadapt.files.yaml_and_json import read_yaml
from hyperadapt.tasks.labels import MOST_LISTED
from hyperadapt.tasks.sources import (
    MissingData,
    PlacedRow,
    Row,
    check_hub_name,
    naming,
    read_each,
    read_file,
    read_hub,
    text_of,
    was_loaded,
    why_not_asked,
)
from hyperadapt.tasks.splits import SLICE, SPLITS, in_parts, shuffled, sliced, source_of
from hyperadapt.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


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
        named = one_or_more(data.get("tasks")) if isinstance(data, dict) else ()
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
    part = SLICE.fullmatch(_rows_of(task, split))
    assert part is not None
    rows = _read(task, part["source"], data_dir)
    if task.preprocess is not None:
        places = [place for place, _ in rows]
        rows = list(zip(places, read_each(rows, task.preprocessed), strict=True))
    with naming(f"task '{task.name}', {split} rows"):
        task.check_numbering(row for _, row in rows)
    there = len(rows)
    rows = sliced(rows, part["start"], part["stop"], task.group_of if task.group else None)
    if not rows:
        wanted = " and ".join(f"'{text}' in column '{column}'" for column, text in (task.where or {}).items())
        condition = f" with {wanted}" if wanted else ""
        raise UserError(
            f"task '{task.name}': split '{split}' ({part[0]}) is empty: '{part['source']}' has {there} "
            f"rows{condition}"
        )
    if max_rows is None:
        return rows
    drawn = shuffled(rows, seed)
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

    rows, kind = read_split(task, split, data_dir, max_rows, seed, balanced), task.kind_of_task

    counted = tqdm(rows, desc=f"{task.name} {split}", unit=" rows", delay=2, leave=False)
    texts = [
        text
        for of_row in read_each(counted, partial(kind.examples, task, split=split, prefix=prefix))
        for text in of_row
    ]
    _say_what_is_empty(f"task '{task.name}', {split}", [row for _, row in rows], kind.texts(task))
    if not texts:
        raise UserError(
            f"task '{task.name}': none of the {len(rows)} training rows has a right candidate, which alone can be "
            f"trained on; raise max_rows, or see column '{task.label}'"
        )
    return Dataset.from_list(texts)


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
    _say_what_is_empty(f"task '{task.name}'", preprocessed, task.kind_of_task.input_texts(task))
    return {column: [of_row[column] for of_row in texts] for column in (texts[0] if texts else ())}


def _say_what_is_empty(what: str, rows: Sequence[Row], columns: Iterable[str]) -> None:
    """Say in how many rows a column that is read has no text, as what a table misses is the empty text."""
    empty = {
        column: sum(not text_of(row, column).strip() for row in rows) for column in dict.fromkeys(columns)
    }
    if told := ", ".join(f"'{column}' is empty in {number}" for column, number in empty.items() if number):
        notice(f"{what}: of {len(rows)} rows, {told}")


def _class_by_class(task: Task, rows: list[PlacedRow]) -> list[PlacedRow]:
    """Order rows so that the first n hold as many of each class, for any n, while a class lasts."""
    classes = task.kind_of_task.class_by_class(task, rows)
    if classes is None:
        return rows
    seen: Counter[str] = Counter()
    rank = []
    for number in classes:
        seen[number] += 1
        rank.append(seen[number])
    return [rows[index] for index in sorted(range(len(rows)), key=rank.__getitem__)]


def _read(task: Task, sources: str, data_dir: str | Path | None) -> list[PlacedRow]:
    """All rows of the task in one source, or in several one after another ("train_r1+train_r2"), in order."""
    return [placed for source in sources.split("+") for placed in _read_source(task, source, data_dir)]


def generated_rows(name: str, source: str) -> list[dict[str, Any]]:
    """Generate the rows of one source of a task that comes with the package, by its name."""
    from hyperadapt.tasks.suites import builtin, many

    return many.rows_of(name)[source] if many.skills_of(name) else builtin.generate_rows(name, source)


def _read_source(task: Task, source: str, data_dir: str | Path | None) -> Iterable[PlacedRow]:
    if task.generated:
        return [(f"task '{task.name}'", row) for row in generated_rows(task.name, source)]
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
    files = [_file(task, source, data_dir) for part in parts for source in source_of(part).split("+")]
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
