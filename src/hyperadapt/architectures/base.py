"""What an architecture is, and what all have in common: requests are answered in mixed batches of like length.

Sorting by length makes batches with little padding, and mixing tasks makes them full, so that the eight validation
sets of GLUE cost one pass instead of eight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from tqdm import tqdm

from hyperadapt.architectures.choices import Answer, Choices, Request
from hyperadapt.architectures.frames import Frame
from hyperadapt.architectures.padding import Side, padded_ids
from hyperadapt.architectures.tokenizing import InputTokenizer, Texts
from hyperadapt.backbones import backbone_of
from hyperadapt.errors import UserError
from hyperadapt.model.heads import IGNORED as IGNORED
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.tasks.input_format import InputFormat

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task

_MODES: WeakKeyDictionary[torch.nn.Module, tuple[int, bool]] = WeakKeyDictionary()
_MODES_LOCK = Lock()


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
        can_generate: whether it writes texts.
    """

    name: ClassVar[str]
    can_generate: ClassVar[bool] = True

    @abstractmethod
    def check(self, base: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that a model and a tokenizer belong together, and can be trained.

        Raises:
            UserError: if they do not.
        """

    @abstractmethod
    def check_config(self, config: Any) -> None:
        """Check that a configuration asks for nothing that is of other architectures.

        Args:
            config: a run's.

        Raises:
            UserError: if it does.
        """

    @staticmethod
    def check_vocabulary(base: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that a tokenizer's ids are in a model's vocabulary.

        Raises:
            UserError: if not.
        """
        highest = max(tokenizer.get_vocab().values())  # not their number: a vocabulary may have gaps
        if highest >= base.config.vocab_size:
            raise UserError(
                f"the tokenizer's ids go up to {highest}, but the model's vocabulary has only "
                f"{base.config.vocab_size} tokens: they do not belong together"
            )

    @staticmethod
    def check_room(model: Any, tokens: int, task: Task, form: InputFormat) -> None:
        """Check that a model has places for so many tokens, as far as its places are numbered.

        Raises:
            UserError: if not.
        """
        most = backbone_of(model).positions(model.config)
        if most is not None and tokens > most:
            beside = tokens - form.max_source_length
            targets = f" and {beside} of a target of {task.name}" if beside else ""
            raise UserError(
                f"data.max_source_length {form.max_source_length}{targets} are more than the {most} tokens that the "
                f"model has places for: set it to {most - beside} or less"
                if most > beside
                else f"task '{task.name}': a target of {beside} tokens (max_target_length {task.max_target_length}, "
                f"max_generated_length {task.max_generated_length}) leaves no room for a prompt in "
                f"the {most} tokens that the model has places for; lower it"
            )

    @abstractmethod
    def frame(self, tokenizer: PreTrainedTokenizerBase, task: Task | None, form: InputFormat) -> Frame:
        """Return what stands around a task's inputs.

        Raises:
            UserError: if they are to be written as a chat, and the tokenizer cannot.
        """

    def columns(self, texts: Texts, tokenizer: PreTrainedTokenizerBase, form: InputFormat) -> Texts:
        """Return the columns of rows, as those of `load_split`, with inputs as the architecture reads them."""
        return texts

    @abstractmethod
    def check_task(
        self, model: Any, task: Task, tokenizer: PreTrainedTokenizerBase, form: InputFormat
    ) -> None:
        """Check that a model can answer a task.

        Raises:
            UserError: if not, and what to change.
        """

    def num_labels(self, tasks: Sequence[Task]) -> dict[str, int] | None:
        """Return how many labels the head of each task has; None where there are no heads.

        Raises:
            UserError: if a task cannot have one.
        """
        return None

    @abstractmethod
    def training_rows(
        self, rows: Dataset, task: Task, task_id: int, tokenizer: PreTrainedTokenizerBase, form: InputFormat
    ) -> Dataset:
        """Tokenize a task's training rows: input_ids, labels and task_ids.

        Args:
            rows: from `load_split`.
            task: whose they are; a score task's step is known.
            task_id: of all of them.
            tokenizer: the base model's.
            form: of inputs.

        Raises:
            UserError: if a target cannot be written, or there is no room for an input.
        """

    def input_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase, task: Task | None, form: InputFormat
    ) -> InputTokenizer:
        """Return what tokenizes a task's inputs."""
        return InputTokenizer(
            tokenizer,
            form,
            self.frame(tokenizer, task, form),
            in_fields=task is not None and task.cut_in_fields,
            newest=task is not None and task.kind_of_task.is_chat,
            read=partial(self.columns, tokenizer=tokenizer, form=form),
        )

    def row_lengths(self, rows: Dataset) -> list[int]:
        """Count the tokens that the model reads of each training row, by which rows of like length are batched."""
        return [len(ids) for ids in rows["input_ids"]]

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

    def check_memory(self, model: Any, requests: Sequence[Request], how: Answering) -> None:  # noqa: B027
        """Check that there is memory to answer: to run out of it may end the process without a word.

        Raises:
            UserError: if there is not.
        """

    @abstractmethod
    def answer_batch(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], how: Answering
    ) -> list[Answer]:
        """Answer requests of one batch, alike in lengths and in whether likelihoods are wanted, or all with choices."""

    @abstractmethod
    def choices(self, task: Task, tokenizer: PreTrainedTokenizerBase, form: InputFormat) -> Choices | None:
        """Return what may be answered to a task, where that is a few texts; None where it is any."""

    def inputs(
        self,
        texts: Texts,
        tokenizer: PreTrainedTokenizerBase,
        form: InputFormat,
        task: Task | None = None,
        rows: str = "rows",
    ) -> tuple[list[list[int]], list[int]]:
        """Tokenize inputs: each cut, or into chunks where there are contexts.

        Args:
            texts: columns as those of `load_split`.
            tokenizer: the base model's.
            form: of inputs.
            task: whose inputs they are, so that it is said what is cut.
            rows: what they are called then.

        Returns:
            The inputs, and each one's row.
        """
        tokenize = self.input_tokenizer(tokenizer, task, form)
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

    No batch mixes lengths to generate: what is predicted for a row must not depend on its neighbours. Rows with choices
    are of one kind, whatever those are, if as many tokens begin all of a row's.
    """

    def kind(row: int) -> tuple[bool, tuple[int, int], bool]:
        request = requests[row]
        if request.choices is not None:
            return True, (len(request.choices.start), 0), False
        return False, request.lengths, request.likelihood

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
    model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], side: Side = "right"
) -> dict[str, Tensor]:
    """Make a batch of requests on the model's device: input_ids, attention_mask and task_ids."""
    rows: list[Sequence[int]] = [request.ids for request in requests]
    ids = padded_ids(rows, max(map(len, rows)), tokenizer.pad_token_id, side, model.device)
    task_ids = torch.tensor([request.task_id for request in requests], device=model.device)
    return {**ids, "task_ids": task_ids}
