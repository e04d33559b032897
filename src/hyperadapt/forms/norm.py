"""A backbone's root-mean-square norm with a scale of the row's own (Adapters; HyperFormer, section 3).

y = w * x / sqrt(mean(x^2) + eps),    w (d_model,)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperadapt.forms.base import Form, SiteCall, grouped
from hyperadapt.sites import Site, Tap, Weight


@dataclass(frozen=True)
class NormScale(Form):
    """Replace a norm's output by one scaled by generated weights, in float32 as T5 computes it."""

    eps: float

    @property
    def taps(self) -> tuple[Tap, ...]:
        return Tap.INPUT, Tap.OUTPUT

    def weights(self, site: Site) -> dict[str, Weight]:
        return {"scale": Weight((site.d_out,), mean=1.0)}

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Leave them as they are: under autocast a norm's output stays in float32."""
        return weights

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        x, y = call.taps[Tap.INPUT], call.taps[Tap.OUTPUT]
        scale = weights["scale"].to(y.dtype).unsqueeze(1)
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        normed = (x * torch.rsqrt(variance + self.eps)).to(y.dtype)
        return (scale * grouped(normed, len(scale))).view_as(y)
