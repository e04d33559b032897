"""A low-rank change of a linear map (LoRA, Hu et al. 2022).

y + U D x / r,    D (r, d_in), U (d_out, r)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperadapt.forms.base import Form, SiteCall, add_linear, for_products, linear
from hyperadapt.sites import Site, Tap, Weight


@dataclass(frozen=True)
class LowRank(Form):
    """Down to rank r and up again, over r, added to the map's output; it starts at zero, as `up` does.

    Attributes:
        rank: r.
    """

    rank: int

    @property
    def taps(self) -> tuple[Tap, ...]:
        return Tap.INPUT, Tap.OUTPUT

    def weights(self, site: Site) -> dict[str, Weight]:
        # Kaiming's uniform bound for a leaky ReLU of slope sqrt(5), as linear layers start.
        return {
            "down": Weight((self.rank, site.d_in), bound=(3 * site.d_in) ** -0.5),
            "up": Weight((site.d_out, self.rank)),
        }

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Divide by r, once a batch."""
        return for_products({"down": weights["down"], "up": weights["up"] / self.rank}, dtype)

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        return add_linear(call.taps[Tap.OUTPUT], linear(call.taps[Tap.INPUT], weights["down"]), weights["up"])
