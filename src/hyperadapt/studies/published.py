"""What the papers print: every table of numbers of the three, as text, beside which a page can set ours.

A paper is a file, assets/published/PAPER.yaml, and a table an entry of it, by its printed number. Its rows are lines,
so that they can be held beside the paper: what names the row, then a cell for each column, with "|" between them. A
cell keeps the printed digits, as "90.00"; a deviation follows ±, marks are last, and "-" is an empty cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from hyperadapt.errors import UserError, nearest, validation_message
from hyperadapt.files.yaml_and_json import parse_yaml

PAPERS = ("hyperformer", "hyperdecoders", "hypergrid")

# Our names of what the HyperFormer paper compares.
HYPERFORMER_METHODS = {
    "T5": "full_fine_tuning",
    "Adapters": "adapters",
    "Adapters†": "adapters_dagger",
    "HyperFormer": "hyperformer",
    "HyperFormer++": "hyperformer++",
}

# "8.0", "~4", "+0.6", "79.60±3.3", "95.9±0.4*"; and "1+8x0.01", a model and eight times a hundredth of it.
_CELL = re.compile(r"~?(?:(\d+)\+(\d+)x)?([-+]?\d+(?:\.\d+)?)(?:±(\d+(?:\.\d+)?))?[*†]?")
_EMPTY = "-"


@dataclass(frozen=True)
class Printed:
    """A number as printed.

    Attributes:
        text: all that is printed, with deviation and marks.
        number: the number.
        step: the smallest difference that its digits can show, as 0.01.
        deviation: what stands after ±.
    """

    text: str
    number: float
    step: float
    deviation: float | None = None

    @classmethod
    def parse(cls, text: str) -> Printed | None:
        """Read a cell, None of an empty one.

        Raises:
            ValueError: if it holds no number.
        """
        if text == _EMPTY:
            return None
        if (match := _CELL.fullmatch(text)) is None:
            raise ValueError(f"'{text}' is no number")
        base, times, digits, deviation = match.groups()
        number, step = float(digits), 10.0 ** -len(digits.partition(".")[2])
        if base is not None:
            number, step = int(base) + int(times) * number, int(times) * step
        return cls(text, number, step, None if deviation is None else float(deviation))

    def shows(self, value: float, more: float = 0.0) -> bool:
        """Say whether the value, which may be off by `more`, is rounded to what is printed."""
        return abs(value - self.number) <= self.step / 2 + more + 1e-9


@dataclass(frozen=True)
class PublishedRow:
    """A row of a table.

    Attributes:
        labels: what it is of, a text for each of the table's labels.
        cells: by column; None where nothing is printed.
    """

    labels: tuple[str, ...]
    cells: dict[str, Printed | None]

    @property
    def name(self) -> str:
        """The labels in one text."""
        return ", ".join(label for label in self.labels if label != _EMPTY)

    def __getitem__(self, column: str) -> Printed:
        """Return what a column prints.

        Raises:
            UserError: if there is no such column, with the nearest, or its cell is empty.
        """
        if column not in self.cells:
            raise UserError(f"column '{column}' is unknown; {nearest(column, self.cells)}")
        if (cell := self.cells[column]) is None:
            raise UserError(f"column '{column}' is empty in row '{self.name}'")
        return cell


class PublishedTable(BaseModel):
    """A table of a paper, as printed.

    Attributes:
        paper, number: where it is printed, as "hyperformer" and "2".
        caption: what it shows, in our words.
        section: of the paper, whose text refers to it.
        base_model: what was adapted.
        split: the rows that were scored.
        checkpoint: which one of a run was scored.
        averaged: over which runs the numbers are means; where it is empty, the paper speaks of no more than one.
        unit: of the numbers; where a column has another, its name says so.
        labels: what the names of rows are.
        columns: of numbers, in printed order.
        averages: what each column of averages is the mean of: columns, and lists of columns whose mean comes first.
        remarks: what else is to be known of it.
        rows: in printed order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    paper: str
    number: str
    caption: str
    section: str
    base_model: str = ""
    split: str = ""
    checkpoint: str = ""
    averaged: str = ""
    unit: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    averages: dict[str, tuple[str | tuple[str, ...], ...]] = {}
    remarks: tuple[str, ...] = ()
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="before")
    @classmethod
    def _rows_are_lines(cls, values: Any) -> Any:
        if not {"labels", "columns", "rows"} <= set(values):
            return values  # what is missing is said of all fields alike
        labels, columns = values["labels"], values["columns"]
        return {**values, "rows": [_row(line, labels, columns) for line in values["rows"].splitlines()]}

    @model_validator(mode="after")
    def _names_are_there(self) -> PublishedTable:
        for column, parts in self.averages.items():
            for name in [column, *_flat(parts)]:
                if name not in self.columns:
                    raise ValueError(f"averages: column '{name}' is unknown; {nearest(name, self.columns)}")
        names = [row.labels for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"rows: {next(name for name in names if names.count(name) > 1)} stands twice")
        return self

    def row(self, *labels: str) -> PublishedRow:
        """Return the row of these labels.

        Raises:
            UserError: if there is none; with the nearest.
        """
        for row in self.rows:
            if row.labels == labels:
                return row
        wanted = ", ".join(labels)
        raise UserError(
            f"Table {self.number} of {self.paper} has no row '{wanted}'; "
            f"{nearest(wanted, (row.name for row in self.rows))}"
        )

    def average(self, row: PublishedRow, column: str) -> tuple[float, float] | None:
        """Average again what a column averages.

        Returns:
            the mean of the printed numbers, and how far it may be from that of the numbers before they were rounded;
            None where one of them is not printed.
        """
        parts = self.averages[column]
        if any(row.cells[name] is None for name in _flat(parts)):
            return None

        def mean(value: Callable[[Printed], float]) -> float:
            return fmean(fmean(value(row[name]) for name in _flat([part])) for part in parts)

        return mean(lambda cell: cell.number), mean(lambda cell: cell.step / 2)

    def printed(self) -> list[dict[str, str]]:
        """Lay the table out, each row by labels and columns, its cells as printed."""
        return [
            {
                **dict(zip(self.labels, row.labels, strict=True)),
                **{column: "" if cell is None else cell.text for column, cell in row.cells.items()},
            }
            for row in self.rows
        ]


def published_table(paper: str, number: str | int) -> PublishedTable:
    """Return a table that a paper prints, as ("hyperformer", 2).

    Raises:
        UserError: if there is no such paper or table; with the nearest.
    """
    tables = published_tables(paper)
    if str(number) not in tables:
        raise UserError(f"{paper} has no Table '{number}'; {nearest(number, tables)}")
    return tables[str(number)]


@cache
def published_tables(paper: str) -> dict[str, PublishedTable]:
    """Return all tables of a paper by their numbers.

    Raises:
        UserError: if there is no such paper; with the nearest.
    """
    if paper not in PAPERS:
        raise UserError(f"paper '{paper}' is unknown; {nearest(paper, PAPERS)}")
    name = f"assets/published/{paper}.yaml"
    entries = parse_yaml((files("hyperadapt") / name).read_text(encoding="utf-8"), name)
    tables = {}
    for number, entry in entries.items():
        try:
            tables[number] = PublishedTable(paper=paper, number=number, **entry)
        except ValidationError as error:
            raise UserError(f"{name}, Table {number}: {validation_message(error, PublishedTable)}") from None
    return tables


def _row(line: str, labels: Sequence[str], columns: Sequence[str]) -> PublishedRow:
    """Read a line of a table."""
    texts = [text.strip() for text in line.split("|")]
    if len(texts) != len(labels) + len(columns):
        raise ValueError(
            f"row '{line}' has {len(texts) - len(labels)} numbers, and there are {len(columns)} columns"
        )
    cells = [Printed.parse(text) for text in texts[len(labels) :]]
    return PublishedRow(tuple(texts[: len(labels)]), dict(zip(columns, cells, strict=True)))


def _flat(parts: Sequence[str | tuple[str, ...]]) -> list[str]:
    """List all columns of an average."""
    return [name for part in parts for name in ([part] if isinstance(part, str) else part)]
