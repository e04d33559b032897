"""How far two runs' scores may be apart by chance: over seeds, and over the rows that happened to be scored.

Seeds: the t-test of runs that are paired by their seeds, Welch's where they are not, and that of one run against
several. It takes the rows as given, as the bootstrap takes the runs as given: a test of both adds their variances
(`over_both`), and Holm's method corrects its p-values for there being many. Rows: the paired bootstrap (Efron, 1979),
in which both runs are scored on the same rows, drawn with replacement from those that there are, task by task. A metric
on drawn rows is not computed anew 2,000 times: it follows from how often each row was drawn, by one product with what
the row adds to it (right or wrong; a cell of the confusion matrix; moments).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperadapt.metrics import comparable
from hyperadapt.tasks.kinds import METRICS, Target
from hyperadapt.tasks.kinds.scores import read_scores

if TYPE_CHECKING:
    from hyperadapt.tasks import Task

Counts = np.ndarray  # (draws, rows): how often each row was drawn
DRAWS = 2000
DRAWN_AT_ONCE = 2**22  # numbers: 32 MB of them, several times
FEW = 500
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A difference, and between what it lies with a confidence of 95 %.

    Attributes:
        mean: the difference; of a bootstrap the mean of the draws.
        low, high: the ends of the interval.
        error: the standard error.
        freedom: degrees of freedom of that; infinite of a bootstrap.
        p: of no difference at all, two-sided; None of a bootstrap.
    """

    mean: float
    low: float
    high: float
    error: float
    freedom: float = math.inf
    p: float | None = None

    def __str__(self) -> str:
        return f"[{self.low:+.1f}, {self.high:+.1f}]"


def over_seeds(differences: Sequence[float]) -> Interval | None:
    """The interval of a mean difference by the t-test, of runs that are paired by their seeds.

    Args:
        differences: of each seed's two runs, or of a run and a number that is fixed.

    Returns:
        None of one alone, and of several that are all the same, of which no deviation can be told.
    """
    if len(differences) < 2:
        return None
    return _by_t(fmean(differences), stdev(differences) / math.sqrt(len(differences)), len(differences) - 1)


def unpaired(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """The interval of the difference of two means, of runs that have no seeds in common.

    Of several runs each by Welch's t-test; of one run and several by the t-test of one more observation, which takes
    its deviation to be theirs.

    Returns:
        None of one run each, and where no deviation can be told.
    """
    apart, sizes = fmean(first) - fmean(second), (len(first), len(second))
    if min(sizes) > 1:
        parts = [stdev(scores) ** 2 / len(scores) for scores in (first, second)]
        below = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
        return _by_t(apart, math.sqrt(sum(parts)), sum(parts) ** 2 / below) if below else None
    if max(sizes) < 2:
        return None
    several = max(first, second, key=len)
    return _by_t(apart, stdev(several) * math.sqrt(1 + 1 / len(several)), len(several) - 1)


ALIKE = 1e-9  # a standard error that is rounding


def _by_t(mean: float, error: float, freedom: float) -> Interval | None:
    from scipy.stats import t

    if error < ALIKE:
        return None
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Interval(
        mean, mean - reach, mean + reach, error, freedom, 2 * float(t.sf(abs(mean) / error, freedom))
    )


def over_both(seeds: Interval, rows: Interval | None) -> Interval:
    """Add the variance over rows to that over seeds, with Satterthwaite's degrees of freedom.

    Args:
        seeds: of a t-test.
        rows: of the same runs; None leaves the test as it is.
    """
    if rows is None:
        return seeds
    variance = seeds.error**2 + rows.error**2
    found = _by_t(seeds.mean, math.sqrt(variance), variance**2 * seeds.freedom / seeds.error**4)
    assert found is not None
    return found


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for there being several (Holm, 1979); None is of no test, and stays."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        corrected[place] = highest = max(highest, min(1.0, (len(known) - rank) * p))
    return corrected


def over_rows(drawn: np.ndarray) -> Interval:
    """The percentile interval of a difference's bootstrap.

    Args:
        drawn: (draws,), the difference on each draw of the rows.
    """
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(drawn.mean()), float(low), float(high), float(drawn.std()))


def draws_of(units: Sequence[Any], seed: int, draws: int = DRAWS) -> Iterator[Counts]:
    """Draw rows with replacement, the same ones for every run: how often each was drawn, (some draws, rows).

    Args:
        units: of each row, what is drawn: rows of one unit, as the answers to one question, are drawn together.
        seed: of the draws.
        draws: how many, in all that are yielded.
    """
    _, unit_of_row = np.unique(np.asarray(units), return_inverse=True)
    count = int(unit_of_row.max()) + 1
    generator = np.random.default_rng(seed)
    while draws > 0:
        now = min(draws, max(1, DRAWN_AT_ONCE // len(units)))
        if count < FEW:
            times = generator.multinomial(count, np.full(count, 1 / count), size=now)
        else:  # of many rows it is faster to draw them one by one
            times = np.stack(
                [np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(now)]
            )
        yield times[:, unit_of_row].astype(float)
        draws -= now


def resampled(
    task: Task, predictions: Sequence[str], targets: Sequence[Target], seed: int = 0, draws: int = DRAWS
) -> dict[str, np.ndarray]:
    """Score a task's predictions on rows drawn with replacement, (draws,) for each of its metrics.

    Args:
        task: the task.
        predictions: its run's, as it wrote them.
        targets: of the same rows.
        seed: of the draws, which are the same for all runs on as many rows.
        draws: how many.
    """
    texts, compared = comparable(task, predictions, targets)
    units: Sequence[Any] = [target[1] for target in targets] if task.group else range(len(targets))
    computed = {
        name: METRIC_ON_DRAWS.get(name, mean_of(name))(texts, compared[name]) for name in task.metrics
    }
    found: dict[str, list[np.ndarray]] = {name: [] for name in task.metrics}
    for counts in draws_of(units, seed, draws):
        for name, on_draws in computed.items():
            found[name].append(on_draws(counts))
    return {name: np.concatenate(parts) for name, parts in found.items()}


OnDraws = Callable[[Counts], np.ndarray]


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(above, dtype=float), where=below != 0)


def mean_of(metric: str) -> Callable[[Sequence[str], Sequence[Any]], OnDraws]:
    """A metric that is the mean of what it is on each row alone."""

    def statistic(texts: Sequence[str], targets: Sequence[Any]) -> OnDraws:
        rows = np.array(
            [METRICS[metric]([text], [target]) for text, target in zip(texts, targets, strict=True)]
        )
        return lambda counts: counts @ rows / counts.sum(1)

    return statistic


def confusion(
    texts: Sequence[str], targets: Sequence[str]
) -> tuple[list[str], Callable[[Counts], np.ndarray]]:
    """The targets' classes, and the confusion matrices on draws, (draws, classes, classes + 1), invalid ones last."""
    classes = sorted(set(targets))
    place = {name: number for number, name in enumerate(classes)}
    width = len(classes) + 1
    cells = [
        place[target] * width + place.get(text, width - 1)
        for text, target in zip(texts, targets, strict=True)
    ]
    in_cell = np.eye(len(classes) * width)[cells]
    return classes, lambda counts: (counts @ in_cell).reshape(len(counts), len(classes), width)


def f1_of(matrix: np.ndarray, number: int) -> np.ndarray:
    """The F1 of a class, in percent, of confusion matrices (draws, classes, classes + 1)."""
    right = matrix[:, number, number]
    return 200 * ratio(right, matrix[:, number].sum(1) + matrix[:, :, number].sum(1))


def f1(texts: Sequence[str], targets: Sequence[str]) -> OnDraws:
    """As `metrics.f1`: an answer that is no class counts as the wrong one."""
    opposite = {"0": "1", "1": "0"}
    answers = [
        text if text in opposite else opposite[target] for text, target in zip(texts, targets, strict=True)
    ]
    classes, on_draws = confusion(answers, targets)
    if "1" not in classes:
        return lambda counts: np.zeros(len(counts))
    return lambda counts: f1_of(on_draws(counts), classes.index("1"))


def macro_f1(texts: Sequence[str], targets: Sequence[str]) -> OnDraws:
    """As `metrics.macro_f1`, over the classes that are among the targets drawn."""
    classes, on_draws = confusion(texts, targets)

    def statistic(counts: Counts) -> np.ndarray:
        matrix = on_draws(counts)
        there = matrix.sum(2) > 0
        each = np.stack([f1_of(matrix, number) for number in range(len(classes))], 1)
        return (each * there).sum(1) / there.sum(1)

    return statistic


def matthews(texts: Sequence[str], targets: Sequence[str]) -> OnDraws:
    """As `metrics.matthews`, by Gorodkin's formula for several classes, of which the invalid answers are one more."""
    _, on_draws = confusion(texts, targets)

    def statistic(counts: Counts) -> np.ndarray:
        matrix = on_draws(counts)
        rows, right = matrix.sum((1, 2)), np.trace(matrix, axis1=1, axis2=2)
        true, said = matrix.sum(2), matrix.sum(1)
        both = (true * said[:, :-1]).sum(1)
        spread = np.sqrt((rows**2 - (true**2).sum(1)) * (rows**2 - (said**2).sum(1)))
        return 100 * ratio(right * rows - both, spread)

    return statistic


def correlation(counts: Counts, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's correlation on draws in percent, 0 where one of the two is constant.

    Args:
        counts: (draws, rows).
        first, second: (rows,) or (draws, rows).
    """
    total = counts.sum(1)

    def mean(values: np.ndarray) -> np.ndarray:
        return (counts * values).sum(1) / total

    x, y = (values - mean(values)[:, None] for values in (first, second))
    spread = np.sqrt(mean(x * x) * mean(y * y))
    return 100 * ratio(mean(x * y), np.where(spread > 1e-12, spread, 0))


def pearson(texts: Sequence[str], targets: Sequence[str]) -> OnDraws:
    """As `metrics.pearson`."""
    answers, scores = map(np.array, read_scores(texts, targets))
    return lambda counts: correlation(counts, answers, scores)


def spearman(texts: Sequence[str], targets: Sequence[str]) -> OnDraws:
    """As `metrics.spearman`: of a value that was drawn k times, behind n lower ones, the rank is n + (k + 1) / 2."""
    both = [np.unique(np.array(values), return_inverse=True)[1] for values in read_scores(texts, targets)]
    one_hot = [np.eye(places.max() + 1)[places] for places in both]

    def statistic(counts: Counts) -> np.ndarray:
        ranks = []
        for places, member in zip(both, one_hot, strict=True):
            times = counts @ member
            ranks.append((times.cumsum(1) - times + (times + 1) / 2)[:, places])
        return correlation(counts, *ranks)

    return statistic


def group_exact_match(texts: Sequence[str], targets: Sequence[Any]) -> OnDraws:
    """As `metrics.group_exact_match`, of groups that are drawn whole; one that is drawn twice is two."""
    right: dict[str, bool] = {}
    first: dict[str, int] = {}
    for row, (text, (target, group)) in enumerate(zip(texts, targets, strict=True)):
        right[group] = right.get(group, True) and text == target
        first.setdefault(group, row)
    rows, values = list(first.values()), np.array([right[group] for group in first], dtype=float)
    return lambda counts: 100 * counts[:, rows] @ values / counts[:, rows].sum(1)


# The others, as accuracy, are means over rows. Errors have no part in a score.
METRIC_ON_DRAWS: Mapping[str, Callable[[Sequence[str], Sequence[Any]], OnDraws]] = {
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "group_exact_match": group_exact_match,
}
