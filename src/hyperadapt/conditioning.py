"""Conditioning: what a batch's generated parameters depend on.

Every row of a batch names a condition; each distinct condition is generated once. Here the condition is the task,
z_tau, and I_tau = P(z_tau) its embedding (HyperFormer, section 2.1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyperadapt.errors import UserError


class Condition(NamedTuple):
    """The distinct conditions of a batch.

    Attributes:
        ids: (U,), the tasks.
        rows: (batch,), each row's place in `ids`.
        embedding: (U, d), None where the parameters are looked up.
    """

    ids: Tensor
    rows: Tensor
    embedding: Tensor | None


def distinct(task_ids: Tensor, n_tasks: int) -> tuple[Tensor, Tensor]:
    """Find a batch's distinct tasks, with no synchronisation on an accelerator and no graph break under compile.

    On the CPU only the tasks that occur are returned. Elsewhere the number of tasks that occur is not known without
    asking the device, so that all tasks are, or, where there are more of them than rows, every row's.

    Args:
        task_ids: (batch,).

    Returns:
        ids (U,) and rows (batch,) with ids[rows] == task_ids.
    """
    if task_ids.device.type == "cpu" and not torch.compiler.is_compiling():
        ids, rows = torch.unique(task_ids, return_inverse=True)
        return ids, rows
    if n_tasks <= task_ids.shape[0]:
        return torch.arange(n_tasks, device=task_ids.device), task_ids
    return task_ids, torch.arange(task_ids.shape[0], device=task_ids.device)


class TaskLookup(nn.Module):
    """Condition on the task alone, for generators that look parameters up."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, task_ids: Tensor) -> Condition:
        """Find the tasks of a batch, task_ids (batch,)."""
        ids, rows = distinct(task_ids, len(self.tasks))
        return Condition(ids, rows, None)

    def add_task(self, name: str, init_from: int | None) -> None:
        """Append a task."""
        self.tasks = (*self.tasks, name)


class TaskEmbedding(TaskLookup):
    """Condition on an embedding of the task: z_tau (learnt or given), and optionally I_tau = W_2 ReLU(W_1 z_tau).

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

    def forward(self, task_ids: Tensor) -> Condition:
        """Embed the tasks of a batch, task_ids (batch,)."""
        ids, rows = distinct(task_ids, len(self.tasks))
        embedding = self.z.index_select(0, ids)
        return Condition(ids, rows, self.projector(embedding) if self.projector else embedding)

    def add_task(self, name: str, init_from: int | None, features: Tensor | None = None) -> None:
        """Append a task whose z is given, a copy of another's, or drawn anew."""
        if features is None and init_from is None and not self.z.requires_grad:
            raise UserError(
                f"task '{name}' needs features={self.z.shape[1]} numbers: this model's z are given"
            )
        if features is not None and features.shape != self.z.shape[1:]:
            raise UserError(
                f"task '{name}' needs features={self.z.shape[1]} numbers, not of shape {tuple(features.shape)}"
            )
        row = features if features is not None else self.z[init_from] if init_from is not None else None
        row = torch.randn(self.z.shape[1]) if row is None else row
        super().add_task(name, init_from)
        self.z = append_row(self.z, row)


def task_projector(d_in: int, d_hidden: int, d_out: int) -> nn.Sequential:
    """Build the two-layer network that turns features into an embedding (section 2.1), weights N(0, 0.01)."""
    first, second = nn.Linear(d_in, d_hidden), nn.Linear(d_hidden, d_out)
    for layer in (first, second):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second)


def append_row(table: nn.Parameter, row: Tensor) -> nn.Parameter:
    """Return the table with one more row, trained as it was before."""
    row = row.detach().to(table).reshape(1, *table.shape[1:])
    return nn.Parameter(torch.cat([table.detach(), row]), requires_grad=table.requires_grad)
