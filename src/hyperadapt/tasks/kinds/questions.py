"""Questions about a context, which is asked chunk by chunk (hyperadapt.tasks.chunks); SQuAD's metrics, in percent."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hyperadapt.errors import UserError
from hyperadapt.tasks.chunks import Span, best_answers, read_answers
from hyperadapt.tasks.kinds.base import Kind, Metric, References
from hyperadapt.tasks.sources import Row, as_text, text_of

if TYPE_CHECKING:
    from hyperadapt.architectures.base import Answer
    from hyperadapt.tasks.task import Task


def normalised_answer(text: str) -> str:
    """An answer without case, punctuation and articles, as SQuAD compares them (Rajpurkar et al., 2016)."""
    letters = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", letters).split())


def answer_exact_match(predictions: Sequence[str], targets: Sequence[References]) -> float:
    """Share of predictions that equal one of their references, case, punctuation and articles aside."""
    pairs = zip(predictions, targets, strict=True)
    right = [
        any(normalised_answer(prediction) == normalised_answer(reference) for reference in references)
        for prediction, references in pairs
    ]
    return 100 * sum(right) / len(right)


def answer_f1(predictions: Sequence[str], targets: Sequence[References]) -> float:
    """Mean F1 over the words of prediction and reference, of the reference that fits best; empty equals empty."""
    pairs = zip(predictions, targets, strict=True)
    best = [
        max(_word_f1(prediction, reference) for reference in references) for prediction, references in pairs
    ]
    return 100 * sum(best) / len(best)


def _word_f1(prediction: str, reference: str) -> float:
    predicted, expected = normalised_answer(prediction).split(), normalised_answer(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * shared / (len(predicted) + len(expected))


class Questions(Kind):
    """A question whose last field is the context; the label column holds all answers that are right."""

    name = "question_answering"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "answer_f1": answer_f1,
        "answer_exact_match": answer_exact_match,
    }
    right_by = "answer_exact_match"
    target_length = 64
    in_chunks = True
    holds = "list of texts, or {text: [...], answer_start: [...]}"

    def inputs(self, task: Task, row: Row, prefix: bool) -> dict[str, Any]:
        """Return the question, "question: … context: ", as `source`, and the `context` that follows it."""
        *names, last = task.fields
        question, _ = task.joined(row, prefix, names)
        return {"source": f"{question} {last}: ".lstrip(), "context": text_of(row, task.fields[last])}

    def examples(self, task: Task, row: Row, split: str, prefix: bool) -> list[dict[str, Any]]:
        """Return the row with the places of its answers, or, in training on every answer, once for each."""
        [example] = super().examples(task, row, split, prefix)
        answers, spans = self.answers(task, row)
        example["spans"] = [list(span) for span in spans]
        if task.every_answer and split == "train":
            return [{**example, **only(answers, spans, number)} for number in range(len(answers))]
        return [example]

    def target(self, task: Task, row: Row) -> str:
        return self.answers(task, row)[0][0]

    def references(self, task: Task, row: Row) -> References | None:
        """Return the answers that would be right."""
        return tuple(self.answers(task, row)[0])

    @staticmethod
    def answers(task: Task, row: Row) -> tuple[list[str], list[Span]]:
        """Return the references of a row, and where in the context they stand.

        Raises:
            UserError: if the label column is missing, or holds no answers.
        """
        value = task.answer_of(row)
        text = as_text(value)
        context = text_of(row, task.fields[next(reversed(task.fields))])
        try:
            return read_answers(value if text is None else text, context)
        except UserError as error:
            raise UserError(f"column '{task.label}': {error}") from None

    def lengths(self, task: Task, empty_answers: bool) -> tuple[int, int]:
        fewest, most = task.generated_lengths
        return (0 if empty_answers else fewest), most

    def combine(self, task: Task, answers: Sequence[Answer], rows: Sequence[int], n_rows: int) -> list[str]:
        """Return of each question the best of its chunks' answers."""
        return best_answers(answers, rows, n_rows)

    def is_target(self, value: Any) -> bool:
        return not isinstance(value, str) and len(value) > 0


def only(answers: list[str], spans: list[Span], number: int) -> dict[str, Any]:
    """Return what a row becomes whose only answer is this one."""
    own = [[start, end, 0] for start, end, answer in spans if answer == number]
    return {"target": answers[number], "references": [answers[number]], "spans": own}
