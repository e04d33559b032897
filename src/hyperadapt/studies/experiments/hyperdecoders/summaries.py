"""Summaries and inference, in one model and each suite alone (Tables 6 and 16)."""

from __future__ import annotations

from typing import Any

from hyperadapt.studies.comparison import Cell
from hyperadapt.studies.experiments.beside import Labels, Ours, against, beside, claimed, columns_of, ours
from hyperadapt.studies.experiments.hyperdecoders.rows import (
    OURS,
    SOURCE,
    TRAINED,
    OurPlan,
    Rows,
    listed,
    runs_of,
)
from hyperadapt.studies.experiments.hyperdecoders.scales import INFERENCE, SCALES, SUMMARIES
from hyperadapt.studies.experiments.plan import Experiment
from hyperadapt.studies.published import published_table
from hyperadapt.studies.published_runs import (
    ADAPTER_ENCODER_HEAVY,
    ENCODER_HEAVY,
    FULL,
    HYPERDECODERS,
    PublishedRun,
)


def on_both(planned: OurPlan, run: PublishedRun, suite: str | None = None) -> list[Cell]:
    """Make a row's runs on summaries and inference, or on one suite of them alone."""
    scale = planned.scale
    own = {} if suite is None else {"data": {"tasks": list(scale.suites[suite])}}
    return runs_of(
        planned,
        suite or "summaries-and-inference",
        run,
        scale.seeds,
        scale.summarisation_inference,
        scale.others_sized,
        own,
    )


def table_16_rows(planned: OurPlan) -> Rows:
    """Make the runs of Tables 6 and 16."""
    return {(name,): on_both(planned, run) for name, run in HYPERDECODERS["16"][2].items() if run is not None}


ALONE = {
    "Full-finetuning": FULL,
    "Adapter (enc-heavy)": ADAPTER_ENCODER_HEAVY,
    f"{OURS} (enc-heavy)": ENCODER_HEAVY,
}


def table_16_cells(planned: OurPlan) -> list[Cell]:
    """List the runs of Tables 6 and 16, and those of each suite alone."""
    alone = [
        cell
        for suite in planned.scale.suites
        for run in ALONE.values()
        for cell in on_both(planned, run, suite)
    ]
    return [*listed(table_16_rows)(planned), *alone]


IN_TABLE_6 = {
    "Full-finetuning": "Full-finetuning",
    "Adapter": "Adapter (enc-heavy)",
    "Task Hypernet": "Task Hypernet",
    OURS: f"{OURS} (enc-heavy)",
}


def table_16_page(planned: OurPlan) -> str:
    """Set the runs beside both tables' rows, and each suite alone beside both in one model."""
    short, whole = (published_table("hyperdecoders", number) for number in ("6", "16"))
    tasks = {name for suite in planned.scale.suites.values() for name in suite}
    there = {
        column: metric
        for column, metric in {**planned.scale.summaries, **INFERENCE}.items()
        if str(metric).partition(".")[0] in tasks
    }
    of_suite = {
        suite: [metric for column, metric in there.items() if column in metrics]
        for suite, metrics in (("Sum. Avg.", SUMMARIES), ("NLI Avg.", INFERENCE))
    }
    columns = columns_of(whole, {**there, **of_suite}) | dict(TRAINED)
    rows = table_16_rows(planned)
    found = {labels: ours(cells, columns) for labels, cells in rows.items()}
    in_short: dict[Labels, Ours | None] = {(name,): found[(row,)] for name, row in IN_TABLE_6.items()}
    # A suite trained alone, minus the same in the model of both.
    columns_of_suites = dict(zip(planned.scale.suites, of_suite.values(), strict=True))
    transfer = {}
    for suite, measure in columns_of_suites.items():
        for name, run in ALONE.items():
            both = ours(rows[(name,)], {"average": measure})
            transfer[f"{name}, {suite} alone − with the other suite"] = (
                ours(on_both(planned, run, suite), {"average": measure}),
                both,
            )
    return (
        f"{beside(short, in_short, against(short, (OURS,), 'Overall Avg.'))}\n"
        f"{beside(whole, found, against(whole, (f'{OURS} (enc-heavy)',), 'Overall Avg.'))}\n"
        "## Each suite alone\n\n"
        + f"Trained on {', '.join(planned.scale.summarisation_inference['data']['tasks'])}; an average is of those "
        "that are there. One number of beams holds for all, where the authors have 6 for XSum and 4 for the others.\n\n"
        + claimed(
            transfer,
            "average",
            "Negative transfer: the paper takes these suites because they are known to harm each other in one model "
            "(section 3.1.3), and prints no run of one alone. Above 0 the suite is better without the other:",
        )
    )


EXPERIMENTS: tuple[Experiment[Any], ...] = (
    Experiment(
        "hyperdecoders/tables-6-16",
        SOURCE.format("Tables 6 and 16"),
        "summaries and inference, in one model and alone",
        table_16_cells,
        table_16_page,
        SCALES,
    ),
)
