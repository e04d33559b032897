"""Metrics on predicted and target texts, in percent, and the scores of tasks that are made of them.

Every metric reads texts as the model writes them, so each says how it counts an answer outside the task's
labels: always as wrong. A task's score is the mean of its metrics, and a run's is the average over its tasks
(GLUE, Wang et al., 2019). Errors and R2 have no bound, so that one wild answer would outweigh all other tasks:
they are reported, and no part of a score (`REPORTED_ONLY`).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hyperadapt.errors import UserError

if TYPE_CHECKING:
    from hyperadapt.tasks.task import Task

References = tuple[str, ...]  # what a prediction is compared with, where it is not one text: Task.references
Target = str | References
Metric = Callable[[Sequence[str], Sequence[Any]], float]


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


def exact_match(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of predictions that equal their target but for case and white space."""
    normalised = [[" ".join(text.lower().split()) for text in texts] for texts in (predictions, targets)]
    return accuracy(*normalised)


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


def group_exact_match(predictions: Sequence[str], targets: Sequence[References]) -> float:
    """Share of groups, as the answers of one question, of which every prediction equals its target.

    Each target is a text and the name of its group.
    """
    groups: dict[str, bool] = {}
    for prediction, (target, group) in zip(predictions, targets, strict=True):
        groups[group] = groups.get(group, True) and prediction == target
    return 100 * sum(groups.values()) / len(groups)


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


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "mae": mae,
    "mse": mse,
    "r2": r2,
    "exact_match": exact_match,
    "answer_f1": answer_f1,
    "answer_exact_match": answer_exact_match,
    "coreference_accuracy": coreference_accuracy,
    "group_exact_match": group_exact_match,
    "rouge2": rouge2,
    "rougeL": rouge_l,
}

# Which metrics make sense of which kind of target (Task.kind).
METRICS_OF_KIND: dict[str, tuple[str, ...]] = {
    "class": ("accuracy", "f1", "macro_f1", "matthews", "group_exact_match"),
    "score": ("pearson", "spearman", "mae", "mse", "r2"),
    "text": ("exact_match", "rouge2", "rougeL"),
    "question_answering": ("answer_f1", "answer_exact_match"),
    "coreference": ("coreference_accuracy",),
}


REPORTED_ONLY = frozenset({"mae", "mse", "r2"})


def metric_in_words(metric: str, value: float, decimals: int) -> str:
    """A metric's name and value: percent with so many decimals, an error, of whatever size, with four digits."""
    return f"{metric} {value:.4g}" if metric in ("mae", "mse") else f"{metric} {value:.{decimals}f}"


def label_of(target: Target) -> str:
    """The text that a target is known by: of several references the first."""
    return target if isinstance(target, str) else target[0]


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
    if task.kind != "class":
        return texts, dict.fromkeys(task.metrics, expected)
    numbers = [task.number_written(label_of(target)) for target in expected]
    compared: dict[str, Sequence[Any]] = dict.fromkeys(task.metrics, numbers)
    if task.group:
        groups = [target[1] for target in expected]
        compared["group_exact_match"] = list(zip(numbers, groups, strict=True))
    return [task.number_written(text) for text in texts], compared


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
