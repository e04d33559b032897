"""How long the inputs of a model may be, and where they are cut."""

from __future__ import annotations

from typing import Literal, NamedTuple

Truncation = Literal["end", "longest_first"]


class Limits(NamedTuple):
    """How long inputs may be.

    Attributes:
        max_source_length: tokens; what is longer is cut, or asked in chunks where there are contexts.
        overlap: of chunks, in tokens.
        truncation: where an input is cut: at its end, or each time a token of the field that is the longest.
    """

    max_source_length: int
    overlap: int = 0
    truncation: Truncation = "end"
