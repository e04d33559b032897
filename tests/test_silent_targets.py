"""What a model is to write is written and read back as it was, within its tokens, or a run does not begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer, ByT5Tokenizer

from hyperadapt.architectures import EncoderDecoder
from hyperadapt.config.sections import MultitaskConfig
from hyperadapt.errors import UserError
from hyperadapt.pretraining.objectives import TaskRows
from hyperadapt.tasks import TASKS, Task, load_split, load_task_file
from hyperadapt.tasks.input_format import InputFormat
from hyperadapt.tiny_t5 import NAME, place_of
from tiny_run import assert_one_line, contents, hyperadapt, write_config

LONG = ["a rather long name", "another rather long name"]
CUT = "the label 'a rather long name' takes 19 tokens, and max_target_length 16 cuts it to 'a rather long n'"


def check_labels(task: Task, tokenizer: Any) -> None:
    EncoderDecoder().check_labels(task, tokenizer, InputFormat(64))


def write_trend(directory: Path, labels: list[str], **fields: Any) -> Path:
    """Write a task of two classes."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": f"row {number}", "label": number % 2}) for number in range(12)]
    (directory / "rows.jsonl").write_text("\n".join(rows))
    files = dict.fromkeys(("train", "validation", "test"), "rows.jsonl")
    spec = {"name": "trend", "files": files, "fields": ["text"], "labels": labels, "metrics": ["accuracy"]}
    (directory / "trend.yaml").write_text(yaml.safe_dump({**spec, **fields}, allow_unicode=True))
    return directory / "trend.yaml"


def test_names_outside_the_vocabulary_are_one_line_before_anything_is_written(tmp_path: Path) -> None:
    task = write_trend(tmp_path, ["上升", "下降"], writes="name")
    config = write_config(tmp_path, [str(task)], model={"name": NAME})
    assert_one_line(
        hyperadapt("train", config),
        "task 'trend': the tokenizer cannot write the label '上升', and reads it back as '': choose other labels, or "
        "say writes: number, or take another model.tokenizer",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("labels", "fields", "message"),
    [
        (
            LONG,
            {"writes": "name"},
            f"{CUT}: set max_target_length to 19 or more, or choose other labels, or say ",
        ),
        (
            ["rising", "falling"],
            {"writes": "name", "max_generated_length": 6},
            "the label 'falling' takes 8 tokens, and max_generated_length 6 cuts it to 'fallin': set "
            "max_generated_length to 8 or more",
        ),
        (
            ["rising", "falling"],
            {"max_target_length": 1},
            "the label '0' takes 2 tokens, and max_target_length 1 ",
        ),
        (
            ["up ", "down"],
            {"writes": "name"},
            "the tokenizer cannot write the label 'up ', and reads it back as 'up'",
        ),
    ],
)
def test_labels_that_are_cut_are_one_line_that_says_the_field(
    labels: list[str], fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, [str(write_trend(tmp_path, labels, **fields))])
    assert_one_line(hyperadapt("train", config), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"max_target_length": 25},
        {"max_target_length": 25, "max_generated_length": 24},  # the end token is not read
        {"writes": "number"},
    ],
)
def test_what_the_line_says_to_change_helps(fields: dict[str, Any], tmp_path: Path) -> None:
    check_labels(load_task_file(write_trend(tmp_path, LONG, **{"writes": "name", **fields})), ByT5Tokenizer())


def test_a_label_that_ends_before_its_time_is_one_line(tmp_path: Path) -> None:
    # With ByT5 a number of a class is a byte and the end token: the end may not come before the fewest tokens have.
    early = load_task_file(write_trend(tmp_path, ["a", "b"], min_generated_length=2))
    with pytest.raises(
        UserError, match="'0' takes 2 tokens, its end among them, and is too short for min_gen"
    ):
        check_labels(early, ByT5Tokenizer())
    check_labels(load_task_file(write_trend(tmp_path, ["a", "b"], min_generated_length=1)), ByT5Tokenizer())


def test_a_new_task_and_an_unseen_one_are_looked_at_too(run: Path, tmp_path: Path) -> None:
    task = write_trend(tmp_path, LONG, writes="name")
    before = contents(run)
    assert_one_line(hyperadapt("fewshot", run, "--task", task), CUT)
    assert_one_line(hyperadapt("evaluate", run, "--unseen", task), CUT)
    assert contents(run) == before


def test_tasks_in_pretraining_are_looked_at_too(tmp_path: Path) -> None:
    task = write_trend(tmp_path, LONG, writes="name")
    with pytest.raises(UserError) as refused:
        TaskRows(MultitaskConfig(share=0.5, tasks=(str(task),)), ByT5Tokenizer())
    assert CUT in str(refused.value)


@pytest.mark.parametrize("tokenizer", [NAME, "bytes"])
def test_every_label_of_the_built_in_tasks_can_be_written(tokenizer: str) -> None:
    loaded = ByT5Tokenizer() if tokenizer == "bytes" else AutoTokenizer.from_pretrained(place_of(tokenizer))
    written = 0
    for task in TASKS.values():
        check_labels(task, loaded)
        for text in task.label_texts:
            ids = loaded(text_target=text, truncation=True, max_length=task.max_target_length)["input_ids"]
            assert loaded.decode(ids[: task.max_generated_length], skip_special_tokens=True).strip() == text
            written += 1
    assert written > 60


def test_free_texts_that_are_cut_or_read_back_otherwise_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [
        "short",
        "short",
        "a text\nof two lines",
        "half of it is 上升",
        "上升",
        "下降",
        "long " * 20,
        "long " * 30,
    ]
    rows = [json.dumps({"text": "row", "label": text}) for text in texts]
    (tmp_path / "notes.jsonl").write_text("\n".join(rows))
    task = Task(
        name="notes",
        files={"train": tmp_path / "notes.jsonl"},
        fields=("text",),
        kind="text",
        metrics=("rougeL",),
        max_target_length=12,
    )
    tokenizer = AutoTokenizer.from_pretrained(place_of(NAME))
    tokenized = EncoderDecoder().training_rows(load_split(task, "train"), task, 0, tokenizer, InputFormat(64))
    expected = tokenizer(text_target=texts, truncation=True, max_length=12)["input_ids"]
    assert list(tokenized["labels"]) == expected, "what is trained on is what the tokenizer makes of it"
    assert capsys.readouterr().err.splitlines() == [
        "note: of 7 different training targets of notes, 2 are cut at 12 tokens (max_target_length) and 4 are read "
        r"back otherwise by the tokenizer ('a text\nof two lines' becomes 'a textof two lines'); 5 different ones "
        "are left"
    ]


def test_answers_that_are_cut_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "who?", "context": "it was the very old farmer", "label": "the very old farmer"}]
    rows.append({"question": "who?", "context": "it was he", "label": "he"})
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = Task(
        name="qa",
        files={"train": tmp_path / "qa.jsonl"},
        fields=("question", "context"),
        kind="question_answering",
        metrics=("answer_f1",),
        max_target_length=8,
    )
    EncoderDecoder().training_rows(load_split(task, "train"), task, 0, ByT5Tokenizer(), InputFormat(128, 16))
    assert capsys.readouterr().err == (
        "note: of 2 different training targets of qa, 1 are cut at 8 tokens (max_target_length)\n"
    )
