"""Generators: how the parameters of all sites of a stack come about, from a table or a hypernetwork.

A generator returns one flat vector a condition and site, (U, n_sites, numel), from a few batched products, however many
sites and tasks there are. It knows the shapes of what it generates and nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperadapt.conditioning import Condition, Linear, append_row, keep_rows, task_projector
from hyperadapt.sites import Weights, numel

Start = Literal["paper", "fast"]


def learnt_rows(n_rows: int, n_sites: int, weights: Weights) -> Tensor:
    """Draw parameters that are learnt in place, (n_rows, n_sites, numel), each weight as it asks."""
    return torch.cat([weight.draw(n_rows, n_sites) for weight in weights.values()], dim=-1)


class TaskTable(nn.Module):
    """Every task has parameters of its own (Adapters, Adapters-dagger; HyperFormer, section 3).

    Args:
        n_tasks, n_sites: how many.
        weights: what one site needs.
        start: where every task starts, (n_sites, numel); None draws each anew.
    """

    def __init__(self, n_tasks: int, n_sites: int, weights: Weights, start: Tensor | None = None) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.start: Tensor | None
        self.register_buffer("start", start, persistent=False)
        self.table = nn.Parameter(torch.cat([self.new_row(n_sites) for _ in range(n_tasks)]))

    def new_row(self, n_sites: int) -> Tensor:
        """Return a new task's parameters, (1, n_sites, numel)."""
        return learnt_rows(1, n_sites, self.weights) if self.start is None else self.start[None]

    def forward(self, condition: Condition) -> Tensor:
        """Look the parameters up, (U, n_sites, numel)."""
        assert condition.ids is not None
        return self.table.index_select(0, condition.ids)

    def add_task(self, init_from: tuple[int, ...]) -> None:
        """Append a row: the mean of other tasks', or a new one."""
        self.table = append_row(self.table, self.new_row(self.table.shape[1]), init_from)

    def keep_tasks(self, ids: tuple[int, ...]) -> None:
        """Keep these tasks' rows alone."""
        self.table = keep_rows(self.table, ids)


class SharedTable(nn.Module):
    """All tasks share parameters that are learnt in place."""

    def __init__(self, n_sites: int, weights: Weights) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.table = nn.Parameter(learnt_rows(1, n_sites, weights))

    def forward(self, condition: Condition) -> Tensor:
        """Return the parameters, (1, n_sites, numel)."""
        return self.table


class SkillTable(nn.Module):
    """Skills that the tasks share, mixed by a tasks x skills matrix for each site (Ponti et al. 2022, section 3).

    theta = sum_s a_s theta_s over the skills, a = z / sum z, z ~ relaxed Bernoulli(sigma(logits)) in training and
    sigma(logits) otherwise; or a = softmax(logits).

    Args:
        n_tasks, n_sites: how many.
        weights: what one site needs.
        n_skills: how many.
        allocation: "bernoulli" or "softmax".
        learning_rate: of the matrix.
    """

    def __init__(
        self,
        n_tasks: int,
        n_sites: int,
        weights: Weights,
        n_skills: int,
        allocation: str,
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.weights, self.allocation = dict(weights), allocation
        self.logits = nn.Parameter(torch.empty(n_tasks, n_sites, n_skills).uniform_(-1e-3, 1e-3))
        self.table = nn.Parameter(learnt_rows(n_skills, n_sites, weights))
        self.learning_rate = learning_rate

    def forward(self, condition: Condition) -> Tensor:
        """Mix the skills, (U, n_sites, numel)."""
        assert condition.ids is not None
        logits = self.logits.index_select(0, condition.ids)
        return torch.einsum("uns,snk->unk", self.mixture(logits), self.table)

    def mixture(self, logits: Tensor) -> Tensor:
        """Weigh the skills, (U, n_sites, n_skills), each site's weights adding up to 1."""
        if self.allocation == "softmax":
            return logits.softmax(-1)
        if self.training:
            uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = logits + uniform.log() - (-uniform).log1p()
        switched_on = logits.sigmoid()
        return switched_on / (switched_on.sum(-1, keepdim=True) + 1e-12)

    def add_task(self, init_from: tuple[int, ...]) -> None:
        """Append a row to the matrix: the mean of other tasks', or a new one."""
        new = torch.empty_like(self.logits[0]).uniform_(-1e-3, 1e-3)
        self.logits = append_row(self.logits, new, init_from)

    def keep_tasks(self, ids: tuple[int, ...]) -> None:
        """Keep these tasks' rows of the matrix alone."""
        self.logits = keep_rows(self.logits, ids)


class SharedHypernet(nn.Module):
    """A hypernetwork, shared by the tasks, that generates every site's parameters.

    With an embedding I: vec(theta) = W I + b (HyperFormer, eq. 6 and 7), one (W, b) for each `head`: "site"
    (HyperFormer), "position" or "stack" (HyperFormer++). With layer and position embeddings,
    I = LN(P([z_tau; l_i; p_j])), where the projector P is t' -> e -> t (HyperFormer++, eq. 8).

    Args:
        n_layers, n_positions: the sites, numbered layer by layer.
        weights: what one site needs.
        d_task: size of the condition's embedding.
        head: which sites share a linear head.
        layer_embedding, position_embedding: whether I depends on them; they are as long as the task's.
        projector: (e, t), where I is projected; None feeds the heads directly.
        start: "paper", W from N(0, 0.01) and b = 0; or "fast", W = 0 and b as what is learnt in place starts, with I
            of unit length, so that a step of Adam moves what is generated as far as what is learnt in place.
    """

    def __init__(
        self,
        n_layers: int,
        n_positions: int,
        weights: Weights,
        d_task: int,
        head: Literal["stack", "position", "site"],
        layer_embedding: bool = False,
        position_embedding: bool = False,
        projector: tuple[int, int] | None = None,
        start: Start = "paper",
    ) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.n_layers, self.n_positions = n_layers, n_positions
        self.layer_embedding = nn.Parameter(torch.randn(n_layers, d_task)) if layer_embedding else None
        self.position_embedding = (
            nn.Parameter(torch.randn(n_positions, d_task)) if position_embedding else None
        )
        d_features = d_task * (1 + layer_embedding + position_embedding)
        self.projector = task_projector(d_features, *projector) if projector else None
        d_embedding = projector[1] if projector else d_features
        self.norm = nn.LayerNorm(d_embedding, eps=1e-6) if layer_embedding or start == "fast" else None
        self.scale = d_embedding**-0.5 if start == "fast" else 1.0
        n_heads = {"stack": 1, "position": n_positions, "site": n_layers * n_positions}[head]
        std = 0.01 if start == "paper" else 0.0
        self.head_weight = nn.Parameter(torch.randn(n_heads, d_embedding, numel(weights)) * std)
        bias = (
            torch.zeros(n_heads, 1, numel(weights)) if start == "paper" else learnt_rows(n_heads, 1, weights)
        )
        self.head_bias = nn.Parameter(bias)

    def forward(self, condition: Condition) -> Tensor:
        """Generate the parameters of all sites in one batched product, (U, n_sites, numel)."""
        embedding = self.site_embedding(condition)
        n_conditions, n_sites, d_embedding = embedding.shape
        n_heads = self.head_weight.shape[0]
        by_head = embedding.reshape(n_conditions, -1, n_heads, d_embedding).permute(2, 0, 1, 3)
        flat = torch.baddbmm(self.head_bias, by_head.reshape(n_heads, -1, d_embedding), self.head_weight)
        flat = flat.reshape(n_heads, n_conditions, n_sites // n_heads, -1).permute(1, 2, 0, 3)
        return flat.reshape(n_conditions, n_sites, -1)

    def site_embedding(self, condition: Condition) -> Tensor:
        """Embed every site for every condition, (U, n_sites, t)."""
        assert condition.embedding is not None
        grid = (condition.embedding.shape[0], self.n_layers, self.n_positions, -1)
        features = [condition.embedding[:, None, None].expand(grid)]
        if self.layer_embedding is not None:
            features.append(self.layer_embedding[None, :, None].expand(grid))
        if self.position_embedding is not None:
            features.append(self.position_embedding[None, None].expand(grid))
        embedding = torch.cat(features, dim=-1).flatten(1, 2)
        embedding = self.projector(embedding) if self.projector else embedding
        embedding = self.norm(embedding) if self.norm else embedding
        return embedding if self.scale == 1.0 else embedding * self.scale


class BottleneckHypernet(nn.Module):
    """A hypernetwork with one hidden layer, shared by a stack's sites (Hyperdecoders, eq. 3 to 7).

    vec(theta_i) = W_h ReLU(W [e; l_i] + b) + b_h, e the condition's embedding and l_i that of site i (eq. 9). W_h
    starts after HyperFan-in (Chang et al. 2020), a thousand times smaller, so that training starts close to the frozen
    model.

    Args:
        n_sites: how many.
        weights: what one site needs.
        d_condition: size of e.
        d_layer: size of l_i.
        d_hidden: the bottleneck.
    """

    def __init__(self, n_sites: int, weights: Weights, d_condition: int, d_layer: int, d_hidden: int) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.layer_embedding = nn.Parameter(torch.randn(n_sites, d_layer))
        self.hidden = Linear(d_condition + d_layer, d_hidden)
        self.head = Linear(d_hidden, numel(weights))
        with torch.no_grad():
            sizes = [prod(weight.shape) for weight in weights.values()]
            for rows, weight in zip(self.head.weight.split(sizes), weights.values(), strict=True):
                fan_in = weight.shape[1] if len(weight.shape) > 1 else 1
                bound = 1e-3 * (3 / (d_hidden * fan_in)) ** 0.5
                rows.uniform_(-bound, bound)
            self.head.bias.zero_()

    def forward(self, condition: Condition) -> Tensor:
        """Generate the parameters of all sites in one product, (U, n_sites, numel)."""
        assert condition.embedding is not None
        # W [e; l] is the sum of two products, so that neither e nor l is repeated.
        sizes = [condition.embedding.shape[1], self.layer_embedding.shape[1]]
        of_condition, of_layer = self.hidden.weight.split(sizes, dim=1)
        by_condition = F.linear(condition.embedding.to(of_condition), of_condition, self.hidden.bias)
        by_layer = F.linear(self.layer_embedding, of_layer)
        return self.head(F.relu(by_condition[:, None] + by_layer))


class SiteHead(nn.Module):
    """Sites of one size, each with parameters of its own that one linear map of its embedding changes for a task.

    theta_ij = theta0_ij + W I_ij, W shared by the sites. W starts at zero, and theta0 as what is learnt in place does.

    Args:
        places: of these sites among those that are embedded.
        weights: what one site needs.
        d_embedding: size of I.
    """

    def __init__(self, places: Sequence[int], weights: Weights, d_embedding: int) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.places: Tensor
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.start = nn.Parameter(learnt_rows(1, len(places), weights))
        self.head = nn.Parameter(torch.zeros(d_embedding, numel(weights)))

    def forward(self, condition: Condition) -> Tensor:
        """Generate the parameters of these sites in one product, (U, n_sites, numel)."""
        assert condition.embedding is not None
        return self.start + condition.embedding.index_select(1, self.places) @ self.head


Generator = TaskTable | SharedTable | SkillTable | SharedHypernet | BottleneckHypernet | SiteHead
