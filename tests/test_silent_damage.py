"""No damage is silent: every file of a run and of its checkpoints is checked before it is read, and named."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hyperadapt as ha
from hyperadapt.errors import CheckpointError
from hyperadapt.files import manifest
from hyperadapt.model.file import read
from hyperadapt.runs import results_file, same_data
from hyperadapt.runs.run import load_run
from hyperadapt.studies.report import read_history
from hyperadapt.training.checkpoints import last_checkpoint
from tiny_run import BASE, as_of_an_earlier_version, assert_one_line, hyperadapt, write_config, write_tasks

SHORT = {"max_steps": 6, "batch_size": 8, "eval_steps": 2, "logging_steps": 4, "save_total_limit": 3}
METHOD = {"name": "hyperformer++", "reduction_factor": 2, "task_embedding_dim": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of six steps with dropout, its run, and another seed's; for reading only."""
    folder = tmp_path_factory.mktemp("damage")
    model = {"config": {**BASE, "dropout_rate": 0.1}, "tokenizer": "bytes"}
    write_config(folder, write_tasks(folder / "tasks"), model=model, method=METHOD, training=SHORT)
    for seed, name in ((1, "run"), (2, "other")):
        finish("train", folder / "config.yaml", f"seed={seed}", f"output_dir={folder / name}")
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(folder / "run", tmp_path / "run"))


def finish(*command: object) -> str:
    outcome = hyperadapt(*command)
    assert outcome.code == 0, outcome.err
    return outcome.err


def resume(folder: Path, run: Path, *overrides: str) -> list[object]:
    return ["train", folder / "config.yaml", "seed=1", f"output_dir={run}", *overrides, "--resume"]


def notes(written: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", written) if line.startswith("note: ")]


def flip(file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def shorten(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path, other: Path) -> None:
    file.write_bytes(b"")


def delete(file: Path, other: Path) -> None:
    file.unlink()


def swap(file: Path, other: Path) -> None:
    shutil.copyfile(other, file)


DAMAGES = (flip, shorten, empty, delete, swap)


def read_all(run: Path) -> None:
    """Read everything that evaluate, predict, report and resume read of a finished run."""
    load_run(run)
    results_file.read(run)
    read_history(run)
    same_data.read(run)


def files_of(directory: Path) -> list[str]:
    files = (str(path.relative_to(directory)) for path in sorted(directory.rglob("*")) if path.is_file())
    return [name for name in files if not name.startswith("checkpoints/")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damaged_file_of_a_run_is_named_in_one_line(
    folder: Path, run: Path, damage: Callable[[Path, Path], None]
) -> None:
    read_all(run)
    tried = 0
    for name in files_of(run):
        if name.startswith("predictions-"):
            continue  # the report alone reads them, which tells damage by gzip's own checksum
        before, other = (run / name).read_bytes(), folder / "other" / name
        damage(run / name, other)
        if damage is swap and other.read_bytes() == before:
            continue  # of both runs alike
        with pytest.raises(CheckpointError) as error:
            read_all(run)
        assert "\n" not in str(error.value)
        # Another run's manifest is found by the first file that it does not fit.
        assert Path(name).name in str(error.value) or (name, damage) == ("manifest.json", swap)
        (run / name).write_bytes(before)
        tried += 1
    assert tried >= (6 if damage is swap else 12)
    read_all(run)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damaged_file_of_a_checkpoint_is_found_and_an_older_one_is_gone_on_from(
    folder: Path, run: Path, damage: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = run / "checkpoints"
    last, older = checkpoints / "checkpoint-6", checkpoints / "checkpoint-4"
    assert last_checkpoint(checkpoints) == last
    state = json.loads((older / "trainer_state.json").read_text())
    best_is_there = (checkpoints / f"checkpoint-{state['best_global_step']}").is_dir()
    assert best_is_there
    names = files_of(last)
    assert {"rng_state.pth", "scheduler.pt", "optimizer.pt", "model.safetensors"} < set(names)
    for name in names:
        before, other = (last / name).read_bytes(), folder / "other/checkpoints/checkpoint-6" / name
        damage(last / name, other)
        if damage is swap and other.read_bytes() == before:
            continue
        capsys.readouterr()
        assert last_checkpoint(checkpoints) == older, name
        said = notes(capsys.readouterr().err)
        if (name, damage) == ("manifest.json", delete):
            assert len(said) == 1
            assert "checkpoint-6 was cut short; going on from checkpoint-4" in said[0]  # as a kill leaves it
        else:
            assert len(said) == 1
            assert "checkpoint-6" in said[0]
            assert said[0].endswith("going on from checkpoint-4")
            assert name in said[0] or (name, damage) == ("manifest.json", swap)
        (last / name).write_bytes(before)
    for checkpoint in checkpoints.iterdir():
        shorten(checkpoint / "optimizer.pt", checkpoint)
    with pytest.raises(
        CheckpointError, match=r"optimizer\.pt is truncated .*; no checkpoint before it is whole"
    ):
        last_checkpoint(checkpoints)


def test_a_resume_past_a_damaged_checkpoint_says_so_and_equals_the_unbroken_run(
    folder: Path, run: Path
) -> None:
    flip(run / "checkpoints/checkpoint-6/rng_state.pth", run)
    said = [note for note in notes(finish(*resume(folder, run))) if "rows stand among" not in note]
    assert len(said) == 1
    assert "rng_state.pth is corrupted or another" in said[0]
    whole, resumed = (load_file(of / "model/model.safetensors") for of in (folder / "run", run))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert last_checkpoint(run / "checkpoints") == run / "checkpoints/checkpoint-6"


def test_losses_and_seconds_of_a_resumed_run_are_the_unbroken_runs(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = ["train", folder / "config.yaml", "seed=1", f"output_dir={run}"]
    finish(*start, "training.max_steps=2")  # between two logs
    kept = json.loads((run / "checkpoints/checkpoint-2/trainer_state.json").read_text())
    totals = kept["stateful_callbacks"]["Totals"]["attributes"]
    finish(*resume(folder, run))
    whole, resumed = (json.loads((of / "results.json").read_text()) for of in (folder / "run", run))
    histories = [json.loads((of / "history.json").read_text()) for of in (folder / "run", run)]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 1
    assert resumed["train_loss"] == whole["train_loss"]
    assert resumed["train_seconds"] >= round(totals["seconds"], 1)
    last = json.loads((run / "checkpoints/checkpoint-6/trainer_state.json").read_text())
    later = last["stateful_callbacks"]["Totals"]["attributes"]
    assert later["laps"][: len(totals["laps"])] == totals["laps"]
    assert sum(steps for steps, _ in later["laps"]) == 6
    assert later["seconds"] > totals["seconds"]


class Marker:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt"])
def test_a_pickle_that_would_run_code_is_one_line_and_never_runs(
    folder: Path, run: Path, tmp_path: Path, name: str
) -> None:
    as_of_an_earlier_version(run)
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / name).write_bytes(pickle.dumps(Marker(tmp_path / "ran"), protocol=2))
    outcome = hyperadapt(*resume(folder, run, "training.max_steps=8"))
    errors = [line for line in re.split(r"[\r\n]+", outcome.err) if line.startswith("error: ")]
    assert outcome.code == 2
    assert len(errors) == 1
    assert name in errors[0]
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "ran").exists()


def test_runs_of_earlier_versions_load_resume_and_say_that_they_cannot_be_checked(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_of_an_earlier_version(run)
    read_all(run)
    said = notes(capsys.readouterr().err)
    assert sum("has no manifest.json" in note for note in said) == 1
    assert sum("knows its base model by 64 samples" in note for note in said) == 1
    said = notes(finish(*resume(folder, run, "training.max_steps=8")))
    assert sum("has no manifest.json" in note for note in said) == 1
    capsys.readouterr()
    read_all(run)
    assert notes(capsys.readouterr().err) == []  # it has a manifest by now


def test_the_best_model_of_a_run_that_was_moved_is_kept(folder: Path, run: Path) -> None:
    as_of_an_earlier_version(run)
    for checkpoint in (run / "checkpoints").iterdir():
        file = checkpoint / "trainer_state.json"
        state = {**json.loads(file.read_text()), "best_global_step": 2, "best_metric": 1000.0}
        file.write_text(json.dumps({**state, "best_model_checkpoint": "/nowhere/checkpoint-2"}))
    finish(*resume(folder, run))
    checkpoints = run / "checkpoints"
    places = checkpoints / "checkpoint-2", checkpoints / "checkpoint-6", run / "model"
    best, last, kept = (read(place)[1] for place in places)
    assert all(torch.equal(best[name], kept[name]) for name in best)
    assert not all(torch.equal(best[name], last[name]) for name in best)


def test_a_saved_model_and_a_base_within_a_run_are_checked_whoever_reads_them(
    folder: Path, run: Path, tmp_path: Path
) -> None:
    ha.load(run / "model")
    shutil.copyfile(folder / "other/model/model.safetensors", run / "model/model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is corrupted or another"):
        ha.load(run / "model")
    flip(run / "base/model.safetensors", run)
    config = write_config(
        tmp_path, write_tasks(tmp_path / "tasks"), model={"name": str(run / "base"), "tokenizer": "bytes"}
    )
    assert_one_line(
        hyperadapt("train", config, f"output_dir={tmp_path / 'new'}"),
        "base/model.safetensors is corrupted or another",
    )


def test_a_resume_onto_another_base_model_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run/base", tmp_path / "base")
    config = write_config(
        tmp_path,
        write_tasks(tmp_path / "tasks"),
        model={"name": str(tmp_path / "base"), "tokenizer": "bytes"},
        training={**SHORT, "max_steps": 2},
    )
    finish("train", config)
    shutil.copyfile(folder / "other/base/model.safetensors", tmp_path / "base/model.safetensors")
    outcome = hyperadapt("train", config, "training.max_steps=4", "--resume")
    assert_one_line(outcome, "was trained on another base model: ")


# ------------------------------------------------------------------------------------------- killed at the end


class KilledError(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize(
    "place", ["hyperadapt.runs.results_file.write", "hyperadapt.runs.train.write_atomically"]
)
def test_a_run_killed_while_it_writes_its_end_is_unfinished_for_everyone_and_resume_finishes_it(
    folder: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    write = results_file.write_atomically

    def killed(file: Path, content: Any) -> None:
        if not isinstance(content, bytes) or file.name == "history.json":
            raise KilledError
        write(file, content)

    monkeypatch.setattr(place, killed)
    command = ["train", folder / "config.yaml", "seed=1", "training.max_steps=2", f"output_dir={run}"]
    with pytest.raises(KilledError):
        hyperadapt(*command)
    monkeypatch.undo()
    assert (run / "model").is_dir()
    task = folder / "tasks/colour.yaml"
    for reader in (
        ["evaluate", run],
        ["report", run],
        ["predict", run, "--task", "colour"],
        ["embed", run],
        ["encoder-only", run],
        ["fewshot", run, "--task", task],
    ):
        assert_one_line(
            hyperadapt(*reader, stdin='{"text": "red"}\n'),
            f"the run {run} is not finished (it has no results.json); go on with",
        )
    finish(*command, "--resume")
    read_all(run)
    assert hyperadapt("report", run).code == 0


def test_results_are_those_of_their_own_model_and_evaluate_keeps_them_so(folder: Path, run: Path) -> None:
    finish("evaluate", run, "--split", "train")
    assert "train" in results_file.read(run)
    finish(*resume(folder, run, "training.max_steps=8"))
    assert "train" not in results_file.read(run), "the scores of the model before are not this one's"


def test_a_manifest_lists_every_file_that_is_read(folder: Path) -> None:
    listed = manifest.listed(folder / "run")
    assert listed is not None
    unlisted = {name for name in files_of(folder / "run") if name not in listed}
    predictions = {"predictions-validation.jsonl.gz", "predictions-test.jsonl.gz"}
    assert unlisted == {"manifest.json", "results.json", *predictions}
    for checkpoint in (folder / "run/checkpoints").iterdir():
        assert set(manifest.listed(checkpoint) or {}) | {"manifest.json"} == set(files_of(checkpoint))
