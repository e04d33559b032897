"""Encoder-only models: each task has a head, which gives the logits of its labels, or its score.

input       [CLS] input [SEP], as the tokenizer has it
target      the number of a label, or a score
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperadapt.architectures.base import IGNORED, Answer, Answering, Architecture, Request, padded
from hyperadapt.architectures.choices import Choices, chosen_of
from hyperadapt.architectures.frames import Frame, special_tokens
from hyperadapt.architectures.padding import Collator, padded_ids
from hyperadapt.errors import UserError
from hyperadapt.model.heads import row_losses
from hyperadapt.tasks.input_format import InputFormat
from hyperadapt.tasks.scores import number_text

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task


class EncoderOnly(Architecture):
    """BERT, ModernBERT and their like."""

    name = "encoder_only"
    can_generate = False

    def check(self, base: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the tokenizer's ids are in the model's vocabulary, and that it can pad."""
        if tokenizer.pad_token_id is None:
            raise UserError("the tokenizer has no padding (pad_token), which a batch needs")
        self.check_vocabulary(base, tokenizer)

    def check_config(self, config: Any) -> None:
        if config.evaluation.answers == "generate" or config.evaluation.num_beams > 1:
            field = "answers: generate" if config.evaluation.answers == "generate" else "num_beams"
            raise UserError(
                f"evaluation.{field} is for models that write; an encoder alone has heads: leave it out"
            )

    def check_task(
        self, model: Any, task: Task, tokenizer: PreTrainedTokenizerBase, form: InputFormat
    ) -> None:
        """Check that a head can answer the task, and that the model has places for its inputs."""
        self.outputs(task)
        self.check_room(model, form.max_source_length, task, form)

    @staticmethod
    def outputs(task: Task) -> int:
        """Return how many numbers a task's head gives.

        Raises:
            UserError: if the task's answers are texts.
        """
        number = task.kind_of_task.outputs(task)
        if number is None:
            raise UserError(
                f"task '{task.name}' is of kind '{task.kind}', and an encoder alone writes no texts: it takes kinds "
                "class and score; for others take a model that writes"
            )
        return number

    def num_labels(self, tasks: Sequence[Task]) -> dict[str, int]:
        return {task.name: self.outputs(task) for task in tasks}

    def frame(self, tokenizer: PreTrainedTokenizerBase, task: Task | None, form: InputFormat) -> Frame:
        if form.chat_template:
            raise UserError("data.chat_template is for models without an encoder; leave it out")
        starts, ends = special_tokens(tokenizer)
        return Frame(starts, ends=ends)

    def training_rows(
        self, rows: Dataset, task: Task, task_id: int, tokenizer: PreTrainedTokenizerBase, form: InputFormat
    ) -> Dataset:
        from datasets import Dataset

        columns = {name: rows[name] for name in rows.column_names}
        ids, _ = self.inputs(columns, tokenizer, form, task, "train rows")
        labels = [task.kind_of_task.number(task, target) for target in rows["target"]]
        if IGNORED in labels:
            raise UserError(
                f"task '{task.name}': row {labels.index(IGNORED)} has the score {IGNORED}, which says in transformers "
                "that there is none; write the scores in other units"
            )
        return Dataset.from_dict({"input_ids": ids, "labels": labels, "task_ids": [task_id] * len(ids)})

    def collator(self, model: Any, tokenizer: PreTrainedTokenizerBase, multiple_of: int | None) -> Any:
        return RowCollator(int(tokenizer.pad_token_id), multiple_of or 1)

    def loss(self, outputs: Any, labels: Tensor, num_items: Tensor | None, label_smoothing: float) -> Tensor:
        """Average the rows' losses: the cross-entropy of labels, the squared error of scores."""
        losses = row_losses(outputs.logits, labels, label_smoothing)
        return losses.sum() / (labels.ne(IGNORED).sum() if num_items is None else num_items)

    def choices(self, task: Task, tokenizer: PreTrainedTokenizerBase, form: InputFormat) -> Choices | None:
        return Choices(task.label_texts) if task.label_texts else None

    @torch.no_grad()
    def answer_batch(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], how: Answering
    ) -> list[Answer]:
        logits = model(**padded(model, tokenizer, requests)).logits
        if requests[0].choices is None:
            return [Answer(number_text(score)) for score in logits[:, 0].tolist()]
        logs = logits.log_softmax(1).tolist()
        return [
            chosen_of(request.choices, row)
            for request, row in zip(requests, logs, strict=True)
            if request.choices is not None
        ]


class RowCollator(Collator):
    """Makes batches of rows."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Make a batch: input_ids and attention_mask, (batch, seq), labels and task_ids, (batch,)."""
        ids = [list(row["input_ids"]) for row in rows]
        return {
            **padded_ids(ids, self.width(max(map(len, ids))), self.padding),
            "labels": torch.tensor([row["labels"] for row in rows], dtype=torch.float32),
            "task_ids": torch.tensor([row["task_ids"] for row in rows]),
        }
