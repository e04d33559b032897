"""Heads of the tasks of an encoder-only model: each one's own linear map of the pooled state, in one table.

    logits = W_t h + b_t,    W (tasks, widest, d_model), h the mean of the last states, or the first token's

Of a task with fewer labels the columns that are too many are masked. A task of one label is a regression.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperadapt.conditioning import append_row, keep_rows, mean_state
from hyperadapt.errors import UserError, nearest

Pooling = Literal["mean", "cls"]
IGNORED = -100  # a label where there is no target, as transformers has it
STD = 0.02  # of a new head's weights, as of BERT's


@dataclass(frozen=True)
class HeadOptions:
    """What heads are, as it is saved with a model.

    Attributes:
        num_labels: of each task; 1 is a regression, as in transformers.
        pooling: the state that heads read: the "mean" over a row's tokens, or that of its first, "cls".
        learning_rate: of heads; None is that of all else.
    """

    num_labels: Mapping[str, int]
    pooling: Pooling = "mean"
    learning_rate: float | None = None

    def check(self, tasks: Sequence[str]) -> None:
        """Check that every task has a number of labels, and nothing else has.

        Raises:
            UserError: if not.
        """
        if not isinstance(self.num_labels, Mapping):
            example = ", ".join(f'"{task}": 2' for task in tasks[:2])
            raise UserError(f"num_labels must name every task, as {{{example}}}, not {self.num_labels!r}")
        unknown = [task for task in self.num_labels if task not in tasks]
        for task in tasks:
            if task not in self.num_labels:
                meant = f"; did you mean it by '{unknown[0]}'?" if unknown else ""
                raise UserError(
                    f"num_labels: that of task '{task}' is missing; write the number of its labels, or 1 for a "
                    f"score{meant}"
                )
        for task, number in self.num_labels.items():
            if task not in tasks:
                raise UserError(f"num_labels: there is no task '{task}'; {nearest(task, tasks)}")
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise UserError(f"num_labels: task '{task}' must have at least 1 label, not {number!r}")
        if self.pooling not in ("mean", "cls"):
            raise UserError(f"pooling '{self.pooling}' is unknown; choices: mean, cls")


def own_parameters(base: nn.Module, heads: HeadOptions | None) -> Iterable[tuple[str, nn.Parameter]]:
    """List what an adapted model has of its base model: one with heads has no pooler."""
    return (
        (name, parameter)
        for name, parameter in base.named_parameters()
        if heads is None or not name.startswith("pooler.")
    )


class TaskHeads(nn.Module):
    """The heads of all tasks.

    Args:
        options: with a number of labels for each task.
        tasks: names, in the order of their ids.
        d_model: width of the states.
    """

    def __init__(self, options: HeadOptions, tasks: Sequence[str], d_model: int) -> None:
        super().__init__()
        self.options = options
        self.labels = tuple(options.num_labels[task] for task in tasks)
        self.weight = nn.Parameter(torch.empty(len(tasks), max(self.labels), d_model).normal_(std=STD))
        self.bias = nn.Parameter(torch.zeros(len(tasks), max(self.labels)))
        self.register_buffer("is_there", self.columns(), persistent=False)

    def columns(self) -> Tensor:
        """Return which columns are labels of a task, (tasks, widest)."""
        columns = torch.arange(self.weight.shape[1], device=self.weight.device)
        return columns < torch.tensor(self.labels, device=self.weight.device).unsqueeze(1)

    def forward(self, states: Tensor, mask: Tensor | None, task_ids: Tensor) -> Tensor:
        """Compute the logits of a batch of mixed tasks in float32, (batch, widest), masked ones at its lowest number.

        Args:
            states: (batch, seq, d_model).
            mask: (batch, seq), 1 for a token; None if all are.
            task_ids: (batch,).
        """
        pooled = states[:, 0] if self.options.pooling == "cls" else mean_state(states, mask)
        weight = self.weight.index_select(0, task_ids)
        bias = self.bias.index_select(0, task_ids)
        logits = torch.baddbmm(bias.unsqueeze(2), weight, pooled.to(weight.dtype).unsqueeze(2)).squeeze(2)
        there: Any = self.is_there
        # In float32, as what casts outputs would leave of a narrower type's lowest number.
        logits = logits.float()
        return logits.masked_fill(~there.index_select(0, task_ids), torch.finfo(logits.dtype).min)

    def check_labels(self, labels: Tensor, task_ids: Tensor, tasks: Sequence[str]) -> None:
        """Check that each row has a label; on the CPU, where reading waits for nothing, one of its task's, or -100.

        Raises:
            UserError: naming the first that is not.
        """
        if labels.shape != task_ids.shape:
            raise UserError(
                f"labels must have shape {tuple(task_ids.shape)}, one number a row, not {tuple(labels.shape)}"
            )
        if labels.device.type != "cpu" or torch.compiler.is_compiling():
            return
        sizes = torch.tensor(self.labels)[task_ids]
        wrong = (
            (sizes > 1) & ((labels < 0) | (labels >= sizes) | (labels != labels.long())) & (labels != IGNORED)
        )
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            task = tasks[int(task_ids[row])]
            raise UserError(
                f"labels out of range: {labels[row].item():g} of row {row} for task '{task}', whose head has "
                f"{int(sizes[row])} labels, whole numbers from 0 to {int(sizes[row]) - 1}"
            )

    def add_task(self, number: int, init_from: tuple[int, ...]) -> None:
        """Append the head of a task with a number of labels: the mean of others' of as many, or drawn anew."""
        self.labels = (*self.labels, number)
        widest = max(self.labels)
        if (more := widest - self.weight.shape[1]) > 0:
            self.weight = nn.Parameter(
                F.pad(self.weight.detach(), (0, 0, 0, more)), requires_grad=self.weight.requires_grad
            )
            self.bias = nn.Parameter(
                F.pad(self.bias.detach(), (0, more)), requires_grad=self.bias.requires_grad
            )
        alike = tuple(task for task in init_from if self.labels[task] == number)
        new = torch.empty_like(self.weight[0]).normal_(std=STD)
        self.weight = append_row(self.weight, new, alike)
        self.bias = append_row(self.bias, torch.zeros_like(self.bias[0]), alike)
        self.is_there = self.columns()

    def keep_tasks(self, ids: tuple[int, ...]) -> None:
        """Keep the heads of these tasks alone, in this order."""
        self.labels = tuple(self.labels[task] for task in ids)
        widest = max(self.labels)
        self.weight = nn.Parameter(
            keep_rows(self.weight, ids)[:, :widest].detach().clone(), requires_grad=self.weight.requires_grad
        )
        self.bias = nn.Parameter(
            keep_rows(self.bias, ids)[:, :widest].detach().clone(), requires_grad=self.bias.requires_grad
        )
        self.is_there = self.columns()


def row_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute each row's loss, (batch,): cross-entropy, or of a task with one column the squared error.

    Args:
        logits: of `TaskHeads`, which say by their mask how many labels a row's task has.
        labels: (batch,), the number of a label, or a score; of -100, which is none, the loss is 0.
        label_smoothing: share of the probability that is spread over a task's labels.
    """
    there = logits > torch.finfo(logits.dtype).min
    is_score = there.sum(1) == 1
    log_likely = logits.log_softmax(1)
    there_is_one = labels != IGNORED
    label = torch.where(is_score | ~there_is_one, 0, labels.long())
    cross_entropy = -log_likely.gather(1, label.unsqueeze(1)).squeeze(1)
    if label_smoothing:
        spread = -log_likely.masked_fill(~there, 0.0).sum(1) / there.sum(1)
        cross_entropy = (1 - label_smoothing) * cross_entropy + label_smoothing * spread
    losses = torch.where(is_score, (logits[:, 0] - labels.float()).square(), cross_entropy)
    return losses.masked_fill(~there_is_one, 0.0)
