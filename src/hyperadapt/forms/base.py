"""What every form is: arithmetic that weights feed at a site. Stateless; forms know shapes, not models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperadapt.sites import Site, Tap, Weights

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class SiteCall(NamedTuple):
    """What a form is given at a site, in one call of the module there.

    Attributes:
        taps: what the form asks for, (batch, seq, d) each.
        module: the module, of whose matrix a gate is.
        mask: (batch, seq), 1 where the stack reads a token; None if everywhere.
        kept: what a form has kept since the first step of a generation; None where nothing is to be kept.
    """

    taps: Mapping[Tap, Tensor]
    module: Any = None
    mask: Tensor | None = None
    kept: dict[str, Tensor] | None = None


class Form(Protocol):
    """What a site's weights are, and how they change a module's output.

    A batch of weights, (G, *shape), is for a batch of rows in G groups of equally many, one after another: G = 1 holds
    for every row, G = batch gives every row its own.
    """

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What it reads; without the module's output the module is not run, and the form computes in its place."""
        return (Tap.OUTPUT,)

    @property
    def keeps(self) -> bool:
        """Whether it keeps something of a generation's first step for the others."""
        return False

    def weights(self, site: Site) -> Weights:
        """Name the tensors that the form needs at a site, with their shapes."""
        ...

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Turn what was generated for all sites, once a batch, into what `apply` reads.

        Args:
            weights: name -> (U, n_sites, *shape), for U conditions; U = 1 holds for all.
            dtype: of the stack's products.

        Returns:
            name -> (U, n_sites, ...).
        """
        return cast(weights, dtype)

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        """Return what takes the place of the module's output, (batch, seq, d_out).

        Args:
            call: of the module.
            weights: name -> (G, ...), as prepared.
        """
        ...


def cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Give all weights a type."""
    return {name: weight.to(dtype) for name, weight in weights.items()}


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the type of autocast's products on a kind of device; None where it is off."""
    on = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if on else None


def for_products(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Give all weights a type, and lay them out as products read them, once for all sites.

    Args:
        weights: name -> (U, n_sites, d_out, d_in) or (U, n_sites, d).

    Returns:
        name -> (U, n_sites, d_in, d_out) or (U, n_sites, 1, d).
    """
    return {
        name: tensor.mT if tensor.dim() == 4 else tensor.unsqueeze(-2)
        for name, tensor in cast(weights, dtype).items()
    }


def grouped(x: Tensor, groups: int) -> Tensor:
    """Lay the tokens of each group of rows side by side, (batch, seq, d) -> (groups, batch / groups * seq, d)."""
    return x if len(x) == groups else x.reshape(groups, -1, x.shape[-1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply to every group of rows its own linear map.

    Args:
        x: (batch, seq, d_in).
        weight: (G, d_in, d_out).
        bias: (G, 1, d_out), or None.

    Returns:
        (batch, seq, d_out).
    """
    if weight.dtype != x.dtype:  # T5 keeps parts of a float16 model in float32
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    groups = len(weight)
    if groups == 1:
        return F.linear(x, weight.squeeze(0).mT, None if bias is None else bias.flatten())
    tokens = grouped(x, groups)
    if bias is not None and not torch.compiler.is_compiling():
        y = torch.baddbmm(bias, tokens, weight)
    else:  # compiled, the sum is fused with what follows, where the product would have to begin with a copy of it
        y = torch.bmm(tokens, weight)
        y = y if bias is None else y + bias.to(y.dtype)
    return y if len(x) == groups else y.view(*x.shape[:-1], -1)


def add_linear(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Add to y (batch, seq, d_out) what `linear` makes of x, in one pass over y."""
    if x.dtype != y.dtype:  # under autocast the product is in bfloat16, and the sum is not
        return y + linear(x, weight)
    groups, weight = len(weight), weight.to(x.dtype)
    if groups == 1:
        return torch.addmm(y.flatten(0, -2), x.flatten(0, -2), weight.squeeze(0)).view_as(y)
    z = torch.baddbmm(grouped(y, groups), grouped(x, groups), weight)
    return z if len(y) == groups else z.view_as(y)


def with_one(x: Tensor) -> Tensor:
    """Append a one to the last dimension, by which a map's last column becomes its bias."""
    return F.pad(x, (0, 1), value=1.0)
