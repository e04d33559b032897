"""Architectures that write their answers: what encoder-decoders and decoder-only models have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperadapt.architectures.base import IGNORED, Answer, Answering, Architecture, Request
from hyperadapt.architectures.choices import Choices, NextScores, chosen_of, log_probabilities
from hyperadapt.architectures.generation import plain_generation
from hyperadapt.architectures.tokenizing import TOKENIZER, TargetTokenizer, Writer, tokenized_examples
from hyperadapt.errors import UserError
from hyperadapt.tasks.input_format import InputFormat

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task


class TextArchitecture(Architecture):
    """Targets are texts; answers are generated, or the likeliest of a few."""

    @abstractmethod
    def writer(self, tokenizer: PreTrainedTokenizerBase, task: Task, form: InputFormat) -> Writer:
        """Return what turns a task's targets into tokens."""

    def target_starts(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Return the tokens with which every target starts."""
        return ()

    @abstractmethod
    def numbers_read(self, model: Any) -> int:
        """Count the numbers that a step of a generation reads of each input token, at the least."""

    @abstractmethod
    def generate(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        options: Mapping[str, Any],
        per_token: bool,
    ) -> tuple[Tensor, list[float]]:
        """Generate the answers of a batch.

        Args:
            model, tokenizer, requests: as of `answer_batch`.
            options: of `generate`.
            per_token: likelihoods are means over tokens.

        Returns:
            Tokens (batch, T), and the answers' likelihoods, 0 where they are not asked for.
        """

    @abstractmethod
    def first_scores(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        starts: Sequence[tuple[int, ...]],
        goes_on: bool,
    ) -> tuple[Tensor, NextScores]:
        """Return the scores of the token behind each answer's start, (batch, vocabulary), and what goes on from there.

        Args:
            model, tokenizer, requests: as of `answer_batch`.
            starts: tokens with which each row's answer begins, equally many.
            goes_on: whether it does.
        """

    def check_config(self, config: Any) -> None:
        for field, differs in (
            ("model.pooling", config.model.pooling != "mean"),
            ("training.head_learning_rate", config.training.head_learning_rate is not None),
        ):
            if differs:
                raise UserError(f"{field} is of heads, for models that are an encoder alone; leave it out")

    @staticmethod
    def longest_target(task: Task) -> int:
        """Return how many tokens a target has at most, in training or as it is generated."""
        return max(task.max_target_length, *task.generated_lengths)

    def check_labels(self, task: Task, tokenizer: PreTrainedTokenizerBase, form: InputFormat) -> None:
        """Check that every label can be written, and read back, within the tokens that the task says.

        Raises:
            UserError: naming the first that cannot, and what to change.
        """
        TargetTokenizer(task, tokenizer, self.writer(tokenizer, task, form))(task.label_texts)

    def training_rows(
        self, rows: Dataset, task: Task, task_id: int, tokenizer: PreTrainedTokenizerBase, form: InputFormat
    ) -> Dataset:
        from datasets import Dataset, concatenate_datasets

        tokenize = self.input_tokenizer(tokenizer, task, form)
        targets = TargetTokenizer(task, tokenizer, self.writer(tokenizer, task, form))
        parts = [
            Dataset.from_dict({"input_ids": inputs, "labels": labels, "task_ids": [task_id] * len(inputs)})
            for inputs, labels in tokenized_examples(rows, task, tokenize, targets)
        ]
        return concatenate_datasets(parts)

    def loss(self, outputs: Any, labels: Tensor, num_items: Tensor | None, label_smoothing: float) -> Tensor:
        """Compute the cross-entropy per target token, with label smoothing."""
        total = F.cross_entropy(
            outputs.logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        return total / (labels.ne(IGNORED).sum() if num_items is None else num_items)

    def check_memory(self, model: Any, requests: Sequence[Request], how: Answering) -> None:
        """Check that there is memory for a step of the longest batch with beams.

        Counted are the scores of every token, of which beam search holds three copies, and what a step reads of the
        input, each for every beam: more is held, so that what is refused would have failed.
        """
        generated = [request for request in requests if request.choices is None]
        if how.num_beams == 1 or not generated:
            return
        rows = min(how.batch_size, len(generated))
        longest = max(len(request.ids) for request in generated)
        of_input = longest * self.numbers_read(model) * model.dtype.itemsize
        needed = rows * how.num_beams * (3 * 4 * model.config.vocab_size + of_input)
        on_gpu = model.device.type == "cuda"
        free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
        if needed > free:
            raise UserError(
                f"num_beams {how.num_beams}: a batch of {rows} rows takes more than {needed / 1e9:,.0f} GB, and "
                f"{free / 1e9:,.0f} GB are free; take fewer beams, or a smaller batch_size"
            )

    def choices(self, task: Task, tokenizer: PreTrainedTokenizerBase, form: InputFormat) -> Choices | None:
        texts = task.label_texts
        return Choices(texts, self.writer(tokenizer, task, form)(texts, None)) if texts else None

    def answer_batch(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], how: Answering
    ) -> list[Answer]:
        chosen = [request.choices for request in requests if request.choices is not None]
        if chosen:
            read = min(len(choices.start) for choices in chosen)
            starts = [choices.start[:read] for choices in chosen]
            goes_on = any(choices.branches(read) for choices in chosen)
            first, deeper = self.first_scores(model, tokenizer, requests, starts, goes_on)
            with torch.no_grad():
                scores = log_probabilities(chosen, read, first, deeper).tolist()
            return [chosen_of(of_row, row) for of_row, row in zip(chosen, scores, strict=True)]
        fewest, most = requests[0].lengths
        options = {
            **plain_generation(model.generation_config, self.target_starts(tokenizer)),
            "num_beams": how.num_beams,
            "do_sample": False,
            "min_new_tokens": fewest,
            "max_new_tokens": most,
        }
        generated, likelihoods = self.generate(model, tokenizer, requests, options, how.per_token)
        with TOKENIZER:
            texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [Answer(text.strip(), likelihood) for text, likelihood in zip(texts, likelihoods, strict=True)]
