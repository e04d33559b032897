"""What is odd about the rows that a run trains and is scored on: each said once, with counts, and none refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hyperadapt.errors import notice
from hyperadapt.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

    from hyperadapt.evaluation import EvaluationSet


def remark_on_rows(
    tasks: Sequence[Task], train: Sequence[Dataset], evaluated: Mapping[str, EvaluationSet]
) -> None:
    """Say what training rows contradict each other, lack a label, or are scored on as well.

    Args:
        tasks: that are trained.
        train: the training texts of each, as `load_split` gives them.
        evaluated: split -> its rows, of the tasks that have it.
    """
    scored = {
        split: dict(zip((task.name for task in rows.tasks), rows.texts, strict=True))
        for split, rows in evaluated.items()
    }
    for task, texts in zip(tasks, train, strict=True):
        targets = dict[int, set[str]]()
        for text, target in zip(
            inputs_of(texts), texts.with_format("arrow")["target"].to_pylist(), strict=True
        ):
            targets.setdefault(text, set()).add(target)
        if task.kind_of_task.closed and (torn := sum(len(found) > 1 for found in targets.values())):
            notice(
                f"task '{task.name}': {torn} of {len(targets)} training inputs stand there with different labels"
            )
        if task.label_texts:
            seen = {task.label_name(target) for found in targets.values() for target in found}
            if unseen := [name for name in task.labels or () if name not in seen]:
                notice(f"task '{task.name}': no training row has the label {' or '.join(map(repr, unseen))}")
        for split, rows in scored.items():
            if task.name in rows and (shared := sum(text in targets for text in inputs_of(rows[task.name]))):
                notice(
                    f"task '{task.name}': {shared} of {len(rows[task.name])} {split} rows stand among its training rows"
                )


def inputs_of(texts: Dataset) -> list[int]:
    """Hash each row's input: equal inputs are equal numbers, and others, but for one in 2^64 pairs, are not."""
    columns = [name for name in ("source", "context") if name in texts.column_names]
    table = texts.with_format("arrow")[:]
    return list(map(hash, zip(*(table[name].to_pylist() for name in columns), strict=True)))
