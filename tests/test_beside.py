"""Printed numbers beside ours: what is measured, what it differs by, and when the order is told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from finished import finish
from hyperadapt.studies.comparison import Cell
from hyperadapt.studies.experiments import EXPERIMENTS, plan
from hyperadapt.studies.experiments.beside import (
    GLUE_METRICS,
    Difference,
    Ours,
    Pair,
    against,
    beside,
    best_on_validation,
    columns_of,
    difference,
    ours,
    scored,
)
from hyperadapt.studies.published import published_table
from hyperadapt.studies.resampling import DRAWS, unpaired
from hyperadapt.tasks import Task


def cells_of(folder: Path, name: str = "hyperdecoders/table-1") -> list[Cell]:
    return plan(name, "smoke", folder).cells()


def test_an_average_is_the_papers_own(tmp_path: Path) -> None:
    """HyperFormer counts eleven metrics, Hyperdecoders eight tasks: of the same runs both averages come out."""
    cells = cells_of(tmp_path)[:1]
    finish(cells)
    results = cells[0].results()
    assert results is not None
    tasks = results["test"]["tasks"].values()
    for paper, average in (
        ("hyperformer", fmean(value for of in tasks for value in of["metrics"].values())),
        ("hyperdecoders", fmean(of["score"] for of in tasks)),
    ):
        columns = columns_of(published_table(paper, 1), GLUE_METRICS)
        found = ours(cells, columns)
        assert found is not None
        assert found["Avg"] == pytest.approx(average)
        assert len(columns) == 12


def test_a_column_whose_tasks_were_not_scored_is_left_out_and_every_average_over_it() -> None:
    metrics = {name: of for name, of in GLUE_METRICS.items() if name != "RTE"}
    assert set(columns_of(published_table("hyperformer", 1), metrics)) == set(metrics)


def test_what_a_model_for_each_task_scores_is_one_row(tmp_path: Path) -> None:
    planned = plan("hyperformer/table-1", "smoke", tmp_path)
    alone = [
        cell
        for cell in planned.cells()
        if "-alone" in str(cell.directory) and cell.variant == "full_fine_tuning"
    ]
    assert len(alone) == 8
    finish(alone)
    columns = {"average": list(GLUE_METRICS.values()), "total": "total", "of a task": "trained a task"}
    found = ours(alone, columns)
    assert found is not None
    values = [scored(cell)[0] for cell in alone]
    assert found["average"] == pytest.approx(fmean(value for of in values for value in of.values()))
    # Of 1,000 parameters each of the eight models trains 150, 50 of them its own base's, beside 950 that all share.
    assert found["total"] == pytest.approx((1100 - 150 + 8 * 150) / 1000)
    assert found["of a task"] == pytest.approx(15.0)
    (alone[0].directory / "results.json").unlink()
    assert ours(alone, columns) is None  # a seed of which a task is missing is in no average


def test_the_bootstrap_of_a_column_is_about_its_value(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)[:1]
    finish(cells, right=0.8, rows=200)
    columns = columns_of(published_table("hyperdecoders", 1), GLUE_METRICS)
    found = ours(cells, columns)
    assert found is not None
    for column in columns:
        [drawn] = found.drawn[column].values()
        assert drawn.shape == (DRAWS,)
        assert drawn.mean() == pytest.approx(found[column], abs=1.5)
    # A mean of eight tasks varies less than any one of them.
    spread = {name: of[cells[0].seed].std() for name, of in found.drawn.items()}
    assert spread["Avg"] < min(of for name, of in spread.items() if name != "Avg")


def test_runs_are_paired_by_their_rows_whether_or_not_the_task_is_named_in_them(tmp_path: Path) -> None:
    import gzip

    first, second, third = cells_of(tmp_path)[:3]
    finish([first, second, third])
    file = second.directory / "predictions-test.jsonl.gz"
    with gzip.open(file, "rt") as lines:
        text = lines.read()
    with gzip.open(file, "wt") as lines:
        lines.write(text.replace('"input": "row', '"input": "cola row'))
    file = third.directory / "predictions-test.jsonl.gz"
    with gzip.open(file, "wt") as lines:
        lines.write(text.replace("row 3 of cola", "row 4 of cola"))
    columns = {"CoLA": "cola.matthews", "RTE": "rte.accuracy"}
    one, same, other = (ours([cell], columns) for cell in (first, second, third))
    assert one is not None
    assert same is not None
    assert other is not None
    apart = difference((one, "CoLA"), (same, "CoLA"))
    assert apart is not None
    assert apart.rows is not None
    elsewhere = difference((one, "CoLA"), (other, "CoLA"))
    assert elsewhere is not None
    assert elsewhere.rows is None
    unchanged = difference((one, "RTE"), (other, "RTE"))
    assert unchanged is not None
    assert unchanged.rows is not None


@pytest.mark.parametrize(
    ("printed", "p", "order"),
    [
        (1.5, 0.01, "same"),
        (-1.5, 0.01, "reversed"),
        (0.0, 0.01, "printed alike"),
        (1.5, 0.06, "not told apart"),
        (1.5, None, "not told apart"),  # of one run each rows alone tell nothing
    ],
)
def test_an_order_is_told_only_by_a_test_that_tells_it(printed: float, p: float | None, order: str) -> None:
    assert Difference(2.0, None, None).order(printed, p) == order


def test_runs_are_paired_by_seeds_that_both_have_and_means_are_of_the_same_runs_as_draws() -> None:
    def of(values: dict[int, float]) -> Ours:
        return Ours(
            {"x": values}, {"x": {seed: np.full(3, value) for seed, value in values.items()}}, {"x": 1}
        )

    one = of({1: 5.0, 2: 7.0, 3: 100.0})
    apart = difference((one, "x"), (of({1: 4.0, 2: 5.0, 9: 0.0}), "x"))
    assert apart is not None
    assert apart.seeds is not None
    assert apart.rows is not None
    assert apart.mean == apart.seeds.mean == apart.rows.mean == 1.5
    # One run against three, of which one has its seed: not paired, all count.
    apart = difference((one, "x"), (of({1: 1.0}), "x"))
    assert apart is not None
    assert apart.rows is not None
    assert apart.mean == pytest.approx(apart.rows.mean) == pytest.approx(112 / 3 - 1)
    assert apart.seeds == unpaired([5.0, 7.0, 100.0], [1.0])
    # One run each.
    apart = difference((of({1: 3.0}), "x"), (of({1: 1.0}), "x"))
    assert apart is not None
    assert (apart.mean, apart.seeds) == (2.0, None)
    assert difference((one, "x"), (Ours({}), "x")) is None


def test_predictions_that_are_gone_leave_the_test_over_seeds(tmp_path: Path) -> None:
    planned = plan("beyond/matched", "smoke", tmp_path)
    one, other = (
        [cell for cell in planned.cells() if cell.variant == name]
        for name in ("hyperformer++", "hyperdecoder")
    )
    finish([*one, *other])
    (one[1].directory / "predictions-test.jsonl.gz").unlink()
    found = [ours(cells, {"RTE": "rte.accuracy"}) for cells in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    apart = difference((found[0], "RTE"), (found[1], "RTE"))
    assert apart is not None
    assert (apart.rows, len(found[0].by_seed["RTE"])) == (None, 2)


def test_rte_is_drawn_alike_in_both_of_its_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cell, *_] = plan("hypergrid/table-3", "smoke", tmp_path).cells()
    finish([cell])
    seeds: dict[str, int] = {}

    def spy(task: Task, texts: Sequence[str], targets: Sequence[Any], seed: int) -> dict[str, np.ndarray]:
        seeds[task.name] = seed
        return {}

    monkeypatch.setattr("hyperadapt.studies.experiments.beside.resampled", spy)
    ours([cell], {})
    assert len(seeds) == 16
    assert seeds["rte"] == seeds["super-glue-rte"]
    assert len(set(seeds.values())) == 15


def test_seeds_that_were_scored_on_other_rows_have_no_draws_in_common(tmp_path: Path) -> None:
    planned = plan("beyond/matched", "smoke", tmp_path)
    first, second = (cell for cell in planned.cells() if cell.variant == "hyperformer++")
    finish([first], rows=6)
    finish([second], rows=8)
    found = ours([first, second], {"RTE": "rte.accuracy"})
    assert found is not None
    assert len(found.by_seed["RTE"]) == 2
    assert found.drawn == {}


def test_the_page_says_printed_ours_their_distance_and_the_order() -> None:
    table = published_table("hyperdecoders", 9)
    scores = {"Hyperdecoder": (86.0, 88.0), "- MLP": (80.0, 82.2), "+ post-layernorm input": (89.9, 91.8)}
    found = {
        (name,): Ours(
            {"GLUE Avg": dict(enumerate(values))},
            {"GLUE Avg": np.full(DRAWS, fmean(values)) + np.linspace(-0.1, 0.1, DRAWS)},
            {"GLUE Avg": 1},
        )
        for name, values in scores.items()
    }
    text = beside(table, found, against(table, ("Hyperdecoder",), "GLUE Avg"))
    assert "| Hyperdecoder | 2 | 87.0 ± 1.4 (86.9) |" in text
    # One sample of two differences from 86.9: 0.1 on average, and 12.7 standard errors of 1 to either side.
    assert "| Hyperdecoder | 86.9 | 87.0 | +0.10 | [-12.6, +12.8] |" in text
    # Of +5.8 and +6.0: t = 59 with one degree of freedom; and of -3.9 and -3.8.
    assert '| Hyperdecoder − "- MLP" | +0.20 | +5.9 | [+4.6, +7.2] | [+5.9, +5.9] | 0.011 | 0.017 |' in text
    assert '**Order: same in 1 of 2; reversed in 1 of 2 (Hyperdecoder − "+ post-layernorm input").**' in text
    # Rows without runs are printed all the same, and in no pair.
    text = beside(table, {("- MLP",): found["- MLP",]}, against(table, ("Hyperdecoder",), "GLUE Avg"))
    assert "| Hyperdecoder |  | - (86.9) |" in text
    assert "no order to tell" in text


def test_pairs_may_be_of_columns_in_a_row() -> None:
    table = published_table("hyperformer", 2)
    labels = ("SciTail", "32")
    found = {labels: Ours({"T5": {1: 80.0, 2: 81.0}, "HyperFormer++": {1: 70.0, 2: 71.05}})}
    text = beside(table, found, [Pair("++ − T5", (labels, "HyperFormer++"), (labels, "T5"))])
    assert "| ++ − T5 | +3.9 | -10.0 |" in text
    assert "**Order: reversed in 1 of 1 (++ − T5).**" in text


def test_the_best_is_chosen_by_the_validation_rows(tmp_path: Path) -> None:
    first, second = cells_of(tmp_path)[:2]
    assert best_on_validation([[first], [second]]) == [first]  # neither is finished
    finish([first], right=0.3)
    finish([second], right=0.9)
    assert best_on_validation([[first], [second]]) == [second]


def test_every_page_is_written_of_finished_runs(tmp_path: Path) -> None:
    """But those that look into the models; the numbers are made up, and so is nothing but the runs."""
    looking = {
        "hyperformer/figure-3",
        "hyperdecoders/table-7",
        "hyperdecoders/tables-4-5",
        "hyperdecoders/tables-14-15",
        *(f"hyperdecoders/figure-{number}" for number in (2, 3, 4)),
    }
    for name, experiment in EXPERIMENTS.items():
        planned = plan(name, "smoke", tmp_path)
        cells = planned.cells()
        if name in looking or not cells:
            continue
        finish(cell for cell in cells if not cell.finished)
        planned.folder.mkdir(exist_ok=True)
        text = experiment.page(planned)
        assert "nan" not in text, name
        if name.split("/")[1] not in ("leave-one-out", "matched") and "figure" not in name:
            assert " (" in text, name  # printed beside ours
            assert "−" in text, name
