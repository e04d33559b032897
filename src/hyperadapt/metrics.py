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
    """How a model did on one task.

    Attributes:
        task: its name.
        metrics: by name.
        score: the mean of those that count.
        rows: how many.
        invalid: answers that are none.
        calibration_error: of the answers' probabilities, in percent; None where answers have none.
    """

    task: str
    metrics: dict[str, float]
    score: float
    rows: int
    invalid: int
    calibration_error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the task's entry in results.json."""
        entry = {"score": self.score, "metrics": self.metrics, "rows": self.rows, "invalid": self.invalid}
        error = self.calibration_error
        return entry if error is None else {**entry, "calibration_error": error}


BINS = 10


def calibration_error(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """Compute the expected calibration error, in percent (Guo et al. 2017, eq. 3): how far probabilities are off.

    Answers are put into ten bins by their probability; of each the share that is right is compared with the mean
    probability, and the differences are averaged over answers.

    Args:
        probabilities: of each answer that was given.
        right: whether it is right.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for probability, is_right in zip(probabilities, right, strict=True):
        bins.setdefault(min(int(probability * BINS), BINS - 1), []).append((probability, is_right))
    gaps = (abs(sum(said for said, _ in held) - sum(truth for _, truth in held)) for held in bins.values())
    return 100 * sum(gaps) / len(probabilities)


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
