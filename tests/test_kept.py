"""Which checkpoint a training keeps, and how long it goes on: by the best of some tasks, the last, epochs, patience."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from hyperadapt.checkpoint import read
from hyperadapt.config import RunConfig
from hyperadapt.errors import UserError
from hyperadapt.training import MixtureTrainer
from tiny_run import assert_one_line, hyperadapt, write_config, write_tasks

EIGHT = {"max_steps": 8, "batch_size": 16, "eval_steps": 2, "learning_rate": 1e-2, "logging_steps": 1}
# Of the validation rows after steps 2, 4, 6 and 8.
SCORES = {"colour": (10.0, 40.0, 20.0, 30.0), "warmth": (50.0, 10.0, 60.0, 20.0)}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a run of eight steps and four evaluations."""
    return write_config(tmp_path, write_tasks(tmp_path / "tasks"), training=EIGHT)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation scores that are known before."""
    score = MixtureTrainer.score

    def known(self: MixtureTrainer, rows: Any) -> Any:
        results = score(self, rows)
        place = self.state.global_step // 2 - 1
        if rows is self.evaluation_set and 0 <= place < 4:
            for of in results.scores:
                object.__setattr__(of, "score", SCORES[of.task][place])
            object.__setattr__(results, "average", fmean(of.score for of in results.scores))
        return results

    monkeypatch.setattr(MixtureTrainer, "score", known)


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


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
    kept, chosen = (read(run / place)[1] for place in ("model", f"checkpoints/checkpoint-{best}"))
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
    from hyperadapt.config import PretrainConfig

    assert PretrainConfig.load("pretrain/tiny-t5").training.keep == "best"
    leave_out = "choices: best" if "keep" in field else "leave it out"
    with pytest.raises(UserError, match=rf"training\.{field.partition('=')[0]}.*{leave_out}"):
        PretrainConfig.load("pretrain/tiny-t5", [f"training.{field}"])
