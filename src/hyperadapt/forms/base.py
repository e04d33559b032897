"""What every form is: arithmetic that weights feed at a site. Stateless; forms know shapes, not models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperadapt.sites import Site, Weights

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Form(Protocol):
    """What a site's weights are, and how they change a module's output.

    A batch of weights, (G, *shape), is for a batch of rows in G groups of equally many, one after another: G = 1 holds
    for every row, G = batch gives every row its own.
    """

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

    def apply(self, x: Tensor, y: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Change a module's output.

        Args:
            x: the module's input, (batch, seq, d_in).
            y: its output, (batch, seq, d_out).
            weights: name -> (G, ...), as prepared.
        """
        ...


class Gate(Protocol):
    """What gates a linear map's matrix, row by row, and how the gates come about from what its block reads."""

    def weights(self, site: Site) -> Weights:
        """Name the tensors that the gate needs at a site, with their shapes."""
        ...

    def prepare(self, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return what was generated, as `Form.prepare` does."""
        return cast(weights, dtype)

    def gate(self, read: Tensor, x: Tensor, weights: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        """Compute a batch's gates, (batch, d_r, d_c), for blocks of the matrix.

        Args:
            read: what the block reads, (batch, seq, d_read).
            x: what the map reads, (batch, seq, d_in).
            weights: name -> (1, *shape), the same for every row.
            mask: (batch, seq), 1 for a token; None if all are.
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
    return {name: of.mT if of.dim() == 4 else of.unsqueeze(-2) for name, of in cast(weights, dtype).items()}


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
