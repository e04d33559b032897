"""Evaluation: predictions for all tasks in mixed, length-sorted batches, and their scores.

Sorting by length makes batches with little padding, and mixing tasks makes them full, so that the eight validation
sets cost one pass instead of eight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, compress, groupby
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psutil
import torch
from tqdm import tqdm
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from hyperadapt.errors import UserError, notice
from hyperadapt.metrics import Target, TaskScore, average, score_task
from hyperadapt.tasks.chunks import Answer, ChunkRule, best_answers
from hyperadapt.tokenizing import TOKENIZER, InputTokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task
    from hyperadapt.tokenizing import Truncation

DEFAULT_RULE = ChunkRule()
SECONDS_BEFORE_PROGRESS_SHOWS = 2
# Of a base model's generation_config: the tokens that begin, end and fill a text, and how it is computed.
HONOURED = {
    *("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"),
    *("use_cache", "cache_implementation", "cache_config", "compile_config", "disable_compile"),
}
_MODES: WeakKeyDictionary[torch.nn.Module, tuple[int, bool]] = WeakKeyDictionary()
_MODES_LOCK = Lock()


@dataclass(frozen=True)
class EvaluationSet:
    """Rows to predict, of several tasks.

    Attributes:
        tasks: in the order of their ids in the model.
        sources: for each task, its tokenized inputs.
        targets: for each task, its target texts, or all that would be right.
        rows: for each task, the row that each input is of; a context may be several inputs.
        texts: for each task, its rows before they were tokenized, as `load_split` gives them.
        changed: whether they are known not to be those that the run was trained with.
    """

    tasks: tuple[Task, ...]
    sources: list[list[list[int]]]
    targets: list[list[Target]]
    rows: list[list[int]]
    texts: list[Dataset]
    changed: bool = False

    def of(self, names: Collection[str]) -> EvaluationSet:
        """Return the rows of some of the tasks."""
        chosen = [task.name in names for task in self.tasks]
        return EvaluationSet(
            tuple(compress(self.tasks, chosen)),
            list(compress(self.sources, chosen)),
            list(compress(self.targets, chosen)),
            list(compress(self.rows, chosen)),
            list(compress(self.texts, chosen)),
            self.changed,
        )


@dataclass(frozen=True)
class Results:
    """Scores of an evaluation.

    Attributes:
        scores: of each task.
        average: over tasks, of each task's mean over its metrics.
        num_beams: with which it was generated; 1 is greedy.
        rows: that were predicted.
        predictions: for each task, the predicted texts.
        steps: of each task, after which the model was that scored it; none where one model scored all.
    """

    scores: list[TaskScore]
    average: float
    num_beams: int
    rows: EvaluationSet = field(repr=False, compare=False)
    predictions: list[list[str]] = field(repr=False)
    steps: Mapping[str, int] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """Return all numbers by name, as "cola_matthews", "cola_score" and "average", for logs."""
        numbers: dict[str, float] = {}
        for score in self.scores:
            numbers |= {f"{score.task}_{name}": value for name, value in score.metrics.items()}
            numbers |= {f"{score.task}_score": score.score, f"{score.task}_invalid": float(score.invalid)}
        return numbers | {"average": self.average}

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as they stand in results.json."""
        tasks = {
            score.task: score.as_dict() | ({"step": self.steps[score.task]} if self.steps else {})
            for score in self.scores
        }
        return {"average": self.average, "num_beams": self.num_beams, "tasks": tasks}


def tokenize_inputs(
    texts: Mapping[str, Sequence[Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_source_length: int,
    overlap: int,
    truncation: Truncation = "end",
    task: Task | None = None,
    rows: str = "rows",
) -> tuple[list[list[int]], list[int]]:
    """Tokenize inputs: each cut at max_source_length tokens, or into chunks where there are contexts.

    Args:
        texts: columns as those of `load_split`.
        tokenizer: the base model's.
        max_source_length, overlap, truncation: as of an `InputTokenizer`.
        task: whose inputs they are, so that it is said what is cut.
        rows: what they are called then.

    Returns:
        The inputs, and each one's row.
    """
    tokenize = InputTokenizer(tokenizer, max_source_length, overlap, truncation)
    chunks_of_rows = tokenize(texts)
    if task is not None:
        tokenize.say(task, rows)
    parts = [(chunk.ids, row) for row, chunks in enumerate(chunks_of_rows) for chunk in chunks]
    return [ids for ids, _ in parts], [row for _, row in parts]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode, until the last of several threads that want it has done."""
    with _MODES_LOCK:
        threads, was_training = _MODES.get(model, (0, model.training))
        _MODES[model] = threads + 1, was_training
        model.eval()
    try:
        yield
    finally:
        with _MODES_LOCK:
            threads, was_training = _MODES.pop(model)
            if threads > 1:
                _MODES[model] = threads - 1, was_training
            else:
                model.train(was_training)


def plain_generation(brought: GenerationConfig) -> dict[str, Any]:
    """Return options that undo what a base model's generation_config asks for, but for what is `HONOURED`.

    A model is trained to write its targets alone. Penalties, forced tokens and lengths that its base brings along are
    for other texts, and several sequences or records of scores are no answer.
    """
    neutral = {**vars(GenerationConfig()), **GenerationConfig._get_default_generation_params()}
    kept = {*HONOURED, "transformers_version"}
    undone = {
        name: value
        for name, value in vars(brought).items()
        if name in neutral.keys() - kept and name[0] != "_" and value and value != neutral[name]
    }
    if undone:
        listed = ", ".join(f"{name}={value!r}" for name, value in undone.items())
        notice_once(f"predicting goes without what the base model's generation_config asks for: {listed}")
    # These two give way to max_new_tokens and min_new_tokens.
    return {name: neutral[name] for name in undone.keys() - {"max_length", "min_length"}}


@cache
def notice_once(message: str) -> None:
    """Say it once a process: a training predicts many times."""
    notice(message)


def generate_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    task_ids: Sequence[int],
    generated_lengths: Sequence[tuple[int, int]],
    rated: Sequence[bool],
    batch_size: int = 64,
    num_beams: int = 1,
    rank: int = 0,
    world_size: int = 1,
    progress: str = "predicting",
    per_token: bool = False,
) -> list[Answer]:
    """Predict a text for every row, of whatever task.

    Args:
        model: an adapted model.
        tokenizer: the base model's.
        sources: tokenized inputs.
        task_ids: of each row.
        generated_lengths: the fewest and the most tokens for each row.
        rated: of each row, whether the likelihood of its answer is wanted; 0 where it is not.
        batch_size: rows a batch.
        num_beams: 1 is greedy.
        rank, world_size: each process predicts its share of the batches, and all return all texts.
        progress: what the progress bar says.
        per_token: likelihoods are the mean over an answer's tokens.

    Returns:
        The answers, in the order of the rows.
    """
    kinds = list(zip(generated_lengths, rated, strict=True))
    by_length = sorted(range(len(sources)), key=lambda row: (kinds[row], len(sources[row])))
    # No batch mixes lengths to generate: what is predicted for a row must not depend on its neighbours.
    alike = [list(rows) for _, rows in groupby(by_length, key=kinds.__getitem__)]
    batches = [
        rows[start : start + batch_size] for rows in alike for start in range(0, len(rows), batch_size)
    ]
    check_beams(model, sources, batch_size, num_beams)
    mine = batches[::-1][rank::world_size]  # the longest first: what does not fit into memory fails at once
    answers: dict[int, Answer] = {}
    options = {
        **plain_generation(model.generation_config),
        "num_beams": num_beams,
        "do_sample": False,
    }
    with evaluating(model):
        bar = tqdm(
            mine,
            desc=progress,
            unit="batch",
            leave=False,
            disable=rank > 0,
            delay=SECONDS_BEFORE_PROGRESS_SHOWS,
        )
        for rows in bar:
            inputs = padded(model, tokenizer, [sources[row] for row in rows], [task_ids[row] for row in rows])
            # Generation and likelihoods share the encoder's states; generate repeats those that it is given in place.
            states = encoder_states(model, inputs) if rated[rows[0]] else None
            shared = {} if states is None else {"encoder_outputs": BaseModelOutput(states)}
            generated = model.generate(
                **inputs,
                **shared,
                **options,
                min_new_tokens=generated_lengths[rows[0]][0],
                max_new_tokens=generated_lengths[rows[0]][1],
            )
            with TOKENIZER:
                decoded = tokenizer.batch_decode(generated, skip_special_tokens=True)
            likelihoods = (
                log_likelihoods(model, inputs, generated, states, per_token)
                if rated[rows[0]]
                else [0.0] * len(rows)
            )
            for row, text, likelihood in zip(rows, decoded, likelihoods, strict=True):
                answers[row] = Answer(text.strip(), likelihood)
    if world_size > 1:
        shares: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(shares, answers)
        answers = {row: answer for share in shares for row, answer in share.items()}
    return [answers[row] for row in range(len(sources))]


def check_beams(model: Any, sources: Sequence[Sequence[int]], batch_size: int, num_beams: int) -> None:
    """Check that there is memory for a step of the longest batch: to run out of it may end the process without a word.

    Counted are the scores of every token, of which beam search holds three copies, and what the decoder reads of the
    input, each for every beam: more is held, so that what is refused would have failed.

    Raises:
        UserError: if there is not.
    """
    config, rows = model.config, min(batch_size, len(sources))
    read = config.d_model + 2 * config.num_decoder_layers * config.num_heads * config.d_kv
    longest = max(map(len, sources), default=0)
    needed = rows * num_beams * (3 * 4 * config.vocab_size + longest * read * model.dtype.itemsize)
    on_gpu = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
    if num_beams > 1 and needed > free:
        raise UserError(
            f"num_beams {num_beams}: a batch of {rows} rows takes more than {needed / 1e9:,.0f} GB, and "
            f"{free / 1e9:,.0f} GB are free; take fewer beams, or a smaller batch_size"
        )


def padded(
    model: Any, tokenizer: PreTrainedTokenizerBase, sources: Sequence[Sequence[int]], task_ids: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Make a batch of tokenized inputs on the model's device: input_ids, attention_mask and task_ids."""
    batch = tokenizer.pad({"input_ids": [list(source) for source in sources]}, return_tensors="pt")
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    return {**inputs, "task_ids": torch.tensor(task_ids, device=model.device)}


@torch.no_grad()
def encoder_states(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Run the encoder alone, (batch, seq, d_model)."""
    known = {
        name: value for name, value in inputs.items() if name != "task_ids" or model.method.task_conditioned
    }
    return model.get_encoder()(**known).last_hidden_state


@torch.no_grad()
def log_likelihoods(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    generated: torch.Tensor,
    states: torch.Tensor | None = None,
    per_token: bool = False,
) -> list[float]:
    """Add up, or average, the logarithms of the probabilities of each generated sequence's tokens, its end included.

    By one more forward of the decoder: what generate can return of its scores holds the vocabulary for every step, and
    with beams is not of the sequences alone.

    Args:
        model: an adapted model.
        inputs: of the generation.
        generated: (batch, tokens), from the start token on.
        states: the encoder's, (batch, seq, d_model), which it need not run for then.
        per_token: average.
    """
    shared = {} if states is None else {"encoder_outputs": BaseModelOutput(states)}
    logits = model(**inputs, **shared, decoder_input_ids=generated[:, :-1]).logits
    tokens, ends = generated[:, 1:], model.generation_config.eos_token_id
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), tokens, reduction="none")
    # What follows the end fills the batch, with whatever token; the same token may be one of the text before it.
    ended = torch.isin(tokens, torch.as_tensor([] if ends is None else ends, device=tokens.device)).long()
    behind = ended.cumsum(1) > ended
    sums = -losses.masked_fill(behind, 0.0).sum(1)
    return (sums / behind.logical_not().sum(1) if per_token else sums).tolist()


def majority(rows: EvaluationSet, answers: Sequence[str]) -> Results:
    """Score what always gives the same answer to a task.

    Args:
        rows: of the tasks.
        answers: one for each task.
    """
    predictions = [[answer] * len(targets) for answer, targets in zip(answers, rows.targets, strict=True)]
    scores = [score_task(*of) for of in zip(rows.tasks, predictions, rows.targets, strict=True)]
    return Results(scores, average(scores), 1, rows, predictions)


def evaluate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: EvaluationSet,
    batch_size: int = 64,
    num_beams: int = 1,
    rank: int = 0,
    world_size: int = 1,
    rule: ChunkRule = DEFAULT_RULE,
) -> Results:
    """Predict the rows of all tasks and score them; arguments as in `generate_answers`, and the rule for chunks."""
    answers = answer_inputs(model, tokenizer, rows, batch_size, num_beams, rank, world_size, rule)
    predictions = [
        predicted_texts(task, of_task, places, len(targets))
        for task, of_task, places, targets in zip(rows.tasks, answers, rows.rows, rows.targets, strict=True)
    ]
    scores = [
        score_task(task, predicted, targets)
        for task, predicted, targets in zip(rows.tasks, predictions, rows.targets, strict=True)
    ]
    return Results(scores, average(scores), num_beams, rows, predictions)


def answer_inputs(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: EvaluationSet,
    batch_size: int = 64,
    num_beams: int = 1,
    rank: int = 0,
    world_size: int = 1,
    rule: ChunkRule = DEFAULT_RULE,
) -> list[list[Answer]]:
    """Answer each input of all tasks, of a long context each chunk; arguments as of `evaluate`.

    Returns:
        For each task, an answer to each of its inputs.
    """
    sizes = [len(sources) for sources in rows.sources]
    # By name: a run may be evaluated on some of its tasks.
    task_of = [task for task, size in zip(rows.tasks, sizes, strict=True) for _ in range(size)]
    answers = generate_answers(
        model,
        tokenizer,
        [source for sources in rows.sources for source in sources],
        [model.task_id(task.name) for task in task_of],
        [rule.lengths(task) for task in task_of],
        [task.kind == "question_answering" for task in task_of],
        batch_size,
        num_beams,
        rank,
        world_size,
        progress="evaluating",
        per_token=rule.rank_chunks == "mean",
    )
    return [answers[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]


def joined(rows: EvaluationSet, parts: Sequence[Results], steps: Mapping[str, int]) -> Results:
    """Put together the results of a set's parts, each of which was scored by a model of another step.

    Args:
        rows: of all tasks.
        parts: in which each task is scored once.
        steps: of each task.
    """
    of_task = {
        score.task: (score, predictions)
        for part in parts
        for score, predictions in zip(part.scores, part.predictions, strict=True)
    }
    in_order = [of_task[task.name] for task in rows.tasks]
    scores, predictions = [score for score, _ in in_order], [texts for _, texts in in_order]
    return Results(scores, average(scores), parts[0].num_beams, rows, predictions, steps)


def predicted_texts(task: Task, answers: Sequence[Answer], rows: Sequence[int], n_rows: int) -> list[str]:
    """Return one text for each row, of a question the best of its chunks'."""
    if task.kind == "question_answering":
        return best_answers(answers, rows, n_rows)
    return [answer.text for answer in answers]
