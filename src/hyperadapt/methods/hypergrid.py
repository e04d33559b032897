"""HyperGrid and the gate it is compared with (Tay et al., ICLR 2021, arXiv 2007.05891).

The second matrix of every feed-forward block is gated by what the block itself reads; the task is known from the
input's text alone. The whole model is trained but for its embeddings (section 7.2), or the gates alone.

L_r reads the block's input X, d_model numbers, and L_c what the second matrix reads, d_ff numbers, both of the
row's first token: the reading with the published costs, d_model d_r and d_ff d_c (section 3.2). The other reading, L_c
of X too, would cost d_model d_c. Equations 2 and 7 have one vector of d_ff numbers, or n of them repeated, from X: so
both "L" and OutputGate gate what the second matrix reads, the ReLU's output, and cost d_model n. In training d_ff's
numbers are those after dropout. In the decoder the first token is the start token, whose states depend on the encoder
alone: so all gates of a generation are known at its first step, and teacher forcing has the same. Untrained gates are
1/2, so that the paper's form starts with W X scaled by 1.5, OutputGate's with W X halved; `pretrained_start` starts
with W X.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hyperadapt.errors import UserError
from hyperadapt.methods.base import Host, Method

if TYPE_CHECKING:
    from hyperadapt.adaptation import Adaptation, SiteGroup
    from hyperadapt.backbones import Backbone
    from hyperadapt.forms.grid import Pool, Variant


class GatedFeedForward(Method):
    """Gates on the second matrix of every feed-forward block.

    Attributes:
        pool: the gates are computed from the "first" token of what a block reads, or, in the encoder, from the "mean"
            or the "sum" over its tokens (section 3.2 tried all three). In the decoder it is always the first, whose
            gates hold for all steps of a generation. A model without an encoder takes the last token of the prompt for
            the first, as it alone has seen all of it, and the prompt's mean or sum.
        pretrained_start: untrained gates leave the pretrained model as it is, where the paper's scale what they gate.
        frozen: train the gates alone; else all of the model but its embeddings.
    """

    task_in_input = True
    trainability_options = ("frozen",)

    pool: Literal["first", "mean", "sum"] = "first"
    pretrained_start: bool = False
    frozen: bool = False

    @property
    def task_conditioned(self) -> bool:
        return False

    @abstractmethod
    def grid(self, d_ff: int) -> tuple[int, int, Variant, float]:
        """Return the grid's rows and columns, its variant, and by how much an untrained gate is to be raised."""

    def pool_of(self, stack: str, backbone: Backbone) -> Pool:
        """Return of which tokens a stack's gates are: in a decoder beside an encoder always of the first."""
        if "encoder" not in backbone.stacks:
            return "last" if self.pool == "first" else self.pool
        return self.pool if stack == "encoder" else "first"

    def build(self, host: Host) -> Adaptation:
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        from hyperadapt.adaptation import Adaptation, SiteGroup
        from hyperadapt.conditioning import Unconditioned
        from hyperadapt.forms import Grid
        from hyperadapt.generators import SharedTable

        backbone, model = host.backbone, host.model
        groups: dict[str, list[SiteGroup]] = {}
        for stack in backbone.stacks:
            sites = backbone.linear_maps(model, stack, ("feed_forward.output",))
            if len({id(model.get_submodule(site.path)) for site in sites}) < len(sites):
                raise UserError(
                    f"method {self.name} gates each layer's own matrix, but layers of the {stack} share one"
                )
            for site in sites:
                kind = type(model.get_submodule(site.path))
                if kind not in (nn.Linear, Conv1D):  # what is quantised has no matrix to gate
                    raise UserError(
                        f"method {self.name} gates linear maps, but {site.path} is a {kind.__name__}"
                    )
            gate = Grid(*self.grid(sites[0].d_in), self.pool_of(stack, backbone))
            groups[stack] = [SiteGroup(sites, gate, [SharedTable(len(sites), gate.weights(sites[0]))])]
        return Adaptation(Unconditioned(), groups, "none" if self.frozen else "all_but_embeddings")


class HyperGrid(GatedFeedForward):
    """Grid-wise gates on the second matrix of every feed-forward block, Y = (1 + psi(sigma((L_r X)(L_c X')^T))) * W X.

    This is eq. 6, whose H is that of the variant.

    Attributes:
        variant: "L2" computes both factors of the grid from the input (eq. 3); "LG" learns the columns' in place (eq.
            4), "GL" the rows' (eq. 5); "L" has columns alone, fan_out of them (eq. 2, a vector along d_ff); "L_rows"
            has rows alone, fan_in of them, which the text does not have.
        fan_in: d_r, the grid's rows, along d_model; 32 by 128 is the grid of the largest models (section 4.2.5).
        fan_out: d_c, the grid's columns, along d_ff.
    """

    name = "hypergrid"

    variant: Literal["L", "L_rows", "L2", "LG", "GL"] = "L2"
    fan_in: int = Field(32, ge=1, strict=True)
    fan_out: int = Field(128, ge=1, strict=True)

    def grid(self, d_ff: int) -> tuple[int, int, Variant, float]:
        fan_in = 1 if self.variant == "L" else self.fan_in
        fan_out = 1 if self.variant == "L_rows" else self.fan_out
        return fan_in, fan_out, self.variant, 0.5 if self.pretrained_start else 1.0


class OutputGate(GatedFeedForward):
    """Gates on the ReLU's output in every feed-forward block, Y = max(W x + b, 0) * psi(sigma(U X)) (eq. 7).

    Were the gated output added to what is not gated, this would be HyperGrid's variant "L".

    Attributes:
        n: blocks of the d_ff numbers that share a gate; by default every number has its own.
    """

    name = "output_gate"

    n: int | None = Field(None, ge=1, strict=True)

    def grid(self, d_ff: int) -> tuple[int, int, Variant, float]:
        return 1, self.n or d_ff, "L", 0.5 if self.pretrained_start else 0.0
