"""What real lengths change: batches of like length in training, all tasks at once in evaluation."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

from hyperadapt.studies.bench.measure import WARM_UP, side_by_side, times_of
from hyperadapt.studies.bench.section import Found, Goal, Setting
from hyperadapt.studies.bench.sections import named, options_of, spec, t5
from hyperadapt.tasks import SUITES, TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_SOURCE_LENGTH = 128


def token_lengths(
    setting: Setting, split: str, max_rows: int | None, column: Literal["source", "target"] = "source"
) -> list[list[int]]:
    """Count the tokens of GLUE's rows, of each task at most so many."""
    from hyperadapt.architectures import EncoderDecoder
    from hyperadapt.tasks.input_format import InputFormat
    from hyperadapt.tasks.loading import load_split

    tokenizer = tokenizer_of(setting)
    found = []
    for name in SUITES["glue"]:
        rows = load_split(TASKS[name], split, setting.data_dir, max_rows)
        texts = rows["source"] if column == "source" else map(TASKS[name].written, rows["target"])
        ids, _ = EncoderDecoder().inputs({"source": list(texts)}, tokenizer, InputFormat(MAX_SOURCE_LENGTH))
        found.append([len(row) for row in ids])
    return found


def tokenizer_of(setting: Setting) -> PreTrainedTokenizerBase:
    """Load what counts the tokens.

    Raises:
        UserError: if it cannot be loaded.
    """
    from transformers import AutoTokenizer

    from hyperadapt.runs.base_model import quietly
    from hyperadapt.tiny_t5 import place_of

    return quietly(AutoTokenizer.from_pretrained, place_of(setting.tokenizer), "--tokenizer")


def vocabulary(setting: Setting) -> str:
    """Name whose tokens are counted."""
    return f"{Path(setting.tokenizer).name}'s vocabulary"


def training_lengths(setting: Setting) -> Found:
    """Measure training on batches of like length beside batches of the same rows at random."""
    from hyperadapt.training.mixing import MixtureBatchSampler

    lengths = token_lengths(setting, "train", 200 if setting.smoke else 20_000)
    task_of = [(length, task) for task, of_task in enumerate(lengths) for length in of_task]
    batches, size = 2 if setting.smoke else 50, setting.batch[0]

    def composed(by_length: bool) -> list[list[tuple[int, int]]]:
        # One window of the sampler, so that both compositions have the same rows.
        sampler = MixtureBatchSampler(
            lengths, size, batches, group_by_length=by_length, window=batches, seed=1
        )
        return [[task_of[number] for number in batch] for batch in sampler]

    ours, random, fixed = "of like length, mixed tasks", "at random, mixed tasks", "at random, padded to 128"
    plain = spec(setting, "hyperadapt", options_of("hyperformer++"), batches=composed(False))
    specs = {ours: replace(plain, batches=composed(True)), fixed: replace(plain, pad_to=MAX_SOURCE_LENGTH)}
    # As many rounds as batches: each is timed once, and those of the warm-up come again at the end.
    found = side_by_side({random: plain}, specs, replace(setting, rounds=batches, launches=1))
    assert batches >= WARM_UP
    useful = sum(length for batch in plain.batches for length, _ in batch)
    speed = {name: useful / sum(result.seconds) for name, result in found.items()}
    width = {
        name: sum(contender.pad_to or max(length for length, _ in batch) for batch in contender.batches)
        for name, contender in {random: plain, **specs}.items()
    }
    rows = [
        {
            "batches": name,
            "useful tokens a second": f"{speed[name]:.0f}",
            "of all at random": f"{speed[name] / speed[random]:.2f}",
            "padding": f"{1 - useful / (size * width[name]):.0%}",
        }
        for name in found
    ]
    how = (
        f"{batches} steps of HyperFormer++ on the same {batches * size} rows of GLUE's training sets, "
        f"{named(setting.shape, setting)}: "
        f"tokens that are no padding, by the second. Lengths are those of {vocabulary(setting)}, at most "
        f"{MAX_SOURCE_LENGTH}."
    )
    goal = Goal(
        "useful tokens a second: of batches at random", speed[ours] / speed[random], 1.5, at_most=False
    )
    return Found(how, rows, [goal], times_of(found), launches=1)


def labels_of(setting: Setting) -> list[list[list[int]]]:
    """Return the tokens of each of GLUE's tasks' labels; none of a task of scores."""
    from hyperadapt.architectures import EncoderDecoder
    from hyperadapt.tasks.input_format import InputFormat

    tokenizer, form = tokenizer_of(setting), InputFormat(MAX_SOURCE_LENGTH)
    found = [EncoderDecoder().choices(TASKS[name], tokenizer, form) for name in SUITES["glue"]]
    return [[] if choices is None else [list(ids) for ids in choices.ids] for choices in found]


def evaluating(setting: Setting) -> Found:
    """Measure evaluation of all tasks at once, answers generated or labels rated, beside one task after another."""
    every = 64 if setting.smoke else 1 if setting.on_device else 16
    lengths = [of_task[::every] for of_task in token_lengths(setting, "validation", None)]
    # A trained model ends where the targets do, not where it must.
    answers = [max(of_task) for of_task in token_lengths(setting, "validation", None, "target")]
    rows = [[(length, task) for length in of_task] for task, of_task in enumerate(lengths)]
    n_rows, real = sum(map(len, lengths)), sum(map(sum, lengths))
    labels = labels_of(setting)
    model = t5(setting.shape, setting)
    highest = max(token for of_task in labels for ids in of_task for token in ids)
    naive = spec(
        setting,
        "hyperadapt",
        options_of("hyperformer++"),
        model={**model, "vocab_size": max(model["vocab_size"], highest + 1)},
        batches=rows,
        pad_to=MAX_SOURCE_LENGTH,
        work="evaluate by task",
        answers=answers,
    )
    one_by_one, at_once = "task by task, padded to 128", "all tasks at once, sorted by length"
    by_rating = f"{at_once}, labels rated"
    fewer = replace(setting, rounds=max(setting.rounds // 3, 1))
    ours = replace(naive, work="evaluate", pad_to=None)
    found = side_by_side(
        {one_by_one: naive}, {at_once: ours, by_rating: replace(ours, choices=labels)}, fewer
    )
    how = (
        f"Predictions of HyperFormer++ for one row in {every} of GLUE's eight validation sets, {n_rows} of their real "
        f"lengths in {vocabulary(setting)}, {named(setting.shape, setting)}, 64 rows a batch, "
        f"{sum(ceil(len(of_task) / 64) for of_task in rows)} batches task by task where {ceil(n_rows / 64)} hold all; "
        f"answers as long as a task's longest target, {min(answers)} to {max(answers)} tokens. Padded to "
        f"{MAX_SOURCE_LENGTH} the encoder reads {MAX_SOURCE_LENGTH * n_rows / real:.2f} times the tokens. Labels are "
        "rated (`evaluation.answers: rate`) of seven tasks; STS-B's scores are generated."
    )
    table = [
        {
            "": name,
            "seconds": f"{median(result.seconds):.2f}",
            f"of {one_by_one}": str(result.ratio(one_by_one)),
            f"of {at_once}": str(result.ratio(at_once)),
        }
        for name, result in found.items()
    ]
    goals = [
        found[at_once].ratio(one_by_one).inverse.goal("times faster than task by task", 3.0, at_most=False),
        found[by_rating]
        .ratio(one_by_one)
        .inverse.goal("rated: times faster than task by task", 3.0, at_most=False),
        found[by_rating]
        .ratio(at_once)
        .inverse.goal("rated: times faster than generated", 2.0, at_most=False),
    ]
    return Found(how, table, goals, times_of(found))
