"""A low-rank change of a linear map (LoRA, Hu et al. 2022).

y + s B A x,    A (r, d_in), B (d_out, r), s the scaling
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperadapt.errors import UserError
from hyperadapt.forms.base import Form, SiteCall, add_linear, for_products, linear
from hyperadapt.sites import Site, Tap, Weight


@dataclass(frozen=True)
class LowRank(Form):
    """Down to rank r by A and up again by B, scaled, added to the map's output; it starts at zero, as B (`up`) does.

    Attributes:
        rank: r.
        scaling: s.
        dropout: of what A (`down`) reads, in training.
        bound: A is drawn evenly from -bound to bound over sqrt(d_in); 1 is PEFT's, Kaiming's uniform bound for a leaky
            ReLU of slope sqrt(5), as linear layers start.

    Raises:
        UserError: in `weights`, if r is larger than a side of the map.
    """

    rank: int
    scaling: float
    dropout: float = 0.0
    bound: float = 1.0

    @property
    def taps(self) -> tuple[Tap, ...]:
        return Tap.INPUT, Tap.OUTPUT

    def weights(self, site: Site) -> dict[str, Weight]:
        if self.rank > min(site.d_in, site.d_out):
            raise UserError(
                f"rank {self.rank} is larger than a side of {site.path}, which maps {site.d_in} to {site.d_out}; the "
                f"largest is {min(site.d_in, site.d_out)}"
            )
        return {
            "down": Weight((self.rank, site.d_in), bound=self.bound * site.d_in**-0.5),
            "up": Weight((site.d_out, self.rank)),
        }

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Scale, once a batch."""
        return for_products({"down": weights["down"], "up": weights["up"] * self.scaling}, dtype)

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        x = call.taps[Tap.INPUT]
        if self.dropout:
            x = F.dropout(x, self.dropout, call.module.training)
        return add_linear(call.taps[Tap.OUTPUT], linear(x, weights["down"]), weights["up"])
