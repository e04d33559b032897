"""Inputs of forms, and the Houlsby adapter token by token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperadapt.forms import SiteCall
from hyperadapt.sites import Site, Tap, Weight

SITE = Site("encoder", 0, "feed_forward", "encoder.block.0.layer.1.DenseReluDense", 16, 16)
ROWS = torch.tensor([2, 0, 1, 1, 2])


def draw(
    weights: dict[str, Weight], conditions: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(conditions, *weight.shape, generator=generator).to(dtype)
        for name, weight in weights.items()
    }


def states(rows: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, 7, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


def applied(
    form: Any, x: Tensor, y: Tensor, weights: dict[str, Tensor], rows: Tensor | None = ROWS
) -> Tensor:
    """Prepare the weights of one site, give every row its own (None: as they are), and apply them."""
    prepared = form.prepare({name: weight.unsqueeze(1) for name, weight in weights.items()}, y.dtype)
    at_site = {
        name: weight[:, 0] if rows is None or len(weight) == 1 else weight[rows, 0]
        for name, weight in prepared.items()
    }
    taps = {tap: y if tap == Tap.OUTPUT else x for tap in form.taps}
    return form.apply(SiteCall(taps), at_site)


def houlsby(x: Tensor, weights: dict[str, Tensor], activation: Any, block: bool) -> Tensor:
    """One row's adapter, token by token: A(x) = LN(U act(D x + b) + b) + x."""
    out = []
    for token in x:
        inner = token
        if block:
            inner = activation(weights["down"] @ inner + weights["down_bias"])
            inner = weights["up"] @ inner + weights["up_bias"]
        centred = inner - inner.mean()
        normed = centred / (centred.pow(2).mean() + 1e-5).sqrt()
        out.append(weights["norm_weight"] * normed + weights["norm_bias"] + token)
    return torch.stack(out)


BY_HAND = {
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "relu": lambda x: x * (x > 0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "tanh": lambda x: 1 - 2 / (torch.exp(2 * x) + 1),
}
