"""Free texts, as summaries; and their metrics, in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from hyperadapt.tasks.kinds.base import Kind, Metric, label_text
from hyperadapt.tasks.kinds.classes import accuracy
from hyperadapt.tasks.sources import Row

if TYPE_CHECKING:
    from hyperadapt.tasks.task import Task


def exact_match(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of predictions that equal their target but for case and white space."""
    normalised = [[" ".join(text.lower().split()) for text in texts] for texts in (predictions, targets)]
    return accuracy(*normalised)


def rouge2(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """ROUGE-2, the mean F1 over pairs of words, stemmed."""
    return _rouge("rouge2", predictions, targets)


def rouge_l(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """ROUGE-L, the mean F1 over the longest common subsequence of words, stemmed."""
    from rouge_score.tokenizers import DefaultTokenizer

    words = DefaultTokenizer(use_stemmer=True).tokenize
    pairs = [
        (words(prediction), words(target)) for prediction, target in zip(predictions, targets, strict=True)
    ]
    shared = [2 * longest_common(*pair) / max(len(pair[0]) + len(pair[1]), 1) for pair in pairs]
    return 100 * sum(shared) / len(targets)


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, by Hyyrö's bit vectors (2004).

    rouge_score's table of all pairs of words takes minutes for two texts of 100,000 characters; this is exact too.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    unmatched = every = (1 << len(first)) - 1
    for word in second:
        matched = unmatched & places.get(word, 0)
        unmatched = (unmatched + matched | unmatched - matched) & every
    return len(first) - unmatched.bit_count()


def _rouge(kind: str, predictions: Sequence[str], targets: Sequence[str]) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(targets, predictions, strict=True)
    return (
        100
        * sum(scorer.score(target, prediction)[kind].fmeasure for target, prediction in pairs)
        / len(targets)
    )


class Texts(Kind):
    """A free text."""

    name = "text"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "exact_match": exact_match,
        "rouge2": rouge2,
        "rougeL": rouge_l,
    }
    right_by = "exact_match"
    target_length = 128
    holds = "text"

    def target(self, task: Task, row: Row) -> str:
        return label_text(task, row)

    def texts(self, task: Task) -> tuple[str, ...]:
        return (*super().texts(task), task.label)
