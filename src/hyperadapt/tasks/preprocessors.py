"""What rewrites a task's rows before its fields are read, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hyperadapt.tasks.sources import Row


class Preprocessor(NamedTuple):
    """What rewrites a task's rows before its fields are read.

    Attributes:
        columns: that it needs, and what each holds, in words.
        rewrite: makes columns of a row, new ones or in place of those that it has.
        new: columns that no row has before.
        answers: those of the columns that rows to be predicted need not have.
    """

    columns: Mapping[str, str]
    rewrite: Callable[[Row], Mapping[str, Any]]
    new: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


PREPROCESSORS: dict[str, Preprocessor] = {}


def preprocessor(name: str, columns: Mapping[str, str], **more: tuple[str, ...]) -> Callable[[Any], Any]:
    """Name a function that rewrites rows, for `Task.preprocess`; the arguments are those of `Preprocessor`."""

    def named(rewrite: Callable[[Row], Mapping[str, Any]]) -> Callable[[Row], Mapping[str, Any]]:
        PREPROCESSORS[name] = Preprocessor(columns, rewrite, **more)
        return rewrite

    return named
