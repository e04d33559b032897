"""Examples of text: spans that are left out, beginnings to go on with; rows of tasks; taught sentences.

An example follows from its number in the run alone, so that runs resume bit for bit. Those of one step share objective
and length, so that nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from hyperadapt.architectures import EncoderDecoder
from hyperadapt.architectures.base import IGNORED
from hyperadapt.config.sections import DistillationConfig, MultitaskConfig, ObjectiveConfig
from hyperadapt.errors import UserError
from hyperadapt.files import manifest
from hyperadapt.pretraining.text import TEXTS_TOKENIZED_AT_ONCE
from hyperadapt.pretraining.tokenizer import SENTINELS, sentinel_ids
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.runs import same_data
from hyperadapt.tasks import check_there, load_split, resolve_tasks
from hyperadapt.tasks.chunks import default_overlap
from hyperadapt.tasks.input_format import InputFormat
from hyperadapt.training.mixing import sampling_rates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task


def window_length(objective: ObjectiveConfig) -> int:
    """Find how many tokens, corrupted, make an input of `source_length`, or of the next shorter length there is."""
    length = 2
    while corrupted_lengths(length + 1, objective)[0] <= objective.source_length:
        length += 1
    return length


def corrupted_lengths(length: int, objective: ObjectiveConfig) -> tuple[int, int]:
    """Count the tokens of input and target that a window becomes, end tokens included."""
    noise, spans = noise_of(length, objective)
    return length - noise + spans + 1, noise + spans + 1


def noise_of(length: int, objective: ObjectiveConfig) -> tuple[int, int]:
    """Count a window's corrupted tokens and the spans that they form."""
    noise = min(max(round(length * objective.corruption_rate), 1), length - 1)
    spans = max(round(noise / objective.mean_span_length), 1)
    return noise, min(spans, noise, length - noise, len(SENTINELS))


def corrupt(
    window: np.ndarray,
    sentinels: np.ndarray,
    end: int,
    objective: ObjectiveConfig,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Corrupt spans of a window: each becomes a sentinel in the input, and follows that sentinel in the target.

    Args:
        window: (tokens,).
        sentinels: their ids, in order.
        end: id of the end token.
        objective: share of corrupted tokens and mean length of a span.
        random: draws where the spans lie; kept and corrupted ones take turns, beginning with a kept one.

    Returns:
        Input and target, of the lengths that `corrupted_lengths` counts.
    """
    noise, spans = noise_of(len(window), objective)
    kept = random_parts(len(window) - noise, spans, random)
    lost = random_parts(noise, spans, random)
    ends = np.cumsum(np.stack([kept, lost], axis=1).ravel())
    source, target = [], []
    start = 0
    for span in range(spans):
        first, last = ends[2 * span], ends[2 * span + 1]
        source += [window[start:first], sentinels[span : span + 1]]
        target += [sentinels[span : span + 1], window[first:last]]
        start = last
    return np.concatenate([*source, [end]]), np.concatenate([*target, [end]])


def random_parts(total: int, parts: int, random: np.random.Generator) -> np.ndarray:
    """Cut a number into that many parts of at least one, all ways alike, (parts,)."""
    cuts = np.sort(random.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


class CorruptedText(Dataset):
    """Examples of a whole run, each made when it is asked for; those of one step are of one kind.

    Args:
        tokens: the stream, (tokens,).
        tokenizer: whose sentinels and end token stand in the examples.
        objective: what is predicted.
        examples: how many there are; a pass over the text begins where another ends, with windows cut elsewhere. By
            default one pass.
        batch_size: examples in a step.
        seed: of the windows' order and of what is corrupted.
        tasks: whose rows take the place of text in a share of the steps.
        sentences: beside the text.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        tokenizer: PreTrainedTokenizerBase,
        objective: ObjectiveConfig,
        examples: int | None = None,
        batch_size: int = 1,
        seed: int = 0,
        tasks: TaskRows | None = None,
        sentences: TaughtSentences | None = None,
    ) -> None:
        self.tokens, self.objective, self.seed = tokens, objective, seed
        self.batch_size, self.tasks, self.sentences = batch_size, tasks, sentences
        self.length = window_length(objective)
        # One window less than fits, so that each pass can begin at another token.
        self.windows = len(tokens) // self.length - 1
        self.examples = self.windows if examples is None else examples
        self.sentinels, self.end = sentinel_ids(tokenizer), tokenizer.eos_token_id
        self.order: tuple[int, np.ndarray] = (-1, np.empty(0))
        if self.windows < 1:
            raise UserError(
                f"a text of {len(tokens)} tokens is too short for examples of {objective.source_length}, which take "
                f"at least {2 * self.length}: choose another text.held_out_tokens, or a shorter objective.source_length"
            )

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.examples

    def of_step(self, step: int) -> np.random.Generator:
        """Return what decides on the kind of a step's examples."""
        return np.random.default_rng([self.seed, 1, step])

    def text_tokens(self) -> int:
        """Count the tokens of all examples of text; a window whose place a task's row takes is not read."""
        steps = range(self.examples // self.batch_size)
        of_tasks = (
            0 if self.tasks is None else sum(self.of_step(n).random() < self.tasks.share for n in steps)
        )
        return (self.examples - of_tasks * self.batch_size) * self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Make an example: input_ids (source,), labels (target,), and sentences, a list of (ids, vector)."""
        in_pass, place = divmod(number, self.windows)
        if self.order[0] != in_pass:
            random = np.random.default_rng([self.seed, 0, in_pass])
            starts = random.permutation(self.windows) * self.length + random.integers(self.length)
            self.order = (in_pass, starts)
        start = self.order[1][place]
        window = self.tokens[start : start + self.length].astype(np.int64)
        step, place_in_step = divmod(number, self.batch_size)
        random, of_step = np.random.default_rng([self.seed, 2, number]), self.of_step(step)
        if self.tasks is not None and of_step.random() < self.tasks.share:
            source, target = self.tasks.draw(random)
            example = {"input_ids": source, "labels": target}
        elif of_step.random() < self.objective.prefix_lm_share:
            cut = of_step.integers(self.length // 4, 3 * self.length // 4)
            example = {"input_ids": np.append(window[:cut], self.end), "labels": window[cut:]}
        else:
            source, target = corrupt(window, self.sentinels, self.end, self.objective, random)
            example = {"input_ids": source, "labels": target}
        if self.sentences is None:
            return example
        return {**example, "sentences": self.sentences.draw(of_step.random(), place_in_step, self.batch_size)}


class TaskRows:
    """Training rows of tasks, sampled in proportion to size^(1/temperature).

    Args:
        config: which tasks, and where their data is.
        tokenizer: the model's.

    Raises:
        UserError: if a task is unknown, its rows cannot be read, or its targets not written.
    """

    def __init__(self, config: MultitaskConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.share = config.share
        self.rows: list[Any] = []
        self.digests: dict[str, dict[str, same_data.SplitDigest]] = {}
        self.tasks: list[Task] = []
        tasks = resolve_tasks(config.tasks)
        check_there(tasks, config.data_dir, ["train"])
        longest = config.max_source_length
        form = InputFormat(longest, default_overlap(longest), config.truncation)
        for task in tasks:
            EncoderDecoder().check_labels(task, tokenizer, form)
        for number, task in enumerate(tasks):
            texts = load_split(task, "train", config.data_dir, config.max_train_rows, prefix=True)
            self.digests[task.name] = {"train": same_data.digest_of(texts)}
            self.tasks.append(task.with_step(texts["target"]))
            self.rows.append(EncoderDecoder().training_rows(texts, self.tasks[-1], number, tokenizer, form))
        self.rates = sampling_rates([len(rows) for rows in self.rows], config.temperature)

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of a row's input and target."""
        rows = self.rows[random.choice(len(self.rows), p=self.rates)]
        row = rows[int(random.integers(len(rows)))]
        return np.array(row["input_ids"]), np.array(row["labels"])


class TaughtSentences:
    """Sentences with the vectors that another model gives them; what is drawn for one step is of like length.

    Args:
        config: where they are.
        tokenizer: the model's.

    Raises:
        UserError: if files are missing or do not fit together, or no sentence is short enough.
    """

    def __init__(self, config: DistillationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        directory = Path(config.directory)
        texts, vectors = directory / "sentences.txt", directory / "vectors.npy"
        for file in (texts, vectors):
            if not file.is_file():
                raise UserError(
                    f"distillation.directory: there is no file {file}; scripts/teacher_vectors.py writes it"
                )
        try:
            self.vectors = np.load(vectors, mmap_mode="r", allow_pickle=False)
            lines = texts.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:  # what is not UTF-8 is a ValueError as well
            raise UserError(f"distillation.directory: {directory} cannot be read: {error}") from None
        if self.vectors.ndim != 2 or len(lines) != len(self.vectors):
            raise UserError(
                f"distillation.directory: {texts} has {len(lines)} sentences, and {vectors} holds an array of shape "
                f"{self.vectors.shape}; it must be ({len(lines)}, size)"
            )
        bar = tqdm(
            range(0, len(lines), TEXTS_TOKENIZED_AT_ONCE),
            desc="tokenizing sentences",
            delay=SECONDS_BEFORE_PROGRESS_SHOWS,
        )
        self.ids = [
            np.asarray(ids, dtype=np.int32)
            for start in bar
            for ids in tokenizer(lines[start : start + TEXTS_TOKENIZED_AT_ONCE])["input_ids"]
        ]
        lengths = np.array([len(ids) for ids in self.ids])
        self.by_length = np.argsort(lengths, kind="stable")[: int((lengths <= config.max_length).sum())]
        self.per_example = config.sentences_per_example
        digests = [manifest.entry(file)["sha256"] for file in (texts, vectors)]
        self.digest: same_data.SplitDigest = {"rows": len(lines), "sha256": digests}
        if len(self.by_length) == 0:
            raise UserError(
                f"distillation.directory: no sentence of {texts} has at most {config.max_length} tokens"
            )

    def draw(self, where: float, place: int, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return an example's sentences: ids (tokens,) and vector (size,).

        Args:
            where: from 0 to 1, the place in the order of lengths of the step's first sentence.
            place: of the example in its step.
            batch_size: examples of the step.
        """
        room = max(len(self.by_length) - batch_size * self.per_example, 1)
        first = int(where * room) + place * self.per_example
        numbers = self.by_length[np.arange(first, first + self.per_example) % len(self.by_length)]
        return [(self.ids[number], self.vectors[number]) for number in numbers]


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make tensors (batch, seq), padded; sentences are sentence_ids, sentence_mask and sentence_vectors."""

    def padded(arrays: Sequence[np.ndarray], padding: int = 0) -> torch.Tensor:
        rows = [torch.from_numpy(array.astype(np.int64)) for array in arrays]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)

    def masked(arrays: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        return padded(arrays), padded([np.ones(len(array)) for array in arrays])

    input_ids, mask = masked([example["input_ids"] for example in examples])
    labels = padded([example["labels"] for example in examples], IGNORED)
    batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
    if "sentences" in examples[0]:
        sentences = [sentence for example in examples for sentence in example["sentences"]]
        batch["sentence_ids"], batch["sentence_mask"] = masked([ids for ids, _ in sentences])
        batch["sentence_vectors"] = torch.from_numpy(np.stack([vector for _, vector in sentences]))
    return batch
