"""Where a frozen model is changed, and what must be generated there.

A `Site` is one place in a model; a `Weight` is the shape of one tensor that a form needs at a site. Generators see
only these: they know neither the model nor what the tensors are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Tap(StrEnum):
    """What a form reads at a site."""

    INPUT = "input"  # of the module there
    OUTPUT = "output"  # of the module there
    BLOCK_INPUT = "block_input"  # the state that the sub-layer reads, before its norm
    NORM_OUTPUT = "norm_output"  # what that norm makes of it


class Source(NamedTuple):
    """Where a tap lies: another module's dotted name, and which side of it."""

    path: str
    side: Literal["input", "output"]


@dataclass(frozen=True)
class Site:
    """One place in a frozen model whose output a form changes.

    Attributes:
        stack: its name, as "encoder".
        layer: number of the block in its stack; -1 for a place behind the last block.
        position: what the module does there, as "self_attention" or "feed_forward".
        path: the module's dotted name in the model.
        d_in, d_out: width of the module's input and output.
        sources: where a form finds what is not the module's own input or output.
        d_read: width of that.
    """

    stack: str
    layer: int
    position: str
    path: str
    d_in: int
    d_out: int
    sources: Mapping[Tap, Source] = field(default_factory=dict)
    d_read: int = 0


class Weight(NamedTuple):
    """A tensor that a form needs at every site: its shape, and how it is drawn where it is learnt in place.

    From N(mean, std), or evenly from -bound to bound where a bound is given.
    """

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 0.0
    bound: float = 0.0

    def draw(self, *rows: int) -> Tensor:
        """Draw it for so many conditions and sites, (*rows, numel)."""
        flat = torch.empty(*rows, prod(self.shape))
        return flat.uniform_(-self.bound, self.bound) if self.bound else flat.normal_(self.mean, self.std)


Weights = Mapping[str, Weight]


def numel(weights: Weights) -> int:
    """Count the numbers that one site needs."""
    return sum(prod(weight.shape) for weight in weights.values())


def split(flat: Tensor, weights: Weights) -> dict[str, Tensor]:
    """Cut flat vectors into named tensors, without a copy.

    Args:
        flat: (U, numel), one row a condition.

    Returns:
        name -> (U, *shape), in the order of `weights`.
    """
    parts = flat.split([prod(weight.shape) for weight in weights.values()], dim=-1)
    return {
        name: part.unflatten(-1, weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }
