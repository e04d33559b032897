"""GLUE, one task a model and all in one (Tables 1, 3, 4 and 7), and with few rows a task (Figure 2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from hyperadapt.comparison import MAJORITY, Cell, markdown, scores_of, spread_of
from hyperadapt.experiments.plan import Experiment, Plan, as_printed
from hyperadapt.experiments.scales import ADAPTERS, DAGGER, FULL, HYPER, HYPER_PP, Fields
from hyperadapt.figures import Line, scores_by_size
from hyperadapt.published import HYPERFORMER_METHODS, published_table
from hyperadapt.tasks import resolve_tasks

Row = dict[str, Any]
BY_METRIC = "average by metric"


def on_glue(planned: Plan, variants: dict[str, Fields]) -> list[Cell]:
    """Make runs on all tasks; experiments that have a variant in common share its runs."""
    return planned.runs("glue", variants, planned.scale.seeds)


def rows_of(cells: Iterable[Cell], prefix: str = "") -> list[Row]:
    """Summarise runs as Table 1 does, where a variant is one model for all tasks, or a model for each.

    Args:
        cells: runs; a seed of which one is not finished is passed over, so that all averages are of all tasks.
        prefix: stands before the variants' names.

    Returns:
        variant, seeds, then the score of each task, their "average", the average of all their metrics, which the paper
        has, and that of the scores on the "validation" rows, mean and deviation over the seeds; "total", the parameters
        of all tasks together as a multiple of the base model's, where tasks share what they do not train; "% trained",
        for a task.
    """
    by_variant: dict[str, dict[int, list[Row | None]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        by_variant[cell.variant][cell.seed].append(cell.results())
    rows = []
    for variant, by_seed in by_variant.items():
        whole = [[of for of in models if of is not None] for models in by_seed.values() if None not in models]
        if not whole:
            continue
        seeds = [joined(models) for models in whole]
        spread = {name: spread_of([scores[name] for scores in seeds]) for name in seeds[0]}
        counts = [results["parameters"] for results in whole[0]]
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


def scored(planned: Plan) -> str:
    """Write the table of all runs, below what the most frequent training targets score."""
    cells = planned.cells()
    return markdown([*majority_row(cells), *rows_of(cells)])


def majority_row(cells: Iterable[Cell]) -> list[Row]:
    """Make the row of what the most frequent training targets score, once a run is finished."""
    for results in filter(None, (cell.results() for cell in cells)):
        scores = {name: (score, None) for name, score in joined([results["majority"]]).items()}
        return [{"variant": MAJORITY, "seeds": None, **scores}]
    return []


def joined(models: Sequence[Row]) -> dict[str, float]:
    """Return the scores of all tasks, of one model or of one for each, with their averages."""
    tasks = {task: of for results in models for task, of in scores_of(results)["tasks"].items()}
    scores = {task: of["score"] for task, of in tasks.items()}
    metrics = [value for of in tasks.values() for value in of["metrics"].values()]
    validation = [of["score"] for results in models for of in results["validation"]["tasks"].values()]
    averages = {"average": fmean(scores.values()), BY_METRIC: fmean(metrics), "validation": fmean(validation)}
    return scores | averages


def best_by_validation(rows: Sequence[Row]) -> list[Row]:
    """Keep of each method the row with the best average on the validation rows."""
    best: dict[str, Row] = {}
    for row in rows:
        method = without_factor(row["variant"])
        if method not in best or row["validation"][0] > best[method]["validation"][0]:
            best[method] = row
    return list(best.values())


def without_factor(variant: str) -> str:
    """Return a variant's name without its reduction factor."""
    return ",".join(part for part in variant.split(",") if not part.startswith("r="))


# Tables 1 and 7.


def single_task(planned: Plan) -> list[Cell]:
    """Make runs on each task alone."""
    scale = planned.scale
    variants = planned.methods(FULL, ADAPTERS, factors=scale.reduction_factors)
    return [
        cell
        for task in resolve_tasks(scale.run["data"]["tasks"])
        for cell in planned.runs(
            f"{task.name}-alone", variants, scale.seeds, scale.single_task, {"data": {"tasks": [task.name]}}
        )
    ]


def multi_task(planned: Plan) -> list[Cell]:
    """Make runs on all tasks at once."""
    factors = planned.scale.reduction_factors
    return on_glue(planned, planned.methods(FULL, DAGGER, HYPER, HYPER_PP, factors=factors))


def table_1_page(planned: Plan) -> str:
    """Set each method's best reduction factor beside the printed rows, and all of them below."""
    together = multi_task(planned)
    rows = [*rows_of(single_task(planned), "single-task "), *rows_of(together)]
    majority = majority_row(together)
    return (
        f"{markdown([*majority, *best_by_validation(rows)])}\n"
        "Scores on the test rows, by the checkpoint with the best average on the validation rows; of each method the "
        f"reduction factor with the best of those. Rows named single-task are a model for each task, the others one "
        f"for all. `average` is that of the tasks; `{BY_METRIC}` counts each metric of a task by itself, as the paper "
        "does.\n\n"
        f"## Every reduction factor (Table 7)\n\n{markdown(rows)}\n"
        f"## As printed\n\n{markdown(printed_rows())}\n{as_printed('7')}"
    )


def printed_rows() -> list[Row]:
    """Lay Table 1 out as ours is, each task's metrics averaged; the average by metric is printed."""
    table = published_table("hyperformer", 1)
    rows = []
    for row in table.rows:
        training, model, size = row.labels
        by_task: dict[str, list[float]] = {}
        for metric in table.columns[2:-1]:  # between the parameters and the average
            task = metric.split()[0].lower().replace("-", "")
            by_task.setdefault(task, []).append(row[metric].number)
        method = HYPERFORMER_METHODS[model]
        scores = {task: fmean(values) for task, values in by_task.items()}
        rows.append(
            {
                "model": f"t5-{size}",
                "method": method if training == "multi-task" else f"single-task {method}",
                **{task: f"{score:.2f}" for task, score in scores.items()},
                "average": f"{fmean(scores.values()):.2f}",
                BY_METRIC: row["Avg"].text,
                **{counted: row[counted].text for counted in table.columns[:2]},
            }
        )
    return rows


# Table 3.


def wide_adapters(planned: Plan) -> list[Cell]:
    """Make runs of Adapters-dagger with wide bottlenecks, and of HyperFormer, whose parameters they are to exceed."""
    variants = planned.methods(DAGGER, factors=planned.scale.wide_factors) | planned.methods(HYPER)
    return on_glue(planned, variants)


def table_3_page(planned: Plan) -> str:
    """Write the table."""
    return f"{scored(planned)}\n## As printed\n\n{as_printed('3')}"


# Table 4.

ABLATIONS: dict[str, Fields] = {
    "hyperformer": {},
    "no_adapter_blocks": {"adapter_block": False},
    "no_conditional_layer_norm": {"conditional_layer_norm": False},
    "no_task_projector": {"task_projector": False},
    "no_T5_layer_norm": {"train_layer_norms": False},
    "no_conditional_nor_T5_layer_norm": {"conditional_layer_norm": False, "train_layer_norms": False},
}


def ablations(planned: Plan) -> list[Cell]:
    """Make runs of HyperFormer, whole and without each of its parts; where they are as those of Table 1, shared."""
    [(name, whole)] = planned.methods(HYPER).items()
    variants = {
        name if not options else f"{name},{ablation}": {**whole, "method": {**whole["method"], **options}}
        for ablation, options in ABLATIONS.items()
    }
    ablated = planned.scale.ablated
    return planned.runs("ablations" if ablated else "glue", variants, planned.scale.seeds, ablated)


def table_4_page(planned: Plan) -> str:
    """Write the table."""
    return f"{scored(planned)}\n## As printed\n\n{as_printed('4')}"


# Figure 2.


def low_resource(planned: Plan, rows: int) -> list[Cell]:
    """Make runs on so many rows of each task, drawn by each run's seed."""
    scale = planned.scale
    variants = planned.methods(
        FULL, DAGGER, HYPER_PP, factors=scale.low_resource_factors, rates=scale.low_resource_rates
    )
    drawn = {"data": {"max_train_rows": rows, "subsample_seed": None}}
    return planned.runs(f"glue-{rows}-rows", variants, scale.few_seeds, scale.low_resource, drawn)


def figure_2_cells(planned: Plan) -> list[Cell]:
    """Make the runs on every number of rows."""
    return [cell for rows in planned.scale.low_resource_rows for cell in low_resource(planned, rows)]


def figure_2_page(planned: Plan) -> str:
    """Draw the average by the number of rows, each method with its best reduction factor; the table has all."""
    lines: dict[str, Line] = {}
    table, fewer = [], dict[str, int]()
    for count in planned.scale.low_resource_rows:
        cells = low_resource(planned, count)
        rows = rows_of(cells)
        for results in filter(None, (cell.results() for cell in cells)):
            fewer |= {task: there for task, there in results["training_rows"].items() if there < count}
        table += [{"rows a task": str(count), **row} for row in rows]
        for row in best_by_validation(rows):
            lines.setdefault(without_factor(row["variant"]), []).append((count, *row["average"]))
    picture = planned.picture("scores", scores_by_size(lines, "training rows a task", "average"))
    all_there_are = ", ".join(f"{task} {there:,}" for task, there in fewer.items())
    note = f"\nTasks with fewer rows than that have all of theirs: {all_there_are}.\n" if fewer else ""
    return f"![average by training rows]({picture})\n\n{markdown(table)}{note}"


TABLE_1 = Experiment(
    "table-1",
    "Tables 1 and 7",
    "GLUE, one task a model and all in one",
    lambda planned: [*multi_task(planned), *single_task(planned)],
    table_1_page,
)
TABLE_3 = Experiment(
    "table-3", "Table 3", "Adapters-dagger with wide bottlenecks", wide_adapters, table_3_page
)
TABLE_4 = Experiment("table-4", "Table 4", "ablations of HyperFormer", ablations, table_4_page)
FIGURE_2 = Experiment("figure-2", "Figure 2", "GLUE with few rows a task", figure_2_cells, figure_2_page)
