"""Runs that look finished to whatever reads them: results and predictions that are made up, and agree."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from hyperadapt.metrics import average, score_task
from hyperadapt.runs.predictions import file_of
from hyperadapt.studies.comparison import Cell
from hyperadapt.tasks import Task, resolve_tasks

ROWS = 12


def finish(cells: Iterable[Cell], right: float = 0.5, rows: int = ROWS) -> None:
    """Write results and predictions of runs.

    Args:
        cells: the runs; what one has written is drawn anew for each seed and variant, the rows are the same ones.
        right: the share of rows that are answered rightly.
        rows: of each task.
    """
    for cell in cells:
        cell.directory.mkdir(parents=True, exist_ok=True)
        tasks = resolve_tasks(cell.config.data.tasks)
        luck = Random(f"{cell.variant} {cell.seed}")
        of_splits = {split: scored(cell, split, tasks, right, rows, luck) for split in ("validation", "test")}
        results = {
            **of_splits,
            "majority": of_splits,
            "parameters": {
                "base": 1000,
                "total": 1100,
                "trained": 150,
                "tasks": len(tasks),
                "trained_per_task_percent": 15 / len(tasks),
            },
            "train_seconds": 1.0,
            "step_seconds": luck.uniform(0.1, 0.2),
            "peak_memory_mb": luck.randrange(500, 900),
            "loaded_memory_mb": 400,
            "training_rows": {task.name: 100 for task in tasks},
        }
        (cell.directory / "results.json").write_text(json.dumps(results))


def scored(
    cell: Cell, split: str, tasks: Sequence[Task], right: float, rows: int, luck: Random
) -> dict[str, Any]:
    """Write a split's predictions, and return its scores."""
    lines, scores = [], []
    for task in tasks:
        same = Random(f"{task.name} {split}")
        targets = [target_of(task, row, same) for row in range(rows)]
        written = [
            answer_of(task, target if luck.random() < right else luck.choice(targets)) for target in targets
        ]
        scores.append(score_task(task, written, targets))
        lines += [
            {"task": task.name, "input": f"row {row} of {task.name}", "target": target, "written": text}
            for row, (target, text) in enumerate(zip(targets, written, strict=True))
        ]
    with gzip.open(file_of(cell.directory, split), "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    of_tasks = {
        score.task: {"score": score.score, "metrics": score.metrics, "rows": rows} for score in scores
    }
    return {"average": average(scores), "tasks": of_tasks}


def target_of(task: Task, row: int, same: Random) -> Any:
    """Make a target that a task can have."""
    words = " ".join(same.choices(["red", "green", "blue", "grey", "pink"], k=4))
    if task.kind == "class":
        label = task.label_texts[row % len(task.label_texts)]
        return [label, f"group {row // 2}"] if task.group else label
    if task.kind == "score":
        return f"{same.randrange(6)}.0"
    if task.kind == "coreference":
        return [words, str(row % 2)]
    return [words] if task.kind == "question_answering" else words


def answer_of(task: Task, target: Any) -> str:
    """Answer as a target has it."""
    return target if isinstance(target, str) else target[0]
