"""The tables of the Hyperdecoders paper, by what their runs are trained on: GLUE, MRQA, summaries and inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import starmap
from typing import Any

from hyperadapt.comparison import Cell, markdown
from hyperadapt.errors import UserError
from hyperadapt.experiments.beside import (
    GLUE_METRICS,
    Columns,
    Labels,
    Measure,
    Ours,
    Pair,
    against,
    beside,
    claimed,
    columns_of,
    joined,
    orders,
    ours,
)
from hyperadapt.experiments.hyperdecoders.scales import (
    INFERENCE,
    OUT_OF_DOMAIN_METRICS,
    SCALES,
    SUMMARIES,
    HyperdecodersScale,
)
from hyperadapt.experiments.hyperdecoders.unseen import scored_unseen
from hyperadapt.experiments.plan import Experiment, Plan
from hyperadapt.experiments.scales import Fields
from hyperadapt.published import published_table
from hyperadapt.published_runs import (
    ADAPTER_ENCODER_HEAVY,
    ENCODER_HEAVY,
    FULL,
    HYPERDECODERS,
    ROWS_OF,
    TASK_HYPERNET,
    PublishedRun,
)
from hyperadapt.tasks import get_task, read_split

OurPlan = Plan[HyperdecodersScale]
Rows = dict[Labels, list[Cell]]
SOURCE = "Hyperdecoders, {}"
TRAINED: Columns = {"trained (%)": "trained"}
OURS = "Hyperdecoder (ours)"
# Of which sizes Table 1's are nobody says; with these their shares of trained parameters come nearest to the printed.
UNSAID = {
    "Hyperformer": PublishedRun("hyperformer", {"reduction_factor": 256}),
    "Hyperformer++": PublishedRun("hyperformer++", {"reduction_factor": 8}),
}


def runs_of(
    planned: OurPlan,
    group: str,
    run: PublishedRun,
    seeds: Sequence[int],
    of_scale: Fields,
    sized: Callable[[PublishedRun], Fields] | None = None,
    own: Fields | None = None,
) -> list[Cell]:
    """Make the runs of a row; rows of several tables that train the same share them.

    Args:
        planned: the plan.
        group: the folder of runs on the same data from the same model.
        run: what is trained.
        seeds: of the runs.
        of_scale: in what they differ from the scale's runs on GLUE.
        sized: how the method is written, by default as on GLUE.
        own: what makes the runs what they are, beside the method.
    """
    method = (sized or planned.scale.sized)(run)
    name = ",".join([run.method, *starmap(in_words, run.options.items())])
    rates = planned.scale.learning_rates
    # A hypernetwork of task embeddings in the encoder needs the lower rate, whatever is beside it.
    rate = rates.get(run.method) if run.options.get("encoder") != "task" else None
    fields: Fields = {"method": method} | ({"training": {"learning_rate": rate}} if rate is not None else {})
    return planned.runs(group, {name: fields}, seeds, of_scale, own)


def in_words(option: str, value: object) -> str:
    """Name an option in a folder's name: widths and places by their values alone, switches by their names."""
    if isinstance(value, bool):
        return option if value else f"no_{option}"
    return str(value)


def listed(rows: Callable[[OurPlan], Mapping[Labels, list[Cell]]]) -> Callable[[OurPlan], list[Cell]]:
    """Make a function that lists the runs of rows, each once."""

    def cells(planned: OurPlan) -> list[Cell]:
        return list({cell.directory: cell for of in rows(planned).values() for cell in of}.values())

    return cells


# GLUE: Tables 1 to 3.


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
        (name,): of
        for name in (OURS, "Adapter")
        if (of := ours(rows[(name,)], {**columns, "without CoLA": without_cola})) is not None
    }
    pairs = [
        Pair(f"Hyperdecoder − Adapter, {column}", ((OURS,), column), (("Adapter",), column))
        for column in columns
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


# The placement grid: Tables 8, 9 and 13.


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
        found[(encoder,)] = joined(*(ours(of, {decoder: average}) for decoder, of in cells.items()))
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
    return {(name,): table_13_rows(planned)[(of,)] for name, of in LEFT_OUT.items()}


def table_9_page(planned: OurPlan) -> str:
    """Set the three beside the printed rows."""
    table = published_table("hyperdecoders", 9)
    average = columns_of(published_table("hyperdecoders", 13), GLUE_METRICS)["Avg"]
    found = {labels: ours(cells, {"GLUE Avg": average}) for labels, cells in table_9_rows(planned).items()}
    return beside(table, found, against(table, ("Hyperdecoder",), "GLUE Avg"))


# MRQA: Tables 4, 5, 14 and 15.


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
        return "\n".join([*parts, f"Trained on {tasks}; the scores are F1.\n"])

    return page


# Summaries and inference: Tables 6 and 16.


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
    tasks = {name for of in planned.scale.suites.values() for name in of}
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
    in_short: dict[Labels, Ours | None] = {(name,): found[(of,)] for name, of in IN_TABLE_6.items()}
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
        + f"All are generated with {planned.scale.summarisation_inference.get('evaluation', {}).get('num_beams', 1)} "
        "beams; the authors have 6 for XSum and 4 for the others.\n\n"
        + claimed(
            transfer,
            "average",
            "Negative transfer: the paper takes these suites because they are known to harm each other in one model "
            "(section 3.1.3), and prints no run of one alone. Above 0 the suite is better without the other:",
        )
    )


# Rows of the data sets: Tables 10, 11 and 12.


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


def experiment(
    name: str, source: str, title: str, rows: Callable[[OurPlan], Rows], page: Callable[[OurPlan], str]
) -> Experiment[HyperdecodersScale]:
    """Make an experiment of its rows."""
    return Experiment(f"hyperdecoders/{name}", SOURCE.format(source), title, listed(rows), page, SCALES)


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
    experiment("table-1", "Table 1", "GLUE, all methods", table_1_rows, table_1_page),
    experiment(
        "table-2",
        "Table 2",
        "GLUE, each task by its own checkpoint",
        table_2_rows,
        on_glue(table_2_rows, "2", "validation"),
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
    experiment(
        "tables-4-5",
        "Tables 4 and 5",
        "MRQA, in and out of domain",
        table_4_rows,
        question_answering(table_4_rows, ("4", "5"), (OURS,), {"Adapter": "Single Adapter"}),
    ),
    Experiment(
        "hyperdecoders/tables-6-16",
        SOURCE.format("Tables 6 and 16"),
        "summaries and inference, in one model and alone",
        table_16_cells,
        table_16_page,
        SCALES,
    ),
    experiment("table-8", "Table 8", "where the adapters come from", grid_rows, table_8_page),
    experiment("table-9", "Table 9", "the Hyperdecoder's parts", table_9_rows, table_9_page),
    experiment("table-13", "Table 13", "Tables 8 and 9 by task", table_13_rows, table_13_page),
    experiment(
        "tables-14-15",
        "Tables 14 and 15",
        "MRQA by how the parameters are parted",
        table_14_rows,
        question_answering(table_14_rows, ("14", "15"), (OURS, "512", "36", "72"), {}),
    ),
    of_rows("10", "rows of GLUE's splits"),
    of_rows("11", "rows of MRQA's sets"),
    of_rows("12", "rows of the sets of summaries and inference"),
)
