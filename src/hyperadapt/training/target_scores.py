"""Scores of targets alone: what pads a batch of targets of unlike length costs no product with the vocabulary.

A model computes the scores of as many places of each row as its longest target has. Of a summary beside a label most of
them have no target, and for a vocabulary of 262,000 words they are most of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from hyperadapt.architectures.base import IGNORED

PLACES = "target_places"


class WithPlaces(NamedTuple):
    """Makes batches that tell where their targets are; here, as on a device to count them would wait for it.

    Attributes:
        collator: makes the batches.
    """

    collator: Any

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch, with `target_places` (targets,), numbers of places in its flattened labels."""
        batch = self.collator(rows)
        return {**batch, PLACES: batch["labels"].flatten().ne(IGNORED).nonzero().flatten()}


@contextmanager
def scores_at(output_layer: nn.Module, places: Tensor) -> Iterator[None]:
    """Let an output layer compute the scores of some places alone, (batch, T, d_model) -> (1, places, vocabulary).

    Args:
        output_layer: of the model.
        places: numbers of places in the flattened (batch, T).
    """

    def chosen(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[places].unsqueeze(0),)

    handle = output_layer.register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()
