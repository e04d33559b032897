"""What the command line lists of fields, methods and tasks, in lines and tables that fit the terminal's width."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hyperadapt.config.written import WrittenConfig, commands_of, default_in_words, sections
from hyperadapt.errors import UserError, nearest, section_of
from hyperadapt.methods import METHODS
from hyperadapt.tasks import SUITES, TASKS, Task, members_of
from hyperadapt.tasks.loading import generated_rows
from hyperadapt.tasks.suites import many

if TYPE_CHECKING:
    from pydantic import BaseModel

TASK_FILE = "task"  # as what the fields of a task file are listed
METHOD = "method"


def list_fields(name: str | None) -> Iterator[str]:
    """List fields, each with its default and what it means, below a heading that says whose they are.

    Args:
        name: a command or a section of its configuration, `method`, `method.NAME`, or `task` for a task file; by
            default all configurations, and a task file.

    Raises:
        UserError: if there is no such section.
    """
    kinds = [
        (f"of hyperadapt {' and '.join(commands_of(kind))}", section, kind) for _, section, kind in sections()
    ]
    options = [(f"{METHOD}.{called}", method) for called, method in METHODS.items()]
    names = dict.fromkeys([*(section for _, section, _ in kinds), METHOD, *dict(options), TASK_FILE])
    if name is not None and name not in names:
        raise UserError(f"section '{name}' is unknown; {nearest(name, names)}")
    for whose, section, kind in kinds:
        if name in (None, section):
            yield from _section(section, whose, kind, [earlier for _, _, earlier in kinds])
    if name is None:
        yield from _fitted(f"the options of each method: hyperadapt fields {METHOD}, or {METHOD}.NAME", "")
    for section, method in options:
        if name in (METHOD, section):
            yield from listed(method, section, f"{METHOD}.")
    if name in (None, TASK_FILE):
        yield from listed(Task, "a task file")


def _section(name: str, whose: str, kind: type[BaseModel], kinds: Sequence[type[BaseModel]]) -> Iterator[str]:
    """List a configuration or a section of one; of one that is another's but for some fields, those alone."""
    if issubclass(kind, WrittenConfig):
        yield from listed(kind, f"hyperadapt {kind.command}")
        return
    base = next((above for above in kind.__mro__[1:] if above in kinds), None)
    if base is None:
        yield from listed(kind, f"{name}, {whose}", f"{name}.")
    else:
        other = [field for field in kind.__annotations__ if field in kind.model_fields]
        yield from listed(kind, f"{name}, {whose}, as the one above but for these", f"{name}.", other)


def listed(
    kind: type[BaseModel], heading: str, section: str = "", fields: Sequence[str] | None = None
) -> Iterator[str]:
    """List the fields of a class below a heading, each with its default and what it means, in lines that fit.

    Args:
        kind: of a configuration, a section, a task or a method.
        heading: above them.
        section: where they stand, as "training.".
        fields: some of them; by default all that are no sections.
    """
    yield from _fitted(f"{heading}: {inspect.cleandoc(kind.__doc__ or '').splitlines()[0]}", "")
    meanings = documented(kind)
    for field, info in kind.model_fields.items():
        if section_of(info) is None and (fields is None or field in fields):
            yield from _fitted(f"{section}{field}{default_in_words(info)}  {meanings.get(field, '')}", "    ")


def _fitted(line: str, indent: str) -> list[str]:
    """Break a line between words, where it goes to a terminal; a file or another program gets it whole."""
    if not sys.stdout.isatty():
        return [indent + line]
    from rich.console import Console

    return textwrap.wrap(
        line,
        Console().width,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def documented(model: type[BaseModel]) -> dict[str, str]:
    """Read what a method's options, or a section's fields, mean from the docstrings of its class and those above."""
    entry = re.compile(r"^    (\w+(?:, \w+)*): (.+(?:\n {8}.+)*)", re.MULTILINE)
    docs = [inspect.cleandoc(kind.__doc__ or "") for kind in reversed(model.__mro__)]
    docs = [doc.partition("Attributes:\n")[2] for doc in docs]
    return {
        name: " ".join(meaning.split())
        for doc in docs
        for names, meaning in entry.findall(doc)
        for name in names.split(", ")
    }


def list_methods(name: str | None) -> Iterator[str]:
    """List the methods, or one, with their options and the paper that each is from.

    Raises:
        UserError: if there is no such method.
    """
    if name is not None and name not in METHODS:
        raise UserError(f"method '{name}' is unknown; {nearest(name, METHODS)}")
    for method, kind in METHODS.items():
        if name in (None, method):
            yield from listed(kind, method)
    if name is not None:
        paper = inspect.getdoc(sys.modules[METHODS[name].__module__]) or ""
        yield from _fitted(f"from: {paper.splitlines()[0]}", "")
        yield from _fitted(f"in a configuration: method: {{name: {name}}}", "")


def whole_rows(task: Task) -> str | None:
    """Return the development rows on which a task can be scored whole, None where it is tested on other rows."""
    try:
        return task.on_development_set().splits["test"]
    except UserError:
        return None


def task_in_words(name: str) -> list[dict[str, str]]:
    """Tell all of a task that comes with the package: what it reads and answers, and how a row of it is written.

    Raises:
        UserError: if there is no such task.
    """
    task = many.task(name) or TASKS.get(name)
    if task is None:
        raise UserError(f"task '{name}' is unknown; {nearest(name, TASKS)}")
    place = f"the hub's {task.hub_in_words}" if task.hub else "a local copy alone"
    facts = {
        "suites": ", ".join(suite for suite in SUITES if name in members_of(suite)),
        "input": " ".join(f"{field}: …" if field else "…" for field in task.fields),
        "columns": task.columns_in_words,
        "kind": task.kind,
        "labels": ", ".join(task.labels or ()),
        "metrics": ", ".join(task.metrics),
        **dict[str, str](task.splits.items()),
        **({f"as {name}:dev": f"scored on {reported}, whole"} if (reported := whole_rows(task)) else {}),
        "rows": "generated" if task.generated else place,
        "a local copy": "" if task.local is None else f"in data.data_dir: {task.copy_in_words}",
        "a row to predict": task.row_in_words,
    }
    if task.generated:
        row = generated_rows(name, "validation")[0]
        answer = task.written(task.target_text(row))
        named = f" ({task.label_name(answer)})" if task.labels else ""
        facts |= {"such an input": task.source_text(row, prefix=False), "and its answer": answer + named}
    return [{"": fact, name: text} for fact, text in facts.items() if text]


def fitting_widths(cells: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return widths of a table's columns in which no word is broken, None where there are none.

    Args:
        cells: rows of them.
        room: characters for all columns.
    """
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    fewest = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    while sum(widths) > room:
        loose = [place for place, width in enumerate(widths) if width > fewest[place]]
        if not loose:
            return None
        widths[max(loose, key=widths.__getitem__)] -= 1
    return widths


def as_records(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Write rows below one another, for a terminal that is too narrow for them as a table."""
    for row in rows:
        first, *others = row.items()
        yield str(first[1])
        for name, value in others:
            if str(value):
                yield from _fitted(f"{name}: {value}" if name else str(value), "    ")
