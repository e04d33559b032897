"""The scores of tasks, which are made of their metrics (hyperadapt.tasks.kinds), and their average.

A task's score is the mean of its metrics, and a run's is the average over its tasks (GLUE, Wang et al., 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hyperadapt.errors import UserError
from hyperadapt.tasks.kinds import METRICS, Target

if TYPE_CHECKING:
    from hyperadapt.tasks.task import Task


def metric_in_words(metric: str, value: float, decimals: int) -> str:
    """A metric's name and value: percent with so many decimals, an error, of whatever size, with four digits."""
    return f"{metric} {value:.4g}" if metric in ("mae", "mse") else f"{metric} {value:.{decimals}f}"


@dataclass(frozen=True)
class TaskScore:
    """How a model did on one task: its metrics, the mean of those that count, and how many answers were invalid."""

    task: str
    metrics: dict[str, float]
    score: float
    rows: int
    invalid: int

    def as_dict(self) -> dict[str, Any]:
        """Return the task's entry in results.json."""
        return {"score": self.score, "metrics": self.metrics, "rows": self.rows, "invalid": self.invalid}


def comparable(
    task: Task, predictions: Sequence[str], targets: Sequence[Target]
) -> tuple[list[str], dict[str, Sequence[Any]]]:
    """Make predictions and targets what metrics compare, as numbers of classes; the targets for each of the metrics."""
    texts = [text.strip() for text in predictions]
    expected = [target.strip() if isinstance(target, str) else target for target in targets]
    return task.kind_of_task.compared(task, texts, expected)


def score_task(task: Task, predictions: Sequence[str], targets: Sequence[Target]) -> TaskScore:
    """Score a task's predictions with the task's metrics; white space around a text does not count.

    Raises:
        UserError: there are no rows, or not as many predictions as targets.
    """
    if not targets or len(predictions) != len(targets):
        raise UserError(
            f"task '{task.name}': cannot score {len(predictions)} predictions of {len(targets)} rows"
        )
    invalid = sum(not task.is_valid(text.strip()) for text in predictions)
    texts, compared = comparable(task, predictions, targets)
    metrics = {name: METRICS[name](texts, compared[name]) for name in task.metrics}
    return TaskScore(
        task=task.name,
        metrics=metrics,
        score=fmean(metrics[name] for name in task.scoring_metrics),
        rows=len(targets),
        invalid=invalid,
    )


def average(scores: Sequence[TaskScore]) -> float:
    """Mean of the tasks' scores, every task alike whatever its number of rows.

    So is Hyperdecoders' average (Table 1); HyperFormer's (Table 1) is over metrics, of which some tasks have two.

    Raises:
        UserError: there are no scores.
    """
    if not scores:
        raise UserError("no task was scored: there is nothing to average")
    return sum(score.score for score in scores) / len(scores)
