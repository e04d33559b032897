"""Rows of several lengths as tensors, and what makes batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right"]


def padded_rows(
    rows: Sequence[Sequence[int]],
    width: int,
    filler: int,
    side: Side = "right",
    device: torch.device | None = None,
) -> Tensor:
    """Make a tensor (rows, width) of rows of several lengths, filled up on one side."""
    fillers = [[filler] * (width - len(row)) for row in rows]
    filled = [
        [*more, *row] if side == "left" else [*row, *more] for row, more in zip(rows, fillers, strict=True)
    ]
    return torch.tensor(filled, device=device)


def padded_ids(
    rows: Sequence[Sequence[int]],
    width: int,
    padding: int,
    side: Side = "right",
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Make of tokenized rows what a model reads: input_ids and attention_mask, (rows, width)."""
    return {
        "input_ids": padded_rows(rows, width, padding, side, device),
        "attention_mask": padded_rows([[1] * len(row) for row in rows], width, 0, side, device),
    }


@dataclass(frozen=True)
class Collator:
    """Makes batches of rows.

    Attributes:
        padding: the token, which is not read.
        multiple_of: batches are as wide as a multiple of it.
    """

    padding: int
    multiple_of: int = 1

    def width(self, longest: int) -> int:
        """Return how wide a batch is whose longest row has so many tokens."""
        return -(-longest // self.multiple_of) * self.multiple_of
