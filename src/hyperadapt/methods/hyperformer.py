"""HyperFormer, HyperFormer++ and their baselines (Karimi Mahabadi et al., ACL 2021, arXiv 2106.04489).

method               condition       generator                           form at the sites
Adapters             task            table, backbone norms per task      bottleneck after attention and feed-forward
AdaptersDagger       task            table, shared norms                 same
HyperFormer          task embedding  shared by the tasks, one a site     same
HyperFormerPlusPlus  task embedding  shared by tasks and sites           same
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from hyperadapt.errors import UserError
from hyperadapt.methods.base import Host, Method
from hyperadapt.methods.task_embedding import TaskEmbeddingMethod

if TYPE_CHECKING:
    from hyperadapt.adaptation import Adaptation
    from hyperadapt.generators import SharedTable
    from hyperadapt.sites import Weight

Position = Literal["feed_forward", "self_attention"]
MAPS, NORM_WEIGHTS = ("down", "up"), ("norm_weight", "norm_bias")


class BottleneckMethod(Method):
    """Options of all methods whose form is the Houlsby adapter, A(x) = LN(U act(D x)) + x (eq. 3).

    Attributes:
        reduction_factor: d_model over the width of the bottleneck; parameters are printed for 32 (section 3.1).
        activation: the bottleneck's; "gelu_new" is the reference implementation's.
        positions: the sub-layers after which adapters stand. Their order numbers the position embeddings.
        train_layer_norms: whether the base model's own layer norms are trained (section 2; Table 4).
    """

    reduction_factor: int = Field(32, ge=1, strict=True)
    activation: str = "gelu_new"
    positions: tuple[Position, ...] = Field(("feed_forward", "self_attention"), min_length=1)
    train_layer_norms: bool = True

    @field_validator("positions")
    @classmethod
    def not_repeated(cls, positions: tuple[Position, ...]) -> tuple[Position, ...]:
        if len(set(positions)) < len(positions):
            raise ValueError(f"a position is repeated: {', '.join(positions)}")
        return positions


class AdaptersDagger(BottleneckMethod):
    """Adapters of its own for every task, everything else shared: layer norms of adapters and base (section 3)."""

    name = "adapters_dagger"

    def build(self, host: Host) -> Adaptation:
        from hyperadapt.adaptation import Adaptation, SiteGroup
        from hyperadapt.conditioning import TaskLookup
        from hyperadapt.forms import Bottleneck
        from hyperadapt.generators import SharedTable, TaskTable

        backbone, model, tasks, _ = host
        form = Bottleneck(self.reduction_factor, self.activation)
        groups: dict[str, list[SiteGroup]] = {}
        for stack in backbone.stacks:
            sites = backbone.sites(model, stack, self.positions)
            own, shared = divide(form.weights(sites[0]), NORM_WEIGHTS)
            tables = TaskTable(len(tasks), len(sites), own), SharedTable(len(sites), shared)
            groups[stack] = [SiteGroup(sites, form, tables)]
        return Adaptation(TaskLookup(tasks), groups, "layer_norms" if self.train_layer_norms else "none")


class Adapters(BottleneckMethod):
    """Adapters and layer norms of its own for every task, those of the base model too: nothing is shared.

    Trained on a mixture this equals training each task alone, Houlsby et al. (2019) and Table 1's single-task rows.
    """

    name = "adapters"

    def build(self, host: Host) -> Adaptation:
        import torch

        from hyperadapt.adaptation import Adaptation, SiteGroup
        from hyperadapt.conditioning import TaskLookup
        from hyperadapt.forms import Bottleneck, NormScale
        from hyperadapt.generators import TaskTable

        backbone, model, tasks, _ = host
        form, norm_form = (
            Bottleneck(self.reduction_factor, self.activation),
            NormScale(backbone.eps(model), centred=backbone.has_shifts),
        )
        groups: dict[str, list[SiteGroup]] = {}
        for stack in backbone.stacks:
            sites = backbone.sites(model, stack, self.positions)
            groups[stack] = [
                SiteGroup(sites, form, [TaskTable(len(tasks), len(sites), form.weights(sites[0]))])
            ]
            if self.train_layer_norms:
                norms = backbone.norm_sites(model, stack)
                start = torch.stack([backbone.norm_start(model, site) for site in norms])
                table = TaskTable(len(tasks), len(norms), norm_form.weights(norms[0]), start)
                groups[stack].append(SiteGroup(norms, norm_form, [table]))
        return Adaptation(TaskLookup(tasks), groups)


class HyperFormer(TaskEmbeddingMethod, BottleneckMethod):
    """Adapters and layer norms generated from a task embedding, one hypernetwork a site, shared by the tasks.

    I_tau = W_2 ReLU(W_1 z_tau) (eq. 5);  (U, D) = (W_U, W_D) I_tau (eq. 6);  (gamma, beta) likewise (eq. 7).

    Attributes:
        task_feature_dim: size t' of z_tau: 512 (appendix A), and t in HyperFormer++ (section 2.4).
        projector_hidden_dim: size e of the task projector's hidden layer (section 4.1).
        task_embedding_dim: size t of I_tau, from which parameters are generated (appendix A).
        conditional_layer_norm: generate the adapters' layer norms; else they are learnt, one a site (Table 4).
        adapter_block: without it the generated layer norm stands alone (Table 4).
        task_projector: without it z_tau feeds the generators directly (Table 4).
        start: "paper" draws all generators from N(0, 0.01), so that the generated layer norm, whose scale is near zero,
            holds back what stands before it, and yet adds noise as wide as its scale whatever the sub-layer puts out.
            "fast" starts as the base model and learns from the first step: generators are zero, what they add to is
            drawn as linear layers are, with a norm of scale zero, and the embedding that they read is of unit length.
    """

    name = "hyperformer"

    task_feature_dim: int = Field(512, ge=1)
    projector_hidden_dim: int = Field(128, ge=1)
    task_embedding_dim: int = Field(64, ge=1)
    conditional_layer_norm: bool = True
    adapter_block: bool = True
    task_projector: bool = True
    start: Literal["paper", "fast"] = "paper"

    def build(self, host: Host) -> Adaptation:
        from hyperadapt.adaptation import Adaptation, SiteGroup
        from hyperadapt.conditioning import TaskEmbedding
        from hyperadapt.forms import Bottleneck
        from hyperadapt.generators import SharedHypernet, SharedTable

        backbone, model, tasks, _ = host
        features = self.features(host)
        if not self.adapter_block and not self.conditional_layer_norm:
            raise UserError(
                f"{self.name}: with neither adapter_block nor conditional_layer_norm nothing is generated"
            )
        feature_dim = self.task_feature_dim if features is None else features.shape[-1]
        conditioning = TaskEmbedding(tasks, feature_dim, self.conditioning_projector(), features)
        form = Bottleneck(self.reduction_factor, self.activation, self.adapter_block)
        groups: dict[str, list[SiteGroup]] = {}
        for stack in backbone.stacks:
            sites = backbone.sites(model, stack, self.positions)
            generated, learnt = divide(
                self.started(form.weights(sites[0])), () if self.conditional_layer_norm else NORM_WEIGHTS
            )
            hypernet = SharedHypernet(
                n_layers=len(sites) // len(self.positions),
                n_positions=len(self.positions),
                weights=generated,
                d_task=conditioning.dim,
                start=self.start,
                **self.hypernet_options(),
            )
            learnt_norms: list[SharedTable] = [SharedTable(len(sites), learnt)] if learnt else []
            groups[stack] = [SiteGroup(sites, form, [hypernet, *learnt_norms])]
        train_norms = self.train_layer_norms and not self.train_task_embeddings_only
        return self.trained(Adaptation(conditioning, groups, "layer_norms" if train_norms else "none"))

    def started(self, weights: dict[str, Weight]) -> dict[str, Weight]:
        """Return how an adapter's weights are drawn where they are learnt in place, or are what generators add to."""
        if self.start == "paper":
            return weights
        maps = {
            name: weights[name]._replace(std=weights[name].shape[1] ** -0.5)
            for name in MAPS
            if name in weights
        }
        return {**weights, **maps, "norm_weight": weights["norm_weight"]._replace(mean=0.0)}

    def conditioning_projector(self) -> tuple[int, int] | None:
        """Return (e, t) of the projector that the stacks share, or None."""
        return (self.projector_hidden_dim, self.task_embedding_dim) if self.task_projector else None

    def hypernet_options(self) -> dict[str, Any]:
        """Return how each stack's hypernetwork is shared and what it embeds."""
        return {"head": "site"}


class HyperFormerPlusPlus(HyperFormer):
    """HyperFormer with one hypernetwork a stack, told apart by layer and position embeddings (section 2.4).

    I = LN(P([z_tau; l_i; p_j])) (eq. 8), all three of size t' = `task_feature_dim`, P: 3t' -> e -> t.

    Attributes:
        position_embedding: without it each position has a generator of its own (an option of the reference
            implementation, not in the paper).
    """

    name = "hyperformer++"

    task_feature_dim: int = Field(64, ge=1)
    position_embedding: bool = True

    def conditioning_projector(self) -> tuple[int, int] | None:
        return None

    def hypernet_options(self) -> dict[str, Any]:
        return {
            "head": "stack" if self.position_embedding else "position",
            "layer_embedding": True,
            "position_embedding": self.position_embedding,
            "projector": super().conditioning_projector(),
        }


def divide(weights: dict[str, Weight], names: tuple[str, ...]) -> tuple[dict[str, Weight], dict[str, Weight]]:
    """Part a form's weights into those not named and those named."""
    rest = {name: weight for name, weight in weights.items() if name not in names}
    return rest, {name: weight for name, weight in weights.items() if name in names}
