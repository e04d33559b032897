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
from hyperadapt.forms.base import ACTIVATIONS, Form, add_linear, for_products, grouped, linear, with_one
from hyperadapt.sites import Site, Weight

LAYER_NORM_EPS = 1e-5
# From this reduction factor on the layer norm is folded into the up projection, in training on a CPU: as fast as the
# plain way, and nothing of width d_model is kept for the backward (docs/benchmarks.md). The plain way has fewer
# operators, which count on an accelerator and for a generated token. Not in float16, whose range the normed activations
# may leave.
FOLDED_FROM = 8


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
        """Fold the layer norm into the up projection, in training on a CPU and unless the bottleneck is wide.

        With a = [act(D x + b_D); 1] and C = [U, b_U] less the mean of each column, the centred U a + b_U is C a, and
        its variance a^T G a, G = C^T C / d_model. So A(x) = [diag(gamma) C, beta] [a / sqrt(a^T G a + eps); 1] + x: one
        product, and nothing of width d_model is normed. G is in float64, as C a may be far smaller than C and a are.
        """
        on_cpu, narrow = weights["norm_weight"].device.type == "cpu", self.reduction_factor >= FOLDED_FROM
        worth_it = narrow and on_cpu and torch.is_grad_enabled()
        if not (self.adapter_block and worth_it) or dtype == torch.float16:
            return for_products(weights, dtype)
        up = torch.cat([weights["up"], weights["up_bias"].unsqueeze(-1)], -1)
        centred = up - up.mean(-2, keepdim=True)
        exact = centred.double()
        scaled = centred * weights["norm_weight"].unsqueeze(-1)
        shift = weights["norm_bias"].unsqueeze(-1).expand(*scaled.shape[:-1], 1)
        down = {"down": weights["down"], "down_bias": weights["down_bias"]}
        folded = for_products({**down, "up": torch.cat([scaled, shift], -1)}, dtype)
        return {**folded, "variance": exact.mT @ exact / exact.shape[-2]}

    def apply(self, x: Tensor, y: Tensor, weights: dict[str, Tensor]) -> Tensor:
        if not self.adapter_block:
            return y + layer_norm(y, weights["norm_weight"], weights["norm_bias"])
        hidden = ACTIVATIONS[self.activation](linear(y, weights["down"], weights["down_bias"]))
        if "variance" not in weights:
            hidden = linear(hidden, weights["up"], weights["up_bias"])
            return y + layer_norm(hidden, weights["norm_weight"], weights["norm_bias"])
        hidden = with_one(hidden)
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
