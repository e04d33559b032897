"""GLUE, one task a model and all in one (Tables 1, 3, 4 and 7), and with few rows a task (Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperadapt.config.reading import merged
from hyperadapt.methods import METHODS
from hyperadapt.studies.comparison import MAJORITY, Cell, markdown, spread_of, table_rows
from hyperadapt.studies.experiments.beside import (
    GLUE_METRICS,
    Columns,
    Labels,
    against,
    averages_by_seed,
    beside,
    best_on_validation,
    claimed,
    columns_of,
    joined,
    ours,
)
from hyperadapt.studies.experiments.hyperformer.scales import SCALES, HyperFormerScale
from hyperadapt.studies.experiments.plan import Experiment, Plan
from hyperadapt.studies.experiments.scales import DAGGER, FULL, HYPER, HYPER_PP, Fields
from hyperadapt.studies.figures import Line, scores_by_size
from hyperadapt.studies.published import HYPERFORMER_METHODS, published_table
from hyperadapt.tasks import resolve_tasks

OurPlan = Plan[HyperFormerScale]
PARAMETERS: Columns = {"total (x)": "total", "trained per task (%)": "trained a task"}


def by_method(
    planned: OurPlan,
    *names: str,
    factors: Sequence[int] | None = None,
    rates: Mapping[str, float] | None = None,
) -> dict[str, Fields]:
    """Make variants of methods, each at its learning rate, and with each reduction factor that it can have.

    Args:
        planned: says what else is not given.
        names: of the methods.
        factors: the reduction factors, by default `scale.one_factor`.
        rates: learning rates by method, by default `scale.learning_rates`; of others the run's.
    """
    rates = planned.scale.learning_rates if rates is None else rates
    variants = {}
    for name in names:
        training = {"training": {"learning_rate": rates[name]}} if name in rates else {}
        if "reduction_factor" not in METHODS[name].model_fields:
            variants[name] = {"method": {"name": name}, **training}
            continue
        for factor in factors or [planned.scale.one_factor]:
            method = {"name": name, "reduction_factor": factor}
            variants[f"{name},r={factor}"] = {"method": method, **training}
    return variants


def last_size(planned: OurPlan) -> str:
    """Return the printed size of the base model of which the runs are that only one of them has, as Table 2's."""
    return list(planned.scale.sizes)[-1]


def on_glue(planned: OurPlan, variants: dict[str, Fields], size: str | None = None) -> list[Cell]:
    """Make runs on all tasks; experiments that have a variant in common share its runs."""
    size = size or last_size(planned)
    folder = "glue" if size == last_size(planned) else f"glue-{size}"
    return planned.runs(folder, variants, planned.scale.seeds, planned.scale.sizes[size])


def alone(planned: OurPlan, variants: dict[str, Fields], size: str) -> list[Cell]:
    """Make runs on each task alone."""
    scale = planned.scale
    suffix = "" if size == last_size(planned) else f"-{size}"
    return [
        cell
        for task in resolve_tasks(scale.run["data"]["tasks"])
        for cell in planned.runs(
            f"{task.name}-alone{suffix}",
            variants,
            scale.seeds,
            merged(scale.single_task, scale.sizes[size]),
            {"data": {"tasks": [task.name]}},
        )
    ]


def by_variant(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Part runs by their variants."""
    return [
        [cell for cell in cells if cell.variant == name] for name in dict.fromkeys(c.variant for c in cells)
    ]


# Tables 1 and 7.


def table_1_rows(planned: OurPlan) -> dict[Labels, list[list[Cell]]]:
    """Make the runs of every row of Table 1, a list for each of the reduction factors of which the best is taken."""
    factors = planned.scale.reduction_factors
    rows = {}
    for row in published_table("hyperformer", 1).rows:
        training, model, size = row.labels
        if size not in planned.scale.sizes:
            continue
        variants = by_method(planned, HYPERFORMER_METHODS[model], factors=factors)
        make = alone if training == "single-task" else on_glue
        rows[row.labels] = by_variant(make(planned, variants, size))
    return rows


def table_1_cells(planned: OurPlan) -> list[Cell]:
    """List the runs of Table 1."""
    return [cell for variants in table_1_rows(planned).values() for cells in variants for cell in cells]


def table_1_page(planned: OurPlan) -> str:
    """Set each method, with its best reduction factor, beside the printed row."""
    table, rows = published_table("hyperformer", 1), table_1_rows(planned)
    columns, r = columns_of(table, GLUE_METRICS), f"r={planned.scale.one_factor}"
    best = {labels: best_on_validation(variants) for labels, variants in rows.items()}
    # The paper counts at r = 32, whichever is the best (section 3.1).
    counted = {
        labels: next((cells for cells in variants if cells[0].variant.endswith(r)), variants[0])
        for labels, variants in rows.items()
    }
    found = {
        labels: joined(ours(best[labels], columns), ours(counted[labels], PARAMETERS)) for labels in rows
    }
    chosen = "; ".join(
        f"{', '.join(labels)}: {cells[0].variant}"
        for labels, cells in best.items()
        if len(rows[labels]) > 1 and found[labels] is not None
    )
    pairs = [
        pair
        for size in planned.scale.sizes
        for pair in against(table, ("multi-task", "HyperFormer++", size), "Avg")
        if pair.second[0][-1] == size
    ]
    return (
        f"{beside(table, found, pairs)}\nScores on the test rows, by the checkpoint with the best average on the "
        f"validation rows; of each method the reduction factor with the best of those ({chosen}). What is "
        f"trained and held is that of {r}. Rows named single-task are a model for each task, the others one for all. "
        "MNLI's test rows are the matched ones.\n"
    )


def table_7_rows(planned: OurPlan) -> dict[Labels, list[Cell]]:
    """Make HyperFormer++'s runs of every size and reduction factor that the scale has; they are Table 1's."""
    return {
        row.labels: on_glue(
            planned, by_method(planned, HYPER_PP, factors=[int(row.labels[2])]), row.labels[1]
        )
        for row in published_table("hyperformer", 7).rows
        if row.labels[1] in planned.scale.sizes and int(row.labels[2]) in planned.scale.reduction_factors
    }


def table_7_cells(planned: OurPlan) -> list[Cell]:
    """List the runs of Table 7, with those of the scale's reduction factors that the paper has not."""
    factors = by_method(planned, HYPER_PP, factors=planned.scale.reduction_factors)
    return [cell for size in planned.scale.sizes for cell in on_glue(planned, factors, size)]


def table_7_page(planned: OurPlan) -> str:
    """Set the validation scores of HyperFormer++ by reduction factor beside the printed ones."""
    table = published_table("hyperformer", 7)
    columns = columns_of(table, GLUE_METRICS)
    found = {labels: ours(cells, columns, "validation") for labels, cells in table_7_rows(planned).items()}
    pairs = [
        pair
        for size in planned.scale.sizes
        for pair in against(table, ("HyperFormer++", size, "8"), "Avg")
        if pair.second[0][1] == size
    ]
    return (
        f"{beside(table, found, pairs)}\nScores on the validation rows, by which each run's checkpoint was chosen. "
        "MNLI's are the mismatched ones, as in the authors' code; the paper's caption speaks of the matched.\n"
    )


# Table 3.


def table_3_rows(planned: OurPlan) -> dict[Labels, list[list[Cell]]]:
    """Make runs of Adapters-dagger with wide bottlenecks, and of HyperFormer, whose parameters they are to exceed."""
    rows = {}
    for row in published_table("hyperformer", 3).rows:
        model, size = row.labels
        if size in planned.scale.sizes:
            factors = planned.scale.wide_factors if model == "Adapters†" else None
            variants = by_method(planned, HYPERFORMER_METHODS[model], factors=factors)
            rows[row.labels] = by_variant(on_glue(planned, variants, size))
    return rows


def table_3_cells(planned: OurPlan) -> list[Cell]:
    """List the runs of Table 3."""
    return [cell for variants in table_3_rows(planned).values() for cells in variants for cell in cells]


def table_3_page(planned: OurPlan) -> str:
    """Set both beside the printed rows."""
    table = published_table("hyperformer", 3)
    columns = {"GLUE": list(GLUE_METRICS.values()), **PARAMETERS}
    found = {
        labels: ours(best_on_validation(variants), columns)
        for labels, variants in table_3_rows(planned).items()
    }
    pairs = [
        pair
        for size in planned.scale.sizes
        for pair in against(table, ("HyperFormer", size), "GLUE")
        if pair.second[0][-1] == size
    ]
    return f"{beside(table, found, pairs)}\nGLUE is the average by metric, as Table 1's.\n"


# Table 4.

ABLATIONS: dict[str, tuple[str, Fields]] = {
    "HyperFormer": ("", {}),
    "– Adapter blocks": ("no_adapter_blocks", {"adapter_block": False}),
    "– Conditional layer norm": ("no_conditional_layer_norm", {"conditional_layer_norm": False}),
    "– Task projector": ("no_task_projector", {"task_projector": False}),
    "– T5 Layer norm": ("no_T5_layer_norm", {"train_layer_norms": False}),
    "– Conditional layer norm, T5 Layer norm": (
        "no_conditional_nor_T5_layer_norm",
        {"conditional_layer_norm": False, "train_layer_norms": False},
    ),
}


def ablations(planned: OurPlan) -> dict[Labels, list[Cell]]:
    """Make runs of HyperFormer, whole and without each of its parts, from T5-small (section 4.3)."""
    [(name, whole)] = by_method(planned, HYPER).items()
    size = next(iter(planned.scale.sizes))
    rows: dict[Labels, list[Cell]] = {}
    for label, (ablation, options) in ABLATIONS.items():
        fields = {**whole, "method": {**whole["method"], **options}}
        rows[(label,)] = on_glue(planned, {f"{name},{ablation}" if ablation else name: fields}, size)
    return rows


def table_4_page(planned: OurPlan) -> str:
    """Set the whole and its parts beside the printed rows."""
    table = published_table("hyperformer", 4)
    found = {
        labels: ours(cells, {"GLUE": list(GLUE_METRICS.values())})
        for labels, cells in ablations(planned).items()
    }
    return (
        f"{beside(table, found, against(table, ('HyperFormer',), 'GLUE'))}\nGLUE is the average by metric, as Table "
        "1's.\n"
    )


# Figure 2.


def low_resource(planned: OurPlan, rows: int) -> list[Cell]:
    """Make runs on so many rows of each task, drawn by each run's seed."""
    scale = planned.scale
    variants = by_method(
        planned, FULL, DAGGER, HYPER_PP, factors=scale.low_resource_factors, rates=scale.low_resource_rates
    )
    drawn = {"data": {"max_train_rows": rows, "subsample_seed": None}}
    return planned.runs(f"glue-{rows}-rows", variants, scale.few_seeds, scale.low_resource, drawn)


def figure_2_cells(planned: OurPlan) -> list[Cell]:
    """Make the runs on every number of rows."""
    return [cell for rows in planned.scale.low_resource_rows for cell in low_resource(planned, rows)]


def figure_2_page(planned: OurPlan) -> str:
    """Draw the average by the number of rows, each method with its best reduction factor; the table has all."""
    lines: dict[str, Line] = {}
    table, fewer, chosen = [], dict[str, int](), dict[int, dict[str, Sequence[Cell]]]()
    for count in planned.scale.low_resource_rows:
        cells = low_resource(planned, count)
        for results in filter(None, (cell.results() for cell in cells)):
            fewer |= {task: there for task, there in results["training_rows"].items() if there < count}
        table += [
            {"rows a task": str(count), **row} for row in table_rows(cells) if row["variant"] != MAJORITY
        ]
        chosen[count] = {}
        for method in (FULL, DAGGER, HYPER_PP):
            best = best_on_validation(by_variant([c for c in cells if c.config.method["name"] == method]))
            averages = averages_by_seed(best)
            if averages:
                chosen[count][method] = best
                lines.setdefault(method, []).append((count, *spread_of(list(averages.values()))))
    picture = planned.picture("scores", scores_by_size(lines, "training rows a task", "average"))
    all_there_are = ", ".join(f"{task} {there:,}" for task, there in fewer.items())
    note = f"\nTasks with fewer rows than that have all of theirs: {all_there_are}.\n" if fewer else ""
    return f"![average by training rows]({picture})\n\n{markdown(table)}{note}\n{ahead(chosen)}"


def ahead(chosen: Mapping[int, Mapping[str, Sequence[Cell]]]) -> str:
    """Test what the figure shows, whose numbers are not printed: HyperFormer++ above the others at every size."""
    columns = {"average": list(GLUE_METRICS.values())}
    found = {
        (str(count), method): ours(cells, columns)
        for count, by_method in chosen.items()
        for method, cells in by_method.items()
    }
    return claimed(
        {
            f"{count} rows: HyperFormer++ − {other}": (
                found.get((str(count), HYPER_PP)),
                found.get((str(count), other)),
            )
            for count in chosen
            for other in (FULL, DAGGER)
        },
        "average",
        "The figure has no numbers in the text; section 3.3 says that HyperFormer++ is better with few rows.",
    )


SOURCE = "HyperFormer, {}"
TABLE_1 = Experiment(
    "hyperformer/table-1",
    SOURCE.format("Table 1"),
    "GLUE, one task a model and all in one",
    table_1_cells,
    table_1_page,
    SCALES,
)
TABLE_3 = Experiment(
    "hyperformer/table-3",
    SOURCE.format("Table 3"),
    "Adapters-dagger with wide bottlenecks",
    table_3_cells,
    table_3_page,
    SCALES,
)
TABLE_4 = Experiment(
    "hyperformer/table-4",
    SOURCE.format("Table 4"),
    "ablations of HyperFormer",
    lambda planned: [cell for cells in ablations(planned).values() for cell in cells],
    table_4_page,
    SCALES,
)
TABLE_7 = Experiment(
    "hyperformer/table-7",
    SOURCE.format("Table 7"),
    "HyperFormer++ by reduction factor",
    table_7_cells,
    table_7_page,
    SCALES,
)
FIGURE_2 = Experiment(
    "hyperformer/figure-2",
    SOURCE.format("Figure 2"),
    "GLUE with few rows a task",
    figure_2_cells,
    figure_2_page,
    SCALES,
)
EXPERIMENTS: tuple[Experiment[Any], ...] = (TABLE_1, TABLE_3, TABLE_4, TABLE_7, FIGURE_2)
