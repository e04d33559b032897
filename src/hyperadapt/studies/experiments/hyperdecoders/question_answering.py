"""MRQA, in and out of domain, by how the parameters are parted too (Tables 4, 5, 14 and 15)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hyperadapt.studies.comparison import Cell
from hyperadapt.studies.experiments.beside import Labels, against, beside, columns_of, ours
from hyperadapt.studies.experiments.hyperdecoders.rows import (
    OURS,
    TRAINED,
    OurPlan,
    Rows,
    experiment,
    runs_of,
)
from hyperadapt.studies.experiments.hyperdecoders.scales import OUT_OF_DOMAIN_METRICS
from hyperadapt.studies.experiments.hyperdecoders.unseen import scored_unseen
from hyperadapt.studies.experiments.plan import Experiment
from hyperadapt.studies.published import published_table
from hyperadapt.studies.published_runs import (
    ADAPTER_ENCODER_HEAVY,
    ENCODER_HEAVY,
    FULL,
    HYPERDECODERS,
    TASK_HYPERNET,
    PublishedRun,
)


def on_mrqa(planned: OurPlan, run: PublishedRun) -> list[Cell]:
    """Make a row's runs on question answering."""
    scale = planned.scale
    return runs_of(
        planned, "question-answering", run, scale.seeds, scale.question_answering, scale.others_sized
    )


def table_4_rows(planned: OurPlan) -> Rows:
    """Make the runs of Tables 4 and 5."""
    runs = {
        "Full Finetuning": FULL,
        "Adapter": ADAPTER_ENCODER_HEAVY,
        "Task Hypernet": TASK_HYPERNET,
        OURS: ENCODER_HEAVY,
    }
    return {(name,): on_mrqa(planned, run) for name, run in runs.items()}


def table_14_rows(planned: OurPlan) -> Rows:
    """Make the runs of Tables 14 and 15: the parameters parted otherwise between encoder and decoder."""
    return {
        row.labels: on_mrqa(planned, run)
        for row in published_table("hyperdecoders", 14).rows
        if (run := HYPERDECODERS["14"][2][row.name]) is not None
    }


def question_answering(
    rows: Callable[[OurPlan], Rows], numbers: tuple[str, str], reference: Labels, renamed: Mapping[str, str]
) -> Callable[[OurPlan], str]:
    """Make the page of two tables, of the sets that are trained on and of those that are not.

    Args:
        rows: makes the runs.
        numbers: of the tables.
        reference: the row that is compared with the others.
        renamed: rows that the second table names otherwise.
    """

    def page(planned: OurPlan) -> str:
        scale, parts = planned.scale, []
        first, second = (published_table("hyperdecoders", number) for number in numbers)
        trained = dict(TRAINED) if "trained (%)" in first.columns else {}
        columns = columns_of(first, scale.question_metrics) | trained
        found = {labels: ours(cells, columns) for labels, cells in rows(planned).items()}
        parts.append(beside(first, found, against(first, reference, "Avg")))
        if scale.unseen is None:
            parts.append(f"Table {second.number}: the local copy has none of its sets.\n")
        else:
            columns = columns_of(second, OUT_OF_DOMAIN_METRICS) | trained
            unseen = partial(scored_unseen, suite=scale.unseen)
            found = {
                (renamed.get(labels[0], labels[0]), *labels[1:]): ours(cells, columns, read=unseen)
                for labels, cells in rows(planned).items()
            }
            parts.append(beside(second, found, against(second, reference, "Avg")))
        tasks = ", ".join(scale.question_answering["data"]["tasks"])
        note = f"Trained on {tasks}; the scores are F1."
        if scale.unseen is None:
            note += " They stand for MRQA's six sets, so that a distance from their printed average is of other rows."
        return "\n".join([*parts, f"{note}\n"])

    return page


EXPERIMENTS: tuple[Experiment[Any], ...] = (
    experiment(
        "tables-4-5",
        "Tables 4 and 5",
        "MRQA, in and out of domain",
        table_4_rows,
        question_answering(table_4_rows, ("4", "5"), (OURS,), {"Adapter": "Single Adapter"}),
    ),
    experiment(
        "tables-14-15",
        "Tables 14 and 15",
        "MRQA by how the parameters are parted",
        table_14_rows,
        question_answering(table_14_rows, ("14", "15"), (OURS, "512", "36", "72"), {}),
    ),
)
