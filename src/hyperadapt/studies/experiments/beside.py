"""What a paper prints beside what our runs come to: the numbers, their differences, and whether the order is the same.

A printed row stands beside the runs that train what it names, and a printed column beside the metrics that it is of; a
column of averages is averaged from our columns as the paper averages its own. Whether two rows differ is one test of
what they may be apart by chance over seeds and over rows (hyperadapt.studies.resampling).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any
from zlib import crc32

import numpy as np

from hyperadapt.runs.predictions import PredictedRow, file_of, read_predictions
from hyperadapt.studies.comparison import Cell, markdown, scores_of, spread_of
from hyperadapt.studies.published import PublishedTable
from hyperadapt.studies.resampling import (
    CONFIDENCE,
    Interval,
    holm,
    over_both,
    over_rows,
    over_seeds,
    resampled,
    unpaired,
)
from hyperadapt.tasks import resolve_tasks

# What a column is of: "mrpc.f1", a metric of a task; or several, of which it is the mean.
Measure = str | Sequence["Measure"]
Columns = Mapping[str, Measure]
Labels = tuple[str, ...]
# What the columns of the papers' tables on GLUE are of.
GLUE_METRICS: Columns = {
    "CoLA": "cola.matthews",
    "SST-2": "sst2.accuracy",
    "MRPC accuracy": "mrpc.accuracy",
    "MRPC F1": "mrpc.f1",
    "QQP accuracy": "qqp.accuracy",
    "QQP F1": "qqp.f1",
    "STS-B Pearson": "stsb.pearson",
    "STS-B Spearman": "stsb.spearman",
    "MNLI": "mnli.accuracy",
    "QNLI": "qnli.accuracy",
    "RTE": "rte.accuracy",
}


def mean_of(measure: Measure, value: Callable[[str], Any]) -> Any:
    """Work a measure out of the metrics' values, numbers or arrays of them."""
    if isinstance(measure, str):
        return value(measure)
    return sum(mean_of(part, value) for part in measure) / len(measure)


def metrics_of(measure: Measure) -> list[str]:
    """List the metrics that a measure is made of."""
    return [measure] if isinstance(measure, str) else [name for part in measure for name in metrics_of(part)]


def columns_of(table: PublishedTable, metrics: Columns) -> dict[str, Measure]:
    """Name what a table's columns are of: metrics, and averages of them as the paper averages.

    Args:
        table: the table.
        metrics: of columns that are no averages; one that is left out is not compared, nor an average over it.
    """
    columns: dict[str, Measure] = dict(metrics)

    def measured(part: str | Sequence[str]) -> Measure:
        return columns[part] if isinstance(part, str) else [columns[name] for name in part]

    for average, parts in table.averages.items():
        if average not in columns and all(name in columns for part in parts for name in _names(part)):
            columns[average] = [measured(part) for part in parts]
    return {name: columns[name] for name in table.columns if name in columns}


def _names(part: str | Sequence[str]) -> Sequence[str]:
    return [part] if isinstance(part, str) else part


@dataclass(frozen=True)
class Ours:
    """Our numbers for a row of a table.

    Attributes:
        by_seed: column -> seed -> number.
        drawn: column -> seed -> (draws,), the number on rows drawn with replacement.
        rows: column -> a digest of the rows that were scored, which are the same ones for two runs to be paired.
    """

    by_seed: dict[str, dict[int, float]]
    drawn: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, column: str) -> float:
        return fmean(self.by_seed[column].values())


# A run's metrics by "task.metric", the same on draws of the rows, (draws,), and a digest of the rows by task.
Read = tuple[dict[str, float], dict[str, np.ndarray], dict[str, int]]


def ours(
    cells: Iterable[Cell],
    columns: Columns,
    split: str | None = None,
    read: Callable[[Cell], Read] | None = None,
) -> Ours | None:
    """Measure what runs have scored; None where no seed of them is finished.

    Args:
        cells: the runs, of each seed one for all tasks, or one a task; a seed of which one is not finished is left out.
        columns: what is measured; "trained", "trained a task", "total" and "billions" are parameters: those trained in
            percent of the base model's, the same over the tasks, all that the tasks take as a multiple of it, and the
            same in billions. Columns of tasks or metrics that the runs have not are left out.
        split: whose scores, by default the test rows', or the validation rows' of runs that have no test rows.
        read: reads a run's scores elsewhere.
    """
    read = read or partial(scored, split=split)
    by_seed: dict[int, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_seed[cell.seed].append(cell)
    whole = {seed: runs for seed, runs in by_seed.items() if all(run.finished for run in runs)}
    if not whole:
        return None
    numbers: dict[str, dict[int, float]] = defaultdict(dict)
    drawn: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    rows: dict[str, set[int]] = defaultdict(set)
    for seed, runs in whole.items():
        values, on_draws, digests = counted(runs), dict[str, np.ndarray](), dict[str, int]()
        for cell in runs:
            scores, draws, of_rows = read(cell)
            values, on_draws, digests = values | scores, on_draws | draws, digests | of_rows
        for column, measure in columns.items():
            metrics = metrics_of(measure)
            if all(name in values for name in metrics):
                numbers[column][seed] = mean_of(measure, values.__getitem__)
            if all(name in on_draws for name in metrics):
                drawn[column][seed] = mean_of(measure, on_draws.__getitem__)
                rows[column].add(digest_of(metrics, digests))
    # Seeds that were scored on other rows than the first, or whose predictions are gone, have no draws in common.
    alike = {
        column: digests.pop()
        for column, digests in rows.items()
        if len(digests) == 1 and drawn[column].keys() == numbers[column].keys()
    }
    return Ours(dict(numbers), {column: drawn[column] for column in alike}, alike)


def digest_of(metrics: Iterable[str], rows: Mapping[str, int]) -> int:
    """Return one digest of the rows of all tasks that metrics are of."""
    tasks = sorted({metric.partition(".")[0] for metric in metrics})
    return crc32(repr([(task, rows[task]) for task in tasks]).encode())


def scored(cell: Cell, split: str | None = None) -> Read:
    """Read what a run has scored on a split."""
    results = cell.results()
    assert results is not None
    split = split or ("test" if "test" in results else "validation")
    values = {
        f"{task}.{metric}": value
        for task, result in results[split]["tasks"].items()
        for metric, value in result["metrics"].items()
    }
    return values, *drawn_of(cell.directory, split, cell.config.data.tasks)


def drawn_of(
    directory: Path, split: str, names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Score predictions on draws of their rows, none where they were not kept."""
    file = file_of(directory, split)
    return on_draws(directory, split, names, file.stat().st_mtime_ns) if file.is_file() else ({}, {})


@lru_cache(maxsize=256)
def on_draws(
    directory: Path, split: str, names: tuple[str, ...], written: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Score the predictions in a directory on draws of their rows, by "task.metric"; and digests of the rows.

    Args:
        directory, split: as of `read_predictions`.
        names: of the tasks, or of suites.
        written: when the predictions were, as a page asks for those of one run several times.
    """
    tasks = resolve_tasks(names)
    rows: dict[str, list[PredictedRow]] = defaultdict(list)
    for row in read_predictions(directory, split, tasks):
        rows[row.task].append(row)
    by_name = {task.name: task for task in tasks}
    draws, digests = {}, {}
    for name, predicted in rows.items():
        # Methods that know the task otherwise have no name of it before the input.
        plain = [(by_name[name].without_prefix(row.input), row.target) for row in predicted]
        digests[name] = crc32(repr(plain).encode())
        texts, targets = [row.written for row in predicted], [row.target for row in predicted]
        # RTE is a task of GLUE and of SuperGLUE: the same rows are drawn for both, in an average over the two.
        seed = crc32((by_name[name].local or name).encode())
        for metric, values in resampled(by_name[name], texts, targets, seed).items():
            draws[f"{name}.{metric}"] = values
    return draws, digests


def counted(cells: Sequence[Cell]) -> dict[str, float]:
    """Count the parameters of a model for all tasks, or of one for each, whose frozen parameters they share."""
    counts = [results["parameters"] for cell in cells if (results := cell.results()) is not None]
    base, trained = counts[0]["base"], sum(count["trained"] for count in counts)
    return {
        "trained": 100 * trained / base,
        "trained a task": 100 * trained / sum(count["tasks"] for count in counts) / base,
        "total": (counts[0]["total"] - counts[0]["trained"] + trained) / base,
        "billions": (counts[0]["total"] - counts[0]["trained"] + trained) / 1e9,
    }


@dataclass(frozen=True)
class Pair:
    """Two cells of a table, of which one is claimed to be the better.

    Attributes:
        name: what people read.
        first, second: row and column of each.
    """

    name: str
    first: tuple[Labels, str]
    second: tuple[Labels, str]


@dataclass(frozen=True)
class Difference:
    """What two rows of ours differ by.

    Attributes:
        mean: the difference.
        seeds: its interval over seeds, None where both have one run, or no deviation can be told.
        rows: its interval over rows, None where both were not scored on the same.
    """

    mean: float
    seeds: Interval | None
    rows: Interval | None

    @property
    def both(self) -> Interval | None:
        """Its interval over both, with the p-value; None where there is no test over seeds."""
        return None if self.seeds is None else over_both(self.seeds, self.rows)

    def order(self, printed: float, p: float | None) -> str:
        """Say how the order stands to that of the printed difference.

        Args:
            printed: the difference.
            p: of the test over both, corrected for there being several; without it nothing is told apart.
        """
        if p is None or p >= 1 - CONFIDENCE:
            return "not told apart"
        if printed == 0:
            return "printed alike"
        return "same" if (self.mean > 0) == (printed > 0) else "reversed"


def difference(first: tuple[Ours, str], second: tuple[Ours, str]) -> Difference | None:
    """Compare two of our numbers, each of a row and a column; None where one of them is not there.

    Runs are paired by the seeds that both have; where these are fewer than two, and one of them has several runs, all
    of its runs count, unpaired.
    """
    (one, column), (other, of_other) = first, second
    numbers = one.by_seed.get(column, {}), other.by_seed.get(of_other, {})
    if not all(numbers):
        return None
    common = sorted(numbers[0].keys() & numbers[1].keys())
    paired = len(common) > 1 or (bool(common) and max(map(len, numbers)) == 1)
    used = [common, common] if paired else [sorted(numbers_of_one) for numbers_of_one in numbers]
    values = [
        [numbers_of_one[seed] for seed in seeds] for numbers_of_one, seeds in zip(numbers, used, strict=True)
    ]
    apart = [a - b for a, b in zip(*values, strict=True)] if paired else []
    seeds = over_seeds(apart) if paired else unpaired(*values)
    rows = None
    if one.rows.get(column, 0) == other.rows.get(of_other, 1):
        means = [
            np.mean([drawn[seed] for seed in seeds_used], axis=0)
            for drawn, seeds_used in zip((one.drawn[column], other.drawn[of_other]), used, strict=True)
        ]
        rows = over_rows(means[0] - means[1])
    return Difference(fmean(values[0]) - fmean(values[1]), seeds, rows)


def against(table: PublishedTable, reference: Labels, column: str) -> list[Pair]:
    """Pair a row with each of the others, in a column."""
    return [
        Pair(
            f"{quoted(', '.join(reference))} − {quoted(row.name)}", (reference, column), (row.labels, column)
        )
        for row in table.rows
        if row.labels != reference
    ]


def quoted(name: str) -> str:
    """Return a row's name, in quotation marks where it begins with a sign, as "- MLP"."""
    return name if name[:1].isalnum() else f'"{name}"'


def number(value: float, sign: str = "") -> str:
    """Write a number with one decimal, or, if it is smaller than 1, with two."""
    decimals = 1 if abs(value) >= 1 or value == 0 else 2
    return f"{value:{sign}.{decimals}f}"


def beside(table: PublishedTable, found: Mapping[Labels, Ours | None], pairs: Sequence[Pair]) -> str:
    """Write a table's numbers beside ours, what they differ by, and whether the order is the same.

    Args:
        table: as printed.
        found: our numbers by the labels of its rows; None, or left out, where there are none.
        pairs: whose order is asked for.
    """
    there = {
        labels: ours_of_row
        for labels, ours_of_row in found.items()
        if ours_of_row is not None and ours_of_row.by_seed
    }
    title = ", ".join(filter(None, [f"Table {table.number}", table.split or table.base_model, table.unit]))
    columns = [
        name for name in table.columns if any(name in ours_of_row.by_seed for ours_of_row in there.values())
    ]
    numbers = []
    for row in table.rows:
        line: dict[str, Any] = dict(zip(table.labels, row.labels, strict=True))
        mine = there.get(row.labels)
        line["seeds"] = "" if mine is None else str(max(map(len, mine.by_seed.values())))
        for name in columns:
            cell = row.cells[name]
            mean = None if mine is None or name not in mine.by_seed else mine.by_seed[name].values()
            line[name] = f"{written(mean)} ({'' if cell is None else cell.text})".replace("()", "(-)")
        numbers.append(line)
    remarks = "".join(f"- {remark}\n" for remark in table.remarks)
    return (
        f"{title}: ours, mean ± standard deviation over seeds, and printed in brackets.\n\n{markdown(numbers)}\n"
        f"{f'Of the printed table:{chr(10)}{chr(10)}{remarks}{chr(10)}' if remarks else ''}"
        f"{distances(table, there, pairs)}{orders(table, there, pairs)}"
    )


def written(values: Iterable[float] | None) -> str:
    """Write the mean and deviation of numbers."""
    if values is None:
        return "-"
    mean, deviation = spread_of(list(values))
    return number(mean) if deviation is None else f"{number(mean)} ± {number(deviation)}"


def distances(table: PublishedTable, there: Mapping[Labels, Ours], pairs: Sequence[Pair]) -> str:
    """Write how far our numbers are from those printed, with their interval over the seeds, of the pairs' rows."""
    lines = []
    asked = dict.fromkeys(cell for pair in pairs for cell in (pair.first, pair.second))
    several = len({column for _, column in asked}) > 1
    for labels, column in asked:
        printed, mine = table.row(*labels).cells[column], there.get(labels)
        if printed is None or mine is None or column not in mine.by_seed:
            continue
        apart = [value - printed.number for value in mine.by_seed[column].values()]
        interval = over_seeds(apart)
        lines.append(
            {
                "row": ", ".join(labels),
                **({"column": column} if several else {}),
                "printed": printed.text,
                "ours": number(mine[column]),
                "ours − printed": number(fmean(apart), sign="+"),
                "95 % CI, our seeds": "" if interval is None else str(interval),
            }
        )
    return f"Our distance from what is printed:\n\n{markdown(lines)}\n" if lines else ""


def orders(table: PublishedTable, there: Mapping[Labels, Ours], pairs: Sequence[Pair]) -> str:
    """Write each pair's difference, printed and ours, with its intervals, and one sentence on the order of them all."""
    told = []
    for pair in pairs:
        (labels, column), (of_second, other) = pair.first, pair.second
        printed = [table.row(*labels).cells[column], table.row(*of_second).cells[other]]
        if labels not in there or of_second not in there or None in printed:
            continue
        apart = difference((there[labels], column), (there[of_second], other))
        if apart is not None:
            first, second = (cell.number for cell in printed if cell is not None)
            told.append(
                (pair.name, number(round(first - second, 6), sign="+"), round(first - second, 6), apart)
            )
    return in_order(told)


def claimed(pairs: Mapping[str, tuple[Ours | None, Ours | None]], column: str, claim: str) -> str:
    """Write the differences of pairs whose first is said to be above the second, without printed numbers.

    Args:
        pairs: by what people read.
        column: of both.
        claim: what is said, and where.
    """
    told = []
    for name, (first, second) in pairs.items():
        if first is not None and second is not None:
            apart = difference((first, column), (second, column))
            if apart is not None:
                told.append((name, "above 0", 1.0, apart))
    return f"{claim}\n\n{in_order(told, 'claimed')}"


def in_order(told: Sequence[tuple[str, str, float, Difference]], heading: str = "printed") -> str:
    """Write differences, and one sentence on their order.

    Args:
        told: of each, what people read; the printed difference in words, and as a number; and ours.
        heading: of the printed ones.
    """
    if not told:
        return "There are no two rows with finished runs, so no order to tell.\n"
    tests = [apart.both for *_, apart in told]
    corrected = holm([None if test is None else test.p for test in tests])
    lines, found = [], defaultdict[str, list[str]](list)
    for (name, in_words, printed, apart), test, p in zip(told, tests, corrected, strict=True):
        order = apart.order(printed, p)
        found[order].append(name)
        lines.append(
            {
                "difference": name,
                heading: in_words,
                "ours": number(apart.mean, sign="+"),
                "95 % CI, seeds": str(apart.seeds or "no test"),
                "95 % CI, rows": str(apart.rows or ""),
                "p": "" if test is None else f"{test.p:.3f}",
                "p, Holm": "" if p is None else f"{p:.3f}",
                "order": order,
            }
        )
    said = "; ".join(
        f"{order} in {len(names)} of {len(lines)}" + (f" ({', '.join(names)})" if order == "reversed" else "")
        for order in ("same", "reversed", "not told apart", "printed alike")
        if (names := found[order])
    )
    untested = tests.count(None)
    alone = (
        f" {untested} of {len(told)} have no test over seeds, being of one run each or of runs all alike."
        if untested
        else ""
    )
    return f"{markdown(lines)}\n**Order: {said}.**{alone}\n"


HOW_TO_READ = (
    "How to read it: ± is the standard deviation over seeds. Two rows are told apart if their difference is "
    "significant: p < 0.05, by Holm's method over the lines of its table of differences. The p is of a t-test whose "
    "variance is that over seeds plus, where both were scored on the same rows and the predictions are kept, that of "
    "the paired bootstrap over rows; the two intervals are those of each alone, and of one difference alone. Runs are "
    "paired by their seeds; with fewer than two in common it is Welch's test, or one run against several, taken to "
    "vary as they do. Rows are taken as independent, but for the answers to one question of MultiRC. Not told apart is "
    "not alike: with three seeds only a difference of many standard errors is found. The interval of our distance from "
    "a printed number is that of our seeds alone: the printed one is taken as it stands.\n"
)


def joined(*parts: Ours | None) -> Ours | None:
    """Join numbers of one row whose columns are of different runs."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    return Ours(
        {column: by_seed for part in there for column, by_seed in part.by_seed.items()},
        {column: by_seed for part in there for column, by_seed in part.drawn.items()},
        {column: by_seed for part in there for column, by_seed in part.rows.items()},
    )


def averages_by_seed(cells: Sequence[Cell], split: str | None = None) -> dict[int, float]:
    """Return the average over all tasks of each seed whose runs, one or one a task, are finished."""
    scores: dict[int, list[list[float]]] = defaultdict(list)
    for cell in cells:
        results = cell.results()
        tasks = [] if results is None else (results[split] if split else scores_of(results))["tasks"].values()
        scores[cell.seed].append([result["score"] for result in tasks])
    return {seed: fmean(score for run in runs for score in run) for seed, runs in scores.items() if all(runs)}


def best_on_validation(candidates: Sequence[Sequence[Cell]]) -> Sequence[Cell]:
    """Choose the runs with the best mean average on the validation rows, of those with the most seeds finished."""

    def validation(cells: Sequence[Cell]) -> tuple[int, float]:
        averages = averages_by_seed(cells, "validation")
        return len(averages), fmean(averages.values()) if averages else 0.0

    return max(candidates, key=validation, default=())
