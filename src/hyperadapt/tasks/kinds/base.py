"""What a kind of task is: what text it gives, what may be answered, how answers are combined and compared.

A kind is a file; whatever differs between kinds is asked of them, and nothing asks which kind a task is of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hyperadapt.errors import UserError
from hyperadapt.tasks.sources import Row, text_of

if TYPE_CHECKING:
    from hyperadapt.architectures.base import Answer
    from hyperadapt.tasks.task import Task

References = tuple[str, ...]  # what a prediction is compared with, where it is not one text
Target = str | References
Metric = Callable[[Sequence[str], Sequence[Any]], float]


class Kind(ABC):
    """A kind of task.

    Attributes:
        name: in task files.
        metrics: by name, those that make sense of its targets.
        reported_only: those of them that have no bound, so that one wild answer would outweigh all other tasks: they
            are reported, and no part of a score.
        right_by: the metric that tells whether a single answer is right; of scores none does.
        target_length: tokens of a target, its end included, as any tokenizer writes it.
        holds: what the label column holds, in words.
        own_fields: of a task, which not every kind has: labels, group (and writes), step, candidate.
        closed: whether its targets must be read back as they were written, as labels and scores are.
        in_chunks: whether a row may be asked in chunks, of whose answers the likelihoods choose one.
        is_chat: whether rows are conversations, of which the last message is the answer, and what is too long is cut at
            its beginning.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    reported_only: ClassVar[frozenset[str]] = frozenset()
    right_by: ClassVar[str] = ""
    target_length: ClassVar[int]
    holds: ClassVar[str]
    own_fields: ClassVar[frozenset[str]] = frozenset()
    closed: ClassVar[bool] = False
    in_chunks: ClassVar[bool] = False
    is_chat: ClassVar[bool] = False

    def check(self, task: Task) -> None:
        """Check that a task has the fields of this kind, and none of others.

        Raises:
            UserError: if not.
        """
        if (task.candidate is not None) != ("candidate" in self.own_fields):
            raise UserError("kind 'coreference', and no other, needs the column of the candidate")
        if (task.writes == "name" or task.group) and "group" not in self.own_fields:
            raise UserError(
                f"writes and group are for kind 'class', but kind is '{self.name}'; leave them out"
            )
        if task.step is not None and "step" not in self.own_fields:
            raise UserError(
                f"step is for kind 'score', but kind is '{self.name}'; leave it out, or write kind: score"
            )
        if task.template is not None and (self.in_chunks or self.is_chat):
            raise UserError(
                f"template is not for kind '{self.name}', which has a form of its own; leave it out"
            )
        if task.labels is not None and "labels" not in self.own_fields:
            raise UserError(
                f"labels are for kind 'class', but kind is '{self.name}'; leave them out, or write kind: class"
            )

    def inputs(self, task: Task, row: Row, prefix: bool) -> dict[str, Any]:
        """Return the input of a row: its `source`.

        Where there are several fields, or a template, `places` tell from which to which character each one's text
        stands.
        """
        source, places = task.joined(row, prefix)
        told = len(places) > 1 or task.template is not None
        return {"source": source, "places": places} if told else {"source": source}

    def examples(self, task: Task, row: Row, split: str, prefix: bool) -> list[dict[str, Any]]:
        """Return the texts of a row, one example or several: `source` and `target`, and what goes with them."""
        example: dict[str, Any] = {**self.inputs(task, row, prefix), "target": self.target(task, row)}
        if (references := self.references(task, row)) is not None:
            example["references"] = list(references)
        return [example]

    @abstractmethod
    def target(self, task: Task, row: Row) -> str:
        """Return the target text of a row.

        Raises:
            UserError: if the label column is missing, or holds no answer of this task.
        """

    def references(self, task: Task, row: Row) -> References | None:
        """Return what a prediction is compared with, where that is not the target text alone."""
        return None

    def answer_column(self, task: Task) -> str:
        """Name the column of the answer."""
        return task.label

    def input_texts(self, task: Task) -> tuple[str, ...]:
        """Name the columns of an input whose texts may be empty without that being meant."""
        return tuple(task.fields.values())

    def texts(self, task: Task) -> tuple[str, ...]:
        """Name those columns, and that of the answer where it is a text too."""
        return self.input_texts(task)

    def answer_in_words(self, task: Task) -> str:
        """Say what a task's label column holds."""
        return self.holds

    def written(self, task: Task, target: str) -> str:
        """Return what the model is to write for a target."""
        return target

    def fitted(self, task: Task, targets: Iterable[str]) -> Task:
        """Return the task with what is chosen from its training targets, which is said."""
        return task

    def label_name(self, task: Task, text: str) -> str | None:
        """Return what a predicted text stands for; None where it is no answer."""
        return text

    def choices(self, task: Task) -> tuple[str, ...]:
        """Return what a model may write, where that is a few texts."""
        return ()

    def outputs(self, task: Task) -> int | None:
        """Return how many numbers a head gives for it, one a label, or one for a score; None where it gives none."""
        return None

    def number(self, task: Task, target: str) -> float:
        """Return what a head learns for a target: the number of the label, or the score."""
        raise NotImplementedError

    def class_by_class(self, task: Task, rows: Iterable[tuple[str, Row]]) -> list[str] | None:
        """Return the class of each row, of which as many may be drawn of each; None without classes."""
        return None

    def lengths(self, task: Task, empty_answers: bool) -> tuple[int, int]:
        """Return the fewest and the most tokens that are generated for a row."""
        return task.generated_lengths

    def combine(self, task: Task, answers: Sequence[Answer], rows: Sequence[int], n_rows: int) -> list[str]:
        """Return one text for each row.

        Args:
            task: of this kind.
            answers: one an input.
            rows: each input's row.
            n_rows: how many there are.
        """
        return [answer.text for answer in answers]

    def compared(
        self, task: Task, predictions: Sequence[str], targets: Sequence[Target]
    ) -> tuple[list[str], dict[str, Sequence[Any]]]:
        """Return predictions as metrics compare them, and the targets for each of the task's metrics."""
        return list(predictions), dict.fromkeys(task.metrics, targets)

    def is_target(self, value: Any) -> bool:
        """Tell whether a value, as JSON has it, can be what is right in a row."""
        return isinstance(value, str)

    def verdict(self, task: Task, text: str, target: Target) -> str:
        """Say whether an answer is right or wrong."""
        return "right" if self.metrics[self.right_by]([text], [target]) else "wrong"

    def why_unwritable(self, task: Task) -> tuple[str, str]:
        """Return what a target that the tokenizer cannot write is called, and what to do instead, of closed kinds."""
        raise NotImplementedError


def label_text(task: Task, row: Row) -> str:
    """Return what the label column of a row holds, as text."""
    return text_of({task.label: task.answer_of(row)}, task.label)


def label_of(target: Target) -> str:
    """Return the text that a target is known by: of several references the first."""
    return target if isinstance(target, str) else target[0]
