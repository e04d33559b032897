"""Few-shot transfer: a run goes on with a new task, from another's parameters, on rows that are drawn nested."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

import hyperadapt as ha
from hyperadapt.architectures import EncoderDecoder
from hyperadapt.config.sections import StartConfig
from hyperadapt.config.written import RunConfig
from hyperadapt.errors import UserError
from hyperadapt.runs.base_model import build_base
from hyperadapt.runs.resume import start_from
from hyperadapt.runs.rows import load_evaluation_set
from hyperadapt.runs.run import load_run, load_tasks
from hyperadapt.studies.fewshot import fewshot_config
from hyperadapt.tasks import TASKS, load_split, read_split, resolve_tasks
from hyperadapt.tasks.suites.transfer import TRANSFER
from tiny import CONDITIONED, redraw, tiny_adapted, tiny_batch
from tiny_run import as_of_an_earlier_version, hyperadapt, write_config, write_tasks

SMALL = {"reduction_factor": 2, "task_feature_dim": 6, "projector_hidden_dim": 8, "task_embedding_dim": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HyperFormer++ run of two tasks, and beside it a third task that it has never seen."""
    folder = tmp_path_factory.mktemp("fewshot")
    tasks = write_tasks(folder / "tasks")
    spec = yaml.safe_load((folder / "tasks/colour.yaml").read_text())
    (folder / "tasks/shade.yaml").write_text(yaml.safe_dump({**spec, "name": "shade"}))
    path = write_config(folder, tasks, method={"name": "hyperformer++", **SMALL})
    outcome = hyperadapt("train", path, "training.max_steps=4", "training.eval_steps=4")
    assert outcome.code == 0, outcome.err
    return folder


def fewshot(folder: Path, *options: object) -> tuple[int, str]:
    task = folder / "tasks/shade.yaml"
    steps = [] if any("max_steps" in str(option) for option in options) else ["training.max_steps=2"]
    outcome = hyperadapt("fewshot", folder / "run", "--task", task, *steps, *options)
    return outcome.code, outcome.out + outcome.err


@pytest.mark.parametrize("method", CONDITIONED, ids=lambda method: method.name)
def test_tasks_that_are_kept_are_what_they_were(method: ha.methods.Method) -> None:
    model, batch = redraw(tiny_adapted(method)).eval(), tiny_batch()
    batch = {name: value[batch["task_ids"] != 1] for name, value in batch.items()}
    expected = model(**batch).logits
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.keep_tasks(["gamma", "alpha"])
    assert model.tasks == ("gamma", "alpha")
    batch["task_ids"] = torch.where(batch["task_ids"] == 2, 0, 1)
    assert torch.equal(model(**batch).logits, expected)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained


@pytest.mark.parametrize("names", [[], ["alpha", "alpha"], "alpha"])
def test_tasks_to_keep_must_be_named_once(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"at least one, each named once|has no task 'a'"):
        tiny_adapted(CONDITIONED[0]).keep_tasks(names)


@pytest.mark.parametrize("start", ["colour", "warmth"])
def test_a_new_task_starts_as_the_named_one_is(trained: Path, start: str) -> None:
    run = load_run(trained / "run")
    config = RunConfig.load_saved(trained / "run/config.yaml")
    base = build_base(config.model, 0, saved=trained / "run/base")
    given = StartConfig(run=str(trained / "run"), init_from=(start,))
    shade = load_tasks(trained / "run/tasks.yaml")[0].model_copy(update={"name": "shade"})
    model = start_from(given, base, config.build_method(), [shade]).eval()
    assert model.tasks == ("shade",)
    batch = run.tokenizer(["red rose", "blue"], return_tensors="pt", padding=True)
    labels = torch.tensor([[5, 1], [6, 1]])
    outputs = [
        of(**batch, labels=labels, task_ids=torch.full((2,), number)).logits
        for of, number in (
            (model, 0),
            (run.model, run.model.task_id(start)),
            (run.model, 1 - run.model.task_id(start)),
        )
    ]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_a_run_goes_on_with_a_new_task(trained: Path) -> None:
    code, said = fewshot(trained, "--samples", 8, "--init-from", "colour", "--seed", 3)
    assert code == 0, said
    folder = trained / "run/fewshot/shade-8-from-colour-seed-3"
    run = load_run(folder)
    assert run.model.tasks == ("shade",)
    assert run.config.data.max_train_rows == 8
    assert json.loads((folder / "results.json").read_text())["test"]["tasks"]["shade"]["rows"] == 14
    assert run.predict("shade", [{"text": "red"}])
    # The run is whole without the one that it began from, but for the base model that this one had built.
    before = run.evaluate("test").as_dict()
    shutil.move(trained / "run/fewshot", trained / "moved")
    assert load_run(trained / "moved" / folder.name).evaluate("test").as_dict() == before


def test_the_task_embedding_alone_is_trained(trained: Path) -> None:
    output = trained / "embedding-only"
    code, said = fewshot(
        trained, "--samples", 8, "--init-from", "warmth", "--task-embedding-only", "--output-dir", output
    )
    assert code == 0, said
    before, after = load_run(trained / "run").model.state_dict(), load_run(output).model.state_dict()
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name][-1:], after[name][-1:])}
    assert changed == {"hyperadapt.conditioning.z"}


def test_a_run_that_was_stopped_goes_on_where_it_was(trained: Path) -> None:
    output = trained / "stopped"
    arguments = ("--samples", 8, "--init-from", "colour", "--output-dir", output, "training.eval_steps=2")
    assert fewshot(trained, *arguments)[0] == 0
    whole = fewshot(
        trained, *arguments[:-2], trained / "whole", "training.max_steps=4", "training.eval_steps=2"
    )
    assert whole[0] == 0, whole[1]
    outcome = hyperadapt("train", output / "config.yaml", "training.max_steps=4", "--resume")
    assert outcome.code == 0, outcome.err
    one, other = (load_run(folder).model.state_dict() for folder in (output, trained / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", 49], "task 'shade' has 48 training rows; 49 samples are asked for"),
        (["--samples", 8, "--task", "glue"], "task 'glue' is unknown and no .yaml file"),
        (
            ["--samples", 8, "--task", "snli"],
            "data_dir is to hold transfer/snli/ with train.parquet and validation.",
        ),
        (["--samples", 8, "--init-from", "colours"], "has no task 'colours'; did you mean 'colour'?"),
        (["--samples", 8, "method.reduction_factor=4"], "has method.reduction_factor 2, not 4"),
        (["--samples", 8, "method={name: adapters}"], "has method.name 'hyperformer++', not 'adapters'"),
        (["--samples", 8, "start.run=nowhere"], "there is no run"),
        (["--task", "similarity", "--balanced"], "--balanced: task 'similarity' is of kind \"score\""),
        (
            ["--task", "{tasks}/colour.yaml", "--init-from", "warmth"],
            "has the task 'colour' itself, which goes on",
        ),
        (
            ["--samples", 8, "start.from=nowhere"],
            "field 'start.from' is unknown; did you mean 'init_from'? (choices: run, init_from)",
        ),
    ],
)
def test_what_cannot_be_transferred_is_one_line_and_nothing_is_written(
    trained: Path, options: list[object], message: str
) -> None:
    before = sorted(trained.rglob("*"))
    options = [str(option).replace("{tasks}", str(trained / "tasks")) for option in options]
    code, said = fewshot(trained, *options, "--output-dir", trained / "never")
    assert code == 2
    assert message in said
    assert said.count("\n") == 1
    assert sorted(trained.rglob("*")) == before


def test_all_rows_are_taken_by_default_and_a_stopped_transfer_goes_on(trained: Path) -> None:
    code, said = fewshot(trained, "--task-embedding-only", "training.eval_steps=1")
    assert code == 0, said
    folder = trained / "run/fewshot/shade-all-task-embedding-seed-1"
    assert json.loads((folder / "results.json").read_text())["training_rows"] == {"shade": 48}
    code, said = fewshot(trained, "--task-embedding-only", "training.eval_steps=1")
    assert (code, "go on with --resume" in said) == (2, True)
    code, said = fewshot(
        trained, "--task-embedding-only", "training.max_steps=3", "--resume", "training.eval_steps=1"
    )
    assert code == 0, said
    assert json.loads((folder / "results.json").read_text())["steps"] == 3


def test_the_training_rows_that_are_scored_are_those_that_were_drawn(trained: Path) -> None:
    output = trained / "drawn"
    code, said = fewshot(trained, "--samples", 8, "--balanced", "--seed", 3, "--output-dir", output)
    assert code == 0, said
    run = load_run(output)
    scored = load_evaluation_set(run.tasks, "train", run.config, run.tokenizer, EncoderDecoder())
    drawn = load_split(run.tasks[0], "train", None, 8, 3, run.config.prefix, balanced=True)
    assert [run.tokenizer.decode(ids, skip_special_tokens=True) for ids in scored.sources[0]] == drawn[
        "source"
    ]


def test_a_new_task_takes_its_given_features(trained: Path, tmp_path: Path) -> None:
    vectors = {"colour": [1.0, 0.0, 2.0], "warmth": [0.0, 1.0, 0.5], "shade": [3.0, 1.0, 1.0]}
    (tmp_path / "z.json").write_text(json.dumps(vectors))
    path = write_config(
        tmp_path,
        [str(trained / "tasks/colour.yaml"), str(trained / "tasks/warmth.yaml")],
        method={"name": "hyperformer++", **SMALL, "task_features": str(tmp_path / "z.json")},
    )
    outcome = hyperadapt("train", path, "training.max_steps=2", "training.eval_steps=2")
    assert outcome.code == 0, outcome.err
    options = ["--samples", 8, "training.max_steps=2", "training.eval_steps=2"]
    outcome = hyperadapt("fewshot", tmp_path / "run", "--task", trained / "tasks/shade.yaml", *options)
    assert outcome.code == 0, outcome.err
    z = load_run(tmp_path / "run/fewshot/shade-8-seed-1").model.hyperadapt.conditioning.z
    assert torch.equal(z, torch.tensor([vectors["shade"]]))


def test_a_long_run_does_not_make_a_transfer_long(trained: Path, tmp_path: Path) -> None:
    long = tmp_path / "run"
    shutil.copytree(trained / "run", long)
    as_of_an_earlier_version(long)  # which may be edited
    config = (long / "config.yaml").read_text()
    assert "max_steps: 4" in config
    (long / "config.yaml").write_text(config.replace("max_steps: 4", "max_steps: 262144"))
    shade = str(trained / "tasks/shade.yaml")
    assert fewshot_config(long, shade).training.max_steps == 5000
    assert fewshot_config(long, shade, overrides=["training.max_steps=6000"]).training.max_steps == 6000
    assert fewshot_config(trained / "run", shade).training.max_steps == 4


def test_rows_for_fewer_are_among_the_rows_for_more_and_follow_the_seed() -> None:
    task, drawn = TASKS["sentiment" if "sentiment" in TASKS else resolve_tasks(["builtin"])[0].name], {}
    for seed in (1, 2):
        for samples in (4, 16, 32):
            drawn[seed, samples] = load_split(task, "train", None, samples, seed)["source"]
        assert drawn[seed, 4] == drawn[seed, 16][:4] == drawn[seed, 32][:4]
        assert drawn[seed, 16] == load_split(task, "train", None, 16, seed)["source"]
    assert drawn[1, 16] != drawn[2, 16]


def test_balanced_rows_hold_as_many_of_each_class_while_it_lasts(trained: Path) -> None:
    rows = [{"text": f"row {number}", "label": int(number % 6 == 0)} for number in range(60)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (trained / "skewed.jsonl").write_text(lines)
    spec = {"name": "skewed", "fields": ["text"], "labels": ["many", "few"], "metrics": ["accuracy"]}
    (trained / "skewed.yaml").write_text(yaml.safe_dump({**spec, "files": {"train": "skewed.jsonl"}}))
    [task] = resolve_tasks([str(trained / "skewed.yaml")])

    def drawn(samples: int, balanced: bool) -> list[int]:
        return [row["label"] for _, row in read_split(task, "train", None, samples, 7, balanced)]

    assert Counter(drawn(12, True)) == {0: 6, 1: 6}
    assert Counter(drawn(30, True)) == {0: 20, 1: 10}
    assert drawn(12, True) == drawn(30, True)[:12]
    assert Counter(drawn(12, False)) != {0: 6, 1: 6}


@pytest.mark.parametrize("name", TRANSFER)
def test_the_local_copy_is_read_whole(shared: Path, name: str) -> None:
    task = TRANSFER[name]
    splits = ("train", "validation") if name in ("scitail", "paws") else ("train", "validation", "test")
    for split in splits:
        rows = load_split(task, split, shared / "data", prefix=True)
        assert set(rows["target"]) == {str(number) for number in range(len(task.labels or ()))}
        assert all(source.startswith(task.prefix or name) for source in rows["source"])
