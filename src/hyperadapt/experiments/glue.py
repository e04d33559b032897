"""GLUE, one task a model and all in one (Tables 1, 3, 4 and 7), and with few rows a task (Figure 2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from hyperadapt.comparison import Cell, markdown, scores_of, spread_of
from hyperadapt.experiments.plan import Experiment, Plan
from hyperadapt.experiments.scales import ADAPTERS, DAGGER, FULL, HYPER, HYPER_PP, Fields
from hyperadapt.figures import Line, scores_by_size
from hyperadapt.published import NOT_PRINTED, published_rows
from hyperadapt.tasks import resolve_tasks

Row = dict[str, Any]


def on_glue(planned: Plan, variants: dict[str, Fields]) -> list[Cell]:
    """Make runs on all tasks; experiments that have a variant in common share its runs."""
    return planned.runs("glue", variants, planned.scale.seeds)


def rows_of(cells: Iterable[Cell], prefix: str = "") -> list[Row]:
    """Summarise runs as Table 1 does, where a variant is one model for all tasks, or a model for each.

    Args:
        cells: finished runs.
        prefix: stands before the variants' names.

    Returns:
        variant, seeds, then the score of each task, their "average" and that on the "validation" rows, mean and
        deviation over the seeds; "total", the parameters of all tasks together as a multiple of the base model's, where
        tasks share what they do not train; "% trained", for a task.
    """
    by_variant: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        results = cell.results()
        assert results is not None
        by_variant[cell.variant][cell.seed].append(results)
    rows = []
    for variant, by_seed in by_variant.items():
        seeds = [joined(models) for models in by_seed.values()]
        spread = {name: spread_of([scores[name] for scores in seeds]) for name in seeds[0]}
        counts = [results["parameters"] for results in next(iter(by_seed.values()))]
        base, trained = counts[0]["base"], sum(count["trained"] for count in counts)
        total = (counts[0]["total"] - counts[0]["trained"] + trained) / base
        of_a_task = 100 * trained / sum(count["tasks"] for count in counts) / base
        rows.append(
            {
                "variant": prefix + variant,
                "seeds": len(seeds),
                **spread,
                "total": f"{total:.2f}x",
                "% trained": of_a_task,
            }
        )
    return rows


def joined(models: Sequence[Row]) -> dict[str, float]:
    """Return the scores of all tasks, of one model or of one for each, with their averages."""
    scores = {task: of["score"] for results in models for task, of in scores_of(results)["tasks"].items()}
    validation = [of["score"] for results in models for of in results["validation"]["tasks"].values()]
    return {**scores, "average": fmean(scores.values()), "validation": fmean(validation)}


def best_by_validation(rows: Sequence[Row]) -> list[Row]:
    """Keep of each method the row with the best average on the validation rows."""
    best: dict[str, Row] = {}
    for row in rows:
        method = row["variant"].split(",")[0]
        if method not in best or row["validation"][0] > best[method]["validation"][0]:
            best[method] = row
    return list(best.values())


# Tables 1 and 7.


def alone(planned: Plan) -> list[Cell]:
    """Make runs on each task alone."""
    scale = planned.scale
    variants = planned.methods(FULL, ADAPTERS, factors=scale.reduction_factors)
    return [
        cell
        for task in resolve_tasks(scale.run["data"]["tasks"])
        for cell in planned.runs(
            f"{task.name}-alone", variants, scale.seeds, scale.alone, {"data": {"tasks": [task.name]}}
        )
    ]


def together(planned: Plan) -> list[Cell]:
    """Make runs on all tasks at once."""
    factors = planned.scale.reduction_factors
    return on_glue(planned, planned.methods(FULL, DAGGER, HYPER, HYPER_PP, factors=factors))


def table_1_page(planned: Plan) -> str:
    """Set each method's best reduction factor beside the printed rows, and all of them below."""
    rows = [*rows_of(alone(planned), "one-task "), *rows_of(together(planned))]
    return (
        f"{markdown(best_by_validation(rows))}\n"
        "Scores on the test rows; of each method the reduction factor with the best average on the validation rows. "
        "Rows named one-task are a model for each task, the others one for all.\n\n"
        f"## Every reduction factor (Table 7)\n\n{markdown(rows)}\n"
        f"## As printed\n\n{markdown(printed_rows())}"
    )


def printed_rows() -> list[Row]:
    """Lay Table 1 out as printed, each task's metrics averaged as in our tables."""
    rows = []
    for row in published_rows(1):
        by_task: dict[str, list[float]] = {}
        for metric, score in row.scores.items():
            by_task.setdefault(metric.split()[0], []).append(score)
        method = row.method if row.tasks_in_one_model > 1 else f"one-task {row.method}"
        scores = {task: f"{fmean(values):.2f}" for task, values in by_task.items()}
        average = f"{row.average:.2f}"
        rows.append(
            {
                "model": row.model,
                "method": method,
                **scores,
                "average": average,
                "total": row.total,
                "% trained": row.trained_percent,
            }
        )
    return rows


# Table 3.


def wide(planned: Plan) -> list[Cell]:
    """Make runs of Adapters-dagger with wide bottlenecks, and of HyperFormer++ beside them."""
    variants = planned.methods(DAGGER, factors=planned.scale.wide_factors) | planned.methods(HYPER_PP)
    return on_glue(planned, variants)


def table_3_page(planned: Plan) -> str:
    """Write the table, with the printed numbers of parameters."""
    printed = [
        {
            "model": row.model,
            "method": f"{row.method},r={row.options['reduction_factor']}",
            "total": row.total,
            "% trained": row.trained_percent,
        }
        for row in published_rows(3)
    ]
    return f"{markdown(rows_of(planned.cells()))}\n## As printed\n\n{markdown(printed)}\n{NOT_PRINTED}\n"


# Table 4.

ABLATIONS: dict[str, Fields] = {
    "hyperformer": {},
    "no_adapter_blocks": {"adapter_block": False},
    "no_conditional_layer_norm": {"conditional_layer_norm": False},
    "no_task_projector": {"task_projector": False},
    "no_T5_layer_norm": {"train_layer_norms": False},
    "no_conditional_nor_T5_layer_norm": {"conditional_layer_norm": False, "train_layer_norms": False},
}


def ablated(planned: Plan) -> list[Cell]:
    """Make runs of HyperFormer, whole and without each of its parts."""
    [(name, whole)] = planned.methods(HYPER).items()
    variants = {
        name if not options else f"{name},{ablation}": {**whole, "method": {**whole["method"], **options}}
        for ablation, options in ABLATIONS.items()
    }
    return on_glue(planned, variants)


def table_4_page(planned: Plan) -> str:
    """Write the table."""
    return f"{markdown(rows_of(planned.cells()))}\n{NOT_PRINTED}\n"


# Figure 2.


def low_resource(planned: Plan, rows: int) -> list[Cell]:
    """Make runs on so many rows of each task, drawn by each run's seed."""
    scale = planned.scale
    variants = planned.methods(FULL) | planned.methods(DAGGER, HYPER_PP, factors=scale.low_resource_factors)
    drawn = {"data": {"max_train_rows": rows, "subsample_seed": None}}
    return planned.runs(f"glue-{rows}-rows", variants, scale.few_seeds, scale.low_resource, drawn)


def figure_2_cells(planned: Plan) -> list[Cell]:
    """Make the runs on every number of rows."""
    return [cell for rows in planned.scale.low_resource_rows for cell in low_resource(planned, rows)]


def figure_2_page(planned: Plan) -> str:
    """Draw the average by the number of rows, each method with its best reduction factor; the table has all."""
    lines: dict[str, Line] = {}
    table = []
    for count in planned.scale.low_resource_rows:
        rows = rows_of(low_resource(planned, count))
        table += [{"rows a task": str(count), **row} for row in rows]
        for row in best_by_validation(rows):
            lines.setdefault(row["variant"].split(",")[0], []).append((count, *row["average"]))
    picture = planned.picture("scores", scores_by_size(lines, "training rows a task", "average"))
    return f"![average by training rows]({picture})\n\n{markdown(table)}"


TABLE_1 = Experiment(
    "table-1",
    "Tables 1 and 7",
    "GLUE, one task a model and all in one",
    lambda planned: [*together(planned), *alone(planned)],
    table_1_page,
)
TABLE_3 = Experiment("table-3", "Table 3", "Adapters-dagger with wide bottlenecks", wide, table_3_page)
TABLE_4 = Experiment("table-4", "Table 4", "ablations of HyperFormer", ablated, table_4_page)
FIGURE_2 = Experiment("figure-2", "Figure 2", "GLUE with few rows a task", figure_2_cells, figure_2_page)
