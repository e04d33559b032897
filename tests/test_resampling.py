"""Scores on rows drawn with replacement are those of the metrics themselves; intervals are those of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from hyperadapt.studies.resampling import (
    METRIC_ON_DRAWS,
    Interval,
    draws_of,
    holm,
    mean_of,
    over_both,
    over_rows,
    over_seeds,
    resampled,
    unpaired,
)
from hyperadapt.tasks import TASKS
from hyperadapt.tasks.kinds import METRICS

RANDOM = Random(1)
CLASSES = [RANDOM.choice("01") for _ in range(40)], [RANDOM.choice("01") for _ in range(40)]
THREE = [RANDOM.choice("0122x") for _ in range(40)], [RANDOM.choice("0012") for _ in range(40)]
SCORES = (
    [RANDOM.choice(["1.0", "2.0", "x", "3.5"]) for _ in range(40)],
    [f"{RANDOM.randint(0, 5)}.0" for _ in range(40)],
)
WORDS = [" ".join(RANDOM.choices("abcd", k=5)) for _ in range(80)]
ROWS: dict[str, tuple[Sequence[str], Sequence[Any]]] = {
    "accuracy": THREE,
    "f1": ([*CLASSES[0][:35], *"xx000"], CLASSES[1]),
    "macro_f1": THREE,
    "matthews": THREE,
    "pearson": SCORES,
    "spearman": SCORES,
    "answer_f1": (WORDS[:40], [(text, "b") for text in WORDS[40:]]),
    "answer_exact_match": (WORDS[:40], [(text, WORDS[0]) for text in WORDS[40:]]),
    "rouge2": (WORDS[:40], WORDS[40:]),
    "coreference_accuracy": (WORDS[:40], [(text, RANDOM.choice("01")) for text in WORDS[:40]]),
}


@pytest.mark.parametrize("metric", ROWS)
def test_a_metric_on_draws_is_the_metric_of_the_rows_that_were_drawn(metric: str) -> None:
    texts, targets = ROWS[metric]
    [counts] = draws_of(range(len(texts)), seed=3, draws=25)
    assert (counts.sum(1) == len(texts)).all()
    found = METRIC_ON_DRAWS.get(metric, mean_of(metric))(texts, targets)(counts)
    for value, times in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(len(texts)), times.astype(int))
        again = METRICS[metric]([texts[row] for row in rows], [targets[row] for row in rows])
        assert value == pytest.approx(again, abs=1e-9)
    assert len(set(found)) > 2  # draws differ


def test_answers_to_one_question_are_drawn_together() -> None:
    task = TASKS["multirc"]
    texts = ["True", "False", "True", "True", "False", "False"]
    targets = [("True", "a"), ("False", "a"), ("True", "b"), ("False", "b"), ("False", "c"), ("False", "c")]
    found = resampled(task, texts, targets, draws=300)["group_exact_match"]
    # Of three questions two are right; as many as are drawn of those, and no draw parts a question.
    assert set(np.round(found, 6)) == {0.0, 33.333333, 66.666667, 100.0}
    assert found.mean() == pytest.approx(200 / 3, abs=5)


def test_a_question_that_is_drawn_twice_is_two() -> None:
    texts = [RANDOM.choice("01") for _ in range(40)]
    targets = [
        (text if RANDOM.random() < 0.7 else "x", f"question {row // 4}") for row, text in enumerate(texts)
    ]
    [counts] = draws_of([group for _, group in targets], seed=5, draws=25)
    found = METRIC_ON_DRAWS["group_exact_match"](texts, targets)(counts)
    for value, times in zip(found, counts, strict=True):
        rows = [(row, time) for row, often in enumerate(times) for time in range(int(often))]
        again = METRICS["group_exact_match"](
            [texts[row] for row, _ in rows],
            [(targets[row][0], f"{targets[row][1]} {time}") for row, time in rows],
        )
        assert value == pytest.approx(again)
    assert len(set(found)) > 2


@pytest.mark.parametrize("rows", [30, 700])
def test_draws_are_with_replacement_and_of_as_many_rows(rows: int) -> None:
    [counts] = draws_of(range(rows), seed=2, draws=200)
    assert (counts.sum(1) == rows).all()
    assert counts.mean() == 1.0
    assert counts.var() == pytest.approx(1 - 1 / rows, rel=0.1)  # a binomial's
    assert (counts == 0).mean() == pytest.approx((1 - 1 / rows) ** rows, rel=0.05)


def test_both_runs_are_scored_on_the_same_draws_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["cola"]
    texts, targets = (["unacceptable" if text == "0" else "acceptable" for text in of] for of in CLASSES)
    whole = resampled(task, texts, targets, draws=10)["matthews"]
    monkeypatch.setattr("hyperadapt.studies.resampling.DRAWN_AT_ONCE", 3 * len(texts))
    parts = resampled(task, texts, targets, draws=10)["matthews"]
    assert parts == pytest.approx(whole)


def test_the_interval_over_seeds_is_that_of_the_t_test() -> None:
    differences = [1.0, 2.5, 0.5, 3.0]
    test = ttest_1samp(differences, 0)
    interval, found = test.confidence_interval(0.95), over_seeds(differences)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(test.pvalue)
    assert over_seeds([1.0]) is None
    assert over_seeds([2.0, 2.0]) is None  # by rounding or ties: of no deviation nothing is known
    assert over_seeds([0.3, 0.1 + 0.2]) is None


def test_runs_that_are_not_paired() -> None:
    first, second = [5.0, 6.5, 7.0, 5.5], [4.0, 4.5, 6.0]
    test, found = ttest_ind(first, second, equal_var=False), unpaired(first, second)
    interval = test.confidence_interval(0.95)
    assert found is not None
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    # One run more, of as many as have a deviation: Student's test for two samples of one deviation is that.
    one, pooled = unpaired(first, [3.0]), ttest_ind(first, [3.0])
    assert one is not None
    assert one.p == pytest.approx(pooled.pvalue)
    assert unpaired([3.0], first) is not None
    assert unpaired([3.0], [1.0]) is None


def test_a_test_over_both_is_as_often_wrong_as_it_says() -> None:
    """Of two systems that are alike one in twenty pairs is told apart, though all runs share their rows' luck."""
    generator, told = np.random.default_rng(0), 0
    for _ in range(2000):
        luck = generator.normal(0, 1)  # of the rows, with the deviation that the bootstrap finds
        seeds = over_seeds(list(luck + generator.normal(0, 2, size=4)))
        assert seeds is not None
        both = over_both(seeds, Interval(0.0, -2.0, 2.0, 1.0))
        told += both.p is not None and both.p < 0.05
    assert 70 <= told <= 130
    alone = over_both(seeds, None)
    assert alone == seeds
    assert both.error == pytest.approx((seeds.error**2 + 1) ** 0.5)
    assert both.freedom > seeds.freedom == 3


def test_holms_method() -> None:
    assert holm([0.01, 0.04, 0.03, None]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
        None,
    ]


def test_the_interval_over_rows_covers_the_truth_as_often_as_it_says() -> None:
    """Of 200 samples of rows on which one run is right 10 points more often, about 190 intervals hold the 10."""
    generator, held = np.random.default_rng(0), 0
    for _ in range(200):
        difference = generator.choice([100.0, 0.0, -100.0], p=[0.2, 0.7, 0.1], size=300)
        [counts] = draws_of(range(300), seed=1, draws=400)
        interval = over_rows(counts @ difference / 300)
        held += interval.low <= 10.0 <= interval.high
    assert 180 <= held <= 198
