"""Files of rows in every format that the library reads, written without it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

Rows = Sequence[Mapping[str, Any]]
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def written_as_csv(rows: Rows, delimiter: str = ",", end: str = "\n") -> bytes:
    """Rows as Python's own writer makes them."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def write(path: Path, rows: Rows) -> Path:
    """Write rows in the format that the path's suffix names."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(lines.encode())
    else:
        path.write_bytes(written_as_csv(rows, "\t" if path.suffix == ".tsv" else ","))
    return path
