"""The labels of a class: how they are written in a task file and in a column."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache

from hyperadapt.errors import UserError, as_written

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")

MOST_LISTED = 12  # labels, or tasks, of which a message tells


def read_labels(labels: object) -> object:
    if isinstance(labels, dict) and labels:
        raise UserError(f"write a list, {_list_of_labels(labels)}")
    if isinstance(labels, str | bool | int | float):
        apart = isinstance(labels, str) and "," in labels
        raise UserError(
            f"{as_written(labels)} is no list of the answers; write [{labels if apart else 'bad, good'}]"
        )
    if not isinstance(labels, list | tuple):
        return labels
    if any(isinstance(label, bool) for label in labels):
        if all(isinstance(label, bool) for label in labels):
            labels = sorted(labels)  # so that a column of 0 and 1 means the same
        in_quotes = ", ".join(
            f'"{label if isinstance(label, str) else as_written(label)}"' for label in labels
        )
        raise UserError(f"a label must be a text; write [{in_quotes}], with the quotes")
    if None in labels:
        raise UserError('a label must be a text; write "null", with the quotes, or "" for empty cells')
    # Labels that are numbers are matched as numbers.
    return [str(label) if type(label) in (int, float) and math.isfinite(label) else label for label in labels]


def _list_of_labels(labels: Mapping[str, object]) -> str:
    """Write the list that a mapping of names and numbers, either way round, stands for."""
    pairs = [
        (number, name)
        for key, value in labels.items()
        for number, name in ((str(key), str(value)), (str(value), str(key)))
        if number.isdecimal()
    ]
    if len(pairs) != len(labels):  # no numbers, or nothing else
        return f"[{', '.join(map(str, labels.values()))}]"
    pairs.sort(key=lambda pair: int(pair[0]))
    numbers, names = (", ".join(part) for part in zip(*pairs, strict=True))
    if numbers == ", ".join(map(str, range(len(pairs)))):
        return f"[{names}]: a label's number is its place there, from 0"
    return f"as the column has them: [{numbers}] or [{names}]"


@lru_cache(1024)
def label_key(text: str) -> str | Decimal:
    """What all texts of one label share: numbers their value (1, "1.0"), true and false whatever their case."""
    if _NUMBER.fullmatch(text):
        return Decimal(text)
    return text.lower() if text.lower() in ("true", "false") else text
