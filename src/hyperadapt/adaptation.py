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
from hyperadapt.forms import Form
from hyperadapt.generators import Generator, SkillTable, TaskTable
from hyperadapt.sites import Site, split

TrainedBackbone = Literal["none", "layer_norms", "encoder", "decoder", "all_but_embeddings", "all"]
DRAFT = "{}_draft"  # the stack's name -> what holds the sites of its first run


class Generated(NamedTuple):
    """The weights that one stack's sites need for one batch, as they were generated: what is exported.

    Attributes:
        stack: its name, or its draft's.
        weights: for each of its `SiteGroup`s name -> (U, n_sites, *shape), for U conditions.
        rows: (G,), the condition of each of G groups of equally many rows; None where there are U groups.
    """

    stack: str
    weights: tuple[dict[str, Tensor], ...]
    rows: Tensor | None


class Prepared(NamedTuple):
    """The same as forms apply them, for each group of rows, the weights of all sites in one tensor.

    A compiled step of a generation reads them so: a few tensors are its inputs, and not some for each site.

    Attributes:
        stack: its name, or its draft's.
        weights: for each of its `SiteGroup`s name -> (G, n_sites, ...).
        mask, kept: as in `SiteWeights`.
    """

    stack: str
    weights: tuple[dict[str, Tensor], ...]
    mask: Tensor | None = None
    kept: dict[str, dict[str, Tensor]] | None = None

    def of_rows(self, rows: Tensor, size: int) -> Prepared:
        """Return what some rows of a batch need, each as often as it is named.

        Args:
            rows: (R,), numbers of rows.
            size: of the batch.
        """

        def chosen(weights: dict[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: weight if len(weight) == 1 else weight.index_select(0, rows // (size // len(weight)))
                for name, weight in weights.items()
            }

        return self._replace(
            weights=tuple(map(chosen, self.weights)),
            mask=None if self.mask is None else self.mask.index_select(0, rows),
            kept=None
            if self.kept is None
            else {path: chosen(weights) for path, weights in self.kept.items()},
        )


class SiteWeights(NamedTuple):
    """The same, site by site.

    Attributes:
        by_layer: layer -> position -> name -> (G, ...); layer -1 holds what lies behind the last block.
        mask: (batch, seq), 1 where the stack reads a token; None if everywhere.
        kept: path of a site -> what its form has kept since the first step of a generation; None where gradients are
            wanted.
    """

    by_layer: dict[int, dict[str, dict[str, Tensor]]]
    mask: Tensor | None = None
    kept: dict[str, dict[str, Tensor]] | None = None

    def at(self, site: Site) -> dict[str, Tensor] | None:
        """Return what was prepared for one site; None in a draft of the base model itself."""
        return self.by_layer[site.layer][site.position] if self.by_layer else None

    def kept_at(self, site: Site) -> dict[str, Tensor] | None:
        """Return what a site's form keeps, to be added to."""
        return None if self.kept is None else self.kept.setdefault(site.path, {})


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
        self.groups: Any = nn.ModuleDict(
            {stack: nn.ModuleList(members) for stack, members in (groups or {}).items()}
        )
        self.trained_backbone = trained_backbone
        self.heads: Any = None  # of the tasks of a model that is an encoder alone (hyperadapt.model.heads)

    def forward(self, inputs: Inputs, dtype: torch.dtype) -> Prepared:
        """Generate and prepare, as a call that hooks and shards (FSDP2) see.

        Args:
            inputs: what goes into the stack.
            dtype: of the stack's activations.
        """
        return self.prepare(self.generate(inputs), dtype)

    def generate(self, inputs: Inputs) -> Generated:
        """Generate the weights of all sites of a stack, for each distinct condition of a batch.

        Args:
            inputs: what goes into the stack.
        """
        if not self.groups[inputs.stack]:  # of a draft of the base model itself
            return Generated(inputs.stack, (), None)
        assert self.conditioning is not None
        condition = self.conditioning(inputs)
        found = []
        for group in self.groups[inputs.stack]:
            weights: dict[str, Tensor] = {}
            for generator in group.generators:
                weights |= split(generator(condition), generator.weights)
            found.append(weights)
        return Generated(inputs.stack, tuple(found), condition.rows)

    def prepare(self, generated: Generated, dtype: torch.dtype) -> Prepared:
        """Turn what was generated into what forms apply, and give every group of rows its own.

        Here, once for all sites and all tokens of a generation, and not at every site.

        Args:
            generated: by `generate`.
            dtype: of the stack's activations; what is generated is cast to it.
        """
        found = []
        for group, weights in zip(self.groups[generated.stack], generated.weights, strict=True):
            prepared = group.form.prepare(weights, dtype)
            if generated.rows is not None:
                prepared = {
                    name: weight.index_select(0, generated.rows) if weight.shape[0] > 1 else weight
                    for name, weight in prepared.items()
                }
            found.append(prepared)
        return Prepared(generated.stack, tuple(found))

    def by_site(self, prepared: Prepared) -> SiteWeights:
        """Hand each site its own weights."""
        by_layer: dict[int, dict[str, dict[str, Tensor]]] = {}
        for group, weights in zip(self.groups[prepared.stack], prepared.weights, strict=True):
            for name, weight in weights.items():
                # One unbind: its backward is one stack, where indexing site by site would sum n_sites full tensors.
                for site, at_site in zip(group.sites, weight.unbind(1), strict=True):
                    by_layer.setdefault(site.layer, {}).setdefault(site.position, {})[name] = at_site
        return SiteWeights(by_layer, prepared.mask, prepared.kept)

    def site_groups(self, stack: str | None = None) -> list[SiteGroup]:
        """List the groups of one stack, without its draft's, or all."""
        stacks = list(self.groups) if stack is None else [stack] if stack in self.groups else []
        return [group for name in stacks for group in self.groups[name]]

    def learning_rates(self) -> list[tuple[nn.Parameter, float]]:
        """List the parameters that are trained at a rate of their own."""
        tables = [module for module in self.modules() if isinstance(module, SkillTable)]
        rates = [(table.logits, table.learning_rate) for table in tables]
        if self.heads is not None and self.heads.options.learning_rate is not None:
            rates += [(parameter, self.heads.options.learning_rate) for parameter in self.heads.parameters()]
        return rates

    def keeps(self, stack: str) -> bool:
        """Whether a form of a stack keeps something of a generation's first step for the others."""
        return any(group.form.keeps for group in self.site_groups(stack))

    @property
    def reads_prompt(self) -> bool:
        """Whether what it adds depends on the tokens of a prompt, where there is no encoder."""
        return any(self.has_draft(stack) or self.keeps(stack) for stack in self.groups)

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
