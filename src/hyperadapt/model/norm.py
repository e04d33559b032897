"""The base model's norms where they are trained: in float32, whatever the base model's type."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class TrainedNorm(nn.Module):
    """Mixed in before the class of a norm, whose trained scale is in float32.

    In bfloat16 a number near 1 would not move by a step. What it returns has the type of the model's embeddings.
    """

    not_copied: ClassVar[frozenset[str]] = frozenset({"model"})
    model: tuple[Any]  # whose embeddings' type the output has; in a tuple, so as to be no child

    def forward(self, hidden_states: Tensor) -> Tensor:
        if isinstance(self, nn.LayerNorm):  # which takes one type alone
            hidden_states = hidden_states.to(self.weight.dtype)
        return super().forward(hidden_states).to(self.output_dtype)

    @property
    def output_dtype(self) -> torch.dtype:
        """The type of the model's embeddings, which may be cast at any time."""
        return self.model[0].get_input_embeddings().weight.dtype
