"""Scores of any size are written apart, compared as they are, and what is made of them is said."""

from __future__ import annotations

import json
import math
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from hyperadapt.errors import UserError
from hyperadapt.metrics import score_task
from hyperadapt.runs.run import load_run, load_tasks
from hyperadapt.tasks import TASKS, load_split, load_task_file
from hyperadapt.tasks.kinds import METRICS
from hyperadapt.tasks.scores import chosen_step, to_step
from tiny_run import assert_one_line, hyperadapt, write_config

SCORES = [round(number * 0.08 / 47, 3) for number in range(48)]  # 0.0 to 0.08, in thousandths
METRICS_OF_SCORES = ["pearson", "mae", "mse", "r2"]


def write_scores(directory: Path, scores: list[Any], name: str = "dose", **fields: Any) -> Path:
    """Write a task of scores, the same rows in all its splits."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": f"dose {number}", "label": score}) for number, score in enumerate(scores)]
    (directory / f"{name}.jsonl").write_text("\n".join(rows))
    spec = {
        "name": name,
        "files": dict.fromkeys(("train", "validation"), f"{name}.jsonl"),
        "fields": ["text"],
        "kind": "score",
        "metrics": METRICS_OF_SCORES,
        **fields,
    }
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    return directory / f"{name}.yaml"


def short(directory: Path, task: Path, **changes: Any) -> Path:
    """Write the configuration of a run of two steps."""
    training = {"max_steps": 2, "batch_size": 8, "eval_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}
    return write_config(directory, [str(task)], training=training, **changes)


@pytest.fixture(scope="module")
def dosed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on the small scores, and what its training said."""
    directory = tmp_path_factory.mktemp("dose")
    outcome = hyperadapt("train", short(directory, write_scores(directory, SCORES)))
    assert outcome.code == 0, outcome.err
    return directory / "run", outcome.err


def test_small_scores_get_a_step_that_tells_them_apart_and_it_is_said_once(dosed: tuple[Path, str]) -> None:
    run, said = dosed
    [note] = [line for line in said.splitlines() if "written to the nearest" in line]
    assert "task 'dose': scores from 0 to 0.08 are written to the nearest 0.001 " in note
    [task] = load_tasks(run / "tasks.yaml")
    assert task.step == 0.001
    targets = load_split(task, "train")["target"]
    assert [float(target) for target in targets] == SCORES, "the numbers as they are"
    assert len({task.written(target) for target in targets}) == len(set(SCORES))


def test_metrics_are_taken_against_the_numbers_of_the_rows(dosed: tuple[Path, str]) -> None:
    run = load_run(dosed[0])
    results = run.evaluate("validation")
    [score], [predictions] = results.scores, results.predictions
    answers = [read if math.isfinite(read := number_or_nan(text)) else -1.0 for text in predictions]
    assert score.metrics["mae"] == pytest.approx(mean_absolute_error(SCORES, answers))
    assert score.metrics["mse"] == pytest.approx(mean_squared_error(SCORES, answers))
    assert score.metrics["r2"] == pytest.approx(100 * r2_score(SCORES, answers))
    assert score.score == score.metrics["pearson"], "what has no bound is no part of the score"
    shown = hyperadapt("evaluate", dosed[0], "--split", "validation").out
    assert f"mae {score.metrics['mae']:.4g}" in shown


def number_or_nan(text: str) -> float:
    """Read a number, or what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def test_a_resumed_run_keeps_its_step_and_a_new_task_gets_its_own(
    dosed: tuple[Path, str], tmp_path: Path
) -> None:
    run, _ = dosed
    resumed = hyperadapt("train", run.parent / "config.yaml", "training.max_steps=3", "--resume")
    assert resumed.code == 0, resumed.err
    assert "written to the nearest" not in resumed.err
    assert load_tasks(run / "tasks.yaml")[0].step == 0.001
    weights = write_scores(tmp_path, [100 * number for number in range(20)], "weight")
    options = ("--task", weights, "--output-dir", tmp_path / "new", "training.max_steps=2")
    transferred = hyperadapt("fewshot", run, *options)
    assert transferred.code == 0, transferred.err
    assert "task 'weight': scores from 0 to 1900 are written to the nearest 2 " in transferred.err
    assert load_tasks(tmp_path / "new" / "tasks.yaml")[0].step == 2
    # Of one row another step would be chosen; the run that is gone on with has one.
    few = ("--task", run.parent / "dose.yaml", "--samples", "1", "--output-dir", tmp_path / "same")
    same = hyperadapt("fewshot", run, *few, "training.max_steps=1")
    assert same.code == 0, same.err
    assert load_tasks(tmp_path / "same" / "tasks.yaml")[0].step == 0.001


def test_a_run_of_the_version_without_a_step_goes_on_with_a_fifth(
    dosed: tuple[Path, str], tmp_path: Path
) -> None:
    specs = yaml.safe_load((dosed[0] / "tasks.yaml").read_text())
    del specs[0]["step"]
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(specs))
    assert load_tasks(tmp_path / "tasks.yaml")[0].step == 0.2


def test_right_answers_on_a_narrow_range_are_right(tmp_path: Path) -> None:
    task = load_task_file(write_scores(tmp_path, SCORES, metrics=["pearson", "spearman"]))
    targets = load_split(task, "train")["target"]
    assert score_task(task, [str(score) for score in SCORES], targets).score == pytest.approx(100)


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        (["0", "0.013", "0.08"], 0.001),
        (["1", "2", "3", "4", "5"], 1),
        (["0.4", "1.4", "2.4", "3.4"], 0.1),
        (["0", "10000", "30000"], 50),  # every thousandth of the range at most
        (["0.123456789", "0.987654321", "0.5"], 0.001),
        (["-5.25", "4.75"], 0.01),
        (["2500.37", "2510.2"], 0.01),
        (["7"], 1),
    ],
)
def test_the_step_is_the_last_decimal_or_a_thousandth_of_the_range(scores: list[str], step: float) -> None:
    assert chosen_step(scores) == step


def test_a_score_far_from_all_others_does_not_make_them_one() -> None:
    draw = random.Random(0)
    scores = [repr(draw.uniform(0, 5)) for _ in range(500)] + ["1000000"]
    step = chosen_step(scores)
    assert len({to_step(score, step) for score in scores}) >= 100


def test_scores_of_few_decimals_stay_what_they_are_and_others_lose_half_a_step_at_most() -> None:
    draw = random.Random(1)
    for decimals in range(4):
        for _ in range(20):
            low = draw.randrange(-50, 50)
            scores = {str(round(low + draw.uniform(0, 900 / 10**decimals), decimals)) for _ in range(30)}
            step = chosen_step(scores)
            assert all(Decimal(to_step(score, step)) == Decimal(score) for score in scores)
    for _ in range(50):
        scores = {repr(draw.gauss(0, 10 ** draw.uniform(-3, 3))) for _ in range(30)}
        step = chosen_step(scores)
        for score in scores:
            assert abs(float(to_step(score, step)) - float(score)) <= step * 0.5001


def test_sts_b_is_written_as_the_papers_write_it() -> None:
    for thousandths in range(5001):
        score = thousandths / 1000
        assert TASKS["stsb"].written(str(score)) == f"{round(score * 5) / 5:.1f}"
    assert [task.name for task in TASKS.values() if task.step] == ["stsb", "similarity"]


def test_single_precision_columns_give_the_numbers_that_were_meant(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    task = load_task_file(write_scores(tmp_path, SCORES))
    table = pyarrow.table({"text": ["a"] * 48, "label": pyarrow.array(SCORES, pyarrow.float32())})
    pyarrow.parquet.write_table(table, tmp_path / "dose.parquet")
    singles = task.model_copy(update={"files": {"train": tmp_path / "dose.parquet"}})
    assert load_split(singles, "train")["target"] == load_split(task, "train")["target"]


def test_errors_and_r2_agree_with_others_computations() -> None:
    draw = np.random.default_rng(0)
    targets, answers = draw.normal(2500, 40, 50), draw.normal(2500, 40, 50)
    texts = [str(answer) for answer in answers], [str(target) for target in targets]
    assert METRICS["mae"](*texts) == pytest.approx(mean_absolute_error(targets, answers))
    assert METRICS["mse"](*texts) == pytest.approx(mean_squared_error(targets, answers))
    assert METRICS["r2"](*texts) == pytest.approx(100 * r2_score(targets, answers))
    assert METRICS["r2"](texts[1], texts[1]) == 100
    assert METRICS["r2"](["1", "2"], ["3", "3"]) == 0


@pytest.mark.parametrize("metric", ["pearson", "mae", "mse"])
@pytest.mark.parametrize("broken", ["banana", "", "nan", "-inf", "1e308"])
def test_an_unreadable_answer_is_never_the_right_one(metric: str, broken: str) -> None:
    targets = ["-1", "0.5", "1", "-0.25"]
    right, wrong = METRICS[metric](targets, targets), METRICS[metric]([broken, *targets[1:]], targets)
    assert math.isfinite(wrong)
    assert wrong < right - 1 if metric == "pearson" else wrong >= 0.25
    by_hand = [-2.0, 0.5, 1, -0.25]
    assert METRICS["pearson"]([broken, *targets[1:]], targets) == pytest.approx(
        100 * pearsonr(by_hand, [float(target) for target in targets]).statistic
    )


def test_one_wild_answer_leaves_the_score_finite(tmp_path: Path) -> None:
    task = load_task_file(write_scores(tmp_path, SCORES))
    targets = [str(score) for score in SCORES]
    scored = score_task(task, ["9" * 300, "99999999999", *targets[2:]], targets)
    assert -100 <= scored.score <= 100
    assert scored.invalid == 1
    assert all(map(math.isfinite, scored.metrics.values()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": 0}, "field 'step' is 0: it must be more than 0"),
        ({"step": -0.2}, "field 'step' is -0.2: it must be more than 0"),
        ({"step": math.nan}, "field 'step' is nan: "),
        ({"kind": "text", "metrics": ["rougeL"], "step": 1}, "step is for kind 'score', but kind is 'text'"),
        (
            {"metrics": ["mae"]},
            "metrics: mae is only reported: a task's score, by which the best checkpoint is ",
        ),
        ({"metrics": ["r2", "mse"]}, "needs one of pearson, spearman beside"),
    ],
)
def test_what_cannot_be_a_step_or_a_score_is_one_line(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        load_task_file(write_scores(tmp_path, SCORES, **fields))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("score", "fields", "message"),
    [
        (1e308, {}, "line 49: column 'label' holds 1e+308, which is no score: the largest is 1e+15"),
        ("inf", {}, "line 49: column 'label' holds 'inf', which is no score"),
        (math.nan, {}, "line 49: column 'label' holds nan, which is no score"),
        (
            123456789,
            {"step": 1},
            "task 'dose': the score '123456789' takes 10 tokens, and max_target_length 8 cuts it to '1234567': set "
            "max_target_length to 10 or more, or choose a coarser step",
        ),
    ],
)
def test_numbers_that_cannot_be_written_are_one_line_and_nothing_is_written(
    score: Any, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = short(tmp_path, write_scores(tmp_path, [*SCORES, score], **fields))
    assert_one_line(hyperadapt("train", config), message)
    assert not (tmp_path / "run").exists()


def test_a_step_that_writes_all_scores_alike_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load_task_file(write_scores(tmp_path, SCORES, step=0.2))
    assert task.with_step(load_split(task, "train")["target"]).step == 0.2
    assert capsys.readouterr().err == (
        "note: task 'dose': scores from 0 to 0.08 are all written '0.0' with step 0.2; step: 0.001 tells them apart\n"
    )
