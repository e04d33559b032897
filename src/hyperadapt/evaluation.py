"""Evaluation: predictions for the rows of all tasks at once, and their scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, compress
from typing import TYPE_CHECKING, Any

from hyperadapt.architectures import Answer, Answering, Request, architecture_of
from hyperadapt.architectures.choices import Choices
from hyperadapt.metrics import TaskScore, average, calibration_error, score_task
from hyperadapt.tasks.chunks import ChunkRule
from hyperadapt.tasks.kinds import Target

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task

DEFAULT_RULE = ChunkRule()
DEFAULT = Answering(progress="evaluating")


@dataclass(frozen=True)
class EvaluationSet:
    """Rows to predict, of several tasks.

    Attributes:
        tasks: in the order of their ids in the model.
        sources: for each task, its tokenized inputs.
        targets: for each task, its target texts, or all that would be right.
        rows: for each task, the row that each input is of; a context may be several inputs.
        texts: for each task, its rows before they were tokenized, as `load_split` gives them.
        choices: for each task, what may be answered, where one of them is to be chosen; None where it is generated.
        changed: whether they are known not to be those that the run was trained with.
    """

    tasks: tuple[Task, ...]
    sources: list[list[list[int]]]
    targets: list[list[Target]]
    rows: list[list[int]]
    texts: list[Dataset]
    choices: list[Choices | None]
    changed: bool = False

    def only(self, names: Collection[str]) -> EvaluationSet:
        """Return the rows of some of the tasks."""
        chosen = [task.name in names for task in self.tasks]
        return EvaluationSet(
            tuple(compress(self.tasks, chosen)),
            list(compress(self.sources, chosen)),
            list(compress(self.targets, chosen)),
            list(compress(self.rows, chosen)),
            list(compress(self.texts, chosen)),
            list(compress(self.choices, chosen)),
            self.changed,
        )


@dataclass(frozen=True)
class Results:
    """Scores of an evaluation.

    Attributes:
        scores: of each task.
        average: over tasks, of each task's mean over its metrics.
        num_beams: with which it was generated; 1 is greedy.
        rows: that were predicted.
        predictions: for each task, the predicted texts.
        steps: of each task, after which the model was that scored it; none where one model scored all.
    """

    scores: list[TaskScore]
    average: float
    num_beams: int
    rows: EvaluationSet = field(repr=False, compare=False)
    predictions: list[list[str]] = field(repr=False)
    steps: Mapping[str, int] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """Return all numbers by name, as "cola_matthews", "cola_score" and "average", for logs."""
        numbers: dict[str, float] = {}
        for score in self.scores:
            numbers |= {f"{score.task}_{name}": value for name, value in score.metrics.items()}
            numbers |= {f"{score.task}_score": score.score, f"{score.task}_invalid": float(score.invalid)}
        return numbers | {"average": self.average}

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as they stand in results.json."""
        tasks = {
            score.task: score.as_dict() | ({"step": self.steps[score.task]} if self.steps else {})
            for score in self.scores
        }
        return {"average": self.average, "num_beams": self.num_beams, "tasks": tasks}


def majority(rows: EvaluationSet, answers: Sequence[str]) -> Results:
    """Score what always gives the same answer to a task.

    Args:
        rows: of the tasks.
        answers: one for each task.
    """
    predictions = [[answer] * len(targets) for answer, targets in zip(answers, rows.targets, strict=True)]
    scores = [score_task(*columns) for columns in zip(rows.tasks, predictions, rows.targets, strict=True)]
    return Results(scores, average(scores), 1, rows, predictions)


def evaluate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: EvaluationSet,
    how: Answering = DEFAULT,
    rule: ChunkRule = DEFAULT_RULE,
) -> Results:
    """Predict the rows of all tasks and score them.

    Args:
        model: an adapted model.
        tokenizer: the base model's.
        rows: of its tasks, or of some of them.
        how: they are answered.
        rule: how a question's answer is chosen of those to its chunks.
    """
    answers = answer_inputs(model, tokenizer, rows, how, rule)
    predictions = [
        task.kind_of_task.combine(task, of_task, places, len(targets))
        for task, of_task, places, targets in zip(rows.tasks, answers, rows.rows, rows.targets, strict=True)
    ]
    scores = [
        replace(score_task(task, predicted, targets), calibration_error=calibration(task, of_task, targets))
        for task, of_task, predicted, targets in zip(
            rows.tasks, answers, predictions, rows.targets, strict=True
        )
    ]
    return Results(scores, average(scores), how.num_beams, rows, predictions)


def calibration(task: Task, answers: Sequence[Answer], targets: Sequence[Target]) -> float | None:
    """Return how far the probabilities of a task's answers are off, in percent; None where they have none."""
    if not answers or not answers[0].probabilities:
        return None
    kind = task.kind_of_task
    right = [
        kind.verdict(task, answer.text, target) == "right"
        for answer, target in zip(answers, targets, strict=True)
    ]
    return calibration_error([max(answer.probabilities) for answer in answers], right)


def answer_inputs(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: EvaluationSet,
    how: Answering = DEFAULT,
    rule: ChunkRule = DEFAULT_RULE,
) -> list[list[Answer]]:
    """Answer each input of all tasks, of a long context each chunk; arguments as of `evaluate`.

    Returns:
        For each task, an answer to each of its inputs.
    """
    # By name: a run may be evaluated on some of its tasks.
    requests = [
        request
        for task, sources, choices in zip(rows.tasks, rows.sources, rows.choices, strict=True)
        for request in requests_of(task, model.task_id(task.name), sources, choices, rule)
    ]
    how = how._replace(per_token=rule.rank_chunks == "mean")
    answers = architecture_of(model).answer(model, tokenizer, requests, how)
    sizes = [len(sources) for sources in rows.sources]
    return [answers[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]


def requests_of(
    task: Task,
    task_id: int,
    sources: Sequence[Sequence[int]],
    choices: Choices | None = None,
    rule: ChunkRule = DEFAULT_RULE,
) -> list[Request]:
    """Ask a task's tokenized inputs; of choices one is the answer."""
    kind = task.kind_of_task
    lengths = kind.lengths(task, rule.empty_answers)
    return [Request(task_id, ids, lengths, kind.in_chunks, choices) for ids in sources]


def joined(rows: EvaluationSet, parts: Sequence[Results], steps: Mapping[str, int]) -> Results:
    """Put together the results of a set's parts, each of which was scored by a model of another step.

    Args:
        rows: of all tasks.
        parts: in which each task is scored once.
        steps: of each task.
    """
    of_task = {
        score.task: (score, predictions)
        for part in parts
        for score, predictions in zip(part.scores, part.predictions, strict=True)
    }
    in_order = [of_task[task.name] for task in rows.tasks]
    scores, predictions = [score for score, _ in in_order], [texts for _, texts in in_order]
    return Results(scores, average(scores), parts[0].num_beams, rows, predictions, steps)
