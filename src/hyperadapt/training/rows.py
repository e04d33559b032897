"""Training rows as tokens: inputs, targets, and the id of each row's task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tqdm import tqdm

from hyperadapt.evaluation import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.tasks.chunks import answer_within
from hyperadapt.tokenizing import InputTokenizer, TargetTokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task
    from hyperadapt.tokenizing import Truncation


ROWS_TOKENIZED_AT_ONCE = 10_000


def tokenize_rows(
    rows: Dataset,
    task: Task,
    task_id: int,
    tokenizer: PreTrainedTokenizerBase,
    max_source_length: int,
    overlap: int,
    truncation: Truncation = "end",
) -> Dataset:
    """Tokenize one task's training rows into input_ids, labels and task_ids, contexts chunk by chunk.

    Args:
        rows: from `load_split`.
        task: whose they are; a score task's step is known.
        task_id: of all of them.
        tokenizer: the base model's.
        max_source_length, overlap, truncation: as of an `InputTokenizer`.

    Raises:
        UserError: if a target cannot be written.
    """
    from datasets import Dataset, concatenate_datasets

    tokenize_inputs = InputTokenizer(tokenizer, max_source_length, overlap, truncation)
    tokenize_targets, parts = TargetTokenizer(task, tokenizer), []
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
        inputs = [chunk.ids for chunks in chunks_of_rows for chunk in chunks]
        labels = tokenize_targets(targets)
        parts.append(
            Dataset.from_dict({"input_ids": inputs, "labels": labels, "task_ids": [task_id] * len(inputs)})
        )
    tokenize_inputs.say(task, "train rows")
    tokenize_targets.say()
    return concatenate_datasets(parts)
