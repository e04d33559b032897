"""Which checkpoint a training keeps, and how long it goes on: by the best of some tasks, the last, epochs, patience."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from hyperadapt.config.written import RunConfig
from hyperadapt.errors import UserError
from hyperadapt.files import manifest
from hyperadapt.model.file import read
from hyperadapt.model.load import load
from hyperadapt.runs.predictions import by_task, read_predictions
from hyperadapt.runs.run import load_run
from hyperadapt.training.trainer import MixtureTrainer
from tiny_run import assert_one_line, contents, hyperadapt, write_config, write_tasks

EIGHT = {"max_steps": 8, "batch_size": 16, "eval_steps": 2, "learning_rate": 1e-2, "logging_steps": 1}
# Of the validation rows after steps 2, 4, 6 and 8.
SCORES = {"colour": (10.0, 40.0, 20.0, 30.0), "warmth": (50.0, 10.0, 60.0, 20.0)}
# The average is the best after step 4, warmth so far after step 2.
OF_EACH = {"colour": (10.0, 40.0, 20.0, 30.0), "warmth": (50.0, 50.0, 60.0, 20.0)}
BEST_STEPS = {"warmth": 6, "colour": 4}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a run of eight steps and four evaluations."""
    return write_config(tmp_path, write_tasks(tmp_path / "tasks"), training=EIGHT)


def know_scores(monkeypatch: pytest.MonkeyPatch, scores: Mapping[str, Sequence[float]]) -> None:
    """Let the validation rows score what is known before."""
    score = MixtureTrainer.score

    def known(self: MixtureTrainer, rows: Any) -> Any:
        results = score(self, rows)
        place = self.state.global_step // 2 - 1
        if rows is self.evaluation_set and 0 <= place < 4:
            for of in results.scores:
                object.__setattr__(of, "score", scores[of.task][place])
            object.__setattr__(results, "average", fmean(of.score for of in results.scores))
        return results

    monkeypatch.setattr(MixtureTrainer, "score", known)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation scores that are known before."""
    know_scores(monkeypatch, SCORES)


@pytest.fixture(scope="module")
def of_each(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that keeps the best of each task; for reading only."""
    directory = tmp_path_factory.mktemp("each")
    tasks = write_tasks(directory / "tasks")[::-1]  # the task whose best is the later one comes first
    write_config(directory, tasks, training={**EIGHT, "keep": "best_per_task", "patience": 1})
    with pytest.MonkeyPatch.context() as monkeypatch:
        know_scores(monkeypatch, OF_EACH)
        outcome = hyperadapt("train", directory / "config.yaml")
    assert outcome.code == 0, outcome.err
    return directory / "run"


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def model_of(run: Path, step: int) -> dict[str, Any]:
    return read(run / f"checkpoints/checkpoint-{step}")[1]


def evaluated_steps(run: Path) -> list[int]:
    history = json.loads((run / "history.json").read_text())
    return [entry["step"] for entry in history if "eval_average" in entry]


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize(
    ("options", "best", "caption"),
    [
        ((), 6, "best average"),
        (("training.best_by=colour",), 4, "best average of colour"),
        (("training.best_by=[warmth, colour]",), 6, "best average of warmth, colour"),
        (("training.keep=last",), 8, "last step"),
    ],
)
def test_the_checkpoint_that_is_kept_is_the_one_that_was_chosen(
    config: Path, tmp_path: Path, options: Sequence[str], best: int, caption: str
) -> None:
    outcome = hyperadapt("train", config, "training.save_total_limit=4", *options)
    assert outcome.code == 0, outcome.err
    run = tmp_path / "run"
    assert results_of(run)["best_step"] == best
    kept, chosen = read(run / "model")[1], model_of(run, best)
    assert all((kept[name] == chosen[name]).all() for name in chosen)
    assert hyperadapt("report", run).code == 0
    assert f"The checkpoint of the {caption} was kept." in (run / "report.html").read_text()


@pytest.mark.usefixtures("scored")
def test_training_stops_where_evaluations_bring_nothing_better_on_resume_too(
    config: Path, tmp_path: Path
) -> None:
    patient = ("training.best_by=colour", "training.patience=2")
    outcome = hyperadapt("train", config, *patient)
    assert outcome.code == 0, outcome.err
    assert (
        "training stops after step 8: 2 evaluations brought nothing better" in outcome.err
    )  # 40, then 20 and 30
    hasty = hyperadapt(
        "train", config, "training.best_by=warmth", "training.patience=1", f"output_dir={tmp_path / 'b'}"
    )
    assert "training stops after step 4: 1 evaluations" in hasty.err
    assert evaluated_steps(tmp_path / "b") == [2, 4]
    assert results_of(tmp_path / "b")["steps"] == 4
    resumed = hyperadapt(
        "train",
        config,
        "training.best_by=warmth",
        "training.patience=3",
        f"output_dir={tmp_path / 'b'}",
        "--resume",
    )
    assert resumed.code == 0, resumed.err
    assert evaluated_steps(tmp_path / "b") == [2, 4, 6, 8]  # 60 at step 6 is better


def checkpoints_of(run: Path) -> list[str]:
    return sorted(folder.name for folder in (run / "checkpoints").iterdir())


def test_each_task_is_scored_by_the_checkpoint_that_is_best_for_it(of_each: Path) -> None:
    run, results = load_run(of_each), results_of(of_each)
    assert results["best_step"] == 4
    kept, chosen = read(of_each / "model")[1], model_of(of_each, 4)
    assert all((kept[name] == chosen[name]).all() for name in chosen)
    # Of two that are to be kept all three are needed, and no longer that of step 2.
    assert checkpoints_of(of_each) == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]
    # Were patience told by the average, it would have stopped at step 6.
    assert evaluated_steps(of_each) == [2, 4, 6, 8]
    for split in ("validation", "test"):
        scores, written = results[split], by_task(read_predictions(of_each, split, run.tasks))
        assert list(scores["tasks"]) == list(written) == list(BEST_STEPS)
        assert scores["average"] == fmean(of["score"] for of in scores["tasks"].values())
        for task, step in BEST_STEPS.items():
            model = load(of_each / f"checkpoints/checkpoint-{step}")
            alone = replace(run, model=model).evaluate(split, [task])
            assert scores["tasks"][task] == {**alone.as_dict()["tasks"][task], "step": step}
            assert [row.written for row in written[task]] == alone.predictions[0]


def test_scores_of_the_runs_model_do_not_take_the_place_of_each_tasks(of_each: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(of_each, tmp_path / "run"))
    before = contents(run)
    outcome = hyperadapt("evaluate", run, "--split", "validation")
    assert outcome.code == 0, outcome.err
    assert "note: the scores are of the run's model, and only printed" in outcome.err
    assert contents(run) == before
    outcome = hyperadapt("encoder-only", run, "--epochs", "1")
    assert outcome.code == 0, outcome.err
    assert "encoder-decoder" not in outcome.out
    assert "note: the scores of the whole model are not beside these" in outcome.err


def test_the_page_and_the_table_tell_by_which_checkpoint_a_task_is_scored(
    of_each: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(of_each, tmp_path / "run"))
    assert hyperadapt("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "best average was kept. Each task is scored by its own best checkpoint." in page
    assert page.count('<th class="number">step') == 2
    assert page.count('<td class="number">4\n') == 2
    resumed = hyperadapt("train", of_each.parent / "config.yaml", f"output_dir={run}", "--resume")
    assert resumed.code == 0, resumed.err
    rows = [[cell.strip() for cell in line.split("│")] for line in resumed.out.splitlines()]
    assert [row[-2] for row in rows if "colour" in row] == ["4", "4"]


class KilledError(BaseException):
    """What nothing hears of."""


def killed_at(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training end at once: in step 5, before checkpoint 6 is whole, as older ones are deleted, in its end."""

    def install(owner: Any, name: str, fatal: Callable[..., bool]) -> None:
        does = getattr(owner, name)

        def dies(*arguments: Any, **options: Any) -> Any:
            if fatal(*arguments):
                raise KilledError
            return does(*arguments, **options)

        monkeypatch.setattr(owner, name, dies)

    def half_deleted(folder: Path, *_: Any) -> bool:
        if of_2 := folder.name == "checkpoint-2":
            (folder / "model.safetensors").unlink()
        return of_2

    if place == "step":
        install(MixtureTrainer, "training_step", lambda trainer, *_: trainer.state.global_step == 4)
    elif place == "checkpoint":
        install(manifest, "add", lambda folder, *_: folder.name == "checkpoint-6")
    elif place == "deletion":
        install(shutil, "rmtree", half_deleted)
    else:
        install(MixtureTrainer, "load_checkpoint", lambda trainer, step: step == 6)


@pytest.mark.parametrize("place", ["step", "checkpoint", "deletion", "end"])
def test_a_run_that_is_killed_comes_to_what_an_unbroken_one_does(
    of_each: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    know_scores(monkeypatch, OF_EACH)
    train = ("train", of_each.parent / "config.yaml", f"output_dir={tmp_path / 'run'}")
    with monkeypatch.context() as patched:
        killed_at(place, patched)
        with pytest.raises(KilledError):
            hyperadapt(*train)
    outcome = hyperadapt(*train, "--resume")
    assert outcome.code == 0, outcome.err
    assert checkpoints_of(tmp_path / "run") == checkpoints_of(of_each)
    found, unbroken = results_of(tmp_path / "run"), results_of(of_each)
    for name in ("validation", "test", "best_step", "train_loss"):
        assert found[name] == unbroken[name], name
    for split in ("validation", "test"):
        files = (run / f"predictions-{split}.jsonl.gz" for run in (tmp_path / "run", of_each))
        assert len({file.read_bytes() for file in files}) == 1
    kept, chosen = (read(run / "model")[1] for run in (tmp_path / "run", of_each))
    assert all((kept[name] == chosen[name]).all() for name in chosen)


def test_a_run_whose_best_checkpoint_of_a_task_is_gone_does_not_go_on(of_each: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(of_each, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints/checkpoint-4")
    before = contents(run)
    outcome = hyperadapt("train", of_each.parent / "config.yaml", f"output_dir={run}", "--resume")
    assert_one_line(outcome, "checkpoint-8 needs checkpoint-4, the best so far, which is missing")
    assert contents(run) == before


def test_each_tasks_best_is_chosen_anew_where_validation_rows_have_changed(
    of_each: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_scores(monkeypatch, OF_EACH)  # each is scored after step 8, and all score what that does
    shutil.copytree(of_each.parent, tmp_path / "all")
    file = tmp_path / "all/tasks/colour-validation.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:6]))
    tasks = ", ".join(str(tmp_path / f"all/tasks/{task}.yaml") for task in BEST_STEPS)
    moved = (
        f"output_dir={tmp_path / 'all/run'}",
        f"data.tasks=[{tasks}]",
        "--resume",
        "--allow-changed-data",
    )
    outcome = hyperadapt("train", of_each.parent / "config.yaml", *moved)
    assert outcome.code == 0, outcome.err
    assert all(f"that of step {step} scores 25.00" in outcome.err for step in (4, 6, 8))
    scores = results_of(tmp_path / "all/run")["validation"]["tasks"]
    assert [of["step"] for of in scores.values()] == [4, 4]  # the first of equals


def test_epochs_are_steps_for_as_many_rows_as_there_are(config: Path, tmp_path: Path) -> None:
    values = RunConfig.load(config).training
    assert values.with_steps(96) == values
    outcome = hyperadapt("train", config, "training.epochs=0.5")
    assert outcome.code == 0, outcome.err
    assert "note: training.epochs: 0.5 take 3 steps" in outcome.err
    assert results_of(tmp_path / "run")["steps"] == 3  # of 16 of twice 48 rows
    assert RunConfig.load(tmp_path / "run/config.yaml").training.epochs == 0.5
    outcome = hyperadapt("train", config, "training.epochs=1", "--resume")
    assert outcome.code == 0, outcome.err
    assert results_of(tmp_path / "run")["steps"] == 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("training.epochs=0", "training.epochs"),
        ("training.best_by=color", "training.best_by: 'color' is no task of the run; did you mean 'colour'?"),
        ("training.best_by=glue", "training.best_by: 'cola' is no task of the run"),
        (
            "training={keep: last, best_by: colour}",
            "keep: last keeps the last checkpoint, whatever it scores; leave",
        ),
        ("training={keep: last, patience: 2}", "leave patience out"),
        ("training={keep: best_per_task, best_by: colour}", "by its own score; leave best_by out"),
        ("training.keep=first", "training.keep"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(
    config: Path, tmp_path: Path, option: str, message: str
) -> None:
    assert_one_line(hyperadapt("train", config, option), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["epochs=2", "keep=last", "best_by=cola", "patience=2"])
def test_a_pretraining_has_no_tasks_to_choose_by(field: str) -> None:
    from hyperadapt.config.written import PretrainConfig

    assert PretrainConfig.load("pretrain/tiny-t5").training.keep == "best"
    leave_out = "choices: best" if "keep" in field else "leave it out"
    with pytest.raises(UserError, match=rf"training\.{field.partition('=')[0]}.*{leave_out}"):
        PretrainConfig.load("pretrain/tiny-t5", [f"training.{field}"])
