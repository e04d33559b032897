"""Conditioning: what a batch's generated parameters depend on.

Every row of a batch has a condition; each distinct condition is generated once. It is the task, whose embedding
I_tau = P(z_tau) is learnt (HyperFormer, eq. 5), or the encoded input itself, e = MLP(mean of the encoder's states)
(Hyperdecoders, eq. 8), or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hyperadapt.errors import UserError


class Inputs(NamedTuple):
    """What a stack's parameters may depend on.

    Attributes:
        stack: its name.
        tokens: what goes into it, ids (batch, seq) or embeddings (batch, seq, d_model).
        task_ids: (batch,), None where the method needs none.
        encoded: the encoder's final states, (batch, seq, d_model), where there are any.
        mask: (batch, seq), 1 where `encoded` holds a token; None if everywhere.
    """

    stack: str
    tokens: Tensor
    task_ids: Tensor | None = None
    encoded: Tensor | None = None
    mask: Tensor | None = None


class Condition(NamedTuple):
    """The distinct conditions of a batch.

    Attributes:
        rows: (G,), the condition, 0..U-1, of each of G groups of equally many rows, one after another; None where
            there are U groups, each with a condition of its own.
        ids: (U,), the tasks, where they are the condition.
        embedding: (U, d), None where the parameters are looked up.
    """

    rows: Tensor | None = None
    ids: Tensor | None = None
    embedding: Tensor | None = None


def distinct(task_ids: Tensor, n_tasks: int) -> tuple[Tensor, Tensor | None]:
    """Find a batch's distinct tasks, with no synchronisation on an accelerator and no graph break under compile.

    On the CPU only the tasks that occur are returned. Elsewhere the number of tasks that occur is not known without
    asking the device, so that all tasks are, or, where there are more of them than rows, every row's.

    Args:
        task_ids: (batch,).

    Returns:
        ids (U,) and rows (G,), as in `Condition`; on the CPU beams, and tasks in runs of like length, are groups. Of
        one task, elsewhere, all rows are a group, and task_ids are not read.
    """
    if task_ids.device.type == "cpu" and not torch.compiler.is_compiling():
        ids, rows = torch.unique(task_ids, return_inverse=True)
        _, runs = torch.unique_consecutive(task_ids, return_counts=True)
        return ids, rows[:: gcd(*runs.tolist()) or 1]
    if n_tasks == 1:
        return torch.zeros(1, dtype=task_ids.dtype, device=task_ids.device), None
    if n_tasks <= task_ids.shape[0]:
        return torch.arange(n_tasks, device=task_ids.device), task_ids
    return task_ids, None


class Linear(nn.Linear):
    """A linear map of ours: tools that quantise a model's go by the class `nn.Linear`, and leave it as it is."""


class Unconditioned(nn.Module):
    """Condition on nothing: all rows have the same parameters."""

    def forward(self, inputs: Inputs) -> Condition:
        """Give every row the one condition."""
        return Condition()


class TaskLookup(nn.Module):
    """Condition on the task alone, for generators that look parameters up.

    Args:
        tasks: names, in the order of their ids.
        by_row_in_training: in training every row is a condition of its own, for generators that draw at random.
    """

    def __init__(self, tasks: tuple[str, ...], by_row_in_training: bool = False) -> None:
        super().__init__()
        self.tasks, self.by_row_in_training = tasks, by_row_in_training

    def forward(self, inputs: Inputs) -> Condition:
        """Find the tasks of a batch."""
        assert inputs.task_ids is not None
        if self.by_row_in_training and self.training:
            return Condition(None, inputs.task_ids)
        ids, rows = distinct(inputs.task_ids, len(self.tasks))
        return Condition(rows, ids)

    def add_task(self, name: str, init_from: tuple[int, ...], features: Tensor | None) -> None:
        """Append a task."""
        self.tasks = (*self.tasks, name)

    def keep_tasks(self, ids: tuple[int, ...]) -> None:
        """Keep these tasks alone, in this order."""
        self.tasks = tuple(self.tasks[number] for number in ids)


class TaskEmbedding(TaskLookup):
    """Condition on an embedding of the task: z_tau (learnt or given), and optionally I_tau = W_2 ReLU(W_1 z_tau).

    The latter is eq. 5 of HyperFormer.

    Args:
        tasks: names, in the order of their ids.
        dim: size t' of z.
        projector: (e, t), hidden and output size of the task projector; None passes z on.
        features: given z, (n_tasks, t'), which then are not trained.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        dim: int,
        projector: tuple[int, int] | None = None,
        features: Tensor | None = None,
    ) -> None:
        super().__init__(tasks)
        z = torch.randn(len(tasks), dim) if features is None else features
        self.z = nn.Parameter(z, requires_grad=features is None)
        self.projector = task_projector(dim, *projector) if projector else None
        self.dim = projector[1] if projector else dim

    def forward(self, inputs: Inputs) -> Condition:
        """Embed the tasks of a batch."""
        condition = super().forward(inputs)
        assert condition.ids is not None
        return condition._replace(embedding=self.embed(condition.ids))

    def embed(self, ids: Tensor) -> Tensor:
        """Embed tasks, ids (U,) -> I (U, t)."""
        z = self.z.index_select(0, ids)
        return self.projector(z) if self.projector else z

    def add_task(self, name: str, init_from: tuple[int, ...], features: Tensor | None) -> None:
        """Append a task whose z is given, the mean of others', or drawn anew."""
        if features is None and not init_from and not self.z.requires_grad:
            raise UserError(
                f"task '{name}' needs features={self.z.shape[1]} numbers: this model's z are given"
            )
        if features is not None and features.shape != self.z.shape[1:]:
            raise UserError(
                f"task '{name}' needs features={self.z.shape[1]} numbers, not of shape {tuple(features.shape)}"
            )
        super().add_task(name, init_from, features)
        new = torch.randn_like(self.z[0]) if features is None else features
        self.z = append_row(self.z, new, () if features is not None else init_from)

    def keep_tasks(self, ids: tuple[int, ...]) -> None:
        """Keep these tasks alone, in this order."""
        super().keep_tasks(ids)
        self.z = keep_rows(self.z, ids)


class EncodedInput(nn.Module):
    """Condition on the encoded input of each row, e = W_2 ReLU(W_1 h + b_1) + b_2, h the mean of the encoder's states.

    This is eq. 8 of Hyperdecoders.

    Args:
        d_model: width of the states, and of e.
        mlp: without it e = h (Table 9 there).
    """

    def __init__(self, d_model: int, mlp: bool) -> None:
        super().__init__()
        self.mlp: Any = input_projector(d_model) if mlp else None

    def forward(self, inputs: Inputs) -> Condition:
        """Embed the inputs of a batch; where no gradient is wanted, those that repeat, as beams do, only once."""
        assert inputs.encoded is not None
        mean = mean_state(inputs.encoded, inputs.mask)
        rows = None
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            batch = len(mean)
            mean, rows, counts = torch.unique_consecutive(
                mean, dim=0, return_inverse=True, return_counts=True
            )
            rows = None if batch and int(counts.max()) * len(mean) == batch else rows
        return Condition(rows, embedding=self.mlp(mean.to(self.mlp[0].weight)) if self.mlp else mean)


class PerStack(nn.Module):
    """A conditioning of its own for every stack."""

    def __init__(self, by_stack: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.of: Any = nn.ModuleDict(by_stack)  # by this name in saved models

    def forward(self, inputs: Inputs) -> Condition:
        """Condition the stack that is about to run."""
        return self.of[inputs.stack](inputs)


def mean_state(states: Tensor, mask: Tensor | None) -> Tensor:
    """Average a batch's states over their tokens, in float32 or better; the mean over no token is zero.

    Args:
        states: (batch, seq, d_model).
        mask: (batch, seq), 1 for a token; None if all are.

    Returns:
        (batch, d_model).
    """
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    if mask is None:
        return states.sum(1) / max(states.shape[1], 1)
    mask = mask.to(states).unsqueeze(-1)
    return (states * mask).sum(1) / mask.sum(1).clamp_min(1)


def task_projector(d_in: int, d_hidden: int, d_out: int) -> nn.Sequential:
    """Build the two-layer network that turns features into an embedding (HyperFormer, eq. 5), weights N(0, 0.01)."""
    first, second = Linear(d_in, d_hidden), Linear(d_hidden, d_out)
    for layer in (first, second):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second)


def input_projector(d_model: int) -> nn.Sequential:
    """Build the two-layer network that turns a mean state into e (Hyperdecoders, eq. 8)."""
    return nn.Sequential(Linear(d_model, d_model), nn.ReLU(), Linear(d_model, d_model))


def keep_rows(table: nn.Parameter, ids: tuple[int, ...]) -> nn.Parameter:
    """Return the table with these rows alone, trained as it was before."""
    return nn.Parameter(table.detach()[list(ids)].clone(), requires_grad=table.requires_grad)


def append_row(table: nn.Parameter, new: Tensor, init_from: tuple[int, ...] = ()) -> nn.Parameter:
    """Return the table with one more row, trained as it was before: the mean of the rows `init_from`, else `new`."""
    row = table.detach()[list(init_from)].mean(0) if init_from else new.detach()
    return nn.Parameter(
        torch.cat([table.detach(), row.to(table).reshape(1, *table.shape[1:])]),
        requires_grad=table.requires_grad,
    )
