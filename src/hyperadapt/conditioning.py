"""Conditioning: what a batch's generated parameters depend on.

Every row of a batch has a condition; each distinct condition is generated once. It is the task, whose embedding
I_tau = P(z_tau) is learnt (HyperFormer, eq. 5), or the encoded input itself, e = MLP(mean of the encoder's states)
(Hyperdecoders, eq. 8), or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperadapt.errors import UserError
from hyperadapt.sites import Site


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
        features: given z, (n_tasks, t'), which then are not trained; or those of several descriptions of each task,
            (n_tasks, most, t'), zeros where a task has fewer. Of them one is drawn in training, and the mean is taken
            else; all are centred and divided by their width, so that they are as wide as learnt ones begin.
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
        self.is_described = z.dim() == 3
        self.drawn: Tensor | None = None  # (n_tasks,), which description of each, in this step of training
        self.drawn_in: tuple[str, ...] = ()  # the stacks that read it; one that comes again begins a step
        if self.is_described:
            centre, width = centre_and_width(z)
            self.register_buffer("centre", centre)
            self.register_buffer("width", width)
        self.projector = task_projector(dim, *projector) if projector else None
        self.dim = projector[1] if projector else dim

    def forward(self, inputs: Inputs) -> Condition:
        """Embed the tasks of a batch."""
        condition = super().forward(inputs)
        assert condition.ids is not None
        if self.is_described and self.training:
            if self.drawn is None or inputs.stack in self.drawn_in:
                # Once a step, so that a decoder is told the same as its encoder.
                odds = torch.rand(self.z.shape[:2], device=self.z.device)
                self.drawn, self.drawn_in = odds.masked_fill(self.z.eq(0).all(-1), -1).argmax(1), ()
            self.drawn_in = (*self.drawn_in, inputs.stack)
        return condition._replace(embedding=self.embed(condition.ids))

    def embed(self, ids: Tensor) -> Tensor:
        """Embed tasks, ids (U,) -> I (U, t)."""
        z = self.z.index_select(0, ids)
        z = self.of_descriptions(z, ids) if self.is_described else z
        return self.projector(z) if self.projector else z

    def of_descriptions(self, z: Tensor, ids: Tensor) -> Tensor:
        """Take the description of each task that is drawn in training, else their mean, (U, most, t') -> (U, t')."""
        if self.training and self.drawn is not None:
            places = self.drawn.index_select(0, ids)[:, None, None]
            chosen = z.gather(1, places.expand(-1, 1, z.shape[2])).squeeze(1)
        else:
            chosen = z.sum(1) / z.ne(0).any(-1).sum(1, keepdim=True)
        centre, width = cast("Tensor", self.centre), cast("Tensor", self.width)
        return (chosen - centre) / width

    def add_task(self, name: str, init_from: tuple[int, ...], features: Tensor | None) -> None:
        """Append a task whose z is given, the mean of others', or drawn anew."""
        if features is None and not init_from and not self.z.requires_grad:
            raise UserError(
                f"task '{name}' needs a description: this model's z come from such"
                if self.is_described
                else f"task '{name}' needs features={self.z.shape[1]} numbers: this model's z are given"
            )
        if self.is_described and features is None:
            features = self.described_as(init_from)
        elif features is not None and self.is_described and features.shape[-1:] == self.z.shape[-1:]:
            features = self.as_many(features.reshape(-1, features.shape[-1]))
        if features is not None and features.shape != self.z.shape[1:]:
            raise UserError(
                f"task '{name}' needs features={self.z.shape[-1]} numbers, not of shape {tuple(features.shape)}"
            )
        if self.is_described and features is not None and not features.any():
            raise UserError(f"task '{name}' has features of zeros, which stand for no description")
        super().add_task(name, init_from, features)
        self.drawn = None
        new = torch.randn_like(self.z[0]) if features is None else features
        self.z = append_row(self.z, new, () if features is not None else init_from)

    def mean_features(self) -> Tensor:
        """Return the mean of each task's descriptions' features, (n_tasks, t')."""
        z = self.z.detach()
        return z.sum(1) / z.ne(0).any(-1).sum(1, keepdim=True)

    def describe(self, number: int, features: Tensor) -> None:
        """Put other descriptions' features, (t',) or (n, t'), in place of those of a task."""
        row = self.as_many(features.reshape(-1, features.shape[-1]).to(self.z))
        self.z.data[number] = row

    def described_as(self, ids: tuple[int, ...]) -> Tensor:
        """Return what stands for the descriptions of a task between others, (most, t'): the mean of their means."""
        return self.as_many(self.mean_features()[list(ids)].mean(0, keepdim=True))

    def as_many(self, features: Tensor) -> Tensor:
        """Give a task's descriptions, (n, t'), the places of all others', and those more places, if it has more."""
        if (more := len(features) - self.z.shape[1]) > 0:
            self.z = nn.Parameter(F.pad(self.z.detach(), (0, 0, 0, more)), requires_grad=False)
        return F.pad(features, (0, 0, 0, self.z.shape[1] - len(features)))

    def keep_tasks(self, ids: tuple[int, ...]) -> None:
        """Keep these tasks alone, in this order."""
        super().keep_tasks(ids)
        self.z, self.drawn = keep_rows(self.z, ids), None


class SiteEmbedding(TaskEmbedding):
    """Embed every site of a stack for every task, I = LN(P([z_tau; l_i; m_j])) / sqrt(t), P: 3t' -> e -> t.

    After eq. 8 of HyperFormer++, its positions here being the modules of a block.

    Args:
        tasks, dim, features: as in `TaskEmbedding`.
        sites: stack -> its sites.
        d_hidden, d_embedding: e and t.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        dim: int,
        sites: Mapping[str, Sequence[Site]],
        d_hidden: int,
        d_embedding: int,
        features: Tensor | None = None,
    ) -> None:
        super().__init__(tasks, dim, features=features)
        d_task = self.z.shape[-1]
        self.stacks: Any = nn.ModuleDict(
            {
                stack: SiteProjector(of_stack, d_task, dim, d_hidden, d_embedding)
                for stack, of_stack in sites.items()
            }
        )

    def forward(self, inputs: Inputs) -> Condition:
        """Embed the sites of the stack that is about to run, for the tasks of a batch, (U, n_sites, t)."""
        condition = super().forward(inputs)
        return condition._replace(embedding=self.stacks[inputs.stack](condition.embedding))


class SiteProjector(nn.Module):
    """P of one stack, with the embeddings of its layers and modules.

    Args:
        sites: of the stack.
        d_task: size of z.
        d_site: size of l and of m.
        d_hidden, d_embedding: e and t.
    """

    def __init__(
        self, sites: Sequence[Site], d_task: int, d_site: int, d_hidden: int, d_embedding: int
    ) -> None:
        super().__init__()
        layers = list(dict.fromkeys(site.layer for site in sites))
        modules = list(dict.fromkeys(site.position for site in sites))
        self.layer_embedding = nn.Parameter(torch.randn(len(layers), d_site))
        self.module_embedding = nn.Parameter(torch.randn(len(modules), d_site))
        self.layer_numbers: Tensor
        self.module_numbers: Tensor
        numbers = torch.tensor([layers.index(site.layer) for site in sites])
        self.register_buffer("layer_numbers", numbers, persistent=False)
        numbers = torch.tensor([modules.index(site.position) for site in sites])
        self.register_buffer("module_numbers", numbers, persistent=False)
        self.of_task = Linear(d_task, d_hidden)
        self.of_site = Linear(2 * d_site, d_hidden, bias=False)
        self.out = Linear(d_hidden, d_embedding)
        self.norm = nn.LayerNorm(d_embedding)

    def forward(self, z: Tensor) -> Tensor:
        """Embed all sites, (U, t') -> (U, n_sites, t)."""
        sites = torch.cat(
            [self.layer_embedding[self.layer_numbers], self.module_embedding[self.module_numbers]], dim=-1
        )
        # P's first map of [z; l; m] is the sum of two, so that neither is repeated.
        hidden = F.relu(self.of_task(z.to(self.of_task.weight))[:, None] + self.of_site(sites))
        embedding = self.norm(self.out(hidden))
        # A step of Adam moves all weights of a head at once: without this what is generated would move by t steps.
        return embedding / embedding.shape[-1] ** 0.5


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


def centre_and_width(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of all descriptions' features, (t',), and the root mean square of their distances from it.

    Args:
        z: (n_tasks, most, t'), zeros where a task has fewer.
    """
    there = z[z.ne(0).any(-1)]
    centre = there.mean(0)
    width = (there - centre).square().mean().sqrt()
    return centre, width if width > 0 else torch.ones_like(width)


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
