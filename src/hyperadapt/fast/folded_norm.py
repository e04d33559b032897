"""The Houlsby adapter with its layer norm folded into the up projection, in training on a CPU.

    A(x) = [diag(gamma) C, beta] [a / sqrt(a^T G a + eps); 1] + x,    a = [act(D x + b_D); 1]

C is [U, b_U] less the mean of each column, so that the centred U act(D x + b_D) + b_U is C a, and its variance a^T G a,
G = C^T C / d_model. One product, and nothing of width d_model is normed or kept for the backward: as fast as the plain
way (forms/bottleneck.py), in less memory. The plain way has fewer operators, which count on an accelerator and for a
generated token. In float16 the normed activations may leave the range.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperadapt.forms import Bottleneck, SiteCall
from hyperadapt.forms.base import ACTIVATIONS, add_linear, for_products, linear, with_one
from hyperadapt.forms.bottleneck import LAYER_NORM_EPS
from hyperadapt.sites import Tap

FOLDED_FROM = 8  # the reduction factor: a wider bottleneck costs more than its layer norm


@dataclass(frozen=True)
class FoldedBottleneck(Bottleneck):
    """The same adapter as `Bottleneck`, with fewer passes over what is as wide as the model."""

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Fold the layer norm once a batch, unless no backward follows, on an accelerator, or in float16.

        G is in float64, as C a may be far smaller than C and a are.
        """
        on_cpu = weights["norm_weight"].device.type == "cpu"
        if not on_cpu or not torch.is_grad_enabled() or dtype == torch.float16:
            return super().prepare(weights, dtype)
        up = torch.cat([weights["up"], weights["up_bias"].unsqueeze(-1)], -1)
        centred = up - up.mean(-2, keepdim=True)
        exact = centred.double()
        scaled = centred * weights["norm_weight"].unsqueeze(-1)
        shift = weights["norm_bias"].unsqueeze(-1).expand(*scaled.shape[:-1], 1)
        down = {"down": weights["down"], "down_bias": weights["down_bias"]}
        folded = for_products({**down, "up": torch.cat([scaled, shift], -1)}, dtype)
        return {**folded, "variance": exact.mT @ exact / exact.shape[-2]}

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        if "variance" not in weights:
            return super().apply(call, weights)
        y = call.taps[Tap.OUTPUT]
        hidden = with_one(ACTIVATIONS[self.activation](linear(y, weights["down"], weights["down_bias"])))
        normed = (hidden * inverse_deviation(hidden, weights["variance"])).to(hidden.dtype)
        return add_linear(y, with_one(normed), weights["up"])


def inverse_deviation(x: Tensor, quadratic: Tensor) -> Tensor:
    """Compute 1 / sqrt(x^T G x + eps) of every token, in float64.

    Args:
        x: (batch, seq, d).
        quadratic: G, (groups, d, d), positive semi-definite, in float64, which autocast leaves alone.

    Returns:
        (batch, seq, 1).
    """
    x = x.to(quadratic.dtype)
    variance = torch.linalg.vecdot(linear(x, quadratic), x).unsqueeze(-1)
    return torch.rsqrt(variance.clamp_min(0) + LAYER_NORM_EPS)
