"""Texts as tokens: inputs, which are cut or asked chunk by chunk, and targets, which must be read back as they were.

Both are tokenized batch by batch, and say once for a task and split what was lost.
"""

from __future__ import annotations

import reprlib
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

from hyperadapt.errors import UserError, notice
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.tasks.chunks import Chunk, answer_within, chunked, with_places
from hyperadapt.tasks.limits import Truncation

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task

# A fast tokenizer keeps in itself how it is to cut, so that threads would cut each other's texts.
TOKENIZER = RLock()
ROWS_TOKENIZED_AT_ONCE = 10_000


class InputTokenizer:
    """Tokenizes inputs, and counts those that are cut.

    Args:
        tokenizer: the base model's.
        max_length: tokens; what is longer is cut, or asked in chunks where there are contexts.
        overlap: of chunks, in tokens.
        truncation: where an input is cut: at its end, or each time a token of the field that is the longest.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        overlap: int,
        truncation: Truncation = "end",
    ) -> None:
        self.tokenizer, self.max_length, self.overlap = tokenizer, max_length, overlap
        self.truncation = truncation
        self.rows = self.cut = 0
        self.lost: Counter[int] = Counter()  # number of a field -> rows of which no token of it is kept
        self.in_chunks = self.in_fields = False

    def __call__(self, texts: Mapping[str, Sequence[Any]]) -> list[list[Chunk]]:
        """Tokenize a batch.

        Args:
            texts: columns as those of `load_split`: `source`, with `places` of its fields where there are several, and
                of questions `context`.

        Returns:
            For each row its inputs: one, or the chunks of its context.
        """
        with TOKENIZER:
            return self.tokenized(texts)

    def tokenized(self, texts: Mapping[str, Sequence[Any]]) -> list[list[Chunk]]:
        """Tokenize a batch while no other thread uses the tokenizer."""
        sources = list(texts["source"])
        self.rows += len(sources)
        if "context" in texts:
            self.in_chunks = True
            found = chunked(sources, texts["context"], self.tokenizer, self.max_length, self.overlap)
            self.cut += sum(chunks[0].question_is_cut for chunks in found)
            return found
        if not sources:
            return []
        ids = self.tokenizer(sources, truncation=True, max_length=self.max_length)["input_ids"]
        full = [row for row, tokens in enumerate(ids) if len(tokens) >= self.max_length]
        if full:
            places = [texts["places"][row] for row in full] if "places" in texts else None
            for row, shortened in zip(
                full, self.shortened([sources[row] for row in full], places), strict=True
            ):
                ids[row] = shortened or ids[row]
        return [[Chunk(tokens, 0, 0)] for tokens in ids]

    def shortened(
        self, sources: Sequence[str], places: Sequence[Sequence[Sequence[int]]] | None
    ) -> list[list[int] | None]:
        """Count what is cut of inputs that may just fit, and cut the longest fields first if that is wanted.

        Args:
            sources: the inputs.
            places: from which to which character each of their fields stands.

        Returns:
            The tokens of each input, or None where the tokenizer's own cut is the one that is wanted.
        """
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        if places is None or not self.tells_places():
            whole = self.tokenizer(list(sources), add_special_tokens=False, verbose=False)["input_ids"]
            self.cut += sum(len(tokens) > room for tokens in whole)
            return [None] * len(sources)
        self.in_fields = True
        found: list[list[int] | None] = []
        for (tokens, offsets), fields in zip(with_places(sources, self.tokenizer), places, strict=True):
            found.append(None)
            if len(tokens) <= room:
                continue
            self.cut += 1
            ranges = [token_range(offsets, *place) for place in fields]
            lengths = [end - begin for begin, end in ranges]
            room_of_fields = room - (len(tokens) - sum(lengths))
            if self.truncation == "longest_first" and room_of_fields >= 0:
                kept = longest_first(lengths, room_of_fields)
                left_out = [range(begin + size, end) for (begin, end), size in zip(ranges, kept, strict=True)]
                dropped = {number for numbers in left_out for number in numbers}
                rest = [token for number, token in enumerate(tokens) if number not in dropped]
                found[-1] = [*rest, self.tokenizer.eos_token_id]
            else:
                first = len(tokens) - room if self.tokenizer.truncation_side == "left" else 0
                kept = [min(end, first + room) - max(begin, first) for begin, end in ranges]
            self.lost.update(number for number, size in enumerate(kept) if size <= 0 and lengths[number] > 0)
        return found

    def tells_places(self) -> bool:
        """Say whether the tokenizer tells where its tokens stand, without which no field is known.

        Raises:
            UserError: if it does not, and must, as the longest field is to be cut first.
        """
        try:
            with_places(["é"], self.tokenizer)
        except UserError as error:
            if self.truncation == "longest_first":
                raise UserError(f"truncation: longest_first: {error}") from None
            return False
        return True

    def say(self, task: Task, rows: str) -> None:
        """Say how many rows were cut, and what they lost.

        Args:
            task: whose rows they are.
            rows: what they are called, as "train rows".
        """
        if not self.cut:
            return
        count = f"{self.cut:,} of {self.rows:,} {rows} of {task.name}"
        if self.in_chunks:
            notice(
                f"{count} have a question that leaves too little of {self.max_length} tokens to its context, and is "
                "cut: raise max_source_length"
            )
            return
        names = [name or column for name, column in task.fields.items()]
        losses = [f"; {self.lost[number]:,} lose all of {names[number]}" for number in sorted(self.lost)]
        choice = ", or set truncation: longest_first, which cuts the longest field first"
        is_open = self.in_fields and self.truncation == "end"
        notice(
            f"{count} are cut at {self.max_length} tokens{''.join(losses)}: raise max_source_length"
            f"{choice if is_open else ''}"
        )


def token_range(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, int]:
    """Find the tokens of a part of a text: the number of the first, and of the one after the last.

    Args:
        offsets: from which to which character each token stands.
        begin, end: those of the part. A token that reaches into it, as a first word with the blank before it, is its.
    """
    starts_within = bisect_left(offsets, begin, key=lambda place: place[0])
    ends_within = bisect_right(offsets, begin, key=lambda place: place[1])
    first = min(starts_within, ends_within)
    return first, max(first, bisect_right(offsets, end, key=lambda place: place[1]))


def longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """Shorten the longest again and again, of those alike the last, until all fit; return what is kept of each."""
    kept = [0] * len(lengths)
    while room > 0 and any(size < length for size, length in zip(kept, lengths, strict=True)):
        growing = [number for number, size in enumerate(kept) if size < lengths[number]]
        share = min(max(room // len(growing), 1), min(lengths[number] - kept[number] for number in growing))
        for number in growing[:room]:
            kept[number] += share
            room -= share
    return kept


class TargetTokenizer:
    """Tokenizes a task's training targets, and checks that what is trained on can be written and read back.

    A label or a score that is cut, or that the tokenizer cannot write, could never be predicted: it is an error. Free
    texts, some of which may well be too long, are counted.

    Args:
        task: whose targets they are.
        tokenizer: the base model's.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        self.task, self.tokenizer = task, tokenizer
        self.ids: dict[str, array[int]] = {}
        self.cut = self.changed = 0
        self.example = ""
        self.read_back: set[str] = set()

    def __call__(self, targets: Sequence[str]) -> list[list[int]]:
        """Tokenize a batch of targets as rows hold them.

        Raises:
            UserError: if a label or a score cannot be written, or not within the tokens that the task says.
        """
        texts = [self.task.written(target) for target in targets]
        new = [text for text in dict.fromkeys(texts) if text not in self.ids]
        if new:
            longest = self.task.max_target_length
            ids = self.tokenizer(text_target=new, truncation=True, max_length=longest)["input_ids"]
            if self.task.kind_of_task.closed:
                self.check(new, ids)
            else:
                self.compare(new, ids)
            self.ids.update((text, array("i", tokens)) for text, tokens in zip(new, ids, strict=True))
        return [self.ids[text].tolist() for text in texts]

    def decoded(self, ids: list[list[int]]) -> list[str]:
        """Read tokens as predictions are read."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def check(self, texts: Sequence[str], ids: list[list[int]]) -> None:
        """Check that labels or scores are read back as they were, cut as they are in training and in generation."""
        generated = [tokens[: self.task.max_generated_length] for tokens in ids]
        for text, read in zip(texts, self.decoded(generated), strict=True):
            if read != text:
                raise UserError(f"task '{self.task.name}': {self.why_unwritable(text, read)}")
        fewest = self.task.min_generated_length
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) <= fewest:  # its end token would come too early
                raise UserError(
                    f"task '{self.task.name}': {reprlib.repr(text)} takes {len(tokens)} tokens, its end among them, "
                    f"and is too short for min_generated_length {fewest}: set it to {len(tokens) - 1} or less"
                )

    def why_unwritable(self, text: str, read: str) -> str:
        """Say why a label or a score is read back otherwise, and what to change."""
        task = self.task
        noun, instead = task.kind_of_task.why_unwritable(task)
        whole = self.tokenizer(text_target=text, verbose=False)["input_ids"]
        if (uncut := self.decoded([whole])[0]) != text:
            return (
                f"the tokenizer cannot write the {noun} {reprlib.repr(text)}, and reads it back as "
                f"{reprlib.repr(uncut)}: {instead}, or take another model.tokenizer"
            )
        field = "max_target_length" if len(whole) > task.max_target_length else "max_generated_length"
        return (
            f"the {noun} {reprlib.repr(text)} takes {len(whole)} tokens, and {field} {getattr(task, field)} cuts it to "
            f"{reprlib.repr(read)}: set {field} to {len(whole)} or more, or {instead}"
        )

    def compare(self, texts: Sequence[str], ids: list[list[int]]) -> None:
        """Count the free texts that are cut, and those that the tokenizer reads back otherwise."""
        longest = self.task.max_target_length
        full = [text for text, tokens in zip(texts, ids, strict=True) if len(tokens) >= longest]
        whole = self.tokenizer(text_target=full, verbose=False)["input_ids"] if full else []
        cut = {text for text, tokens in zip(full, whole, strict=True) if len(tokens) > longest}
        self.cut += len(cut)
        for text, read in zip(texts, self.decoded(ids), strict=True):
            self.read_back.add(read)
            if text not in cut and read.split() != text.split():
                self.changed += 1
                self.example = self.example or f"{reprlib.repr(text)} becomes {reprlib.repr(read)}"

    def say(self) -> None:
        """Say how many of the different free texts are not trained on as they are."""
        task, number = self.task, len(self.ids)
        losses = []
        if self.cut:
            losses.append(f"{self.cut:,} are cut at {task.max_target_length} tokens (max_target_length)")
        if self.changed:
            losses.append(f"{self.changed:,} are read back otherwise by the tokenizer ({self.example})")
        if losses:
            merged = f"; {len(self.read_back):,} different ones are left" * (len(self.read_back) < number)
            notice(f"of {number:,} different training targets of {task.name}, {' and '.join(losses)}{merged}")


def tokenized_examples(
    rows: Dataset,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlap: int,
    truncation: Truncation = "end",
) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Tokenize a task's training rows batch by batch: inputs, contexts chunk by chunk, and their targets.

    Args:
        rows: from `load_split`.
        task: whose they are; a score task's step is known.
        tokenizer: the base model's.
        max_length, overlap, truncation: as of an `InputTokenizer`.

    Raises:
        UserError: if a target cannot be written.
    """
    from tqdm import tqdm

    tokenize_inputs = InputTokenizer(tokenizer, max_length, overlap, truncation)
    tokenize_targets = TargetTokenizer(task, tokenizer)
    starts = range(0, len(rows), ROWS_TOKENIZED_AT_ONCE)
    for start in tqdm(starts, desc="tokenizing", leave=False, delay=SECONDS_BEFORE_PROGRESS_SHOWS):
        batch = rows[start : start + ROWS_TOKENIZED_AT_ONCE]
        chunks_of_rows = tokenize_inputs(batch)
        targets = batch["target"]
        if "context" in batch:
            places = zip(chunks_of_rows, batch["references"], batch["spans"], strict=True)
            targets = [
                answer_within(references, spans, chunk)
                for chunks, references, spans in places
                for chunk in chunks
            ]
        yield [chunk.ids for chunks in chunks_of_rows for chunk in chunks], tokenize_targets(targets)
    tokenize_inputs.say(task, "train rows")
    tokenize_targets.say()


def check_labels(task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that every label of a task can be written, and read back, within the tokens that the task says.

    Raises:
        UserError: naming the first that cannot, and what to change.
    """
    TargetTokenizer(task, tokenizer)(task.label_texts)
