"""What a run predicted: every row of a split in one file, samples of them, and which class was taken for which.

predictions-SPLIT.jsonl.gz has a line for each row: task, input, target (all that would be right, where there are
several) and written, what the model wrote, as `hyperadapt predict` calls it too. pandas and datasets read the file by
its name, and so does zless.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hyperadapt.errors import CheckpointError, UserError, as_written, nearest, shortened
from hyperadapt.files.writing import write_atomically
from hyperadapt.files.yaml_and_json import parse_json
from hyperadapt.tasks.kinds import Kind, Target, label_of

if TYPE_CHECKING:
    from datasets import Dataset

    from hyperadapt.evaluation import Results
    from hyperadapt.tasks import Task

INVALID = "invalid"


@dataclass(frozen=True)
class PredictedRow:
    """A row of a task as the model read it, what was right, and what the model wrote."""

    task: str
    input: str
    target: Target
    written: str


def file_of(directory: Path, split: str) -> Path:
    """Return the file of a split's predictions."""
    return directory / f"predictions-{split}.jsonl.gz"


def write_predictions(directory: Path, split: str, results: Results) -> None:
    """Write a split's predictions into a run's directory."""
    content, rows = io.BytesIO(), results.rows
    # Without the time and name that gzip would add: the same predictions are the same file.
    with (
        gzip.GzipFile(filename="", fileobj=content, mode="wb", mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", errors="backslashreplace", newline="\n") as lines,
    ):
        for task, texts, targets, predictions in zip(
            rows.tasks, rows.texts, rows.targets, results.predictions, strict=True
        ):
            for source, target, text in zip(whole_inputs(texts), targets, predictions, strict=True):
                row = PredictedRow(task.name, source, target, text)
                lines.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
    write_atomically(file_of(directory, split), content.getvalue())


def whole_inputs(texts: Dataset) -> Sequence[str]:
    """Return the input texts of rows from `load_split`, those of questions with their contexts."""
    if "context" not in texts.column_names:
        return texts["source"]
    return [source + context for source, context in zip(texts["source"], texts["context"], strict=True)]


def read_predictions(directory: Path, split: str, tasks: Iterable[Task]) -> list[PredictedRow]:
    """Read a split's predictions, none where they were not kept, as by earlier versions.

    Args:
        directory: the run's.
        split: the split's name.
        tasks: the run's tasks.

    Raises:
        CheckpointError: if the file is damaged, naming the first line that is no prediction of one of the tasks.
    """
    file = file_of(directory, split)
    if not file.is_file():
        return []
    by_name, rows = {task.name: task for task in tasks}, []
    again = f"evaluate on the {split} rows again"
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="\n") as lines:
            for line in lines:
                rows.append(row_of(parse_json(line), by_name))
    except UserError as error:
        raise CheckpointError(f"{file} is damaged (line {len(rows) + 1}: {error}); {again}") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise CheckpointError(f"{file} is damaged ({error}); {again}") from None
    return rows


def row_of(values: Any, tasks: Mapping[str, Task]) -> PredictedRow:
    """Make a predicted row of what a line holds.

    Args:
        values: as JSON has them.
        tasks: those that it may be of, by name.

    Raises:
        UserError: if a field is missing, unknown or of the wrong type, or the target is none that its task can have.
    """
    names = [field.name for field in fields(PredictedRow)]
    if (
        isinstance(values, dict) and "prediction" in values and "written" not in values
    ):  # of an earlier version
        values = {"written" if name == "prediction" else name: value for name, value in values.items()}
    if not isinstance(values, dict) or set(values) != set(names):
        raise UserError(f"it must have {', '.join(names)}, and nothing else")
    for name in ("task", "input", "written"):
        if not isinstance(values[name], str):
            raise UserError(f"{name} must be a text, not {as_written(values[name])}")
    name, target = values["task"], values["target"]
    if name not in tasks:
        raise UserError(f"the run has no task '{shortened(name)}'; {nearest(name, tasks)}")
    if not is_target(target, tasks[name].kind_of_task):
        raise UserError(f"{as_written(target)} is no target of a task of kind '{tasks[name].kind}'")
    return PredictedRow(**{**values, "target": tuple(target) if isinstance(target, list) else target})


def is_target(value: Any, kind: Kind) -> bool:
    """Whether a value can be what is right in a row of a task of this kind: a text, or several."""
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and all(isinstance(text, str) for text in texts) and kind.is_target(value)


def by_task(rows: Iterable[PredictedRow]) -> dict[str, list[PredictedRow]]:
    """Part predictions by task, in the order in which tasks come."""
    parted: dict[str, list[PredictedRow]] = {}
    for row in rows:
        parted.setdefault(row.task, []).append(row)
    return parted


def samples(parted: dict[str, list[PredictedRow]], number: int) -> list[PredictedRow]:
    """Draw rows of all tasks, as many of each as of the others while they last, the same ones every time.

    Args:
        parted: each task's rows.
        number: how many in all.
    """
    shares = dict.fromkeys(parted, 0)
    for _ in range(number):
        left = [task for task, rows in parted.items() if shares[task] < len(rows)]
        if left:
            shares[min(left, key=shares.__getitem__)] += 1
    return [
        rows[place]
        for task, rows in parted.items()
        for place in sorted(Random(task).sample(range(len(rows)), shares[task]))
    ]


def verdict(task: Task, row: PredictedRow) -> str:
    """Say whether a prediction is right, wrong or no answer at all; of a score, how far off it is."""
    if not task.is_valid(row.written):
        return INVALID
    return task.kind_of_task.verdict(task, row.written.strip(), row.target)


def confusion(task: Task, rows: Sequence[PredictedRow]) -> list[list[int]]:
    """Count for each label the rows whose target it is, by the label that was predicted, invalid answers last.

    Args:
        task: of kind "class".
        rows: its predictions.
    """
    counts = Counter((task.label_name(label_of(row.target)), task.label_name(row.written)) for row in rows)
    labels = task.labels or ()
    return [[counts[target, predicted] for predicted in (*labels, None)] for target in labels]
