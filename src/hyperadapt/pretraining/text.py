"""Text to pretrain on: read, tokenized once, and parted into what is trained on and what is held out."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from hyperadapt.config.sections import TextConfig
from hyperadapt.errors import CheckpointError, UserError, nearest
from hyperadapt.files import manifest
from hyperadapt.files.yaml_and_json import parse_json
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open}
TEXTS_TOKENIZED_AT_ONCE = 10_000
HELD_OUT_PIECES = 100


def read_texts(text: TextConfig) -> Iterator[str]:
    """Read the text, a document a line, without blank ones.

    Raises:
        UserError: if a file is missing, empty, not UTF-8 or of no known format, or a row has no text in the column.
    """
    for name in text.files:
        path, found = Path(name), False
        if not path.is_file():
            there = sorted(entry.name for entry in path.parent.glob("*")) if path.parent.is_dir() else []
            raise UserError(f"text.files: there is no file {path}; {nearest(path.name, there)}")
        kind = (path.with_suffix("") if path.suffix in OPENERS else path).suffix
        if kind not in (".txt", ".jsonl"):
            raise UserError(
                f"text.files: '{path}' is of no known format; {nearest(kind, ['.txt', '.jsonl'])}"
            )
        for number, line in enumerate(lines_of(path), start=1):
            document = decoded(line, kind, text.column, f"{path}, line {number}")
            if document:
                found = True
                yield document
        if not found:
            raise UserError(f"text.files: {path} holds no text")


def lines_of(path: Path) -> Iterator[bytes]:
    """Read lines of a file that may be compressed."""
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            yield from file
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"text.files: {path} is no readable {path.suffix} file: {error}") from None


def decoded(line: bytes, kind: str, column: str, place: str) -> str:
    """Decode a line of text or of JSON."""
    try:
        document = line.decode("utf-8")
        if kind == ".jsonl":
            row = parsed(document, place)
            if not isinstance(row, dict) or not isinstance(row.get(column), str):
                columns = list(row) if isinstance(row, dict) else []
                raise UserError(f"{place}: there is no text in column '{column}'; {nearest(column, columns)}")
            document = row[column]
            document.encode("utf-8")  # JSON may hold halves of characters
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place} holds half a character ({error.reason} at character {error.start})"
        ) from None
    return " ".join(document.split())


def parsed(line: str, place: str) -> Any:
    """Make a value of a line of JSON."""
    try:
        return parse_json(line)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def tokenize(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Turn all documents into one stream of tokens, each document ended by the end token, (tokens,)."""
    parts: list[np.ndarray] = []
    batch: list[str] = []

    def take() -> None:
        ids = tokenizer(batch, add_special_tokens=True)["input_ids"]
        parts.append(np.concatenate([np.asarray(document, dtype=np.int32) for document in ids]))
        batch.clear()

    for text in tqdm(texts, desc="tokenizing", unit=" documents", delay=SECONDS_BEFORE_PROGRESS_SHOWS):
        batch.append(text)
        if len(batch) == TEXTS_TOKENIZED_AT_ONCE:
            take()
    if batch:
        take()
    return np.concatenate(parts)


def held_out_split(tokens: np.ndarray, held_out: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Take pieces from all over the stream: (held out, the rest).

    Args:
        tokens: the stream, (tokens,).
        held_out: how many tokens to take.
        longest: tokens of an example; a piece has at least four times as many.
    """
    pieces = max(min(held_out // (4 * longest), HELD_OUT_PIECES), 1)
    taken = np.zeros(len(tokens), dtype=bool)
    for start in np.arange(pieces) * (len(tokens) // pieces):
        taken[start : start + held_out // pieces] = True
    return tokens[taken], tokens[~taken]


def read_tokens(file: Path) -> np.ndarray:
    """Read a run's tokens, never unpickling."""
    manifest.check(file)
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is missing or damaged ({error}); start anew") from None
