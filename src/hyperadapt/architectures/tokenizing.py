"""Texts as tokens: inputs, which are cut or asked chunk by chunk, and targets, which must be read back as they were.

Both are tokenized batch by batch, and say once for a task and split what was lost.
"""

from __future__ import annotations

import reprlib
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

from hyperadapt.architectures.frames import Frame
from hyperadapt.errors import UserError, notice
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.tasks.chunks import Chunk, answer_within, chunked, with_places
from hyperadapt.tasks.input_format import InputFormat

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task

# A fast tokenizer keeps in itself how it is to cut, so that threads would cut each other's texts.
TOKENIZER = RLock()
ROWS_TOKENIZED_AT_ONCE = 10_000


Texts = Mapping[str, Sequence[Any]]  # columns as those of `load_split`


class InputTokenizer:
    """Tokenizes inputs, and counts those that are cut.

    Args:
        tokenizer: the base model's.
        form: how long inputs may be, and where they are cut.
        frame: what stands around each.
        in_fields: cut the texts of fields alone, and leave what stands between them, as a template; the last is cut
            first, unless the longest is to be.
        newest: of fields that cannot all be kept, keep the last ones, as the messages of a chat.
        read: turns the columns of rows into those that are tokenized.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        form: InputFormat,
        frame: Frame,
        in_fields: bool = False,
        newest: bool = False,
        read: Callable[[Texts], Texts] | None = None,
    ) -> None:
        self.tokenizer, self.form, self.frame, self.read = tokenizer, form, frame, read
        self.in_fields, self.newest = in_fields or form.truncation == "longest_first", newest
        self.rows = self.cut = 0
        self.lost: Counter[int] = Counter()  # number of a field -> rows of which no token of it is kept
        self.in_chunks = self.has_fields = False

    def __call__(self, texts: Texts) -> list[list[Chunk]]:
        """Tokenize a batch.

        Args:
            texts: columns as those of `load_split`: `source`, with `places` of its fields where there are several, and
                of questions `context`.

        Returns:
            For each row its inputs: one, or the chunks of its context.

        Raises:
            UserError: if what stands around an input leaves no room for it.
        """
        with TOKENIZER:
            return self.tokenized(texts if self.read is None else self.read(texts))

    def tokenized(self, texts: Texts) -> list[list[Chunk]]:
        """Tokenize a batch while no other thread uses the tokenizer."""
        sources = list(texts["source"])
        if not sources:
            return []
        self.rows += len(sources)
        starts, before, behind, ends = self.frame
        room = self.form.max_source_length - len(starts) - len(ends)
        if "context" in texts:
            self.in_chunks = True
            questions = [f"{before}{source}" for source in sources] if before else sources
            ends = (*self.plain([behind])[0], *ends) if behind else ends
            form = self.form
            found = chunked(
                questions,
                texts["context"],
                self.tokenizer,
                form.max_source_length,
                form.overlap,
                starts,
                ends,
            )
            self.cut += sum(chunks[0].question_is_cut for chunks in found)
            return found
        ids = self.plain([f"{before}{source}{behind}" for source in sources])
        full = [row for row, tokens in enumerate(ids) if len(tokens) > room]
        if full:
            places = [texts["places"][row] for row in full] if "places" in texts else None
            cut = self.shortened([sources[row] for row in full], places, [ids[row] for row in full], room)
            for row, tokens in zip(full, cut, strict=True):
                ids[row] = tokens
        return [[Chunk([*starts, *tokens, *ends], 0, 0)] for tokens in ids]

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts without special tokens."""
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def shortened(
        self,
        sources: Sequence[str],
        places: Sequence[Sequence[Sequence[int]]] | None,
        ids: Sequence[list[int]],
        room: int,
    ) -> list[list[int]]:
        """Cut inputs that are too long, and count what they lose.

        Args:
            sources: the inputs.
            places: from which to which character each of their fields stands.
            ids: the tokens of each, with what stands around it.
            room: the most tokens that are kept of each.
        """
        self.cut += len(sources)
        _, before, behind, _ = self.frame
        framed = bool(before or behind)
        needed = framed or (places is not None and self.in_fields)
        # Without places no field is known, and an input is cut at its end.
        if not (needed or places is not None) or not self.tells_places(needed):
            return [tokens[-room:] if self.cuts_left else tokens[:room] for tokens in ids]
        self.has_fields = places is not None
        texts = [f"{before}{source}{behind}" for source in sources]
        found = []
        for number, (tokens, offsets) in enumerate(with_places(texts, self.tokenizer)):
            shift, source = len(before), sources[number]
            whole = token_range(offsets, shift, shift + len(source)) if framed else (0, len(tokens))
            of_fields = [
                token_range(offsets, begin + shift, end + shift)
                for begin, end in (places[number] if places is not None else ())
            ]
            left = self.left_of(tokens, of_fields if self.in_fields else [], room)
            left = left or self.left_of(tokens, [whole], room)
            if left is None:
                raise UserError(
                    f"max_source_length {self.form.max_source_length} leaves no room for an input: what stands around "
                    f"it takes {len(tokens) - (whole[1] - whole[0])} tokens, and special ones "
                    f"{self.form.max_source_length - room}; raise it"
                )
            kept = sorted(place for begin, end in left for place in range(begin, end))
            there = set(kept)
            for field, (begin, end) in enumerate(of_fields):
                self.lost[field] += begin < end and there.isdisjoint(range(begin, end))
            found.append([tokens[place] for place in kept])
        return found

    @property
    def cuts_left(self) -> bool:
        """Whether the tokenizer cuts texts at their beginning."""
        return self.tokenizer.truncation_side == "left"

    def left_of(
        self, tokens: Sequence[int], ranges: Sequence[tuple[int, int]], room: int
    ) -> list[tuple[int, int]] | None:
        """Choose the tokens that are left of an input; None where what is not to be cut does not fit.

        Args:
            tokens: all.
            ranges: those that may be cut.
            room: how many are left.
        """
        lengths = [end - begin for begin, end in ranges]
        room -= len(tokens) - sum(lengths)
        if room < 0 or not ranges:
            return None
        longest = self.form.truncation == "longest_first" and len(ranges) > 1
        in_order = last_first if self.newest or (self.cuts_left and not longest) else first_first
        sizes = longest_first(lengths, room) if longest and not self.newest else in_order(lengths, room)
        left, end_before = [], 0
        for (begin, end), size in zip(ranges, sizes, strict=True):
            left.append((end_before, begin))
            left.append((end - size, end) if self.cuts_left and not longest else (begin, begin + size))
            end_before = end
        return [*left, (end_before, len(tokens))]

    def tells_places(self, needed: bool) -> bool:
        """Say whether the tokenizer tells where its tokens stand, without which no field is known.

        Args:
            needed: as the longest field is to be cut first, say.

        Raises:
            UserError: if it does not, and must.
        """
        try:
            with_places(["é"], self.tokenizer)
        except UserError as error:
            if needed:
                raise UserError(f"inputs are too long, and where they are cut: {error}") from None
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
                f"{count} have a question that leaves too little of {self.form.max_source_length} tokens to its "
                "context, and is cut: raise max_source_length"
            )
            return
        names = task.names_read
        lost = [number for number in sorted(self.lost) if self.lost[number] and number < len(names)]
        losses = [f"; {self.lost[number]:,} lose all of {names[number]}" for number in lost]
        choice = ", or set truncation: longest_first, which cuts the longest field first"
        is_open = self.has_fields and not self.in_fields
        notice(
            f"{count} are cut at {self.form.max_source_length} tokens{''.join(losses)}: raise max_source_length"
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


def first_first(lengths: Sequence[int], room: int) -> list[int]:
    """Keep all of the first ones, as far as there is room; return what is kept of each."""
    kept = []
    for length in lengths:
        kept.append(min(length, room))
        room -= kept[-1]
    return kept


def last_first(lengths: Sequence[int], room: int) -> list[int]:
    """Keep all of the last ones, as far as there is room; return what is kept of each."""
    return first_first(lengths[::-1], room)[::-1]


# Texts, and the most tokens of each, or None -> their tokens, the end token among them.
Writer = Callable[[Sequence[str], int | None], list[list[int]]]


class TargetTokenizer:
    """Tokenizes a task's training targets, and checks that what is trained on can be written and read back.

    A label or a score that is cut, or that the tokenizer cannot write, could never be predicted: it is an error. Free
    texts, some of which may well be too long, are counted.

    Args:
        task: whose targets they are.
        tokenizer: the base model's.
        write: turns texts into tokens, as the architecture has them.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, write: Writer) -> None:
        self.task, self.tokenizer, self.write = task, tokenizer, write
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
            ids = self.write(new, longest)
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
        [whole] = self.write([text], None)
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
        whole = self.write(full, None) if full else []
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
    rows: Dataset, task: Task, tokenize_inputs: InputTokenizer, tokenize_targets: TargetTokenizer
) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """Tokenize a task's training rows batch by batch: inputs, contexts chunk by chunk, and their targets.

    Args:
        rows: from `load_split`.
        task: whose they are; a score task's step is known.
        tokenize_inputs: of the task.
        tokenize_targets: of the task.

    Raises:
        UserError: if a target cannot be written.
    """
    from tqdm import tqdm

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
