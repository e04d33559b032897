"""Metrics against values worked out by hand, and what they make of answers that are none."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from hyperadapt.errors import UserError
from hyperadapt.metrics import TaskScore, average, score_task
from hyperadapt.tasks import Task, get_task
from hyperadapt.tasks.kinds import KINDS, METRICS

#  right, false alarm, miss, right, right, miss: 2 hits, 1 false alarm, 2 misses, 1 correct rejection
ANSWERS = ["1", "1", "0", "0", "1", "0"]
TARGETS = ["1", "0", "1", "0", "1", "1"]


def test_accuracy_is_the_share_of_equal_texts():
    assert METRICS["accuracy"](ANSWERS, TARGETS) == pytest.approx(100 * 3 / 6)


def test_f1_is_that_of_the_positive_class():
    assert METRICS["f1"](ANSWERS, TARGETS) == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 2))


def test_matthews_agrees_with_its_formula():
    hits, rejections, alarms, misses = 2, 1, 1, 2
    by_hand = (hits * rejections - alarms * misses) / math.sqrt(
        (hits + alarms) * (hits + misses) * (rejections + alarms) * (rejections + misses)
    )
    assert METRICS["matthews"](ANSWERS, TARGETS) == pytest.approx(100 * by_hand)
    assert METRICS["matthews"](["1", "0", "1"], ["1", "0", "1"]) == pytest.approx(100)


def test_macro_f1_averages_the_f1_of_each_class():
    answers, targets = ["0", "0", "1", "2"], ["0", "1", "1", "1"]
    # class 0: 1 hit, 1 false alarm, no miss; class 1: 1 hit, no false alarm, 2 misses
    assert METRICS["macro_f1"](answers, targets) == pytest.approx(100 * (2 / 3 + 2 / 4) / 2)


def test_an_invalid_answer_counts_as_the_opposite_of_its_target_in_f1():
    for broken, read_as in (("banana", "0"), ("7", "0"), ("", "0")):
        assert METRICS["f1"]([broken, "1"], ["1", "1"]) == METRICS["f1"]([read_as, "1"], ["1", "1"])
    assert METRICS["f1"](["banana", "1"], ["0", "1"]) == METRICS["f1"](["1", "1"], ["0", "1"])


def test_an_invalid_answer_is_a_class_of_its_own_in_matthews():
    assert METRICS["matthews"](["banana"] * 4, ["0", "1", "1", "0"]) == 0
    # The multi-class coefficient (Gorodkin, 2004) of the answers 1 0 x and targets 1 0 1: 3 rows, 2 right,
    # answers of each class (1, 1, 1), targets (1, 2, 0).
    by_hand = (2 * 3 - (1 * 1 + 1 * 2)) / math.sqrt((9 - 3) * (9 - 5))
    assert METRICS["matthews"](["1", "0", "banana"], ["1", "0", "1"]) == pytest.approx(100 * by_hand)
    one_kind = METRICS["matthews"](["1", "x", "x"], ["1", "0", "1"])
    assert METRICS["matthews"](["1", "x", "y"], ["1", "0", "1"]) == one_kind


@pytest.mark.parametrize("metric", ["accuracy", "f1", "macro_f1", "matthews"])
@pytest.mark.parametrize("target", ["0", "1"])
def test_an_invalid_answer_is_never_better_than_a_right_one(metric: str, target: str):
    targets = [*TARGETS, target]
    assert METRICS[metric]([*ANSWERS, "banana"], targets) < METRICS[metric]([*ANSWERS, target], targets)


def test_pearson_agrees_with_its_formula():
    # deviations (-1, 0, 1) and (-1.2, 0.2, 1.0)
    by_hand = (1.2 + 1.0) / math.sqrt(2 * (1.44 + 0.04 + 1.0))
    assert METRICS["pearson"](["1.0", "2.0", "3.0"], ["0.4", "1.8", "2.6"]) == pytest.approx(100 * by_hand)


def test_spearman_agrees_with_its_formula():
    # ranks 1 3 2 4 against 1 2 3 4: 1 - 6 * sum of squared differences / (n (n^2 - 1))
    by_hand = 1 - 6 * 2 / (4 * 15)
    assert METRICS["spearman"](["0.2", "3.0", "0.4", "4.8"], ["0.0", "1.0", "2.0", "3.0"]) == pytest.approx(
        100 * by_hand
    )


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_an_unreadable_score_counts_as_minus_one_and_constant_scores_as_zero(metric: str):
    targets = ["0.4", "3.8", "5.0"]
    as_minus_one = METRICS[metric](["1.0", "-1", "4.0"], targets)
    assert as_minus_one < 100
    for broken in ("banana", "", "nan", "inf"):
        assert METRICS[metric](["1.0", broken, "4.0"], targets) == as_minus_one
    assert METRICS[metric](["3.0", "3.0", "3.0"], targets) == 0
    assert METRICS[metric](["1.0", "2.0", "3.0"], ["2.0", "2.0", "2.0"]) == 0


def test_exact_match_ignores_case_and_white_space():
    assert METRICS["exact_match"]([" The  Hague", "Bonn", "Rome"], ["the hague", "Berlin", "ROME "]) == (
        pytest.approx(100 * 2 / 3)
    )


def test_every_metric_is_for_one_kind_of_target():
    # But those of texts, which an answer in a chat is too.
    kinds = [kind for kind in KINDS.values() if not kind.is_chat]
    assert sorted(metric for kind in kinds for metric in kind.metrics) == sorted(METRICS)


def test_a_tasks_score_is_the_mean_of_its_metrics():
    score = score_task(get_task("mrpc"), [" 1\n", "1", "0", "maybe"], ["1", "0", "1 ", "0"])
    # 1 hit, 2 false alarms (the invalid answer to a 0 is one), 1 miss
    assert score.metrics == pytest.approx({"accuracy": 25, "f1": 100 * 2 / (2 + 2 + 1)})
    assert score == TaskScore("mrpc", score.metrics, score=pytest.approx((25 + 40) / 2), rows=4, invalid=1)


def test_the_average_is_over_tasks_and_not_over_rows():
    scores = [
        TaskScore("cola", {}, 20.0, rows=1000, invalid=0),
        TaskScore("rte", {}, 60.0, rows=1, invalid=0),
    ]
    assert average(scores) == 40


def test_scores_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"^task 'rte': cannot score 2 predictions of 1 rows$"):
        score_task(get_task("rte"), ["1", "0"], ["1"])
    with pytest.raises(UserError, match=r"^task 'rte': cannot score 0 predictions of 0 rows$"):
        score_task(get_task("rte"), [], [])
    with pytest.raises(UserError, match=r"^no task was scored: there is nothing to average$"):
        average([])


def test_a_task_may_be_scored_by_some_of_its_metrics() -> None:
    task = get_task("mrpc")
    predictions, targets = ["1", "1", "0", "0"], ["1", "0", "1", "0"]
    whole = score_task(task, predictions, targets)
    assert set(whole.metrics) == {"accuracy", "f1"}
    for metric in task.metrics:
        alone = score_task(task.model_copy(update={"scored_by": (metric,)}), predictions[:3], targets[:3])
        assert set(alone.metrics) == {"accuracy", "f1"}  # all are reported
        assert alone.score == alone.metrics[metric]
    assert get_task("mrqa-squad").scoring_metrics == ("answer_f1",)
    assert get_task("xsum").scoring_metrics == ("rouge2",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scored_by": ["f1"]}, "scored_by: 'f1' is none of the metrics; choices: accuracy"),
        (
            {"kind": "score", "labels": None, "metrics": ["pearson", "mse"], "scored_by": "mse"},
            "scored_by: 'mse' is only reported; choices: pearson",
        ),
    ],
)
def test_what_a_task_cannot_be_scored_by_is_refused(changes: dict[str, Any], message: str) -> None:
    values = {"name": "a", "files": {"train": "a.jsonl"}, "fields": ["text"], "labels": ["no", "yes"]}
    with pytest.raises(ValueError, match=re.escape(message)):
        Task(**{**values, "metrics": ["accuracy"], **changes})
