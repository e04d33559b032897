"""The adapter in parallel to a sub-layer (He et al. 2022; Hyperdecoders, eq. 1 and 2).

    y + A(x),    A(x) = U act(D x + b_D) + b_U,    D (b, d_model), U (d_model, b)

x is the sub-layer's input; there is no layer norm in A, no dropout, and no residual of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperadapt.forms.base import ACTIVATIONS, Form, SiteCall, add_linear, for_products, linear, with_one
from hyperadapt.sites import Site, Tap, Weight


@dataclass(frozen=True)
class ParallelBottleneck(Form):
    """Down, activation, up (eq. 1), added to the sub-layer's output (eq. 2).

    Attributes:
        bottleneck_dim: its width b.
        activation: a key of `ACTIVATIONS`.
        reads: the state before the sub-layer's norm (eq. 2), or what the norm makes of it (Table 9).
    """

    bottleneck_dim: int
    activation: str = "relu"
    reads: Tap = Tap.BLOCK_INPUT

    @property
    def taps(self) -> tuple[Tap, ...]:
        return self.reads, Tap.OUTPUT

    def weights(self, site: Site) -> dict[str, Weight]:
        b, d_in, d_out = self.bottleneck_dim, site.d_in, site.d_out
        # Xavier's uniform bound, with a gain of 1e-4: the frozen model is hardly changed at first.
        down, up = (1e-4 * (6 / (b + d)) ** 0.5 for d in (d_in, d_out))
        return {
            "down": Weight((b, d_in), bound=down),
            "down_bias": Weight((b,)),
            "up": Weight((d_out, b), bound=up),
            "up_bias": Weight((d_out,)),
        }

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Make the up projection's bias its last column."""
        up = torch.cat([weights["up"], weights["up_bias"].unsqueeze(-1)], -1)
        return for_products({"down": weights["down"], "down_bias": weights["down_bias"], "up": up}, dtype)

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        x = call.taps[self.reads]
        hidden = ACTIVATIONS[self.activation](linear(x, weights["down"], weights["down_bias"]))
        return add_linear(call.taps[Tap.OUTPUT], with_one(hidden), weights["up"])
