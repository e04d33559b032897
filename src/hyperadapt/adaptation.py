"""What a method adds to a model: a conditioning, and generators for the sites of each stack.

One forward pass runs it once a stack: task_ids (batch,) -> the distinct conditions -> every site's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hyperadapt.conditioning import TaskEmbedding, TaskLookup
from hyperadapt.errors import UserError
from hyperadapt.forms import Form
from hyperadapt.generators import Generator, TaskTable
from hyperadapt.sites import Site, split


class SiteWeights(NamedTuple):
    """Everything that one stack's sites need for one batch.

    Attributes:
        rows: (batch,), each row's condition.
        by_layer: layer -> position -> name -> (U, *shape); layer -1 holds what lies behind the last block.
    """

    rows: Tensor
    by_layer: dict[int, dict[str, dict[str, Tensor]]]


class SiteGroup(nn.Module):
    """Sites of one stack that share a form, with the generators of the form's weights.

    Args:
        sites: in the order in which the generators number them.
        form: the arithmetic at each.
        generators: together they generate the form's weights, each a part of them.
    """

    def __init__(self, sites: Sequence[Site], form: Form, generators: Sequence[Generator]) -> None:
        super().__init__()
        self.sites, self.form = tuple(sites), form
        self.generators: Any = nn.ModuleList(generators)


class Adaptation(nn.Module):
    """The trained part of an adapted model, its child module `hyperadapt`.

    Args:
        conditioning: finds and embeds a batch's conditions; None where nothing is generated.
        groups: stack -> its sites.
        trained_backbone: which of the base model's own parameters are trained.
    """

    def __init__(
        self,
        conditioning: TaskLookup | None = None,
        groups: Mapping[str, Sequence[SiteGroup]] | None = None,
        trained_backbone: Literal["none", "layer_norms", "all"] = "none",
    ) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.groups: Any = nn.ModuleDict({stack: nn.ModuleList(of) for stack, of in (groups or {}).items()})
        self.trained_backbone = trained_backbone

    def forward(self, stack: str, task_ids: Tensor, dtype: torch.dtype) -> SiteWeights:
        """Generate the weights of all sites of a stack.

        Args:
            stack: "encoder" or "decoder".
            task_ids: (batch,).
            dtype: of the stack's activations; what is generated is cast to it.
        """
        assert self.conditioning is not None
        condition = self.conditioning(task_ids)
        by_layer: dict[int, dict[str, dict[str, Tensor]]] = {}
        for group in self.site_groups(stack):
            for generator in group.generators:
                # One unbind: its backward is one stack, where indexing site by site would sum n_sites full tensors.
                for site, flat in zip(group.sites, generator(condition).to(dtype).unbind(1), strict=True):
                    at_site = by_layer.setdefault(site.layer, {}).setdefault(site.position, {})
                    at_site.update(split(flat, generator.weights))
        return SiteWeights(condition.rows, by_layer)

    def site_groups(self, stack: str | None = None) -> list[SiteGroup]:
        """List the groups of one stack, or of all."""
        stacks = [stack] if stack else list(self.groups)
        return [group for name in stacks for group in self.groups[name]]

    @torch.no_grad()
    def task_embeddings(self) -> Tensor | None:
        """Return every task's embedding I_tau, (n_tasks, t), on the CPU; None where the method has none."""
        if not isinstance(self.conditioning, TaskEmbedding):
            return None
        every_task = torch.arange(len(self.conditioning.tasks), device=self.conditioning.z.device)
        return self.conditioning(every_task).embedding.cpu()

    def add_task(self, name: str, init_from: int | None, features: Tensor | None = None) -> None:
        """Append a task to the conditioning and to every table."""
        if isinstance(self.conditioning, TaskEmbedding):
            self.conditioning.add_task(name, init_from, features)
        elif features is not None:
            raise UserError(f"task '{name}' is given features, but the model's method has no task embedding")
        elif self.conditioning is not None:
            self.conditioning.add_task(name, init_from)
        for module in self.modules():
            if isinstance(module, TaskTable):
                module.add_task(init_from)
