"""A backbone's norm with a scale of the row's own (Adapters; HyperFormer, section 3).

y = w * x / sqrt(mean(x^2) + eps),    w (d_model,)

A centred one is a layer norm: the mean is taken from x before, and a shift b is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperadapt.forms.base import Form, SiteCall, grouped
from hyperadapt.sites import Site, Tap, Weight


@dataclass(frozen=True)
class NormScale(Form):
    """Replace a norm's output by one of generated weights, in float32 as T5 computes it.

    Attributes:
        eps: epsilon.
        centred: whether it is a layer norm, with a shift.
    """

    eps: float
    centred: bool = False

    @property
    def taps(self) -> tuple[Tap, ...]:
        return Tap.INPUT, Tap.OUTPUT

    def weights(self, site: Site) -> dict[str, Weight]:
        scale = {"scale": Weight((site.d_out,), mean=1.0)}
        return {**scale, "shift": Weight((site.d_out,))} if self.centred else scale

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Leave them as they are: under autocast a norm's output stays in float32."""
        return weights

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        x, y = call.taps[Tap.INPUT], call.taps[Tap.OUTPUT]
        exact = x.to(torch.float32)
        exact = exact - exact.mean(-1, keepdim=True) if self.centred else exact
        variance = exact.pow(2).mean(-1, keepdim=True)
        normed = (exact * torch.rsqrt(variance + self.eps)).to(y.dtype)
        scale = weights["scale"].to(y.dtype).unsqueeze(1)
        scaled = scale * grouped(normed, len(scale))
        if self.centred:
            scaled = scaled + weights["shift"].to(y.dtype).unsqueeze(1)
        return scaled.view_as(y)
