"""Scores: numbers, which the model writes to the nearest multiple of a step; correlations in percent, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hyperadapt.errors import notice
from hyperadapt.tasks.kinds.base import Kind, Metric, Target, label_of
from hyperadapt.tasks.scores import chosen_step, number_text, to_step
from hyperadapt.tasks.sources import Row, WrongCell, as_text

if TYPE_CHECKING:
    from hyperadapt.tasks.task import Task

# What is larger, a text of one digit too many, would overflow in a square, and is as unreadable as a word.
LARGEST_SCORE = 1e15


def pearson(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Pearson correlation of scores; constant ones give 0."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, targets)


def spearman(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Spearman correlation of scores' ranks; constant ones give 0."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, targets)


def _correlation(statistic: Callable, predictions: Sequence[str], targets: Sequence[str]) -> float:
    answers, scores = read_scores(predictions, targets)
    if len(set(answers)) == 1 or len(set(scores)) == 1:
        return 0.0
    return 100 * float(statistic(answers, scores).statistic)


def mae(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Mean absolute error of scores, in their own unit."""
    errors = [abs(answer - score) for answer, score in zip(*read_scores(predictions, targets), strict=True)]
    return math.fsum(errors) / len(errors)


def mse(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Mean squared error of scores, in the square of their own unit."""
    errors = [(answer - score) ** 2 for answer, score in zip(*read_scores(predictions, targets), strict=True)]
    return math.fsum(errors) / len(errors)


def r2(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """R2, the share of the targets' variance that the predictions explain; targets that are all alike give 0."""
    scores = [float(text) for text in targets]
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((score - mean) ** 2 for score in scores) / len(scores)
    return 100 * (1 - mse(predictions, targets) / variance) if len(set(scores)) > 1 else 0.0


def read_scores(predictions: Sequence[str], targets: Sequence[str]) -> tuple[list[float], list[float]]:
    """The numbers of predictions and targets; what is unreadable counts as -1, or as 1 less than the lowest target.

    That is -1 where no target is negative, as HyperFormer's code has it, and never right.
    """
    scores = [float(text) for text in targets]
    wrong = min(0.0, min(scores)) - 1
    return [wrong if (score := read_score(text)) is None else score for text in predictions], scores


def read_score(text: str) -> float | None:
    """The number that a text writes, or None if it writes none, or one beyond `LARGEST_SCORE`."""
    try:
        score = float(text)
    except ValueError:
        return None
    return score if abs(score) <= LARGEST_SCORE else None


class Scores(Kind):
    """A number."""

    name = "score"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "pearson": pearson,
        "spearman": spearman,
        "mae": mae,
        "mse": mse,
        "r2": r2,
    }
    reported_only = frozenset({"mae", "mse", "r2"})
    target_length = 8
    holds = "number"
    own_fields = frozenset({"step"})
    closed = True

    def target(self, task: Task, row: Row) -> str:
        """Return the row's own number, whatever the step."""
        value = task.answer_of(row)
        text = as_text(value)
        score = None if text is None else read_score(text)
        if score is None:
            is_too_large = isinstance(value, int | float) and LARGEST_SCORE < abs(value) < math.inf
            limit = f": the largest is {LARGEST_SCORE:g}" if is_too_large else ""
            if text is not None and read_score(text.replace(",", ".")) is not None:
                limit = ": its decimals must stand behind a point, not a comma"
            raise WrongCell(task.label, value, "is no score", limit)
        return number_text(score)

    def written(self, task: Task, target: str) -> str:
        """Return the nearest multiple of the step."""
        assert task.step is not None, "with_step knows it"
        return to_step(target, task.step)

    def fitted(self, task: Task, targets: Iterable[str]) -> Task:
        """Return the task with a step: its own, or one that fits its training targets, which is said.

        It is said too if its own is so coarse that all are written alike.
        """
        scores = sorted(set(targets), key=float)
        fitted = task.model_copy(update={"step": task.step or chosen_step(scores)})
        written = {fitted.written(score) for score in scores}
        what = f"task '{task.name}': scores from {scores[0]} to {scores[-1]}"
        if task.step is None:
            merged = f"; {len(scores):,} different ones become {len(written):,}" * (
                len(written) < len(scores)
            )
            notice(
                f"{what} are written to the nearest {fitted.step:g}{merged} (`step` in its file says another)"
            )
        elif len(written) == 1 < len(scores):
            finer = f"; step: {chosen_step(scores):g} tells them apart"
            notice(f"{what} are all written '{written.pop()}' with step {task.step:g}{finer}")
        return fitted

    def outputs(self, task: Task) -> int | None:
        return 1

    def number(self, task: Task, target: str) -> float:
        return float(target)

    def label_name(self, task: Task, text: str) -> str | None:
        return text if read_score(text) is not None else None

    def is_target(self, value: Any) -> bool:
        return isinstance(value, str) and read_score(value) is not None

    def verdict(self, task: Task, text: str, target: Target) -> str:
        """Say how far off an answer is."""
        return f"off by {abs(float(text) - float(label_of(target))):.3g}"

    def why_unwritable(self, task: Task) -> tuple[str, str]:
        return "score", "choose a coarser step"
