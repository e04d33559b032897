"""Classes: one of a few labels, which the model writes as its number or its name; and their metrics, in percent.

Every metric reads texts as the model writes them, so each says how it counts an answer outside the labels: as wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hyperadapt.errors import UserError
from hyperadapt.tasks.kinds.base import Kind, Metric, References, Target, label_of
from hyperadapt.tasks.labels import MOST_LISTED
from hyperadapt.tasks.sources import Row, read_each

if TYPE_CHECKING:
    from hyperadapt.tasks.task import Task

NAME_LENGTH = 16  # tokens of a label's name


def accuracy(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of predictions that equal their target."""
    return 100 * sum(map(str.__eq__, predictions, targets)) / len(targets)


def f1(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """F1 of class "1" against "0"; a prediction that is neither counts as the opposite of its target."""
    from sklearn.metrics import f1_score

    opposite = {"0": "1", "1": "0"}
    pairs = zip(predictions, targets, strict=True)
    answers = [answer if answer in opposite else opposite[target] for answer, target in pairs]
    return 100 * float(f1_score(targets, answers, labels=["1"], average="macro", zero_division=0.0))


def macro_f1(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Mean of the F1 of each class among the targets; any other prediction misses the target's class."""
    from sklearn.metrics import f1_score

    classes = sorted(set(targets))
    return 100 * float(f1_score(targets, predictions, labels=classes, average="macro", zero_division=0.0))


def matthews(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Matthews correlation; predictions of no class among the targets are one more class, never right.

    So answers that are all invalid score 0, as any constant answer does, and not -100.
    """
    from sklearn.metrics import matthews_corrcoef

    classes = set(targets)
    answers = [answer if answer in classes else "<invalid>" for answer in predictions]
    return 100 * float(matthews_corrcoef(targets, answers))


def group_exact_match(predictions: Sequence[str], targets: Sequence[References]) -> float:
    """Share of groups, as the answers of one question, of which every prediction equals its target.

    Each target is a text and the name of its group.
    """
    groups: dict[str, bool] = {}
    for prediction, (target, group) in zip(predictions, targets, strict=True):
        groups[group] = groups.get(group, True) and prediction == target
    return 100 * sum(groups.values()) / len(groups)


class Classes(Kind):
    """One of `labels`, known by its number or its name."""

    name = "class"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": accuracy,
        "f1": f1,
        "macro_f1": macro_f1,
        "matthews": matthews,
        "group_exact_match": group_exact_match,
    }
    right_by = "accuracy"
    target_length = 5
    holds = "label"
    own_fields = frozenset({"labels", "group"})
    closed = True

    def check(self, task: Task) -> None:
        super().check(task)
        if task.labels is None:
            raise UserError(
                "kind 'class' needs labels, the names of the answers, as labels: [bad, good]; where the answers are "
                "numbers or free texts, write kind: score or kind: text"
            )
        if len(task.labels) < 2:
            raise UserError("labels: there must be at least two, all that the column holds, as [bad, good]")

    def target(self, task: Task, row: Row) -> str:
        number = task.label_number(row)
        return task.label_names[number] if task.writes == "name" else number

    def references(self, task: Task, row: Row) -> References | None:
        """Return the target and its group, where there are groups."""
        return (self.target(task, row), task.group_of(row)) if task.group else None

    def answer_in_words(self, task: Task) -> str:
        by_name = task.label_choices.keys() <= set(task.label_names.values())
        labels = [name if by_name else f"{number} {name}" for number, name in task.label_names.items()]
        listed = ", ".join(labels[:MOST_LISTED]) + (", …" if len(labels) > MOST_LISTED else "")
        return listed if by_name else f"{listed}: the number or the name"

    def label_name(self, task: Task, text: str) -> str | None:
        return task.label_names.get(self.number_written(task, text))

    def number_written(self, task: Task, text: str) -> str:
        """Return the number of the label that a text writes; what writes none stays no number of a label."""
        if task.writes == "number":
            return text
        numbers = {name: number for number, name in task.label_names.items()}
        return numbers.get(text, "<no name>")  # not the text, which may be another task's number

    def choices(self, task: Task) -> tuple[str, ...]:
        return tuple(task.label_names.values() if task.writes == "name" else task.label_names)

    def outputs(self, task: Task) -> int | None:
        return len(task.label_names)

    def number(self, task: Task, target: str) -> float:
        return float(self.choices(task).index(target))

    def class_by_class(self, task: Task, rows: Iterable[tuple[str, Row]]) -> list[str] | None:
        return read_each(rows, task.label_number)

    def compared(
        self, task: Task, predictions: Sequence[str], targets: Sequence[Target]
    ) -> tuple[list[str], dict[str, Sequence[Any]]]:
        """Return the numbers of classes."""
        numbers = [self.number_written(task, label_of(target)) for target in targets]
        compared: dict[str, Sequence[Any]] = dict.fromkeys(task.metrics, numbers)
        if task.group:
            groups = [target[1] for target in targets]
            compared["group_exact_match"] = list(zip(numbers, groups, strict=True))
        return [self.number_written(task, text) for text in predictions], compared

    def is_target(self, value: Any) -> bool:
        """Tell whether it is a label, or a label and its group."""
        return isinstance(value, str) or len(value) == 2

    def verdict(self, task: Task, text: str, target: Target) -> str:
        return super().verdict(task, text, label_of(target))

    def why_unwritable(self, task: Task) -> tuple[str, str]:
        if task.writes == "name":
            return "label", "choose other labels, or say writes: number"
        return "label", "say writes: name"
