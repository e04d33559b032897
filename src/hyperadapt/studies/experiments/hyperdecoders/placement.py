"""Where the adapters come from, and what else makes a Hyperdecoder (Tables 8, 9 and 13)."""

from __future__ import annotations

from typing import Any

from hyperadapt.studies.experiments.beside import (
    GLUE_METRICS,
    Labels,
    Ours,
    Pair,
    against,
    beside,
    columns_of,
    joined,
    ours,
)
from hyperadapt.studies.experiments.hyperdecoders.rows import TRAINED, OurPlan, Rows, experiment, runs_of
from hyperadapt.studies.experiments.plan import Experiment
from hyperadapt.studies.published import published_table
from hyperadapt.studies.published_runs import HYPERDECODERS


def table_13_rows(planned: OurPlan) -> Rows:
    """Make the runs of the whole grid, and of what is left out of the Hyperdecoder."""
    return {
        (name,): runs_of(planned, "glue", run, planned.scale.seeds, {})
        for name, run in HYPERDECODERS["13"][2].items()
        if run is not None
    }


def table_13_page(planned: OurPlan) -> str:
    """Set all of the grid beside the printed rows."""
    table = published_table("hyperdecoders", 13)
    columns = columns_of(table, GLUE_METRICS) | dict(TRAINED)
    found = {labels: ours(cells, columns) for labels, cells in table_13_rows(planned).items()}
    return beside(table, found, against(table, ("Manual-Generated",), "Avg"))


ENCODERS = {
    "Adapters": "Manual",
    "Task-Conditioned Adapters": "Task",
    "Encoder-Conditioned Adapters": "Generated",
}
WHOLE = "Full-Finetuning"


def grid_rows(planned: OurPlan) -> Rows:
    """Make the runs of Table 8: the grid alone."""
    names = [
        "Full Finetuning",
        *(f"{first}-{second}" for first in ENCODERS.values() for second in ENCODERS.values()),
    ]
    return {(name,): table_13_rows(planned)[(name,)] for name in names}


def table_8_page(planned: OurPlan) -> str:
    """Set the grid of averages beside the printed one."""
    table, rows = published_table("hyperdecoders", 8), grid_rows(planned)
    average = columns_of(published_table("hyperdecoders", 13), GLUE_METRICS)["Avg"]
    found: dict[Labels, Ours | None] = {(WHOLE,): ours(rows[("Full Finetuning",)], {WHOLE: average})}
    for encoder, first in ENCODERS.items():
        cells = {decoder: rows[(f"{first}-{second}",)] for decoder, second in ENCODERS.items()}
        found[(encoder,)] = joined(*(ours(runs, {decoder: average}) for decoder, runs in cells.items()))
    best = (("Adapters",), "Encoder-Conditioned Adapters")
    others = [(((WHOLE,), WHOLE)), *(((encoder,), decoder) for encoder in ENCODERS for decoder in ENCODERS)]
    pairs = [
        Pair(f"Manual-Generated − {short_name(*other)}", best, other) for other in others if other != best
    ]
    return f"Rows are encoders, columns decoders.\n\n{beside(table, found, pairs)}"


def short_name(encoder: Labels, decoder: str) -> str:
    """Name a cell of the grid as Table 13 does."""
    return "Full Finetuning" if encoder == (WHOLE,) else f"{ENCODERS[encoder[0]]}-{ENCODERS[decoder]}"


LEFT_OUT = {
    "Hyperdecoder": "Manual-Generated",
    "- MLP": "Manual-Generated, no MLP",
    "+ post-layernorm input": "Manual-Generated, post-layernorm adapter input",
}


def table_9_rows(planned: OurPlan) -> Rows:
    """Make the runs of the Hyperdecoder, without its MLP, and with adapters that read the layer norm."""
    return {(name,): table_13_rows(planned)[(row,)] for name, row in LEFT_OUT.items()}


def table_9_page(planned: OurPlan) -> str:
    """Set the three beside the printed rows."""
    table = published_table("hyperdecoders", 9)
    average = columns_of(published_table("hyperdecoders", 13), GLUE_METRICS)["Avg"]
    found = {labels: ours(cells, {"GLUE Avg": average}) for labels, cells in table_9_rows(planned).items()}
    return beside(table, found, against(table, ("Hyperdecoder",), "GLUE Avg"))


EXPERIMENTS: tuple[Experiment[Any], ...] = (
    experiment("table-8", "Table 8", "where the adapters come from", grid_rows, table_8_page),
    experiment("table-9", "Table 9", "the Hyperdecoder's parts", table_9_rows, table_9_page),
    experiment("table-13", "Table 13", "Tables 8 and 9 by task", table_13_rows, table_13_page),
)
