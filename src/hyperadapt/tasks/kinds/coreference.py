"""Coreference: what a pronoun stands for is written out, and compared with a candidate (Raffel et al., 2020, 2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hyperadapt.errors import UserError
from hyperadapt.tasks.kinds.base import Kind, Metric, References
from hyperadapt.tasks.kinds.classes import Classes
from hyperadapt.tasks.sources import Row, text_of

if TYPE_CHECKING:
    from hyperadapt.tasks.task import Task

# fmt: off
DETERMINERS = frozenset((
    "a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some", "that",
    "the", "their", "these", "this", "those", "which", "whose", "your",
))
# fmt: on


def coreference_accuracy(predictions: Sequence[str], targets: Sequence[References]) -> float:
    """Share of candidates judged rightly, as T5 judges WSC's (Raffel et al., 2020, section 2.4).

    A candidate counts as meant if the prediction or it has all words of the other, case and determiners aside, and both
    or none has an apostrophe ("Bob" is not "Bob's hat"). A prediction of nothing is always wrong. Each target is a
    candidate and the number of its label, "1" where it is what the pronoun stands for.
    """
    right = 0
    for prediction, (candidate, label) in zip(predictions, targets, strict=True):
        written, meant = (
            {word for word in text.lower().split() if word not in DETERMINERS}
            for text in (prediction, candidate)
        )
        alike = ("'" in prediction) == ("'" in candidate) and (written <= meant or meant <= written)
        right += bool(written) and alike == (label == "1")
    return 100 * right / len(targets)


class Coreference(Kind):
    """The `candidate` column's text is the target; the label, one of two, says whether it is right."""

    name = "coreference"
    metrics: ClassVar[Mapping[str, Metric]] = {"coreference_accuracy": coreference_accuracy}
    right_by = "coreference_accuracy"
    target_length = 32
    holds = "label"
    own_fields = frozenset({"labels", "candidate"})

    def check(self, task: Task) -> None:
        super().check(task)
        if len(task.labels or ()) != 2:
            raise UserError("kind 'coreference' needs two labels: for wrong candidates, and for right ones")

    def examples(self, task: Task, row: Row, split: str, prefix: bool) -> list[dict[str, Any]]:
        """Return the row, but to train on only if its candidate is right: else what is meant is not said."""
        if split == "train" and task.label_number(row) == "0":
            return []
        return super().examples(task, row, split, prefix)

    def target(self, task: Task, row: Row) -> str:
        assert task.candidate is not None
        return text_of(row, task.candidate)

    def references(self, task: Task, row: Row) -> References | None:
        """Return the candidate, and the number of its label."""
        return self.target(task, row), task.label_number(row)

    def answer_in_words(self, task: Task) -> str:
        return Classes().answer_in_words(task)

    def is_target(self, value: Any) -> bool:
        return not isinstance(value, str) and len(value) == 2
