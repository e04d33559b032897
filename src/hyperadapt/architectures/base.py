"""What an architecture is, and what all have in common: requests are answered in mixed batches of like length.

Sorting by length makes batches with little padding, and mixing tasks makes them full, so that the eight validation
sets of GLUE cost one pass instead of eight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from tqdm import tqdm

from hyperadapt.architectures.tokenizing import InputTokenizer
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.tasks.limits import Limits

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task

IGNORED = -100  # a label where there is no target
_MODES: WeakKeyDictionary[torch.nn.Module, tuple[int, bool]] = WeakKeyDictionary()
_MODES_LOCK = Lock()


class Request(NamedTuple):
    """What a model is asked.

    Attributes:
        task_id: of the row's task.
        ids: the tokenized input.
        lengths: the fewest and the most tokens of an answer.
        likelihood: whether the likelihood of the answer is wanted.
    """

    task_id: int
    ids: Sequence[int]
    lengths: tuple[int, int]
    likelihood: bool = False


class Answer(NamedTuple):
    """What a model answered, and the logarithm of the likelihood that it gives to it, in all or for each token.

    The likelihood is 0 where it was not asked for.
    """

    text: str
    log_likelihood: float


class Answering(NamedTuple):
    """How requests are answered.

    Attributes:
        batch_size: rows a batch.
        num_beams: 1 is greedy.
        per_token: likelihoods are the mean over an answer's tokens, not the sum.
        rank, world_size: each process answers its share of the batches, and all return all answers.
        progress: what the progress bar says.
    """

    batch_size: int = 64
    num_beams: int = 1
    per_token: bool = False
    rank: int = 0
    world_size: int = 1
    progress: str = "predicting"


class Architecture(ABC):
    """How rows go into a model, and answers come out of it.

    Attributes:
        name: by which backbones name it.
    """

    name: ClassVar[str]

    @abstractmethod
    def check(self, base: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that a model and a tokenizer belong together, and can be trained.

        Raises:
            UserError: if they do not.
        """

    @abstractmethod
    def training_rows(
        self, rows: Dataset, task: Task, task_id: int, tokenizer: PreTrainedTokenizerBase, limits: Limits
    ) -> Dataset:
        """Tokenize a task's training rows: input_ids, labels and task_ids.

        Args:
            rows: from `load_split`.
            task: whose they are; a score task's step is known.
            task_id: of all of them.
            tokenizer: the base model's.
            limits: of inputs.

        Raises:
            UserError: if a target cannot be written.
        """

    @abstractmethod
    def collator(self, model: Any, tokenizer: PreTrainedTokenizerBase, multiple_of: int | None) -> Any:
        """Return what makes a batch of rows; it is as wide as a multiple of a number, where one is given."""

    @abstractmethod
    def loss(self, outputs: Any, labels: Tensor, num_items: Tensor | None, label_smoothing: float) -> Tensor:
        """Compute the loss of a batch.

        Args:
            outputs: of the model.
            labels: (batch, target), `IGNORED` where there is no target.
            num_items: targets of the whole step, over all processes and accumulated batches; None for this batch's.
            label_smoothing: epsilon.
        """

    @abstractmethod
    def check_memory(self, model: Any, requests: Sequence[Request], how: Answering) -> None:
        """Check that there is memory to answer: to run out of it may end the process without a word.

        Raises:
            UserError: if there is not.
        """

    @abstractmethod
    def answer_batch(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], how: Answering
    ) -> list[Answer]:
        """Answer requests of one batch, alike in their lengths and in whether a likelihood is wanted."""

    def inputs(
        self,
        texts: Mapping[str, Sequence[Any]],
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        task: Task | None = None,
        rows: str = "rows",
    ) -> tuple[list[list[int]], list[int]]:
        """Tokenize inputs: each cut, or into chunks where there are contexts.

        Args:
            texts: columns as those of `load_split`.
            tokenizer: the base model's.
            limits: of inputs.
            task: whose inputs they are, so that it is said what is cut.
            rows: what they are called then.

        Returns:
            The inputs, and each one's row.
        """
        tokenize = InputTokenizer(tokenizer, *limits)
        chunks_of_rows = tokenize(texts)
        if task is not None:
            tokenize.say(task, rows)
        parts = [(chunk.ids, row) for row, chunks in enumerate(chunks_of_rows) for chunk in chunks]
        return [ids for ids, _ in parts], [row for _, row in parts]

    def answer(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        how: Answering = Answering(),  # noqa: B008 - a tuple
    ) -> list[Answer]:
        """Answer requests, of whatever tasks.

        Args:
            model: an adapted model.
            tokenizer: the base model's.
            requests: an input each.
            how: the answers are had.

        Returns:
            The answers, in the order of the requests.
        """
        self.check_memory(model, requests, how)
        mine = batches(requests, how.batch_size)[how.rank :: how.world_size]
        answers: dict[int, Answer] = {}
        with evaluating(model):
            bar = tqdm(
                mine,
                desc=how.progress,
                unit="batch",
                leave=False,
                disable=how.rank > 0,
                delay=SECONDS_BEFORE_PROGRESS_SHOWS,
            )
            for rows in bar:
                found = self.answer_batch(model, tokenizer, [requests[row] for row in rows], how)
                answers.update(zip(rows, found, strict=True))
        if how.world_size > 1:
            shares: list[Any] = [None] * how.world_size
            torch.distributed.all_gather_object(shares, answers)
            answers = {row: answer for share in shares for row, answer in share.items()}
        return [answers[row] for row in range(len(requests))]


def batches(requests: Sequence[Request], batch_size: int) -> list[list[int]]:
    """Put requests into batches, the longest inputs first: what does not fit into memory fails at once.

    No batch mixes lengths to generate: what is predicted for a row must not depend on its neighbours.
    """

    def kind(row: int) -> tuple[tuple[int, int], bool]:
        return requests[row].lengths, requests[row].likelihood

    by_length = sorted(range(len(requests)), key=lambda row: (kind(row), len(requests[row].ids)))
    alike = [list(rows) for _, rows in groupby(by_length, key=kind)]
    return [rows[start : start + batch_size] for rows in alike for start in range(0, len(rows), batch_size)][
        ::-1
    ]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode, until the last of several threads that want it has done."""
    with _MODES_LOCK:
        threads, was_training = _MODES.get(model, (0, model.training))
        _MODES[model] = threads + 1, was_training
        model.eval()
    try:
        yield
    finally:
        with _MODES_LOCK:
            threads, was_training = _MODES.pop(model)
            if threads > 1:
                _MODES[model] = threads - 1, was_training
            else:
                model.train(was_training)


def padded(
    model: Any, tokenizer: PreTrainedTokenizerBase, sources: Sequence[Sequence[int]], task_ids: Sequence[int]
) -> dict[str, Tensor]:
    """Make a batch of tokenized inputs on the model's device: input_ids, attention_mask and task_ids."""
    batch = tokenizer.pad({"input_ids": [list(source) for source in sources]}, return_tensors="pt")
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    return {**inputs, "task_ids": torch.tensor(task_ids, device=model.device)}
