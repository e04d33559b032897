"""A run and its data: what has changed since it was trained is named, and never taken without a word."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset

from hyperadapt.errors import UserError
from hyperadapt.model.file import read as read_model
from hyperadapt.runs import rows as rows_of_runs
from hyperadapt.runs.resume import from_its_directory
from hyperadapt.runs.run import load_run
from hyperadapt.runs.same_data import changes, digest_of, last_step, read, since_steps, with_since_steps
from hyperadapt.tasks import load_split, load_task_file
from hyperadapt.training.trainer import MixtureTrainer
from tiny import tiny_t5
from tiny_run import BASE, SPLITS, Outcome, assert_one_line, contents, hyperadapt, write_config, write_tasks

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
        shutil.rmtree(trained / name, ignore_errors=True)
        shutil.copytree(tmp_path / "before" / name, trained / name)


def change(task: Path, **fields: object) -> None:
    spec = yaml.safe_load(task.read_text())
    task.write_text(yaml.safe_dump({**spec, **fields}))


def notes(outcome: Outcome) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", outcome.err) if line.startswith("note: ")]


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
        assert re.search(
            rf"{re.escape(message)}; restore (it|them), or choose another output_dir$", outcome.err
        )


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
    (note,) = (note for note in notes(outcome) if "rows then" in note)
    assert "48 rows then, 20 now; they are taken all the same" in note
    assert (read(folder / "run") or {})["colour"]["train"]["rows"] == 20
    assert hyperadapt(*resume(folder)).code == 0  # it is a run of these rows now


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run/results.json").read_text())


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, float], float]:
    """What validation rows are to score: (how many rows `colour` has, the norm of the decoder's table) -> average."""
    known: dict[tuple[int, float], float] = {}
    score = MixtureTrainer.score

    def scored(self: MixtureTrainer, rows: Any) -> Any:
        results = score(self, rows)
        norm = round(sum(value.norm().item() for value in self.model.hyperadapt.parameters()), 3)  # type: ignore[union-attr, operator]
        if rows is self.evaluation_set:
            place = (len(rows.targets[0]), norm)
            object.__setattr__(results, "average", known.setdefault(place, 50.0 - 10 * len(known)))
        return results

    monkeypatch.setattr(MixtureTrainer, "score", scored)
    return known


def test_the_best_checkpoint_is_scored_anew_where_validation_rows_have_changed(
    folder: Path, scores: dict[tuple[int, float], float]
) -> None:
    four = ["train", folder / "config.yaml", "training.max_steps=4", "--resume"]
    assert hyperadapt(*four).code == 0  # step 4 scores 50, the first; step 2, when it was trained, nothing
    assert results_of(folder)["best_step"] == 4
    before = (folder / "tasks/colour-validation.jsonl").read_text()
    cut(folder / "tasks/colour-validation.jsonl", 6)
    for _ in range(2):  # nothing is trained: the one that there is is scored, and kept
        outcome = hyperadapt(*four, ALLOW)
        assert outcome.code == 0, outcome.err
        (note,) = (note for note in notes(outcome) if "best" in note)
        assert "on those of now that of step 4 scores 40.00" in note
        assert results_of(folder)["best_step"] == 4
        assert results_of(folder)["changed_data"] == {"colour": {"validation": 4}}
    outcome = hyperadapt("train", folder / "config.yaml", "training.max_steps=8", "--resume", ALLOW)
    assert outcome.code == 0, outcome.err
    assert [value for (rows, _), value in scores.items() if rows == 6] == [
        40.0,
        30.0,
        20.0,
    ]  # steps 4, 6 and 8
    assert results_of(folder)["best_step"] == 4  # and not the first that was scored after it
    assert hyperadapt("report", folder / "run").code == 0
    page = (folder / "run/report.html").read_text()
    assert "colour: the validation rows are others since step 4" in page
    # Both the best and the one that the training goes on from are scored; here the best is.
    (folder / "tasks/colour-validation.jsonl").write_text("".join(before.splitlines(keepends=True)[:5]))
    outcome = hyperadapt("train", folder / "config.yaml", "training.max_steps=8", "--resume", ALLOW)
    assert outcome.code == 0, outcome.err
    (note,) = (note for note in notes(outcome) if "best" in note)
    assert "that of step 4 scores 10.00, that of step 8 scores 0.00" in note
    assert results_of(folder)["best_step"] == 4
    kept, chosen = (read_model(folder / "run" / place)[1] for place in ("model", "checkpoints/checkpoint-4"))
    assert all(torch.equal(kept[name], chosen[name]) for name in chosen)


def test_a_best_checkpoint_in_shards_is_not_scored_anew_and_that_is_said(
    folder: Path, scores: dict[tuple[int, float], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    six = ["train", folder / "config.yaml", "training.max_steps=6", "--resume"]
    assert hyperadapt(*six).code == 0
    assert results_of(folder)["best_step"] == 4  # 50, and then 40
    cut(folder / "tasks/colour-validation.jsonl", 6)
    monkeypatch.setattr("hyperadapt.training.trainer.SAFE_WEIGHTS_NAME", "shard-1.safetensors")
    outcome = hyperadapt(*six, ALLOW)
    assert outcome.code == 0, outcome.err
    assert "checkpoint-4 is in shards, which are not scored anew: it is the best no more" in outcome.err
    assert results_of(folder)["best_step"] == 6


def test_rows_that_are_back_before_anything_was_trained_on_others_lose_their_mark(folder: Path) -> None:
    file = folder / "tasks/colour-validation.jsonl"
    before = file.read_text()
    cut(file, 6)
    two = ["train", folder / "config.yaml", "--resume", ALLOW]
    assert hyperadapt(*two).code == 0
    assert results_of(folder)["changed_data"] == {"colour": {"validation": 2}}
    file.write_text(before)
    assert hyperadapt(*two).code == 0
    assert "changed_data" not in results_of(folder)


def test_rows_are_marked_from_the_first_step_that_saw_them_and_keep_their_mark() -> None:
    def of(rows: int) -> dict[str, dict[str, dict[str, Any]]]:
        return {"colour": {"train": {"rows": rows, "sha256": str(rows)}}}

    at_35 = with_since_steps(of(48), of(20), 35)
    assert since_steps(at_35) == {"colour": {"train": 35}}
    assert since_steps(with_since_steps(at_35, of(20), 40)) == {"colour": {"train": 35}}
    assert since_steps(with_since_steps(at_35, of(20), 20)) == {
        "colour": {"train": 20}
    }  # gone on from an older one
    assert since_steps(with_since_steps(at_35, of(30), 40)) == {"colour": {"train": 35}}
    assert since_steps(with_since_steps(at_35, of(48), 40)) == {
        "colour": {"train": 35}
    }  # 5 steps were of others
    assert since_steps(with_since_steps(at_35, of(48), 35)) == {}
    assert not changes(at_35, of(20))
    assert last_step(with_since_steps(at_35, of(30), 40), "train") == 40
    assert last_step(with_since_steps(at_35, of(20), 40), "train") == 35
    assert last_step(of(48), "train") == last_step(at_35, "test") == 0


def test_other_training_rows_leave_the_best_checkpoint(folder: Path) -> None:
    cut(folder / "tasks/colour-train.jsonl", 20)
    outcome = hyperadapt(*resume(folder, ALLOW))
    assert outcome.code == 0, outcome.err
    assert "best" not in " ".join(notes(outcome))


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


def test_a_project_may_move_as_a_whole(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("tasks", "run"):
        shutil.move(folder / name, moved / name)
    values = yaml.safe_load((folder / "config.yaml").read_text())
    files = ["tasks/colour.yaml", "tasks/warmth.yaml"]
    values |= {"output_dir": "run", "data": {**values["data"], "data_dir": "tasks", "tasks": files}}
    (moved / "config.yaml").write_text(yaml.safe_dump(values))
    for tasks, message in (
        ("[tasks/warmth.yaml,tasks/colour.yaml]", "[colour, warmth] and are now [warmth, colour]"),
        ("[tasks/colour.yaml]", "[colour, warmth] and are now [colour]"),
    ):
        with contextlib.chdir(moved):
            outcome = hyperadapt(*resume(moved, ALLOW, f"data.tasks={tasks}"))
        assert_one_line(
            outcome, f"cannot go on with {moved / 'run'}: data.tasks were {message}; restore them, or"
        )
    outcome = hyperadapt(*resume(moved))
    assert outcome.code == 0, outcome.err
    assert load_run(moved / "run").config.data.tasks == tuple(str(moved / file) for file in files)
    change(moved / "tasks/colour.yaml", labels=["cold", "warm"])
    assert_one_line(hyperadapt(*resume(moved)), "labels were [warm, cold] and are now [cold, warm]")


def test_a_project_moves_with_its_base_model_and_takes_no_other_for_it(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for place in (here, tmp_path):
        tiny_t5(num_layers=1, vocab_size=384).save_pretrained(place / "model")
    write_config(
        here,
        [],
        output_dir="run",
        model={"name": "./model", "tokenizer": "bytes"},
        data={"tasks": ["tasks/colour.yaml"], "max_source_length": 48},
        training=FEW_STEPS,
    )
    write_tasks(here / "tasks")
    assert hyperadapt("train", here / "config.yaml").code == 0
    shutil.move(here, there)
    assert_one_line(hyperadapt(*resume(there, f"model.name={tmp_path / 'model'}")), "model.name was '")
    outcome = hyperadapt(*resume(there))
    assert outcome.code == 0, outcome.err
    assert load_run(there / "run").config.model.name == str(there / "model")


def test_paths_in_lists_are_compared_from_a_runs_directory_too() -> None:
    before, now = (
        {"output_dir": f"/{place}/run", "text.files": [f"/{place}/a.txt", f"/{place}/b.txt"], "seeds": [1]}
        for place in ("here", "there/now")
    )
    assert from_its_directory(before) == from_its_directory(now) | {"output_dir": "."}
    others = now | {"text.files": ["/there/now/a.txt", "/elsewhere/b.txt"]}
    assert from_its_directory(before) != from_its_directory(others)


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


def test_scores_on_rows_that_have_changed_are_only_printed(folder: Path) -> None:
    cut(folder / "tasks/warmth-test.jsonl", 5)
    before = contents(folder / "run")
    outcome = hyperadapt("evaluate", folder / "run", ALLOW)
    assert outcome.code == 0, outcome.err
    assert "warmth" in outcome.out
    assert notes(outcome) == [
        "note: task 'warmth': the test rows are not those that the run was trained with: 14 rows then, 5 now; they are "
        "taken all the same",
        f"note: the scores are only printed, as rows have changed: {folder / 'run'} keeps those that it has",
    ]
    assert contents(folder / "run") == before
    outcome = hyperadapt("evaluate", folder / "run", "--split", "validation", ALLOW)
    assert (outcome.code, notes(outcome)) == (0, [])  # these have not


def test_embed_refuses_rows_that_have_changed_and_those_of_its_probes_unless_it_is_allowed(
    folder: Path,
) -> None:
    run = folder / "run"
    cut(folder / "tasks/colour-train.jsonl", 40)
    message = f"cannot embed {run}: task 'colour': the train rows are not those that the run was trained with: 48 rows"
    for options in (["--probe"], ["--split", "train"], ["--split", "train", "--max-rows", 8]):
        assert_one_line(hyperadapt("embed", run, *options), message)
    assert not (run / "embeddings").exists()
    for options in (["--max-rows", 8], ["--probe", "--max-rows", 8, ALLOW]):
        outcome = hyperadapt("embed", run, *options)
        assert outcome.code == 0, outcome.err
        assert ("48 rows then, 40 now" in outcome.err) == (ALLOW in options)
    outcome = hyperadapt("embed", run, "--split", "train", ALLOW)
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "embeddings/about.json").read_text())["changed_data"] is True
    assert hyperadapt("report", run).code == 0
    assert (
        "train rows, which are not those that the run was trained with" in (run / "report.html").read_text()
    )


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
    by_name = [*transfer[:3], "colour", *transfer[4:]]
    assert_one_line(hyperadapt(*by_name), message)
    outcome = hyperadapt(*by_name, "--samples", 8, ALLOW)  # the fewer training rows were asked for
    assert outcome.code == 0
    assert "was trained on colour itself: goes on with what it has learnt there" in outcome.err
    change(task, labels=["cold", "warm"])
    assert_one_line(
        hyperadapt(*transfer, ALLOW), "task 'colour': labels were [warm, cold] and are now [cold, warm]"
    )
    change(task, name="shade")
    outcome = hyperadapt(*transfer, "--output-dir", folder / "run/fewshot/new")  # it is a task of its own
    assert outcome.code == 0
    assert "itself" not in outcome.err


ADAPTERS = {"method": {"name": "adapters", "reduction_factor": 2}}


def write_comparison(directory: Path, **variants: object) -> Path:
    """A comparison of variants with one seed; its tasks, and its runs, lie beside it."""
    values = {
        "output_dir": "table",
        "seeds": [0],
        "base": {
            "model": {"config": BASE, "tokenizer": "bytes"},
            "data": {"tasks": ["tasks/colour.yaml", "tasks/warmth.yaml"], "max_source_length": 48},
            "training": FEW_STEPS,
        },
        "variants": variants,
    }
    (directory / "compare.yaml").write_text(yaml.safe_dump(values))
    return directory / "compare.yaml"


@pytest.mark.usefixtures("in_one_process")
def test_a_comparison_mixes_no_runs_of_different_rows_unless_it_is_allowed(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    config = write_comparison(tmp_path, one=ADAPTERS)
    assert hyperadapt("compare", config).code == 0
    one, two = tmp_path / "table/one/seed-0", tmp_path / "table/two/seed-0"
    cut(tmp_path / "tasks/colour-train.jsonl", 20)
    cut(tmp_path / "tasks/colour-test.jsonl", 6)
    write_comparison(tmp_path, one=ADAPTERS, two=ADAPTERS)
    before = contents(tmp_path)
    message = (
        f"one, seed 0 ({one}): task 'colour': the train rows are not those that the run was trained with: "
        "48 rows then, 20 now; --allow-changed-data"
    )
    assert_one_line(hyperadapt("compare", config), message)
    assert contents(tmp_path) == before
    outcome = hyperadapt("compare", config, ALLOW)
    assert outcome.code == 0, outcome.err
    (note,) = notes(outcome)
    assert "1 of 2 runs were trained with rows that have changed since" in note
    table = list(csv.DictReader((tmp_path / "table/table.csv").open(encoding="utf-8")))
    assert [(row["variant"], row["other rows"]) for row in table[1:]] == [("one", "0"), ("two", "1")]
    assert " other rows |" in (tmp_path / "table/table.md").read_text()
    assert "one, seed 0" in note
    assert "48 rows then, 20 now" in note
    assert [read(run)["colour"]["train"]["rows"] for run in (one, two)] == [48, 20]  # type: ignore[index]
    assert_one_line(hyperadapt("compare", config), message)  # they still are not
    for outcome_of in ("results.json", "history.json"):
        (one / outcome_of).unlink()
    assert_one_line(hyperadapt("compare", config), message)
    outcome = hyperadapt("compare", config, ALLOW)  # which goes on with what was only begun
    assert outcome.code == 0, outcome.err
    assert changes(read(one) or {}, read(two) or {}) == []
    before = contents(one)
    assert hyperadapt("compare", config).code == 0
    assert contents(one) == before


@pytest.mark.usefixtures("in_one_process")
def test_a_comparison_compares_the_rows_that_each_run_draws_and_reads_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tasks(tmp_path / "tasks")
    few = {**ADAPTERS, "data": {"max_train_rows": 8, "subsample_seed": None}}
    config = write_comparison(tmp_path, one=ADAPTERS, two=ADAPTERS, few=few)
    assert hyperadapt("compare", config, "seeds=[0,1]").code == 0
    loaded, load = [], rows_of_runs.load_rows
    monkeypatch.setattr(rows_of_runs, "load_rows", lambda *given: loaded.append(given[:2]) or load(*given))
    before = contents(tmp_path / "table")
    assert hyperadapt("compare", config, "seeds=[0,1]").code == 0
    assert contents(tmp_path / "table") == before
    drawn = Counter((task.name, split) for task, split in loaded)
    assert drawn == {
        (task, split): 3 if split == "train" else 1 for task in ("colour", "warmth") for split in SPLITS
    }


@pytest.mark.usefixtures("in_one_process")
def test_a_comparison_may_move_as_a_whole(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    write_tasks(before / "tasks")
    assert hyperadapt("compare", write_comparison(before, one=ADAPTERS)).code == 0
    before.rename(after)
    outcome = hyperadapt("compare", after / "compare.yaml")
    assert outcome.code == 0, outcome.err
    for outcome_of in ("results.json", "history.json"):
        (after / "table/one/seed-0" / outcome_of).unlink()
    outcome = hyperadapt("compare", after / "compare.yaml")
    assert outcome.code == 0, outcome.err
    assert (after / "table/one/seed-0/results.json").is_file()


@pytest.mark.usefixtures("in_one_process")
def test_a_comparison_uses_no_finished_run_of_a_task_that_means_something_else(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    outcome = hyperadapt("compare", write_comparison(tmp_path, one=ADAPTERS))
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
