"""Runs: what one holds, that it can be moved and mended, and that a damaged one is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from hyperadapt.config.written import RunConfig
from hyperadapt.errors import CheckpointError, UserError
from hyperadapt.model.file import read
from hyperadapt.runs.results_file import add, write
from hyperadapt.runs.run import Run, load_run
from tiny_run import COLOURS, SPLITS, as_of_an_earlier_version, hyperadapt, write_config, write_tasks

ROWS = [{"text": text} for text in COLOURS]


@pytest.fixture
def loaded(run: Path) -> Run:
    return load_run(run)


def test_a_run_directory_holds_what_it_promises_and_no_more(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    kept = {file for file in files if not file.startswith(("checkpoints/", "tokenizer/"))}
    assert kept == {
        "config.yaml",
        "tasks.yaml",
        "base/config.json",
        "base/model.safetensors",
        "model/hyperadapt.json",
        "model/model.safetensors",
        "results.json",
        "history.json",
        "predictions-validation.jsonl.gz",
        "predictions-test.jsonl.gz",
        "data.json",
        "manifest.json",
    }
    assert "tokenizer/tokenizer_config.json" in files
    # Trainer turns it off in the model that it is given.
    assert json.loads((trained / "base/config.json").read_text())["use_cache"] is True
    assert not any(path.name.endswith(".tmp") for path in trained.rglob("*"))


def test_the_saved_config_loads_as_the_config_that_was_given(trained: Path) -> None:
    given, saved = RunConfig.load(trained.parent / "config.yaml"), RunConfig.load(trained / "config.yaml")
    assert saved.build_method() == given.build_method()
    assert saved.model_copy(update={"method": given.method}) == given


def test_the_saved_tasks_are_resolved(loaded: Run, trained: Path) -> None:
    assert [task.name for task in loaded.tasks] == ["colour", "warmth"] == list(loaded.model.tasks)
    for task in loaded.tasks:
        for split in SPLITS:
            assert (task.files or {})[split] == trained.parent / f"tasks/{task.name}-{split}.jsonl"


def test_the_saved_model_holds_the_trained_tensors_alone(loaded: Run, trained: Path) -> None:
    with safe_open(trained / "model/model.safetensors", framework="pt") as file:
        saved = set(file.keys())
    base = set(load_file(trained / "base/model.safetensors"))
    assert {name for name in saved if not name.startswith("hyperadapt.")} == {
        name
        for name, parameter in loaded.model.named_parameters()
        if parameter.requires_grad and name in base
    }
    assert any(name.startswith("hyperadapt.") for name in saved)
    assert not any(name.startswith("hyperadapt.") for name in base)
    assert "shared.weight" in base - saved
    copy = json.loads((trained / "model/hyperadapt.json").read_text())
    assert copy == read(trained / "model")[0]


def test_results_hold_both_splits_and_the_parameter_counts(loaded: Run, trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    assert results["method"] == "adapters"
    assert results["steps"] == 40
    assert results["best_step"] in (20, 40)
    assert results["parameters"]["trained"] == sum(
        parameter.numel() for parameter in loaded.model.parameters() if parameter.requires_grad
    )
    assert results["parameters"]["tasks"] == 2
    for split in ("validation", "test"):
        assert results[split] == loaded.evaluate(split).as_dict()


def test_the_best_model_is_the_one_that_is_kept(trained: Path) -> None:
    state = json.loads((trained / "checkpoints/checkpoint-40/trainer_state.json").read_text())
    averages = {
        entry["step"]: entry["eval_average"] for entry in state["log_history"] if "eval_average" in entry
    }
    results = json.loads((trained / "results.json").read_text())
    assert averages[results["best_step"]] == max(averages.values())
    best = read(trained / f"checkpoints/checkpoint-{results['best_step']}")[0]
    assert read(trained / "model")[0]["digest"] == best["digest"]
    assert results["validation"]["average"] == pytest.approx(max(averages.values()))


def test_a_run_moved_elsewhere_predicts_and_scores_the_same(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    tasks = [str(tmp_path / "tasks/colour.yaml"), str(tmp_path / "tasks/warmth.yaml")]
    assert hyperadapt("train", write_config(tmp_path, tasks)).code == 0
    before = load_run(tmp_path / "run")
    predictions, scores = before.predict("warmth", ROWS), before.evaluate("test")
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere/renamed")
    after = load_run(moved)
    assert after.predict("warmth", ROWS) == predictions
    assert after.evaluate("test") == scores
    outcome = hyperadapt("evaluate", moved)
    assert outcome.code == 0, outcome.err
    # Without its base model it says so, and takes one from where it lies now.
    shutil.move(Path(moved) / "base", tmp_path / "base")
    outcome = hyperadapt("predict", moved, "--task", "warmth", stdin='{"text": "red"}\n')
    assert outcome.code == 2
    assert outcome.err.startswith("error: the base model")
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    outcome = hyperadapt("predict", moved, "--task", "warmth", "--base-model", tmp_path / "base", stdin=rows)
    assert [json.loads(line)["written"] for line in outcome.out.splitlines()] == [
        prediction.text for prediction in predictions
    ]


def test_nothing_is_unpickled_when_a_run_is_loaded_and_predicts(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    expected = load_run(run).predict("colour", ROWS)
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    assert load_run(run).predict("colour", ROWS) == expected


def test_rows_are_given_as_mappings_or_as_json_text(loaded: Run) -> None:
    assert loaded.predict("colour", ROWS) == loaded.predict("colour", [json.dumps(row) for row in ROWS])
    with pytest.raises(
        UserError, match=r"^row 2: this row has no column 'text'; did you mean 'txt'.*; the other has it$"
    ):
        loaded.predict("colour", [{"text": "red"}, {"txt": "red"}])


def test_a_run_says_which_tasks_and_splits_it_has(loaded: Run) -> None:
    with pytest.raises(UserError, match=r"has no task 'color'; did you mean 'colour'\?"):
        loaded.task("color")
    with pytest.raises(UserError, match="has no task 'color'"):
        loaded.evaluate("test", ["color"])
    with pytest.raises(UserError, match=r"split 'tset' is unknown; did you mean 'test'\?"):
        loaded.evaluate("tset")


def test_results_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, {"train_seconds": 1, "test": 2})
    add(tmp_path, {"test": 3})
    assert json.loads((tmp_path / "results.json").read_text()) == {"train_seconds": 1, "test": 3}
    (tmp_path / "results.json").write_text('{"a": ')
    with pytest.raises(CheckpointError, match=r"results\.json is missing or damaged"):
        add(tmp_path, {"test": 3})
    assert (tmp_path / "results.json").read_text() == '{"a": '


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


def rewrite_header(file: Path, **changes: Any) -> None:
    from safetensors.torch import save_file

    config, tensors = read(file.parent)
    save_file(tensors, file, metadata={"format": "pt", "hyperadapt": json.dumps({**config, **changes})})


def drop_task(file: Path) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text())[:1]))


def other_weights(file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


Damage = tuple[str, Callable[[Path], Any], str]
DAMAGES: dict[str, Damage] = {
    "truncated": ("model/model.safetensors", truncate, "is truncated or corrupted"),
    "emptied": ("model/model.safetensors", lambda file: file.write_bytes(b""), "is truncated or corrupted"),
    "corrupted": ("model/model.safetensors", flip, "its contents do not match their digest"),
    "config cut between two lines": (
        "config.yaml",
        lambda file: file.write_text("\n".join(file.read_text().splitlines()[:-2]) + "\n"),
        "config.yaml is damaged: the field 'rank_chunks' is missing",
    ),
    "newer": (
        "model/model.safetensors",
        lambda file: rewrite_header(file, format_version=99),
        "upgrade hyperadapt",
    ),
    "other base": ("base/model.safetensors", other_weights, "was trained on another base model"),
    "model file gone": ("model/model.safetensors", Path.unlink, "there is no file model.safetensors"),
    "model gone": ("model", shutil.rmtree, "holds no saved model, as it does not exist"),
    "no run": ("config.yaml", Path.unlink, "is not a run: there is no config.yaml"),
    "config no YAML": ("config.yaml", lambda file: file.write_text("a: ["), "config.yaml is not valid YAML"),
    "tasks gone": ("tasks.yaml", Path.unlink, "tasks.yaml is missing or damaged"),
    "tasks no YAML": ("tasks.yaml", lambda file: file.write_text("a: ["), "tasks.yaml is missing or damaged"),
    "tasks empty": ("tasks.yaml", lambda file: file.write_text(""), "tasks.yaml is missing or damaged"),
    "tasks wrong": (
        "tasks.yaml",
        lambda file: file.write_text("- {nam: x}"),
        "tasks.yaml is damaged: field 'nam'",
    ),
    "a task fewer": ("tasks.yaml", drop_task, "does not name the tasks of its model"),
    "base config": ("base/config.json", lambda file: file.write_text("{"), "cannot be loaded"),
    "base weights gone": ("base/model.safetensors", Path.unlink, "cannot be loaded"),
    "base truncated": ("base/model.safetensors", truncate, "cannot be loaded"),
    "tokenizer": ("tokenizer/tokenizer_config.json", lambda file: file.write_text("{"), "the tokenizer"),
}


@pytest.mark.parametrize(
    "damage",
    DAMAGES,
)
def test_a_damaged_run_without_a_manifest_is_refused_in_one_line_that_names_it(
    run: Path, damage: str
) -> None:
    as_of_an_earlier_version(run)
    file, harm, message = DAMAGES[damage]
    harm(run / file)
    with pytest.raises(UserError) as error:
        load_run(run)
    assert message in str(error.value)
    assert run.name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_of_a_version_without_some_field_is_read_with_its_default(run: Path) -> None:
    as_of_an_earlier_version(run)
    file = run / "config.yaml"
    lines = file.read_text().splitlines(keepends=True)
    older = [line for line in lines if "size_limit" not in line]
    assert len(older) == len(lines) - 1
    file.write_text("".join(older))
    assert load_run(run).config == RunConfig.load(run / "config.yaml")
    assert load_run(run).config.data.size_limit is None


def test_a_run_with_another_base_model_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "base", tmp_path / "other")
    other_weights(tmp_path / "other/model.safetensors")
    with pytest.raises(CheckpointError, match="was trained on another base model"):
        load_run(run, str(tmp_path / "other"))
    assert load_run(run, str(run / "base")).predict("colour", ROWS) == load_run(run).predict("colour", ROWS)


def test_a_run_begun_over_the_leavings_of_a_killed_one_has_its_own_base_model(tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    config = write_config(tmp_path, tasks)
    few_steps = ["training.max_steps=2", "training.eval_steps=2"]
    assert hyperadapt("train", config, "model.seed=1", *few_steps).code == 0
    for written_later in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / "run" / written_later)
    for written_later in ("results.json", "history.json", "manifest.json"):
        (tmp_path / "run" / written_later).unlink()
    assert hyperadapt("train", config, "model.seed=2", *few_steps).code == 0
    assert load_run(tmp_path / "run").predict("colour", ROWS)


@pytest.mark.parametrize("named", [False, True])
def test_the_base_model_keeps_its_precision(tmp_path: Path, trained: Path, named: bool) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    few_steps = ["training.max_steps=2", "training.eval_steps=2"]
    model = {"model": {"name": str(trained / "base"), "tokenizer": "bytes"}} if named else {}
    outcome = hyperadapt("train", write_config(tmp_path, tasks, **model), "model.dtype=bfloat16", *few_steps)
    assert outcome.code == 0, outcome.err
    assert load_run(tmp_path / "run").model.shared.weight.dtype == torch.bfloat16


def test_the_attention_is_computed_as_configured_in_training_and_after(tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    few_steps = ["training.max_steps=2", "training.eval_steps=2"]
    outcome = hyperadapt(
        "train", write_config(tmp_path, tasks), "model.attn_implementation=eager", *few_steps
    )
    assert outcome.code == 0, outcome.err
    eager = load_run(tmp_path / "run").model
    as_of_an_earlier_version(tmp_path / "run")
    saved = tmp_path / "run/config.yaml"
    saved.write_text(saved.read_text().replace("eager", "sdpa"))
    sdpa = load_run(tmp_path / "run").model
    stacks = [stack for model in (eager, sdpa) for stack in (model.encoder, model.decoder)]
    assert [stack.config._attn_implementation for stack in stacks] == ["eager", "eager", "sdpa", "sdpa"]
    ids = torch.arange(3, 15)[None]
    inputs = {"input_ids": ids, "labels": ids[:, :4], "task_ids": torch.tensor([1])}
    torch.testing.assert_close(eager(**inputs).logits, sdpa(**inputs).logits)


# A run has a directory "model" of its own.
@pytest.mark.parametrize("name", ["base-of-mine", "model"])
def test_a_base_model_from_a_local_directory_is_found_again(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copytree(trained / "base", tmp_path / name)
    tasks = write_tasks(tmp_path / "tasks")
    config = write_config(tmp_path, tasks, model={"name": name, "tokenizer": "bytes"})
    monkeypatch.chdir(tmp_path)  # the name is relative
    assert hyperadapt("train", config, "training.max_steps=2", "training.eval_steps=2").code == 0
    monkeypatch.chdir(trained)
    assert not (tmp_path / "run/base").exists()
    assert len(load_run(tmp_path / "run").predict("colour", ROWS)) == len(ROWS)


def test_tasks_of_csv_and_jsonl_files_and_of_glue_train_together(tmp_path: Path, shared: Path) -> None:
    tasks = tmp_path / "tasks"
    write_tasks(tasks)
    for split in SPLITS:
        rows = (tasks / f"colour-{split}.jsonl").read_text(encoding="utf-8").splitlines()
        cells = [
            f'"{row["text"]}, or not",{["warm", "cold"][row["label"]]}\n' for row in map(json.loads, rows)
        ]
        (tasks / f"names-{split}.csv").write_text("words,kind\n" + "".join(cells), encoding="utf-8")
    files = {split: f"names-{split}.csv" for split in SPLITS}
    spec = {"name": "names", "files": files, "fields": {"text": "words"}, "label": "kind"}
    spec |= {"labels": ["warm", "cold"], "metrics": ["macro_f1"]}
    (tasks / "names.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "data/glue").mkdir(parents=True)
    shutil.copytree(shared / "data/glue/rte", tmp_path / "data/glue/rte")
    names = [str(tasks / "names.yaml"), str(tasks / "warmth.yaml"), "rte"]
    data = {"tasks": names, "data_dir": str(tmp_path / "data"), "max_train_rows": 8, "max_source_length": 32}
    config = write_config(
        tmp_path,
        names,
        data={**data, "max_eval_rows": 6},
        evaluation={"answers": "generate", "batch_size": 64},
    )
    outcome = hyperadapt("train", config, "training.max_steps=4", "training.eval_steps=4")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {name: of["rows"] for name, of in results["validation"]["tasks"].items()} == dict.fromkeys(
        ("names", "warmth", "rte"), 6
    )
    # Half of RTE's 277 validation rows are its test rows.
    assert {name: of["rows"] for name, of in results["test"]["tasks"].items()} == {
        "names": SPLITS["test"],
        "warmth": SPLITS["test"],
        "rte": 139,
    }

    # The data may move, and --data-dir says where to.
    (tmp_path / "data").rename(tmp_path / "moved")
    outcome = hyperadapt("evaluate", tmp_path / "run")
    assert outcome.code == 2
    assert "task 'rte'" in outcome.err
    add(tmp_path / "run", {"test": None})
    outcome = hyperadapt("evaluate", tmp_path / "run", "--data-dir", tmp_path / "moved")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run/results.json").read_text()) == results


def test_the_training_rows_can_be_scored_and_are_those_of_the_training(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    outcome = hyperadapt("evaluate", tmp_path / "run", "--split", "train")
    assert outcome.code == 0, outcome.err
    assert "train rows" in outcome.out
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert set(results) >= {"train", "validation", "test"}
    assert {of["rows"] for of in results["train"]["tasks"].values()} == {SPLITS["train"]}


def test_an_unseen_task_is_scored_with_the_mean_of_the_tasks_parameters(run: Path, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "more")
    text = Path(tasks[0]).read_text()
    unseen = tmp_path / "more/shade.yaml"
    unseen.write_text(text.replace("name: colour", "name: shade"))
    outcome = hyperadapt("evaluate", run, "--unseen", unseen, "--split", "validation")
    assert outcome.code == 0, outcome.err
    assert "shade" in outcome.out
    assert "warmth" not in outcome.out
    loaded = load_run(run)
    before = loaded.model.hyperadapt.groups.encoder[0].generators[0].table.detach().clone()
    extended = loaded.with_unseen([str(unseen)])
    table = extended.model.hyperadapt.groups.encoder[0].generators[0].table
    assert torch.equal(table[:2], before)
    torch.testing.assert_close(table[2], before.mean(0))
    assert len(extended.evaluate("test", ["shade"]).predictions[0]) == SPLITS["test"]
    with pytest.raises(UserError, match="the model already has a task 'colour'"):
        load_run(run).with_unseen([tasks[0]])
