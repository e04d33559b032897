"""How results are shown, and how errors are put."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from typer.exceptions import TyperException

from hyperadapt.errors import printable

if TYPE_CHECKING:
    from hyperadapt.evaluation import Results


def show(results: Results, title: str, majority: Mapping[str, Any] | None = None) -> None:
    """Print scores as a table.

    Args:
        results: of a split.
        title: above them.
        majority: what always answering the most frequent training target scores there, as results.json has it.
    """
    from hyperadapt.metrics import metric_in_words
    from hyperadapt.tasks import suite_averages

    rows = [
        {
            "task": score.task,
            "metrics": "  ".join(metric_in_words(name, value, 2) for name, value in score.metrics.items()),
            "score": f"{score.score:.2f}",
            "rows": str(score.rows),
            "invalid": str(score.invalid),
        }
        for score in results.scores
    ]
    if any(score.calibration_error is not None for score in results.scores):
        for row, score in zip(rows, results.scores, strict=True):
            error = score.calibration_error
            row["calibration error"] = "" if error is None else f"{error:.1f}"
    scores = {score.task: score.score for score in results.scores}
    for name, average in {**suite_averages(scores), "average": results.average}.items():
        rows.append({**dict.fromkeys(rows[0], ""), "task": name, "score": f"{average:.2f}"})
    if majority is not None:
        baselines = {name: majority["tasks"][name]["score"] for name in scores}
        baselines |= suite_averages(baselines)
        for row in rows:
            row["majority"] = f"{baselines.get(row['task'], majority['average']):.2f}"
    if results.steps:
        for row in rows:
            row["step"] = str(results.steps.get(row["task"], ""))
    table(title, rows)


def show_beside(encoder_only: Mapping[str, Any], whole: Mapping[str, Any] | None) -> None:
    """Print encoder-only scores beside those of the whole model, averaged over the same tasks.

    Args:
        encoder_only: of `score_encoder_only`.
        whole: of the run's validation rows, as results.json has them; None where they are of other rows or checkpoints.
    """
    from hyperadapt.metrics import metric_in_words

    scored = encoder_only["tasks"]
    of_whole = {} if whole is None else {task: whole["tasks"][task]["score"] for task in scored}
    rows = [
        {
            "task": task,
            **({"encoder-decoder": f"{of_whole[task]:.2f}"} if of_whole else {}),
            "encoder-only": f"{result['score']:.2f}",
            "metrics": "  ".join(
                metric_in_words(name, value, 2) for name, value in result["metrics"].items()
            ),
            "rows": str(result["rows"]),
        }
        for task, result in scored.items()
    ]
    average = {"task": "average", "encoder-only": f"{encoder_only['average']:.2f}"}
    if of_whole:
        average["encoder-decoder"] = f"{fmean(of_whole.values()):.2f}"
    rows.append({name: average.get(name, "") for name in rows[0]})
    table("validation rows", rows)


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table; the first one's keys are the columns.

    What it prints, as a task's or a file's name, may be a stranger's.
    """
    from rich.console import Console
    from rich.table import Table

    from hyperadapt.cli.lists import as_records, fitting_widths

    cells = [[printable(name) for name in rows[0]]]
    cells += [[printable(in_words(value)) for value in row.values()] for row in rows]
    # No markup: brackets are part of a path or a split. A file or another program gets every row on one line.
    console = Console(width=None if sys.stdout.isatty() else 1000, markup=False, emoji=False)
    console.print(printable(title), style="bold", soft_wrap=True)
    widths = fitting_widths(cells, console.width - 3 * len(cells[0]) - 1)
    if widths is None:
        for line in as_records([dict(zip(cells[0], row, strict=True)) for row in cells[1:]]):
            print(line)
        return
    drawn = Table()
    for name, width in zip(cells[0], widths, strict=True):
        drawn.add_column(name, width=width)
    for row in cells[1:]:
        drawn.add_row(*row)
    console.print(drawn)


def say(message: str) -> None:
    """Print a line, safe for a terminal."""
    print(printable(message))


def in_words(value: Any) -> str:
    """Format a cell."""
    if isinstance(value, float) and abs(value) < 1000 and not value.is_integer():
        return f"{value:.4g}"
    if isinstance(value, float):
        return f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def in_our_words(error: TyperException) -> str:
    """Say what is wrong about a command line; a field of a configuration that is written as an option, how else."""
    message = error.format_message().replace("Input should be", "it must be")
    option, command = getattr(error, "option_name", None), getattr(getattr(error, "cmd", None), "name", None)
    if not option or not message.startswith("No such option"):
        return message
    from hyperadapt.config.written import KINDS, meant_by

    field = option.lstrip("-").replace("-", "_")
    places = [place for kind in KINDS if kind.command == command for place in meant_by(field, kind)[0]]
    written = " or ".join(f"{place}=…" for place in places)
    return f"No such option: {option}; write {written}" if places else message
