"""GLUE by all methods, by each task's own checkpoint, and from a T5 that has seen it (Tables 1 to 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperadapt.studies.comparison import Cell
from hyperadapt.studies.experiments.beside import (
    GLUE_METRICS,
    Labels,
    Measure,
    Ours,
    Pair,
    against,
    beside,
    claimed,
    columns_of,
    orders,
    ours,
)
from hyperadapt.studies.experiments.hyperdecoders.rows import (
    OURS,
    TRAINED,
    OurPlan,
    Rows,
    experiment,
    runs_of,
)
from hyperadapt.studies.experiments.plan import Experiment
from hyperadapt.studies.published import published_table
from hyperadapt.studies.published_runs import ENCODER_HEAVY, HYPERDECODERS, PublishedRun

# Of which sizes Table 1's are nobody says; with these their shares of trained parameters come nearest to the printed.
UNSAID = {
    "Hyperformer": PublishedRun("hyperformer", {"reduction_factor": 256}),
    "Hyperformer++": PublishedRun("hyperformer++", {"reduction_factor": 8}),
}


def table_1_rows(planned: OurPlan) -> Rows:
    """Make the runs of Table 1, of what the paper has 25 of as many as the scale has."""
    rows: Rows = {}
    for name, run in HYPERDECODERS["1"][2].items():
        seeds = planned.scale.many_seeds if name in ("Adapter", OURS) else planned.scale.seeds
        rows[(name,)] = runs_of(planned, "glue", run or UNSAID[name], seeds, {})
    return rows


def on_glue(
    rows: Callable[[OurPlan], Rows], number: str, split: str | None = None, note: str = ""
) -> Callable[[OurPlan], str]:
    """Make the page of a table on GLUE, by whose average the Hyperdecoder is compared with the others."""

    def page(planned: OurPlan) -> str:
        table = published_table("hyperdecoders", number)
        columns = columns_of(table, GLUE_METRICS) | dict(TRAINED)
        found = {labels: ours(cells, columns, split) for labels, cells in rows(planned).items()}
        return f"{beside(table, found, against(table, (OURS,), 'Avg'))}\n{note}"

    return page


# Of which rows ours are, as the text and Table 10 do not agree.
MNLI = (
    "MNLI is tested on its matched rows, as many as Table 10 has; section 3.1.1 speaks of the mismatched.\n"
)


def table_1_page(planned: OurPlan) -> str:
    """Set the rows beside the printed ones, and test what the paper marks as significant."""
    table, rows = published_table("hyperdecoders", 1), table_1_rows(planned)
    columns = columns_of(table, GLUE_METRICS)
    without_cola: Measure = [measure for name, measure in glue_by_task(table).items() if name != "CoLA"]
    both: dict[Labels, Ours] = {
        (name,): found
        for name in (OURS, "Adapter")
        if (found := ours(rows[(name,)], {**columns, "without CoLA": without_cola})) is not None
    }
    pairs = [
        Pair(f"Hyperdecoder − Adapter, {column}", ((OURS,), column), (("Adapter",), column))
        for column in columns
        if column != "Avg"  # which the table before has
    ]
    averages = {"Hyperdecoder − Adapter, without CoLA": (both.get((OURS,)), both.get(("Adapter",)))}
    return "\n".join(
        [
            on_glue(table_1_rows, "1")(planned),
            "Column by column, of which the paper marks SST-2, Spearman's correlation of STS-B and MNLI as "
            "significantly higher:\n",
            orders(table, both, pairs),
            claimed(
                averages,
                "without CoLA",
                "Of the average without CoLA the paper says that it is significantly higher:",
            ),
            "The sizes of Hyperformer and Hyperformer++ are not printed; ours are those that come nearest to the "
            f"printed shares. {MNLI}",
        ]
    )


def glue_by_task(table: Any) -> dict[str, Measure]:
    """Name the measure of each task in a table's average, by the first of its columns."""
    columns = columns_of(table, GLUE_METRICS)
    parts = table.averages["Avg"]
    names = [part if isinstance(part, str) else part[0] for part in parts]
    return dict(zip(names, columns["Avg"], strict=True))


def table_2_rows(planned: OurPlan) -> Rows:
    """Make the run of Table 2; the rows beside it are another paper's."""
    of_scale = planned.scale.best_per_task
    return {(OURS,): runs_of(planned, "glue-best-per-task", ENCODER_HEAVY, planned.scale.seeds, of_scale)}


def table_3_rows(planned: OurPlan) -> Rows:
    """Make the runs of Table 3, from the T5 that has seen GLUE; all but the last as in the HyperFormer paper."""
    scale, rows = planned.scale, dict[Labels, list[Cell]]()
    for name, run in HYPERDECODERS["3"][2].items():
        if run is None:
            continue
        group, of_scale = "glue-vanilla" if scale.vanilla else "glue", scale.vanilla
        if name != OURS and scale.as_hyperformer:
            group, of_scale = "glue-as-hyperformer", scale.as_hyperformer
        rows[(name,)] = runs_of(planned, group, run, scale.seeds, of_scale)
    return rows


EXPERIMENTS: tuple[Experiment[Any], ...] = (
    experiment("table-1", "Table 1", "GLUE, all methods", table_1_rows, table_1_page),
    experiment(
        "table-2",
        "Table 2",
        "GLUE, each task by its own checkpoint",
        table_2_rows,
        on_glue(
            table_2_rows,
            "2",
            "validation",
            note="Each task's score is the best of all checkpoints on the very rows that are scored.\n",
        ),
    ),
    experiment(
        "table-3",
        "Table 3",
        "GLUE from a T5 that has seen it",
        table_3_rows,
        on_glue(
            table_3_rows,
            "3",
            note="All rows but the last are the HyperFormer paper's; ours are trained as there, with r = 32, where "
            f"the scale is the paper's. {MNLI}",
        ),
    ),
)
