"""Long contexts in overlapping chunks, each asked the whole question (Hyperdecoders, section 3.1.2).

As in Devlin et al. 2019. A chunk's target is the answer if the chunk holds all of it, else the empty text. At
evaluation every chunk is answered, and of the answers that are not empty the most likely wins. In the paper's text a
chunk may be answered with nothing; its code generates two tokens at least, so that none is, and its losses are sums
over the tokens, divided by the length of the longest answer in the batch. `ChunkRule` has both, and no number that
depends on a batch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hyperadapt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.architectures.base import Answer

Span = tuple[int, int, int]


class Chunk(NamedTuple):
    """A part of a context behind its question.

    Attributes:
        ids: tokens of the question, of the part, and the end token.
        start, end: the characters of the context that it holds.
        question_is_cut: whether the question left too little room for the context, and was cut itself.
    """

    ids: list[int]
    start: int
    end: int
    question_is_cut: bool = False


class ChunkRule(NamedTuple):
    """How a question's answer is chosen of those to its chunks.

    Attributes:
        empty_answers: a chunk may be answered with nothing; a question is where all of its chunks are.
        rank_chunks: the most likely answer is that of the highest log-likelihood: the "sum" over its tokens, which
            favours short answers, or their "mean".
    """

    empty_answers: bool = False
    rank_chunks: Literal["sum", "mean"] = "sum"


def default_overlap(max_length: int) -> int:
    """Return how many tokens two chunks share by default: a quarter, as the paper's 128 of 512 (section 3.1.2)."""
    return max_length // 4


def chunked(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlap: int,
    starts: Sequence[int],
    ends: Sequence[int],
) -> list[list[Chunk]]:
    """Cut contexts into chunks that overlap, each behind its whole question.

    A context that fits has the tokens of the whole text. A question that leaves no room is cut itself before its last
    word, "context:", so that a chunk has at least two overlaps of context, or a token. An empty context is one chunk.

    Args:
        questions: all that stands before each context.
        contexts: the texts to be cut.
        tokenizer: of the model.
        max_length: tokens of a chunk, all included; more than two overlaps and the tokens around it.
        overlap: tokens that two chunks share.
        starts, ends: tokens before and behind every chunk.

    Returns:
        For each context its chunks.

    Raises:
        UserError: if the tokenizer does not tell where its tokens stand.
    """
    if not questions:
        return []
    longest = max_length - len(starts) - len(ends) - max(2 * overlap, 1)
    if longest < 0:
        raise UserError(
            f"max_source_length {max_length} leaves no room for chunks that overlap by {overlap} tokens beside "
            f"{len(starts) + len(ends)} around each; raise it, or lower chunk_overlap"
        )
    whole = with_places(
        [f"{question}{context}" for question, context in zip(questions, contexts, strict=True)], tokenizer
    )
    found = []
    for question, (tokens, places) in zip(questions, whole, strict=True):
        begin, last_word = len(question), question.rstrip().rfind(" ") + 1
        # A token that reaches into the context, as a first word with the blank before it, is the context's.
        in_context = (number for number, (start, end) in enumerate(places) if start >= begin or end > begin)
        size = next(in_context, len(tokens))
        kept = min(sum(end > last_word for _, end in places[:size]), longest)
        head = tokens[:size] if size <= longest else [*tokens[: longest - kept], *tokens[size - kept : size]]
        of_context = [(max(start - begin, 0), end - begin) for start, end in places[size:]]
        chunks = cut([*starts, *head], tokens[size:], of_context, ends, max_length, overlap)
        found.append([chunk._replace(question_is_cut=size > longest) for chunk in chunks])
    return found


def cut(
    head: list[int],
    tokens: list[int],
    places: list[tuple[int, int]],
    ends: Sequence[int],
    max_length: int,
    overlap: int,
) -> list[Chunk]:
    """Cut one tokenized context; the arguments as in `chunked`."""
    room = max_length - len(ends) - len(head)
    found, start = [], 0
    while True:
        part = places[start : start + room]
        first, last = (part[0][0], part[-1][1]) if part else (0, 0)
        found.append(Chunk([*head, *tokens[start : start + room], *ends], first, last))
        if start + room >= len(tokens):
            return found
        start += room - overlap


def with_places(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Tokenize texts, and say from which to which character each token stands."""
    if tokenizer.is_fast:
        encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    tokens = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    by_byte = [
        [byte for place, letter in enumerate(text) for byte in byte_places(place, letter)] for text in texts
    ]
    if list(map(len, by_byte)) != list(map(len, tokens)):
        raise UserError(
            f"{type(tokenizer).__name__} does not tell where its tokens stand; use a fast tokenizer"
        )
    return list(zip(tokens, by_byte, strict=True))


def byte_places(place: int, letter: str) -> list[tuple[int, int]]:
    """Say where a letter's bytes stand, so that part of a letter never counts as the whole."""
    last = len(letter.encode()) - 1
    return [(place + (byte > 0), place + (byte == last)) for byte in range(last + 1)]


def answer_within(references: Sequence[str], spans: Sequence[Span], chunk: Chunk) -> str:
    """Return the first answer of which an occurrence lies within a chunk, or the empty text."""
    for start, end, number in spans:
        if chunk.start <= start and end <= chunk.end:
            return references[number]
    return ""


def best_answers(answers: Sequence[Answer], rows: Sequence[int], n_rows: int) -> list[str]:
    """Take for every row the most likely of its chunks' answers that are not empty, or the empty text (section 3.1.2).

    Args:
        answers: one a chunk.
        rows: each chunk's row.
        n_rows: how many there are.
    """
    best: dict[int, Answer] = {}
    for answer, row in zip(answers, rows, strict=True):
        if answer.text and (row not in best or answer.log_likelihood > best[row].log_likelihood):
            best[row] = answer
    return [best[row].text if row in best else "" for row in range(n_rows)]


def read_answers(value: Any, context: str) -> tuple[list[str], list[Span]]:
    """Read a row's answers: references, and where in the context they stand, (start, end, number of the reference).

    Args:
        value: a list of texts, one text, SQuAD's {text: [...], answer_start: [...]}, or {text: [...], spans: [...]},
            spans as they are returned. An empty list means that the context holds no answer, which then is the empty
            text.
        context: where an answer stands if no place is given for it, or one where the context reads otherwise: wherever
            its words occur. One that does not occur has no place.

    Raises:
        UserError: if it is none of these.
    """
    starts: Any = None
    if isinstance(value, Mapping) and "spans" in value:
        return list(value["text"]) or [""], [(start, end, number) for start, end, number in value["spans"]]
    if isinstance(value, Mapping) and "text" in value:
        starts, value = value.get("answer_start"), value["text"]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise UserError("answers are neither texts nor {text: [...], answer_start: [...]}")
    starts = [starts] if isinstance(starts, int) else starts
    if not isinstance(starts, Sequence) or len(starts) != len(texts):
        starts = [None] * len(texts)
    placed = [
        (
            text.strip(),
            start + len(text) - len(text.lstrip()) if isinstance(start, int) and start >= 0 else None,
        )
        for text, start in zip(texts, starts, strict=True)
        if text.strip()
    ]
    spans: list[Span] = []
    for number, (text, start) in enumerate(placed):
        if start is not None and context[start : start + len(text)] == text:
            spans.append((start, start + len(text), number))
        else:
            found = re.finditer(whole_words(text), context, re.IGNORECASE)
            spans.extend((place.start(), place.end(), number) for place in found)
    return [text for text, _ in placed] or [""], spans


def whole_words(text: str) -> str:
    """Write the pattern of a text that is no part of a word; scripts as the Chinese put no blanks between words."""
    if any(unicodedata.east_asian_width(letter) in "WF" for letter in text):
        return re.escape(text)
    return rf"(?<!\w){re.escape(text)}(?!\w)"
