"""How the inputs of a model are written: how long they may be, where they are cut, and whether as a chat."""

from __future__ import annotations

from typing import Literal, NamedTuple

Truncation = Literal["end", "longest_first"]


class InputFormat(NamedTuple):
    """How inputs are written.

    Attributes:
        max_source_length: tokens; what is longer is cut, or asked in chunks where there are contexts.
        overlap: of chunks, in tokens.
        truncation: where an input is cut: at its end, or each time a token of the field that is the longest.
        chat_template: write inputs as the tokenizer's chat template has them.
    """

    max_source_length: int
    overlap: int = 0
    truncation: Truncation = "end"
    chat_template: bool = False
