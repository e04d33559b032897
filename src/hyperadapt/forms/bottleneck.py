"""The Houlsby adapter with a layer norm, after a sub-layer (HyperFormer, eq. 3; its layer norm, eq. 4).

    A(x) = LN(U act(D x + b_D) + b_U) + x,    D (b, d_model), U (d_model, b), b = d_model // reduction_factor

Every tensor may differ by row, so that a batch can mix tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperadapt.errors import UserError, nearest
from hyperadapt.forms.base import ACTIVATIONS, Form, SiteCall, for_products, grouped, linear
from hyperadapt.sites import Site, Tap, Weight

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Bottleneck(Form):
    """Down, activation, up, layer norm, residual (eq. 3).

    Attributes:
        reduction_factor: d_model over the width of the bottleneck.
        activation: a key of `ACTIVATIONS`.
        adapter_block: without it only the layer norm is left, x + LN(x) (the ablation of the paper's Table 4).

    Raises:
        UserError: if the activation is unknown, or (in `weights`) no bottleneck is left.
    """

    reduction_factor: int
    activation: str = "gelu_new"
    adapter_block: bool = True

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"activation '{self.activation}' is unknown; {nearest(self.activation, ACTIVATIONS)}"
            )

    def weights(self, site: Site) -> dict[str, Weight]:
        d_model, bottleneck_dim = site.d_out, site.d_out // self.reduction_factor
        if bottleneck_dim < 1:
            raise UserError(
                f"reduction_factor {self.reduction_factor} leaves no bottleneck in a model of width {d_model}; "
                f"the largest is {d_model}"
            )
        block = {
            "down": Weight((bottleneck_dim, d_model), std=0.01),
            "down_bias": Weight((bottleneck_dim,)),
            "up": Weight((d_model, bottleneck_dim), std=0.01),
            "up_bias": Weight((d_model,)),
        }
        norm = {"norm_weight": Weight((d_model,), mean=1.0), "norm_bias": Weight((d_model,))}
        return {**block, **norm} if self.adapter_block else norm

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Lay the weights out as products read them."""
        return for_products(weights, dtype)

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        y = call.taps[Tap.OUTPUT]
        if not self.adapter_block:
            return y + layer_norm(y, weights["norm_weight"], weights["norm_bias"])
        hidden = ACTIVATIONS[self.activation](linear(y, weights["down"], weights["down_bias"]))
        hidden = linear(hidden, weights["up"], weights["up_bias"])
        return y + layer_norm(hidden, weights["norm_weight"], weights["norm_bias"])


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply to every group of rows a layer norm with its own scale and shift, (G, 1, d_model) each (eq. 4)."""
    if weight.dtype != x.dtype:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if len(weight) == 1:
        return F.layer_norm(x, x.shape[-1:], weight.flatten(), bias.flatten(), LAYER_NORM_EPS)
    normed = grouped(F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS), len(weight))
    # The gradient of addcmul multiplies both its factors by one first.
    made = normed * weight + bias if torch.is_grad_enabled() else torch.addcmul(bias, normed, weight)
    return made if len(x) == len(weight) else made.view_as(x)
