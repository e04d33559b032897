"""A run and its data: what has changed since it was trained is named, and never taken without a word."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from hyperadapt.errors import UserError
from hyperadapt.runs import load_run
from hyperadapt.same_data import digest_of, read
from hyperadapt.tasks import load_split, load_task_file
from tiny_run import BASE, SPLITS, assert_one_line, hyperadapt, write_config, write_tasks

FEW_STEPS = {"max_steps": 2, "batch_size": 8, "eval_steps": 2, "logging_steps": 1}
SMALL = {"reduction_factor": 2, "task_feature_dim": 6, "projector_hidden_dim": 8, "task_embedding_dim": 4}
ALLOW = "--allow-changed-data"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks, a configuration and its run of two steps."""
    folder = tmp_path_factory.mktemp("data")
    config = write_config(
        folder,
        write_tasks(folder / "tasks"),
        model={"config": BASE, "tokenizer": "bytes"},
        method={"name": "hyperformer++", **SMALL},
        training=FEW_STEPS,
    )
    outcome = hyperadapt("train", config)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, whose tasks and run may be changed: they are what they were afterwards."""
    shutil.copytree(trained, tmp_path / "before")
    yield trained
    for name in ("tasks", "run"):
        shutil.rmtree(trained / name)
        shutil.copytree(tmp_path / "before" / name, trained / name)


def change(task: Path, **fields: object) -> None:
    spec = yaml.safe_load(task.read_text())
    task.write_text(yaml.safe_dump({**spec, **fields}))


def resume(folder: Path, *options: object) -> list[object]:
    return ["train", folder / "config.yaml", "training.max_steps=3", "--resume", *options]


def cut(file: Path, rows: int) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:rows]))


MEANINGS = {
    "labels": (["cold", "warm"], "labels were [warm, cold] and are now [cold, warm]"),
    "writes": ("name", "writes was number and is now name"),
    "fields": ({"said": "text"}, "fields were {text: text} and are now {said: text}"),
    "metrics": (["f1"], "metrics were [accuracy, f1] and are now [f1]"),
    "label": ("text", "label was label and is now text"),
    "prefix": ("other", "prefix was None and is now other"),
}


@pytest.mark.parametrize("field", MEANINGS)
def test_a_task_that_means_something_else_is_refused_whatever_is_allowed(folder: Path, field: str) -> None:
    value, message = MEANINGS[field]
    change(folder / "tasks/colour.yaml", **{field: value})
    for options in ([], [ALLOW]):
        outcome = hyperadapt(*resume(folder, *options))
        assert_one_line(outcome, f"cannot go on with {folder / 'run'}: task 'colour': ")
        assert message in outcome.err


def test_resume_refuses_other_rows_and_says_how_many_there_were(folder: Path) -> None:
    cut(folder / "tasks/colour-train.jsonl", 20)
    before = sorted(path.stat().st_mtime_ns for path in (folder / "run").rglob("*"))
    assert_one_line(
        hyperadapt(*resume(folder)),
        "task 'colour': the train rows are not those that the run was trained with: 48 rows then, 20 now; "
        "--allow-changed-data",
    )
    assert sorted(path.stat().st_mtime_ns for path in (folder / "run").rglob("*")) == before
    outcome = hyperadapt(*resume(folder, ALLOW))
    assert outcome.code == 0, outcome.err
    notes = [line for line in re.split(r"[\r\n]+", outcome.err) if line.startswith("note: ")]
    assert len(notes) == 1
    assert "48 rows then, 20 now; they are taken all the same" in notes[0]
    assert (read(folder / "run") or {})["colour"]["train"]["rows"] == 20
    assert hyperadapt(*resume(folder, "training.max_steps=4")).code == 0  # it is a run of these rows now


@pytest.mark.parametrize("split", SPLITS)
def test_resume_refuses_rows_of_any_split_in_another_order_or_with_another_word(
    folder: Path, split: str
) -> None:
    file = folder / f"tasks/warmth-{split}.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    message = f"task 'warmth': the {split} rows are not those that the run was trained with: {SPLITS[split]} rows as"
    for changed in (
        [lines[1], lines[0], *lines[2:]],
        [*lines[:-1], lines[-1].replace('"text": "', '"text": "a ')],
    ):
        file.write_text("".join(changed))
        assert_one_line(hyperadapt(*resume(folder)), message)


def test_data_may_move_and_change_their_format(folder: Path) -> None:
    for split in SPLITS:
        rows = [json.loads(line) for line in (folder / f"tasks/colour-{split}.jsonl").open(encoding="utf-8")]
        with (folder / f"tasks/moved-{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
        (folder / f"tasks/colour-{split}.jsonl").unlink()
    change(folder / "tasks/colour.yaml", files={split: f"moved-{split}.csv" for split in SPLITS})
    outcome = hyperadapt(*resume(folder))
    assert outcome.code == 0, outcome.err


def test_evaluate_refuses_rows_that_have_changed_unless_it_is_allowed(folder: Path) -> None:
    run = folder / "run"
    assert hyperadapt("evaluate", run).code == 0
    cut(folder / "tasks/warmth-test.jsonl", 5)
    before = (run / "results.json").read_bytes()
    message = (
        f"cannot evaluate {run}: task 'warmth': the test rows are not those that the run was trained with"
    )
    assert_one_line(hyperadapt("evaluate", run), message)
    assert_one_line(hyperadapt("evaluate", run, "--task", "warmth"), message)
    assert (run / "results.json").read_bytes() == before
    assert hyperadapt("evaluate", run, "--split", "validation").code == 0
    assert hyperadapt("evaluate", run, "--task", "colour").code == 0
    outcome = hyperadapt("evaluate", run, "--task", "warmth", ALLOW)
    assert outcome.code == 0, outcome.err
    assert "14 rows then, 5 now" in outcome.err
    loaded = load_run(run)
    with pytest.raises(UserError, match="14 rows then, 5 now"):
        loaded.evaluate("test")
    assert loaded.evaluate("test", ["warmth"], allow_changed_data=True).scores[0].rows == 5


def test_an_unseen_task_has_no_rows_to_compare(folder: Path) -> None:
    change(folder / "tasks/colour.yaml", name="shade")
    outcome = hyperadapt("evaluate", folder / "run", "--unseen", folder / "tasks/colour.yaml")
    assert outcome.code == 0, outcome.err


def test_a_transfer_of_a_task_that_the_run_has_compares_it(folder: Path) -> None:
    task = folder / "tasks/colour.yaml"
    transfer = ["fewshot", folder / "run", "--task", task, "training.max_steps=2"]
    cut(folder / "tasks/colour-validation.jsonl", 6)
    message = f"cannot start from {folder / 'run'}: task 'colour': the validation rows are not those"
    assert_one_line(hyperadapt(*transfer), message)
    assert hyperadapt(*transfer, "--samples", 8, ALLOW).code == 0  # the fewer training rows were asked for
    change(task, labels=["cold", "warm"])
    assert_one_line(
        hyperadapt(*transfer, ALLOW), "task 'colour': labels were [warm, cold] and are now [cold, warm]"
    )
    change(task, name="shade")
    assert (
        hyperadapt(*transfer, "--output-dir", folder / "run/fewshot/new").code == 0
    )  # it is a task of its own


@pytest.mark.usefixtures("in_one_process")
def test_a_comparison_uses_no_finished_run_of_a_task_that_means_something_else(tmp_path: Path) -> None:
    values = {
        "output_dir": str(tmp_path / "table"),
        "seeds": [0],
        "base": {
            "model": {"config": BASE, "tokenizer": "bytes"},
            "data": {"tasks": write_tasks(tmp_path / "tasks"), "max_source_length": 48},
            "training": FEW_STEPS,
        },
        "variants": {"one": {"method": {"name": "adapters", "reduction_factor": 2}}},
    }
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(values))
    outcome = hyperadapt("compare", tmp_path / "compare.yaml")
    assert outcome.code == 0, outcome.err
    change(tmp_path / "tasks/colour.yaml", labels=["cold", "warm"])
    assert_one_line(
        hyperadapt("compare", tmp_path / "compare.yaml"),
        "task 'colour': labels were [warm, cold] and are now [cold, warm]",
    )


def test_a_digest_is_of_contents_and_order_alone(trained: Path) -> None:
    rows = load_split(
        load_task_file(trained / "tasks/colour.yaml"), "train", prefix=load_run(trained / "run").config.prefix
    )
    columns = {name: list(rows[name]) for name in rows.column_names}
    expected = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()
    assert digest_of(rows) == {"rows": 48, "sha256": expected}
    assert digest_of(Dataset.from_dict(dict(reversed(columns.items())))) == digest_of(rows)
    assert digest_of(rows.select(range(47, -1, -1))) != digest_of(rows)
    assert digest_of(rows.select(range(47))) != digest_of(rows)
    swapped = {"source": columns["target"], "target": columns["source"]}
    assert digest_of(Dataset.from_dict(swapped)) != digest_of(rows)
    assert (read(trained / "run") or {})["colour"]["train"] == digest_of(rows)
