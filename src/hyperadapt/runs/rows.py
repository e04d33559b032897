"""Which rows of each task a run takes, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hyperadapt.architectures import Architecture
from hyperadapt.architectures.choices import Choices
from hyperadapt.config.written import RunConfig
from hyperadapt.evaluation import EvaluationSet
from hyperadapt.tasks import Task, check_there, load_split
from hyperadapt.tasks.kinds import Target

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def rows_drawn(config: RunConfig, split: str) -> tuple[Any, ...]:
    """Return what decides which of a split's rows a run takes, and how they read: their draw, and their prefix."""
    drawn = draw_of(config, split)
    return (None if drawn[0] is None else drawn, config.prefix)


def draw_of(config: RunConfig, split: str) -> tuple[int | None, int, bool]:
    """Return how a split's rows are drawn: the most of each task, the seed, whether balanced."""
    data = config.data
    if split == "train":
        return data.max_train_rows, config.training_rows_seed, data.balanced
    most = data.max_eval_rows if split == "validation" else data.max_test_rows
    return most, 42 if data.subsample_seed is None else data.subsample_seed, False


def with_saved_steps(tasks: Sequence[Task], saved: Sequence[Task]) -> tuple[Task, ...]:
    """Give score tasks the steps with which a run has them already, where they say none themselves."""
    steps = {task.name: task.step for task in saved}
    return tuple(
        task.model_copy(update={"step": steps[task.name]})
        if task.step is None and task.name in steps
        else task
        for task in tasks
    )


def load_evaluation_set(
    tasks: Sequence[Task],
    split: str,
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    architecture: Architecture,
    max_rows: int | None = None,
) -> EvaluationSet:
    """Load and tokenize a split of several tasks, at most max_rows of each, else as many as in training."""
    data = config.data
    check_there(tasks, data.data_dir, [split])
    rows = [load_rows(task, split, config, max_rows) for task in tasks]
    tokenized = [
        architecture.inputs(
            {name: texts[name] for name in texts.column_names},
            tokenizer,
            data.input_format,
            task,
            f"{split} rows",
        )
        for task, texts in zip(tasks, rows, strict=True)
    ]
    targets: list[list[Target]] = [
        [tuple(references) for references in texts["references"]]
        if "references" in texts.column_names
        else list(texts["target"])
        for texts in rows
    ]
    return EvaluationSet(
        tuple(tasks),
        [ids for ids, _ in tokenized],
        targets,
        [places for _, places in tokenized],
        rows,
        [choices_of(task, config, tokenizer, architecture) for task in tasks],
    )


def choices_of(
    task: Task, config: RunConfig, tokenizer: PreTrainedTokenizerBase, architecture: Architecture
) -> Choices | None:
    """Return what may be answered to a task, where one of a few texts is chosen; None where the answer is generated."""
    if config.evaluation.answers == "generate" and architecture.can_generate:
        return None
    return architecture.choices(task, tokenizer, config.data.input_format)


def load_rows(task: Task, split: str, config: RunConfig, max_rows: int | None = None) -> Dataset:
    """Load the rows of a task's split that a run takes, at most max_rows of them, else as many as in training."""
    most, seed, balanced = draw_of(config, split)
    most = most if max_rows is None else max_rows
    return load_split(task, split, config.data.data_dir, most, seed, config.prefix, balanced)
