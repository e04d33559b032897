"""Where rows come from: files by their suffix, the hub, Python; and what a cell is as text, the same from all of them.

The same rows give the same texts whatever holds them. A cell is its text; of a number or a truth value that is what
Python writes (3, 2.5, True), and of nothing (null, NaN, an empty cell of CSV) the empty text. Each row travels with the
place that errors name. That is why these readers are our own: those of `datasets` forget lines, and guess types from
values, so that 007 in a CSV becomes 7, and the word "None" nothing.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hyperadapt.errors import UserError, nearest, reason_of
from hyperadapt.files.yaml_and_json import parse_json
from hyperadapt.hub import asking, is_downloaded

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

Row = Mapping[str, Any]
# Rows travel with the place that a message would name ("train.csv, line 3"): slices and draws keep it right.
PlacedRow = tuple[str, Row]
Read = TypeVar("Read")

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_LETTERS = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_CELL = 2**31 - 1  # Python's csv refuses cells of more than 131,072 characters unless it is told


# --- cells


class MissingColumn(UserError):  # noqa: N818 - as what it is
    """A row has not a column that is read."""

    def __init__(self, column: str, row: Iterable[str], remedy: str = "") -> None:
        super().__init__(f"there is no column '{column}'; {nearest(column, row)}{remedy}")
        self.column = column


class WrongCell(UserError):  # noqa: N818 - as what it is
    """A cell holds what cannot be read as what its column is for.

    Attributes:
        column: of the cell.
        held: what it holds, as it is shown.
        wrong: with it, as "is no label".
    """

    def __init__(self, column: str, value: object, wrong: str, remedy: str = "") -> None:
        self.column, self.held, self.wrong = column, reprlib.repr(value), wrong
        super().__init__(f"column '{column}' holds {self.held}, which {wrong}{remedy}")


class MissingData(UserError):  # noqa: N818 - as what it is
    """A data set's rows are not where they should lie, or cannot be had from the hub."""


def value_of(row: Row, column: str) -> Any:
    """A column's value, whatever it is.

    Raises:
        UserError: the column is missing.
    """
    if column not in row:
        raise MissingColumn(column, row)
    return row[column]


def text_of(row: Row, column: str) -> str:
    """A column's text.

    Raises:
        UserError: the column is missing, or holds what is neither text nor a number, or half a character.
    """
    value = value_of(row, column)
    text = value if isinstance(value, str) else as_text(value)
    if text is None:
        raise WrongCell(column, value, "is no text")
    if not text.isascii() and _SURROGATE.search(text):
        raise WrongCell(column, value, "has half a character (a surrogate)")
    return text


def as_text(value: Any) -> str | None:
    """A cell as text; None where it holds no such thing, as a list or a date."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if not isinstance(value, Real | Decimal):
        return None
    return str(value) if value == value else ""  # NaN equals nothing


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put the place of a row in front of what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


_NUMBERED = re.compile(r"(?P<file>.*?)(?:, |^)(?:line|row) (?P<number>\d+)", re.DOTALL)
NO_LABEL = "is no label"
_MOST_SHOWN = 5  # different values that no row should hold


def read_each(rows: Iterable[PlacedRow], read: Callable[[Row], Read]) -> list[Read]:
    """What is read of each row; those that cannot be read are told together, as they are mended together.

    Args:
        rows: in any order.
        read: what to do with each.

    Raises:
        UserError: some cannot be read: which is the first in its file, in how many more the same is wrong, and what
            they hold instead; of a column that none has, the file alone.
    """
    done: list[Read] = []
    wrong: list[tuple[str, UserError]] = []
    for place, row in rows:
        try:
            done.append(read(row))
        except UserError as error:
            wrong.append((place, error.with_traceback(None)))
    if wrong:
        raise UserError(_told_together(wrong, len(done) + len(wrong)))
    return done


def _told_together(wrong: Sequence[tuple[str, UserError]], rows: int) -> str:
    """Say what is wrong first, and with how many of so many rows the same is."""
    wrong = sorted(wrong, key=lambda told: _order(told[0]))
    place, first = wrong[0]
    column = getattr(first, "column", None)
    alike = [
        error for _, error in wrong if type(error) is type(first) and getattr(error, "column", None) == column
    ]
    if isinstance(first, MissingColumn) and len(alike) == rows > 1:
        file = _order(place)[0]  # not a line of it: its header, where it has one
        return f"{file}: {first}" if file else str(first)
    if isinstance(first, MissingColumn) and len(alike) == 1 < rows:
        said = str(first).replace("there is no", "this row has no", 1)
        return f"{place}: {said}; the other {'has' if rows == 2 else f'{rows - 1:,} have'} it"
    if len(alike) == 1:
        return f"{place}: {first}"
    number = f"{len(alike):,} of {rows:,} rows"
    if isinstance(first, MissingColumn):
        return f"{place}: {first}; {number} lack it"
    if not isinstance(first, WrongCell):
        return f"{place}: {first}; {number} cannot be read"
    held = Counter(error.held for error in alike if isinstance(error, WrongCell))
    shown = [f"{value} ({times:,})" for value, times in held.most_common(_MOST_SHOWN)]
    listed = ", ".join([*shown, *["…"] * (len(held) > _MOST_SHOWN)])
    told = f"{place}: {first}; {number} hold what {first.wrong}: {listed}"
    if first.wrong == NO_LABEL and len(alike) == rows and len(held) <= _MOST_SHOWN:
        told += f"; if these are the labels, write labels: [{', '.join(held)}] in the task file"
    return told


def _order(place: str) -> tuple[str, int]:
    """A place's file, and its line or row there."""
    found = _NUMBERED.fullmatch(place)
    return (found["file"], int(found["number"])) if found else (place, 0)


# --- rows


def read_file(
    path: Path, columns: Sequence[str] | None = None, where: Mapping[str, str] | None = None
) -> Iterator[PlacedRow]:
    """The rows of a file, each with its place.

    Args:
        path: of a file with one of the `SUFFIXES`.
        columns: those that are needed, by default all; others need not be read.
        where: column -> the text that it must hold; other rows are left out.

    Raises:
        UserError: the file is no readable one of its format: which line, and why.
    """
    try:
        if suffix_of(path) == ".parquet":
            yield from _rows_of_table(_parquet_table(path), str(path), columns, where or {})
        else:
            yield from _rows_where(_READERS[suffix_of(path)](path), where or {})
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def read_hub(
    hub: str, config: str | None, source: str, columns: Sequence[str], where: Mapping[str, str] | None
) -> Iterator[PlacedRow]:
    """The rows of a split of a dataset on the hub; all else as `read_file`."""
    check_hub_name(hub)
    return read_dataset(hub, config, source, columns, where)


def check_hub_name(hub: str) -> None:
    """Check that `datasets` would not take the name of a data set for files here, of pandas even for pickles.

    Raises:
        UserError: it would.
    """
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as NO_HUB_NAMES

    if hub in NO_HUB_NAMES or Path(hub).exists():
        raise UserError(f"hub '{hub}' is no data set on the hub; for files write files: {{train: …}}")


def read_dataset(
    hub: str, config: str | None, source: str, columns: Sequence[str], where: Mapping[str, str] | None
) -> Iterator[PlacedRow]:
    """The rows of a split of whatever `datasets` takes for a name, a folder too; all else as `read_hub`."""
    from datasets import load_dataset

    name = " ".join(filter(None, [hub, config, source]))
    with asking(hub, "hub") as unreachable:
        try:
            rows = load_dataset(hub, config, split=source)
        except (OSError, ValueError, RuntimeError) as error:
            raise MissingData(
                f"{name} cannot be had from the hub: {unreachable or reason_of(error)}"
            ) from None
    return _rows_of_table(rows.with_format("arrow")[:], name, columns, where or {})


def was_loaded(hub: str) -> bool:
    """Tell whether something of a data set of the hub was downloaded or read before, so that it may do without."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    *owner, name = hub.split("/")
    prepared = Path(config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(name)])
    return is_downloaded(hub) or prepared.is_dir()


def why_not_asked(hubs: Iterable[str | None]) -> str | None:
    """Tell why the hub cannot be asked for data sets, by the first of them; None where it can, or there are none."""
    for hub in filter(None, hubs):
        with asking(hub, "hub") as unreachable:
            return unreachable
    return None


def suffix_of(path: Path) -> str:
    """A file's suffix, by which its format is known."""
    return path.suffix.lower()


def json_rows(lines: Iterable[str | bytes], name: str, example: str | None = None) -> Iterator[PlacedRow]:
    """Rows that are JSON objects, one a line.

    Args:
        lines: the rows; bytes are UTF-8.
        name: what errors call where they come from: a path, or "standard input".
        example: of a row, as JSON, for errors.

    Raises:
        UserError: a line is no JSON object, or blank and not one of the last.
    """
    return _without_blank_end(_json_lines(lines, name, example))


def given_rows(rows: Any, example: str | None = None) -> list[PlacedRow]:
    """Rows as Python has them: mappings, or JSON text, in a sequence, an iterator, a datasets.Dataset or a DataFrame.

    Args:
        rows: those.
        example: of a row, as JSON, for errors.

    Raises:
        UserError: it is one row, or not rows, a row is neither, or a column stands twice.
    """
    if callable(getattr(rows, "itertuples", None)):  # a DataFrame, which iterates over its columns' names
        if not rows.columns.is_unique:
            twice = rows.columns[rows.columns.duplicated()][0]
            raise UserError(f"the column '{twice}' stands twice; keep one of them")
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise UserError(
            f"expected rows, each {example or '{column: value}'}, but got {_kind(rows)}; a single row is given as [row]"
        )
    placed: list[PlacedRow] = []
    for number, row in enumerate(rows, start=1):
        place = f"row {number}"
        with naming(place):
            of_row = _json_object(row, example) if isinstance(row, str) else _mapping(row, example)
        placed.append((place, of_row))
    return placed


# --- lines


def _rows_where(rows: Iterable[PlacedRow], where: Mapping[str, str]) -> Iterable[PlacedRow]:
    if not where:
        return rows
    rows = list(rows)
    wanted = read_each(rows, lambda row: all(text_of(row, column) == text for column, text in where.items()))
    return [placed for placed, is_wanted in zip(rows, wanted, strict=True) if is_wanted]


def _without_blank_end(rows: Iterable[tuple[str, Row | None]]) -> Iterator[PlacedRow]:
    """Leave out blank lines (None) at the end; those between rows, which are told by their number, are refused."""
    blank: list[str] = []  # since the last row
    between: list[str] = []
    for place, row in rows:
        if row is None:
            blank.append(place)
            continue
        between += blank
        blank.clear()
        yield place, row
    if between:
        more = f", and so are {len(between) - 1:,} more between rows" if len(between) > 1 else ""
        raise UserError(f"{between[0]}: the line is blank{more}")


def _decoded(lines: Iterable[str | bytes]) -> Iterator[str]:
    """Decode line by line, so that a bad byte is found on its own line and not somewhere in a buffer."""
    mark = "\ufeff"
    for line in lines:
        yield (line.decode() if isinstance(line, bytes) else line).removeprefix(mark)
        mark = ""  # a byte order mark begins a file, and nothing else


def _json_lines(
    lines: Iterable[str | bytes], name: str, example: str | None
) -> Iterator[tuple[str, Row | None]]:
    number = 0
    try:
        for number, line in enumerate(_decoded(lines), start=1):
            yield f"{name}, line {number}", _json_object(line, example) if line.strip() else None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}, line {number + 1}: no readable JSON: {error}") from None
    except UserError as error:
        raise UserError(f"{name}, line {number}: {error}") from None


def _json_object(text: str, example: str | None) -> Row:
    try:
        row = _json(text)
    except UserError as error:
        if text.lstrip()[:1] in ("{", "[", ""):
            raise
        raise UserError(f"{error}{_such_as(example)}") from None  # a text alone
    return _mapping(row, example)


def _json(text: str) -> Any:
    if not text.strip():
        raise UserError("the line is blank")
    return parse_json(text)


def _such_as(example: str | None) -> str:
    return f"; a row is written as {example}" if example else ""


def _mapping(row: Any, example: str | None = None) -> Row:
    if not isinstance(row, Mapping):
        raise UserError(f"expected a JSON object of columns and values, got {_kind(row)}{_such_as(example)}")
    return row


def _kind(value: Any) -> str:
    return type(value).__name__


def _read_jsonl(path: Path) -> Iterator[PlacedRow]:
    with path.open("rb") as file:
        yield from json_rows(file, str(path))


def _read_json(path: Path) -> Iterator[PlacedRow]:
    """Read a list of objects; many a file of JSON lines is called .json too."""
    content = path.read_bytes()
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from json_rows(content.split(b"\n"), str(path))
        return
    with naming(str(path)):
        try:
            rows = _json(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UserError(f"no readable JSON: {error}") from None
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        with naming(place):
            _mapping(row)
        yield place, row


def _read_csv(path: Path) -> Iterator[PlacedRow]:
    """Read CSV: spreadsheets of many languages part cells by semicolons, and the header tells."""
    with path.open("rb") as file:
        header = file.readline(1 << 16).decode("utf-8-sig", errors="replace").split("\r")[0]
    # The first of those that make as many columns: a comma.
    delimiter = max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    return _without_blank_end(_delimited(path, delimiter))


def _read_tsv(path: Path) -> Iterator[PlacedRow]:
    return _without_blank_end(_delimited(path, "\t"))


def _delimited(path: Path, delimiter: str) -> Iterator[tuple[str, Row | None]]:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open("rb") as file:
        reader = csv.reader(_decoded(file), delimiter=delimiter, strict=True)
        place = f"{path}, line 1"
        try:
            header = next(reader, [])
            if not header or len(set(header)) < len(header):
                raise UserError(f"{place}: expected a header of different column names, got {header}")
            # A quoted cell may span lines: a row is named by the line on which it begins.
            place = f"{path}, line {reader.line_num + 1}"
            for cells in reader:
                if len(cells) == len(header):
                    yield place, dict(zip(header, cells, strict=True))
                elif not "".join(cells).strip() and len(cells) < 2:
                    yield place, None
                else:
                    raise UserError(f"{place}: {len(cells)} columns, but the header has {len(header)}")
                place = f"{path}, line {reader.line_num + 1}"
        except (csv.Error, UnicodeDecodeError) as error:
            reason = "a carriage return in a cell without quotes" if "new-line" in str(error) else error
            raise UserError(f"{place}: no readable CSV: {reason}") from None


_READERS: dict[str, Callable[[Path], Iterator[PlacedRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
SUFFIXES = (*_READERS, ".parquet")
WRITTEN_SUFFIXES = (".jsonl", ".csv", ".tsv")


# --- rows that are written


def written_rows(rows: Sequence[Row], suffix: str) -> str:
    """Write rows as a file of one of the `WRITTEN_SUFFIXES` holds them; a number that is not finite as nothing.

    A cell of .csv and .tsv keeps what a terminal obeys: the file is data, whose readers want what the row held, and CSV
    has no escape for it. What is printed is .jsonl, which has.
    """
    if suffix == ".jsonl":
        return "".join(json_line(row) + "\n" for row in rows)
    rows = [_finite(row) for row in rows]
    columns = dict.fromkeys(column for row in rows for column in row)
    file = io.StringIO()
    # Lines end as csv's own do: with another end, Python 3.11 leaves a carriage return in a cell without quotes.
    writer = csv.DictWriter(file, list(columns), delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    for row in rows:
        nested = {
            name: json_line(value) for name, value in row.items() if isinstance(value, Mapping | list | tuple)
        }
        writer.writerow({**row, **nested})
    return file.getvalue().encode(errors="backslashreplace").decode()


def json_line(value: Any) -> str:
    """Write a value as JSON for people, whose letters stay; what is not JSON's is written as its text.

    JSON has neither NaN nor infinity: they are null. What many programs take for the end of a line is escaped, what a
    terminal obeys, and halves of characters.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, default=str)
    return _NO_LETTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: Any) -> Any:
    """The value without numbers that are not finite, also within it."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    is_number = isinstance(value, Real | Decimal)
    return None if is_number and (value != value or value in (math.inf, -math.inf)) else value


# --- tables


def _parquet_table(path: Path) -> pyarrow.Table:
    import pyarrow.parquet
    from pyarrow import ArrowInvalid

    try:
        return pyarrow.parquet.read_table(path)
    except (ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is no readable parquet file: {' '.join(str(error).split())}") from None


def _rows_of_table(
    table: pyarrow.Table, name: str, columns: Sequence[str] | None, where: Mapping[str, str]
) -> Iterator[PlacedRow]:
    """The rows of a table, of the needed columns alone: what is not needed never becomes Python objects."""
    import numpy as np

    names = table.column_names
    if unknown := [column for column in where if column not in names]:
        raise UserError(f"{name}: there is no column '{unknown[0]}'; {nearest(unknown[0], names)}")
    needed = [*dict.fromkeys([*(names if columns is None else columns), *where])]
    if set(needed) <= set(names):  # else all, as an error lists what is there
        table = table.select(needed)
    table = _in_decimals(table)
    kept = np.arange(table.num_rows)
    for column, text in where.items():
        with naming(name):
            kept = kept[_holds(table[column].take(kept), column, text)]
    if where:
        table = table.take(kept)
    for number, row in zip(kept.tolist(), table.to_pylist(), strict=True):
        yield f"{name}, row {number + 1}", row


def _in_decimals(table: pyarrow.Table) -> pyarrow.Table:
    """Read numbers of single precision as the decimals that they were written as: 2.7, not 2.700000047683716."""
    import pyarrow

    for place, column in enumerate(table.schema):
        if column.type == pyarrow.float32():
            values = table[column.name].cast(pyarrow.string()).cast(pyarrow.float64())
            table = table.set_column(place, column.name, values)
    return table


def _holds(values: pyarrow.ChunkedArray, column: str, text: str) -> np.ndarray:
    """Which of a column's cells hold a text."""
    import numpy as np
    import pyarrow
    import pyarrow.compute

    if values.type == pyarrow.string():
        return pyarrow.compute.equal(values.fill_null(""), text).to_numpy(zero_copy_only=False)
    return np.array([text_of({column: value}, column) == text for value in values.to_pylist()], dtype=bool)
