"""What a method adds to a model: a conditioning, and generators for the sites of each stack.

One forward pass runs it once a stack: inputs -> the distinct conditions -> every site's weights. A stack that is
conditioned on its own output, as a generated encoder, runs twice, the first time with the weights of its draft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hyperadapt.conditioning import Inputs, TaskEmbedding, TaskLookup
from hyperadapt.errors import UserError
from hyperadapt.forms import Form, Gate
from hyperadapt.generators import Generator, SkillTable, TaskTable
from hyperadapt.sites import Site, split

TrainedBackbone = Literal["none", "layer_norms", "encoder", "decoder", "all_but_embeddings", "all"]
DRAFT = "{}_draft"  # the stack's name -> what holds the sites of its first run


class Generated(NamedTuple):
    """Everything that one stack's sites need for one batch, the weights of all sites in one tensor.

    A compiled step of a generation reads them so: a few tensors are its inputs, and not some for each site.

    Attributes:
        stack: its name, or its draft's.
        stacked: for each of its `SiteGroup`s name -> (G, n_sites, ...), as its form prepared it, for G groups of rows.
        mask, gates: as in `SiteWeights`.
    """

    stack: str
    stacked: tuple[dict[str, Tensor], ...]
    mask: Tensor | None = None
    gates: dict[str, Tensor] | None = None


class SiteWeights(NamedTuple):
    """The same, site by site.

    Attributes:
        by_layer: layer -> position -> name -> (G, ...); layer -1 holds what lies behind the last block.
        mask: (batch, seq), 1 where the stack reads a token; None if everywhere.
        gates: path of a site -> its gates, (batch, d_r, d_c), kept from the first step of a generation on; None
            where gradients are wanted.
    """

    by_layer: dict[int, dict[str, dict[str, Tensor]]]
    mask: Tensor | None = None
    gates: dict[str, Tensor] | None = None

    def at(self, site: Site) -> AtSite:
        """Return what one site needs."""
        return AtSite(self.by_layer[site.layer][site.position], self.mask, self.gates)


class AtSite(NamedTuple):
    """What one site needs for one batch: its weights, name -> (G, ...); the rest as in `SiteWeights`."""

    weights: dict[str, Tensor]
    mask: Tensor | None
    gates: dict[str, Tensor] | None


class SiteGroup(nn.Module):
    """Sites of one stack that share a form, with the generators of the form's weights.

    Args:
        sites: in the order in which the generators number them.
        form: the arithmetic at each.
        generators: together they generate the form's weights, each a part of them.
    """

    def __init__(self, sites: Sequence[Site], form: Form | Gate, generators: Sequence[Generator]) -> None:
        super().__init__()
        self.sites, self.form = tuple(sites), form
        self.generators: Any = nn.ModuleList(generators)


class Adaptation(nn.Module):
    """The trained part of an adapted model, its child module `hyperadapt`.

    Args:
        conditioning: finds and embeds a batch's conditions; None where nothing is added.
        groups: stack, or its draft, -> its sites.
        trained_backbone: which of the base model's own parameters are trained.
    """

    def __init__(
        self,
        conditioning: nn.Module | None = None,
        groups: Mapping[str, Sequence[SiteGroup]] | None = None,
        trained_backbone: TrainedBackbone = "none",
    ) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.groups: Any = nn.ModuleDict({stack: nn.ModuleList(of) for stack, of in (groups or {}).items()})
        self.trained_backbone = trained_backbone

    def forward(self, inputs: Inputs, dtype: torch.dtype) -> Generated:
        """Generate the weights of all sites of a stack.

        Args:
            inputs: what goes into the stack.
            dtype: of the stack's activations; what is generated is cast to it.
        """
        assert self.conditioning is not None
        condition = self.conditioning(inputs)
        stacked = []
        for group in self.groups[inputs.stack]:
            weights: dict[str, Tensor] = {}
            for generator in group.generators:
                weights |= split(generator(condition), generator.weights)
            prepared = group.form.prepare(weights, dtype)
            if condition.rows is not None:
                # Here, once for all sites and all tokens of a generation, and not at every site.
                prepared = {
                    name: weight.index_select(0, condition.rows) if weight.shape[0] > 1 else weight
                    for name, weight in prepared.items()
                }
            stacked.append(prepared)
        return Generated(inputs.stack, tuple(stacked))

    def by_site(self, generated: Generated) -> SiteWeights:
        """Hand each site its own weights."""
        by_layer: dict[int, dict[str, dict[str, Tensor]]] = {}
        for group, weights in zip(self.groups[generated.stack], generated.stacked, strict=True):
            for name, weight in weights.items():
                # One unbind: its backward is one stack, where indexing site by site would sum n_sites full tensors.
                for site, at_site in zip(group.sites, weight.unbind(1), strict=True):
                    by_layer.setdefault(site.layer, {}).setdefault(site.position, {})[name] = at_site
        return SiteWeights(by_layer, generated.mask, generated.gates)

    def site_groups(self, stack: str | None = None) -> list[SiteGroup]:
        """List the groups of one stack, without its draft's, or all."""
        stacks = list(self.groups) if stack is None else [stack] if stack in self.groups else []
        return [group for name in stacks for group in self.groups[name]]

    def learning_rates(self) -> list[tuple[nn.Parameter, float]]:
        """List the parameters that are trained at a rate of their own."""
        tables = [module for module in self.modules() if isinstance(module, SkillTable)]
        return [(table.logits, table.learning_rate) for table in tables]

    def has_gates(self, stack: str) -> bool:
        """Whether a stack's matrices are gated by its own input."""
        sites = (site for group in self.site_groups(stack) for site in group.sites)
        return any(site.insertion == "gate" for site in sites)

    def has_draft(self, stack: str) -> bool:
        """Whether a stack runs twice."""
        return DRAFT.format(stack) in self.groups

    @torch.no_grad()
    def task_embeddings(self) -> Tensor | None:
        """Return the tasks' embeddings, (n_tasks, t), on the CPU, those of stacks side by side; None without any."""
        embeddings = [module for module in self.modules() if isinstance(module, TaskEmbedding)]
        if not embeddings:
            return None
        every_task = torch.arange(len(embeddings[0].tasks), device=embeddings[0].z.device)
        return torch.cat([embedding.embed(every_task) for embedding in embeddings], dim=1).cpu()

    def add_task(self, name: str, init_from: tuple[int, ...], features: Tensor | None = None) -> None:
        """Append a task to the conditioning and to every table."""
        modules = list(self.modules())
        if features is not None and not any(isinstance(module, TaskEmbedding) for module in modules):
            raise UserError(f"task '{name}' is given features, but the model's method has no task embedding")
        for module in modules:
            if isinstance(module, TaskLookup):
                module.add_task(name, init_from, features)
            elif isinstance(module, TaskTable | SkillTable):
                module.add_task(init_from)

    def keep_tasks(self, ids: tuple[int, ...]) -> None:
        """Keep these tasks alone, in the conditioning and in every table."""
        for module in list(self.modules()):
            if isinstance(module, TaskLookup | TaskTable | SkillTable):
                module.keep_tasks(ids)
