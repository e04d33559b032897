"""What a run predicted: every row of a split in one file, samples of them, and which class was taken for which.

predictions-SPLIT.jsonl.gz has a line for each row: task, input, target (all that would be right, where there are
several) and prediction. pandas and datasets read it by its name, and so does zless.
"""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from hyperadapt.errors import CheckpointError
from hyperadapt.files import write_atomically
from hyperadapt.metrics import METRICS, Target, label_of

if TYPE_CHECKING:
    from datasets import Dataset

    from hyperadapt.evaluation import Results
    from hyperadapt.tasks import Task

INVALID = "invalid"
# By which a single answer is right or wrong; a score is neither, but near or far.
METRIC_OF_ONE = {
    "class": "accuracy",
    "text": "exact_match",
    "question_answering": "answer_exact_match",
    "coreference": "coreference_accuracy",
}


@dataclass(frozen=True)
class PredictedRow:
    """A row of a task as the model read it, what was right, and what the model wrote."""

    task: str
    input: str
    target: Target
    prediction: str


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


def read_predictions(directory: Path, split: str) -> list[PredictedRow]:
    """Read a split's predictions, none where they were not kept, as by earlier versions.

    Raises:
        CheckpointError: if the file is damaged.
    """
    file = file_of(directory, split)
    if not file.is_file():
        return []
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="\n") as lines:
            rows = [PredictedRow(**json.loads(line)) for line in lines]
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); evaluate on the {split} rows again") from None
    return [
        row
        if isinstance(row.target, str)
        else PredictedRow(row.task, row.input, tuple(row.target), row.prediction)
        for row in rows
    ]


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
    if not task.is_valid(row.prediction):
        return INVALID
    if task.kind == "score":
        return f"off by {abs(float(row.prediction) - float(label_of(row.target))):.3g}"
    target = label_of(row.target) if task.kind == "class" else row.target
    return "right" if METRICS[METRIC_OF_ONE[task.kind]]([row.prediction.strip()], [target]) else "wrong"


def confusion(task: Task, rows: Sequence[PredictedRow]) -> list[list[int]]:
    """Count for each label the rows whose target it is, by the label that was predicted, invalid answers last.

    Args:
        task: of kind "class".
        rows: its predictions.
    """
    counts = Counter((task.label_name(label_of(row.target)), task.label_name(row.prediction)) for row in rows)
    labels = task.labels or ()
    return [[counts[target, predicted] for predicted in (*labels, None)] for target in labels]
