"""Inputs that are cut are counted and said, and may be cut from their longest field first, the same way everywhere."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from hyperadapt.architectures import EncoderDecoder
from hyperadapt.architectures.tokenizing import longest_first
from hyperadapt.config.sections import MultitaskConfig
from hyperadapt.config.written import RunConfig
from hyperadapt.pretraining.objectives import TaskRows
from hyperadapt.runs.rows import load_evaluation_set
from hyperadapt.runs.run import load_run
from hyperadapt.tasks import Task, load_split, load_task_file
from hyperadapt.tasks.input_format import InputFormat
from hyperadapt.tiny_t5 import NAME, place_of
from tiny_run import hyperadapt, write_config

LENGTH = 64
ADVICE = "raise max_source_length, or set truncation: longest_first, which cuts the longest field first"


def write_tickets(directory: Path, rows: int = 40, words: int = 60) -> Path:
    """Write tickets whose subject is long and stands before the body, which alone tells the label."""
    directory.mkdir(parents=True, exist_ok=True)
    tickets = [
        {"subject": "word " * words, "body": ["refund", "praise"][row % 2], "label": row % 2}
        for row in range(rows)
    ]
    (directory / "tickets.jsonl").write_text("\n".join(map(json.dumps, tickets)))
    spec = {
        "name": "tickets",
        "files": dict.fromkeys(("train", "validation", "test"), "tickets.jsonl"),
        "fields": ["subject", "body"],
        "labels": ["angry", "glad"],
        "metrics": ["accuracy"],
    }
    (directory / "tickets.yaml").write_text(yaml.safe_dump(spec))
    return directory / "tickets.yaml"


def config_of(directory: Path, task: Path, **data: Any) -> Path:
    """Write the configuration of a run of one step on the tickets."""
    return write_config(
        directory,
        [str(task)],
        data={"tasks": [str(task)], "max_source_length": LENGTH, **data},
        training={"max_steps": 1, "batch_size": 8, "eval_steps": 1, "logging_steps": 1},
    )


def notes(said: str) -> list[str]:
    """The notices of what is cut among what was written to standard error."""
    return [line for line in said.splitlines() if line.startswith("note: ") and "cut" in line]


def drawn_rows(n: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Rows of three fields, of which some fit and each may be the longest, or empty."""
    draw = random.Random(seed)
    letters = "abc dé"
    return [
        {
            field: "".join(draw.choice(letters) for _ in range(draw.choice([0, 3, 10, 40, 90])))
            for field in ("one", "two", "three")
        }
        for _ in range(n)
    ]


def three_fields() -> Task:
    """A task of three fields."""
    return Task(
        name="three",
        files={"train": Path("none.jsonl")},
        fields=("one", "two", "three"),
        labels=("no", "yes"),
        metrics=("accuracy",),
    )


def columns(rows: list[dict[str, str]], prefix: bool = False) -> dict[str, list[Any]]:
    """Their inputs as `load_split` has them."""
    inputs = [three_fields().inputs(row, prefix) for row in rows]
    return {name: [row[name] for row in inputs] for name in inputs[0]}


def test_cut_rows_are_said_once_for_every_split_with_what_they_lose(tmp_path: Path) -> None:
    outcome = hyperadapt("train", config_of(tmp_path, write_tickets(tmp_path)))
    assert outcome.code == 0, outcome.err
    assert notes(outcome.err) == [
        f"note: 40 of 40 {split} rows of tickets are cut at 64 tokens; 40 lose all of body: {ADVICE}"
        for split in ("train", "validation", "test")
    ]
    rows = "\n".join(json.dumps({"subject": "word " * 60, "body": "praise"}) for _ in range(3))
    predicted = hyperadapt("predict", tmp_path / "run", "--task", "tickets", stdin=rows)
    assert notes(predicted.err) == [
        f"note: 3 of 3 rows of tickets are cut at 64 tokens; 3 lose all of body: {ADVICE}"
    ]
    assert len(predicted.out.splitlines()) == 3


def test_the_longest_field_is_cut_first_in_training_evaluation_and_prediction_alike(tmp_path: Path) -> None:
    task = write_tickets(tmp_path)
    outcome = hyperadapt("train", config_of(tmp_path, task, truncation="longest_first"))
    assert outcome.code == 0, outcome.err
    assert notes(outcome.err) == [
        f"note: 40 of 40 {split} rows of tickets are cut at 64 tokens: raise max_source_length"
        for split in ("train", "validation", "test")
    ]
    run, tokenizer = load_run(tmp_path / "run"), ByT5Tokenizer()
    [tickets] = run.tasks
    # A byte a token, and one for the end: the subject gives what is too much.
    room = LENGTH - 1 - len("subject:  body: refund")
    expected = [
        f"subject: {('word ' * 60)[:room]} body: {body}" for body in ("refund", "praise") for _ in range(20)
    ]
    ways = EncoderDecoder()
    limits = InputFormat(LENGTH, 0, run.config.data.truncation)
    trained = ways.training_rows(load_split(tickets, "train"), tickets, 0, tokenizer, limits)
    evaluated = load_evaluation_set([tickets], "test", run.config, tokenizer, ways).sources[0]
    assert sorted(tokenizer.batch_decode(list(trained["input_ids"]), skip_special_tokens=True)) == sorted(
        expected
    )
    assert sorted(tokenizer.batch_decode(evaluated, skip_special_tokens=True)) == sorted(expected)
    # What is predicted for a row follows from its inputs, and so from the body that evaluation sees.
    row = {"subject": "word " * 60, "body": "refund"}
    as_cut = {"subject": ("word " * 60)[:room], "body": "refund"}
    assert run.predict("tickets", [row]) == run.predict("tickets", [as_cut])


def test_pretraining_and_a_config_take_the_same_option(tmp_path: Path) -> None:
    task, tokenizer = str(write_tickets(tmp_path)), ByT5Tokenizer()
    config = MultitaskConfig(share=1, tasks=(task,), max_source_length=LENGTH, truncation="longest_first")
    [rows] = TaskRows(config, tokenizer).rows
    texts = tokenizer.batch_decode(list(rows["input_ids"]), skip_special_tokens=True)
    assert {text[-6:] for text in texts} == {"refund", "praise"}
    assert RunConfig.load(config_of(tmp_path, Path(task))).data.truncation == "end"


@pytest.mark.parametrize("max_length", [30, 64, 128])
def test_longest_first_takes_one_token_at_a_time_from_the_field_that_is_longest(max_length: int) -> None:
    rows, tokenizer = drawn_rows(), ByT5Tokenizer()
    found, _ = EncoderDecoder().inputs(columns(rows), tokenizer, InputFormat(max_length, 0, "longest_first"))
    for row, ids in zip(rows, found, strict=True):
        values = [list(row[name].encode()) for name in ("one", "two", "three")]
        headings = [b"one: ", b" two: ", b" three: "]
        room = max_length - 1 - sum(map(len, headings))
        while sum(map(len, values)) > room:
            longest = max(range(3), key=lambda number: (len(values[number]), number))
            values[longest].pop()
        expected = b"".join(heading + bytes(value) for heading, value in zip(headings, values, strict=True))
        assert ids == [*(byte + 3 for byte in expected), tokenizer.eos_token_id]


def test_two_fields_keep_as_many_tokens_as_transformers_keeps_of_a_pair() -> None:
    tokenizer, draw = ByT5Tokenizer(), random.Random(3)
    for _ in range(100):
        first, second = draw.randrange(1, 50), draw.randrange(1, 50)
        room = draw.randrange(2, first + second + 1)
        ids, pair, _ = tokenizer.truncate_sequences(
            [1] * first, [2] * second, first + second - room, "longest_first"
        )
        assert longest_first([first, second], room) == [len(ids), len(pair)]


def loaded(tokenizer: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer, of bytes or of pieces of words."""
    return ByT5Tokenizer() if tokenizer == "bytes" else AutoTokenizer.from_pretrained(place_of(tokenizer))


@pytest.mark.parametrize("tokenizer", ["bytes", NAME])
@pytest.mark.parametrize("side", ["right", "left"])
def test_unless_it_is_asked_for_tokens_are_those_of_the_tokenizer(
    tokenizer: str, side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known, rows = loaded(tokenizer), columns(drawn_rows(), prefix=True)
    known.truncation_side = side
    found, owners = EncoderDecoder().inputs(rows, known, InputFormat(40), three_fields())
    assert found == known(rows["source"], truncation=True, max_length=40)["input_ids"]
    assert owners == list(range(60))
    whole = known(rows["source"], verbose=False)["input_ids"]
    assert (
        f"note: {sum(len(ids) > 40 for ids in whole)} of 60 rows of three are cut" in capsys.readouterr().err
    )


@pytest.mark.parametrize("tokenizer", ["bytes", NAME])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_field_counts_as_lost_where_nothing_of_it_is_left(
    tokenizer: str, side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known, draw = loaded(tokenizer), random.Random(5)
    known.truncation_side = side
    digits = {"one": "1", "two": "2", "three": "3"}  # which stand nowhere else
    rows = [
        {
            name: digit * draw.choice([1, 3]) + f" {digit}" * draw.choice([0, 4, 30])
            for name, digit in digits.items()
        }
        for _ in range(50)
    ]
    found, _ = EncoderDecoder().inputs(columns(rows), known, InputFormat(30), three_fields())
    left = known.batch_decode(found, skip_special_tokens=True)
    lost = {name: sum(digit not in text for text in left) for name, digit in digits.items()}
    assert sum(lost.values()) > 20
    expected = "".join(f"; {rows_lost} lose all of {name}" for name, rows_lost in lost.items() if rows_lost)
    assert f" are cut at 30 tokens{expected}: raise" in capsys.readouterr().err


def test_what_fits_is_the_tokenizers_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, rows = ByT5Tokenizer(), columns(drawn_rows())
    longest = max(len(source.encode()) for source in rows["source"]) + 1
    for truncation in ("end", "longest_first"):
        found, _ = EncoderDecoder().inputs(
            rows, tokenizer, InputFormat(longest, 0, truncation), three_fields()
        )  # type: ignore[arg-type]
        assert found == tokenizer(rows["source"])["input_ids"]
    assert capsys.readouterr().err == ""


def test_a_question_that_alone_is_too_long_is_said_and_a_long_context_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question": "who " * repeats, "context": "it was the old farmer " * 30, "label": "farmer"}
        for repeats in (2, 40, 40)
    ]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = {
        "name": "qa",
        "files": {"train": "qa.jsonl"},
        "fields": ["question", "context"],
        "kind": "question_answering",
        "metrics": ["answer_f1"],
    }
    (tmp_path / "qa.yaml").write_text(yaml.safe_dump(spec))
    task = load_task_file(tmp_path / "qa.yaml")
    texts = load_split(task, "train")
    EncoderDecoder().training_rows(texts.select([0]), task, 0, ByT5Tokenizer(), InputFormat(LENGTH, 16))
    assert capsys.readouterr().err == ""
    EncoderDecoder().training_rows(texts, task, 0, ByT5Tokenizer(), InputFormat(LENGTH, 16))
    assert capsys.readouterr().err == (
        "note: 2 of 3 train rows of qa have a question that leaves too little of 64 tokens to its context, and is cut: "
        "raise max_source_length\n"
    )
