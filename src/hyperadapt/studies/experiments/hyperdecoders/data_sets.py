"""How many rows the data sets have (Tables 10 to 12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperadapt.errors import UserError
from hyperadapt.studies.comparison import markdown
from hyperadapt.studies.experiments.hyperdecoders.rows import SOURCE, OurPlan
from hyperadapt.studies.experiments.hyperdecoders.scales import SCALES, HyperdecodersScale
from hyperadapt.studies.experiments.plan import Experiment
from hyperadapt.studies.published import published_table
from hyperadapt.studies.published_runs import ROWS_OF
from hyperadapt.tasks import get_task, read_split


def rows_page(number: str) -> Callable[[OurPlan], str]:
    """Make the page that counts the rows of our splits beside the printed numbers."""

    def page(planned: OurPlan) -> str:
        table, lines, missing, alike, counted = published_table("hyperdecoders", number), [], [], 0, 0
        for row in table.rows:
            task = get_task(ROWS_OF[number][row.labels[0]])
            line: dict[str, Any] = {"dataset": row.labels[0]}
            for split in table.columns:
                cell = row.cells[split]
                name = "test" if split == "validation" and "validation" not in task.splits else split
                line[f"{split}, printed"] = "" if cell is None else cell.text
                line[f"{split}, ours"] = ""
                if cell is None or name not in task.splits:
                    continue
                try:
                    rows = len(read_split(task, name, planned.overrides.get("data", {}).get("data_dir")))
                except UserError as error:
                    missing.append(str(error))
                    break
                line[f"{split}, ours"] = str(rows)
                counted, alike = counted + 1, alike + (rows == cell.number)
            lines.append(line)
        note = f"{alike} of {counted} numbers are those that are printed.\n"
        if missing:
            note += f"\n{len(missing)} of {len(table.rows)} sets are not there; the first: {missing[0]}\n"
        return f"{markdown(lines)}\n{note}"

    return page


def of_rows(number: str, title: str) -> Experiment[HyperdecodersScale]:
    """Make an experiment without runs, that counts rows."""
    return Experiment(
        f"hyperdecoders/table-{number}",
        SOURCE.format(f"Table {number}"),
        title,
        lambda planned: [],
        rows_page(number),
        SCALES,
    )


EXPERIMENTS: tuple[Experiment[Any], ...] = (
    of_rows("10", "rows of GLUE's splits"),
    of_rows("11", "rows of MRQA's sets"),
    of_rows("12", "rows of the sets of summaries and inference"),
)
