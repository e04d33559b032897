"""What a user is told, each one line: errors, with the nearest right thing, and notices of what was cut or left out."""

from __future__ import annotations

import json
import logging
import os
import re
import reprlib
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic.fields import FieldInfo


class UserError(ValueError):
    """A mistake in what the user gave: the message says what, where, and how to mend it.

    The command line prints the message alone, one line, and exits with 2; in Python it is a ValueError.
    """

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).splitlines()))


class CheckpointError(UserError):
    """A saved run or checkpoint that cannot be loaded: truncated, corrupted, newer, or of another base model."""


class Interrupted(Exception):  # noqa: N818 - no error: it was asked for
    """What ran was asked to stop; the message says what it has left, and how to go on.

    Attributes:
        signal: the number of the signal that asked, as SIGTERM, or SIGINT of Ctrl-C.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


LONGEST_NAME = 100  # characters of a name that are compared, and shown
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
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


class PrintableRecord(logging.LogRecord):
    """A message of a library's log, safe to print: it may quote a stranger's file, as names of weights."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """Return the message without colours, and with what else a terminal obeys escaped."""
        return printable(_COLOUR.sub("", super().getMessage()))


def notice(message: str) -> None:
    """Say in one line, once for all processes, what was cut, rounded, dropped or ignored, and how often."""
    if int(os.environ.get("RANK", "0")):
        return
    from tqdm import tqdm

    tqdm.write(f"note: {printable(message)}", file=sys.stderr)  # on a line of its own beside a progress bar


def shortened(text: str) -> str:
    """Show a text, of a long one the beginning."""
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


def reason_of(error: object, most: int = 200) -> str:
    """Say in one line what a library said of an error, of a long text the sentences or words that fit."""
    text = " ".join(str(error).split())
    if len(text) <= most:
        return text
    beginning = text[:most]
    end = max(beginning.rfind(stop) + 1 for stop in (". ", "; ", ": "))
    if end < most // 2:
        end = beginning.rfind(" ") if " " in beginning[most // 2 :] else most
    return f"{beginning[:end].rstrip(' ,:;.')} …"


def nearest(name: object, choices: Iterable[str], most: int = 12) -> str:
    """Say which of the choices was probably meant, for the end of an error message.

    Args:
        name: what the user wrote.
        choices: the valid names, in the order in which they are to be listed.
        most: how many are listed.
    """
    choices = [str(choice) for choice in choices]
    if not choices:
        return "there are no others"
    # The likeness of names takes time that grows with their square.
    lower = [choice.lower()[:LONGEST_NAME] for choice in choices]
    close = get_close_matches(str(name).lower()[:LONGEST_NAME], lower, n=1, cutoff=0.5)
    meant = shortened(choices[lower.index(close[0])]) if close else None
    listed = ", ".join(map(shortened, choices[:most])) + (", …" if len(choices) > most else "")
    return f"did you mean '{meant}'? (choices: {listed})" if meant else f"choices: {listed}"


def nothing_at(path: Path) -> str:
    """Say of a path that does not exist how far it leads, and what is there instead."""
    while not path.parent.is_dir():
        path = path.parent
    entries = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    return f"{path.parent} holds no '{path.name}'; {nearest(path.name, entries)}"


def validation_message(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line what is wrong first; an unknown field before a missing one, which it may be misspelt."""
    mistake = min(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
    loc = tuple(step for step in mistake["loc"] if step != "[key]")
    field = ".".join(str(step) for step in loc)
    cause = mistake.get("ctx", {}).get("error")
    if mistake["type"] == "extra_forbidden":
        return f"field '{field}' is unknown; {nearest(loc[-1], siblings(model, loc))}"
    if mistake["type"] == "missing":
        holder = _holder(model, loc)
        examples = holder.model_fields[str(loc[-1])].examples if holder else None
        return f"field '{field}' is missing" + (f"; write {loc[-1]}: {examples[0]}, say" if examples else "")
    if isinstance(cause, ValueError):
        return f"{field}: {cause}" if field else str(cause)
    place = f"field '{field}'"
    if loc and isinstance(loc[-1], int):
        place = f"field '{'.'.join(map(str, loc[:-1]))}': number {loc[-1] + 1} of the list"
    # A list may have become a mapping by then.
    is_empty = mistake["type"] == "too_short" and not mistake["input"]
    written = "empty" if is_empty else as_written(mistake["input"])
    return f"{place} is {written}: {in_plain_words(mistake)}"


def as_written(value: object) -> str:
    """Show a value as a file has it, and shortly."""
    if value is None:
        return "empty"
    if isinstance(value, bool | list | dict):
        return shortened(json.dumps(value, ensure_ascii=False, default=str))
    return reprlib.repr(value)


def in_plain_words(mistake: Mapping[str, Any]) -> str:
    """Say what is to be written instead of a value.

    Args:
        mistake: one of pydantic's errors.
    """
    kind, value, bounds = mistake["type"], mistake["input"], mistake.get("ctx", {})
    if kind in ("string_type", "path_type"):
        if isinstance(value, bool | int | float):
            return f'it must be a text; write "{as_written(value)}", with the quotes'
        return "it must be one text" if isinstance(value, list | tuple | dict) else "it must be a text"
    if kind == "literal_error":
        if choices := re.findall(r"'([^']*)'", bounds["expected"]):
            return nearest("" if value is None else value, choices)
        return f"it can only be {bounds['expected'].lower()}"
    if kind in ("tuple_type", "list_type"):
        if value is None or isinstance(value, dict) or not str(value).strip():
            return "it must be a list; write [first, second]"
        return f"it must be a list; write [{as_written(value).strip(chr(39))}]"
    if kind == "none_required" or (kind == "too_long" and not bounds["max_length"]):
        return "leave it out"
    if kind == "too_short":
        fewest = bounds["min_length"]
        return f"it needs at least {fewest} {'entry' if fewest == 1 else 'entries'}"
    if kind.endswith("_type") and isinstance(bounds.get("class_name"), str):
        kind = "section"
    if kind == "int_from_float":
        return f"it must be a whole number, as {value:.0f}"
    words = {
        "section": "it has fields of its own; write them below it, each as name: value",
        "model_type": "it has fields of its own; write them below it, each as name: value",
        "dict_type": "it must be a mapping; write {{name: value}}",
        "int_type": "it must be a whole number",
        "int_parsing": "it must be a whole number",
        "int_parsing_size": "it is too large",
        "float_type": "it must be a number",
        "float_parsing": "it must be a number",
        "finite_number": "it must be a finite number",
        "bool_type": "write true or false",
        "bool_parsing": "write true or false",
        "greater_than": "it must be more than {gt}",
        "greater_than_equal": "it must be at least {ge}",
        "less_than": "it must be less than {lt}",
        "less_than_equal": "it must be at most {le}",
    }
    # Of a kind that no field of ours has today, pydantic's words.
    return (
        words[kind].format(**bounds) if kind in words else str(mistake["msg"]).removeprefix("Input should ")
    )


def siblings(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """List the fields that are valid beside the one at `loc`."""
    holder = _holder(model, loc)
    return list(holder.model_fields) if holder else []


def _holder(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Find the section that the field at `loc` is of, None where that is no section of ours."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        section = None if field is None else section_of(field)
        if section is None:
            return None
        model = section
    return model


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class of a field that is a section, or a section or none; None of any other."""
    kinds: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
