"""Pretraining of T5 models on plain text: span corruption and prefix language modelling (Raffel et al. 2020).

All text is one stream of tokens, cut into windows of one length, so that no text is padded. A window's corruption
follows from the seed and the window's number in the run alone: a resumed run, and any number of processes, see the
same examples.

config.yaml  the resolved configuration    model/         the model of the lowest held-out loss, of span
                                                          corruption, where that is trained; with its tokenizer
tokens.npy   the text as tokens            checkpoints/   Trainer's, to resume from
tokenizer/   the tokenizer                 history.json   losses over the steps
data.json    digests of the tasks' rows    manifest.json  digests of all these files
                                           results.json   losses, tokens, seconds; the last to be written
"""

from __future__ import annotations

import gzip
import json
import lzma
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import broadcast_object_list
from torch.utils.data import Dataset, SequentialSampler
from tqdm import tqdm
from transformers import Trainer
from transformers.utils import is_torch_bf16_gpu_available

from hyperadapt import manifest, threads
from hyperadapt.conditioning import mean_state
from hyperadapt.config.sections import (
    DistillationConfig,
    ModelConfig,
    MultitaskConfig,
    ObjectiveConfig,
    TextConfig,
    TokenizerConfig,
)
from hyperadapt.config.written import PretrainConfig
from hyperadapt.errors import CheckpointError, UserError, nearest
from hyperadapt.evaluation import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.files import write_atomically, writing
from hyperadapt.runs import results_file, same_data
from hyperadapt.runs.base_model import build_base, check_vocabulary, load_tokenizer
from hyperadapt.runs.resume import checkpoint_to_start_from, clear, marked
from hyperadapt.runs.run import MADE_OF, TRAINED, load_tasks, write_tasks
from hyperadapt.runs.train import check_trackers, held, versions
from hyperadapt.tasks import check_there, load_split, resolve_tasks
from hyperadapt.tasks.chunks import default_overlap
from hyperadapt.tokenizing import check_labels
from hyperadapt.training.arguments import training_arguments
from hyperadapt.training.callbacks import CheckpointLastStep, show_progress
from hyperadapt.training.mixing import sampling_rates
from hyperadapt.training.resumable import ResumableTrainer
from hyperadapt.training.rows import tokenize_rows
from hyperadapt.training.stopping import train_until_stopped
from hyperadapt.training.trainer import IGNORED, TrainingStoppedError, t5_adafactor
from hyperadapt.training.trial import making_trainer, try_out
from hyperadapt.yaml_and_json import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, TrainingArguments

    from hyperadapt.tasks import Task

SENTINELS = [f"<extra_id_{number}>" for number in range(100)]
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


def train_tokenizer(texts: Iterator[str], config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """Train a tokenizer with T5's special tokens and 100 sentinels, which count among its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>", *SENTINELS]
    model: Any
    words: Any
    decoder: Any
    trainer: Any
    if config.kind == "unigram":
        model, words, decoder = models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=config.vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        model = models.BPE(unk_token="<unk>")
        decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
        words = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizers.NFKC(), words, decoder
    tokenizer.train_from_iterator(
        tqdm(texts, desc="training the tokenizer", delay=SECONDS_BEFORE_PROGRESS_SHOWS), trainer
    )
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=SENTINELS,
    )


def trained_by_one(
    text: TextConfig, config: TokenizerConfig, args: TrainingArguments
) -> PreTrainedTokenizerFast:
    """Train the tokenizer in one process, as two trainings may differ, and give it to all."""
    trained = train_tokenizer(read_texts(text), config) if args.process_index == 0 else None
    return broadcast_object_list([trained])[0]


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the ids of <extra_id_0>, <extra_id_1>, …

    Raises:
        UserError: if the vocabulary has none.
    """
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[name] for name in SENTINELS if name in vocabulary]
    if len(ids) < len(SENTINELS):
        raise UserError(
            f"the tokenizer has {len(ids)} of the {len(SENTINELS)} sentinels <extra_id_0> … <extra_id_99>, which span "
            "corruption needs; train one with the section `tokenizer`, or use a T5's"
        )
    return np.array(ids)


def tokenize(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Turn all documents into one stream of tokens, each document ended by the end token, (tokens,)."""
    parts: list[np.ndarray] = []
    batch: list[str] = []

    def take() -> None:
        ids = tokenizer(batch, add_special_tokens=True)["input_ids"]
        parts.append(np.concatenate([np.asarray(of, dtype=np.int32) for of in ids]))
        batch.clear()

    for text in tqdm(texts, desc="tokenizing", unit=" documents", delay=SECONDS_BEFORE_PROGRESS_SHOWS):
        batch.append(text)
        if len(batch) == TEXTS_TOKENIZED_AT_ONCE:
            take()
    if batch:
        take()
    return np.concatenate(parts)


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
        for task in tasks:
            check_labels(task, tokenizer)
        for number, task in enumerate(tasks):
            texts = load_split(task, "train", config.data_dir, config.max_train_rows, prefix=True)
            self.digests[task.name] = {"train": same_data.digest_of(texts)}
            self.tasks.append(task.with_step(texts["target"]))
            self.rows.append(
                tokenize_rows(
                    texts,
                    self.tasks[-1],
                    number,
                    tokenizer,
                    config.max_source_length,
                    default_overlap(config.max_source_length),
                    config.truncation,
                )
            )
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


class PretrainingTrainer(ResumableTrainer):
    """Trainer whose examples come in the order of their numbers, as they are random already.

    Args:
        args: from `training_arguments`.
        t5s_optimizer: whether `t5_adafactor` is to train.
        distillation_weight: of the sentences' loss, where there are sentences.
        arguments: Trainer's others.
    """

    def __init__(
        self,
        args: TrainingArguments,
        t5s_optimizer: bool,
        distillation_weight: float = 0.0,
        **arguments: Any,
    ) -> None:
        if t5s_optimizer:
            arguments["optimizer_cls_and_kwargs"] = t5_adafactor(args.learning_rate)
        super().__init__(args=args, callbacks=[CheckpointLastStep()], **arguments)
        self.shares = args.world_size * args.gradient_accumulation_steps
        self.distillation_weight = distillation_weight
        # Only its forward names what the loss takes; it does not count the tokens of accumulated batches.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Evaluate; a lap does not go on across it."""
        self.clock.lap(self.state.global_step)
        return super().evaluate(*args, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with each loss, how many tokens of windows, or of tasks' rows in their place, a second takes.

        Raises:
            TrainingStoppedError: if a loss is not finite.
        """
        for name, value in logs.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise TrainingStoppedError(
                    f"the loss is {value} by step {self.state.global_step}; try a smaller training.learning_rate"
                )
        if "loss" in logs and (lap := self.clock.lap(self.state.global_step)):
            examples = lap[0] * self.args.train_batch_size * self.shares
            tokens = examples * cast("CorruptedText", self.train_dataset).length
            logs["tokens_per_second"] = round(tokens / lap[1])
        super().log(logs, start_time)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
        """Add to the loss of the text that of the sentences: 1 - cosine of predicted and given vectors.

        Two predictions count alike: from the mean of the encoder's states, and from the decoder's first state, which
        sees the sentence by its cross-attention alone and is where a task's answer begins.
        """
        ids, mask = inputs.pop("sentence_ids", None), inputs.pop("sentence_mask", None)
        vectors = inputs.pop("sentence_vectors", None)
        loss: Any = super().compute_loss(model, inputs, *rest, **options)
        if ids is None:
            return loss
        bare = self.accelerator.unwrap_model(model)
        with self.compute_loss_context_manager():
            states = bare.encoder(input_ids=ids, attention_mask=mask)[0]
            start = ids.new_full((len(ids), 1), bare.config.decoder_start_token_id)
            decoder = bare.decoder(
                input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
            )
        from_encoder, from_decoder = bare.sentence_projections
        predicted = torch.stack(
            [from_encoder(mean_state(states, mask)), from_decoder(decoder[0][:, 0].float())]
        )
        distance = 1 - F.cosine_similarity(predicted, vectors.float(), dim=-1)
        return loss + self.distillation_weight * distance.mean()


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


def pretrain(
    config: PretrainConfig, resume: bool = False, allow_changed_data: bool = False
) -> dict[str, Any]:
    """Pretrain a model; all that was given is checked and tried out before anything is written.

    Args:
        config: what to run.
        resume: go on from the last checkpoint.
        allow_changed_data: go on though rows of the tasks have changed since.

    Returns:
        Held-out losses, tokens seen, and seconds.

    Raises:
        UserError: for anything wrong with what was given.
        Interrupted: after SIGTERM or Ctrl-C.
    """
    threads.use(config.training.threads)
    directory, training = Path(config.output_dir), config.training
    defaults = {"bf16": is_torch_bf16_gpu_available() and not training.arguments.get("fp16")}
    training = training.model_copy(update={"arguments": {**defaults, **training.arguments}})
    args = training_arguments(
        training, config.seed, directory / "checkpoints", best=f"{next(iter(held_out_kinds(config)))}_loss"
    )
    check_trackers(args.report_to)
    with held(directory, args):
        last = checkpoint_to_start_from(directory, config, resume)
        prepared = prepare(config, args, last, allow_changed_data)
        args.distributed_state.wait_for_everyone()  # or a process would find the run that another has begun
        if args.process_index == 0:
            with writing(directory):
                begin(directory, config, prepared, resumed=last is not None)
        outcome = train_until_stopped(prepared.trainer, last)
        with writing(directory):
            return finish(directory, prepared, outcome.metrics)


def held_out_kinds(config: PretrainConfig) -> dict[str, ObjectiveConfig]:
    """Name the kinds of examples that are trained, each of which is measured by itself."""
    objective = config.objective
    kinds = {
        "span_corruption": objective.model_copy(update={"prefix_lm_share": 0.0}),
        "prefix_lm": objective.model_copy(update={"prefix_lm_share": 1.0}),
    }
    if objective.prefix_lm_share in (0.0, 1.0):
        del kinds["prefix_lm" if objective.prefix_lm_share == 0.0 else "span_corruption"]
    return kinds


@dataclass(frozen=True)
class Prepared:
    """All that a pretraining needs, read, checked and tried out; nothing of it has been written yet.

    Attributes:
        tokenizer: given or trained.
        tokens: the whole text, (tokens,).
        rest: of it what is not held out, (tokens,).
        tasks: among it.
        digests: of their rows, and of the sentences.
        model: which sentences are taught to.
        trainer: with its optimizer.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens: np.ndarray
    rest: np.ndarray
    tasks: tuple[Task, ...]
    digests: same_data.Digests
    model: Any
    trainer: PretrainingTrainer


def prepare(
    config: PretrainConfig, args: TrainingArguments, last: Path | None, allow_changed_data: bool = False
) -> Prepared:
    """Read, check and try out all that a pretraining needs, and write nothing.

    Args:
        config: what to run.
        args: Trainer's, made of it.
        last: the checkpoint that it goes on from.
        allow_changed_data: as of `pretrain`.

    Raises:
        UserError: for anything wrong with what was given.
    """
    directory, training, objective = Path(config.output_dir), config.training, config.objective
    if last is not None:
        tokenizer = load_tokenizer(ModelConfig(name=str(directory / "tokenizer")))
        tokens = read_tokens(directory / "tokens.npy")
    else:
        tokenizer = (
            load_tokenizer(config.model)
            if config.tokenizer is None
            else trained_by_one(config.text, config.tokenizer, args)
        )
    model = build_base(config.model, config.seed)
    check_vocabulary(model, tokenizer)
    sentinel_ids(tokenizer)
    if last is None:
        tokens = tokenize(read_texts(config.text), tokenizer)
    held_out, rest = held_out_split(tokens, config.text.held_out_tokens, window_length(objective))
    tasks = None if config.multitask is None else TaskRows(config.multitask, tokenizer)
    distillation = config.distillation
    sentences = None if distillation is None else TaughtSentences(distillation, tokenizer)
    digests = {} if tasks is None else dict(tasks.digests)
    if sentences is not None:
        digests["distillation"] = {"sentence": sentences.digest}
    if last is not None:
        check_same_data(directory, tasks, digests, allow_changed_data)
    digests = marked(directory, digests, last)
    if sentences is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            sizes = model.config.d_model, sentences.vectors.shape[1]
            model.sentence_projections = torch.nn.ModuleList([torch.nn.Linear(*sizes) for _ in range(2)])
    examples = training.max_steps * training.batch_size
    train_set = CorruptedText(
        rest, tokenizer, objective, examples, training.batch_size, config.seed, tasks, sentences
    )
    kinds = held_out_kinds(config)
    held_out_sets = {name: CorruptedText(held_out, tokenizer, kind) for name, kind in kinds.items()}
    args.per_device_eval_batch_size = training.batch_size
    args.remove_unused_columns = False  # the model's forward does not name the sentences
    args.ddp_find_unused_parameters = False  # every parameter is used, but some beside the model's forward
    with making_trainer(args, directory, training.arguments):
        trainer = PretrainingTrainer(
            args,
            t5s_optimizer=training.t5_adafactor,
            distillation_weight=0.0 if distillation is None else distillation.weight,
            model=model,
            train_dataset=train_set,
            eval_dataset=held_out_sets,
            data_collator=collate,
        )
    show_progress(trainer)
    try_out(trainer)
    return Prepared(
        tokenizer, tokens, rest, () if tasks is None else tuple(tasks.tasks), digests, model, trainer
    )


def check_same_data(
    directory: Path, tasks: TaskRows | None, digests: same_data.Digests, allowed: bool
) -> None:
    """Check that tasks, their rows and sentences are those of the run that is resumed.

    Args:
        directory: the run's.
        tasks: among its text.
        digests: of their rows, and of the sentences.
        allowed: only say so where rows or sentences are others.

    Raises:
        UserError: naming what has changed.
    """
    where = f"cannot go on with {directory}"
    if tasks is not None and (directory / "tasks.yaml").is_file():  # earlier versions kept none
        same_data.check_tasks(load_tasks(directory / "tasks.yaml"), tasks.tasks, where)
    if (kept := same_data.read(directory)) is not None:
        same_data.check_rows(kept, digests, where, allowed)


def begin(directory: Path, config: PretrainConfig, prepared: Prepared, resumed: bool) -> None:
    """Write what a pretraining is made of: config.yaml first, which marks it as a run, and last the manifest."""
    manifest.remove(directory)
    config.save(directory / "config.yaml")
    if not resumed:
        clear(directory)
        prepared.tokenizer.save_pretrained(str(directory / "tokenizer"))
        np.save(directory / "tokens.npy", prepared.tokens)
    if prepared.tasks:
        write_tasks(directory / "tasks.yaml", prepared.tasks)
    write_atomically(directory / same_data.FILE, json.dumps(prepared.digests, indent=1).encode())
    manifest.add(directory, [*MADE_OF, "tokens.npy"])


def finish(directory: Path, prepared: Prepared, totals: Mapping[str, float]) -> dict[str, Any]:
    """Measure what a pretraining has come to, and write it. All processes call it, the first one writes."""
    model, trainer = prepared.model, prepared.trainer
    if hasattr(model, "sentence_projections"):
        del model.sentence_projections
    text_tokens = cast("CorruptedText", trainer.train_dataset).text_tokens()
    results = {
        **{f"held_out_{name}_loss": loss for name, loss in held_out_losses(trainer).items()},
        "tokens": text_tokens,
        "passes": text_tokens / len(prepared.rest),
        "train_loss": totals["train_loss"],
        "train_seconds": round(totals["train_runtime"], 1),
        "parameters": model.num_parameters(),
    }
    if trainer.args.process_index == 0:
        history = json.dumps(trainer.state.log_history, indent=1).encode()
        write_atomically(directory / "history.json", history)
        model.save_pretrained(str(directory / "model"))
        prepared.tokenizer.save_pretrained(str(directory / "model"))
        manifest.add(directory, TRAINED)
        changed = same_data.since_steps(prepared.digests)
        facts = {"versions": versions(), **({"changed_data": changed} if changed else {})}
        results_file.write(directory, {**results, **facts})
    return results


def held_out_losses(trainer: Trainer) -> dict[str, float]:
    """Measure the loss of each kind of example on the held-out text."""
    metrics = trainer.evaluate()
    names: dict[str, Any] = trainer.eval_dataset  # type: ignore[assignment]
    return {name: metrics[f"eval_{name}_loss"] for name in names}


def read_tokens(file: Path) -> np.ndarray:
    """Read a run's tokens, never unpickling."""
    manifest.check(file)
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is missing or damaged ({error}); start anew") from None
