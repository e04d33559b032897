"""What a user is told, each one line: errors, with the nearest right thing, and notices of what was cut or left out."""

from __future__ import annotations

import os
import reprlib
import sys
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


class UserError(ValueError):
    """A mistake in what the user gave: the message says what, where, and how to mend it.

    The command line prints the message alone and exits with 2; in Python it is a ValueError.
    """


class CheckpointError(UserError):
    """A saved run or checkpoint that cannot be loaded: truncated, corrupted, newer, or of another base model."""


class TrainingInterrupted(Exception):  # noqa: N818 - no error: it was asked for
    """Training was asked to stop, and left all that it takes to go on.

    Attributes:
        signal: the number of the signal that asked, as SIGTERM, or SIGINT of Ctrl-C.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


_TURNS_TEXT_ROUND = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: object) -> str:
    """Make a text safe to print: what a terminal obeys or shows backwards, and halves of characters, escaped.

    Names of files, tasks and columns, and what a model predicts, may be a stranger's.
    """
    return "".join(
        character
        if character in "\n\t"
        or (unicodedata.category(character) not in ("Cc", "Cs") and character not in _TURNS_TEXT_ROUND)
        else ascii(character)[1:-1]
        for character in str(text)
    )


def notice(message: str) -> None:
    """Say in one line, once for all processes, what was cut, rounded, dropped or ignored, and how often."""
    if int(os.environ.get("RANK", "0")):
        return
    from tqdm import tqdm

    tqdm.write(f"note: {printable(message)}", file=sys.stderr)  # on a line of its own beside a progress bar


def nearest(name: object, choices: Iterable[str]) -> str:
    """Say which of the choices was probably meant, for the end of an error message.

    Args:
        name: what the user wrote.
        choices: the valid names, in the order in which they are to be listed.
    """
    choices = [str(choice) for choice in choices]
    close = get_close_matches(str(name).lower(), [choice.lower() for choice in choices], n=1, cutoff=0.5)
    meant = next((choice for choice in choices if close and choice.lower() == close[0]), None)
    listed = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f"did you mean '{meant}'? (choices: {listed})" if meant else f"choices: {listed or 'none'}"


def validation_message(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line what is wrong first; an unknown field before a missing one, which it may be misspelt."""
    mistake = min(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
    loc = tuple(step for step in mistake["loc"] if step != "[key]")
    field = ".".join(str(step) for step in loc)
    cause = mistake.get("ctx", {}).get("error")
    if mistake["type"] == "extra_forbidden":
        return f"field '{field}' is unknown; {nearest(loc[-1], siblings(model, loc))}"
    if mistake["type"] == "missing":
        return f"field '{field}' is missing"
    if isinstance(cause, ValueError):
        return f"{field}: {cause}" if field else str(cause)
    return f"field '{field}' is {reprlib.repr(mistake['input'])}: {mistake['msg']}"


def siblings(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """List the fields that are valid beside the one at `loc`."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))  # a section, or none
        sections = [kind for kind in kinds if hasattr(kind, "model_fields")]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
