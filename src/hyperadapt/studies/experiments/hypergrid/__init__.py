"""The experiments of Tay et al., ICLR 2021: one model for GLUE and SuperGLUE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean
from typing import Any, Self

from hyperadapt.config.reading import merged
from hyperadapt.methods import HyperGrid, method_from
from hyperadapt.studies.comparison import Cell, markdown
from hyperadapt.studies.experiments.beside import (
    Columns,
    Labels,
    Measure,
    Ours,
    against,
    beside,
    columns_of,
    ours,
)
from hyperadapt.studies.experiments.plan import Experiment, Plan
from hyperadapt.studies.experiments.scales import SMALL, SMOKE, Fields, Scale, as_configured
from hyperadapt.studies.figures import Line, scores_by_size
from hyperadapt.studies.published import published_table
from hyperadapt.tasks import DEV, SUITES

GLUE: Columns = {
    "CoLA": "cola.matthews",
    "SST": "sst2.accuracy",
    "MR": ["mrpc.f1", "mrpc.accuracy"],
    "STS": ["stsb.pearson", "stsb.spearman"],
    "QQP": ["qqp.f1", "qqp.accuracy"],
    "MNLI": "mnli.accuracy",
    "QNLI": "qnli.accuracy",
    "RTE": "rte.accuracy",
}
SUPER_GLUE: Columns = {
    "BQ": "boolq.accuracy",
    "CB F1": "cb.macro_f1",
    "CB accuracy": "cb.accuracy",
    "CP": "copa.accuracy",
    "MultiRC F1": "multirc.f1",
    "MultiRC EM": "multirc.group_exact_match",
    "Record F1": "record.answer_f1",
    "Record EM": "record.answer_exact_match",
    "RTE": "super-glue-rte.accuracy",
    "WiC": "wic.accuracy",
    "WSC": "wsc.coreference_accuracy",
}


def suite_averages() -> dict[str, Measure]:
    """Name what GLUE's, SuperGLUE's and their macro-average are of: tasks, whose metrics are averaged first."""
    glue = columns_of(published_table("hypergrid", 1), GLUE)["Avg"]
    super_glue = columns_of(published_table("hypergrid", 2), SUPER_GLUE)["Avg"]
    return {"GLUE": glue, "SuperGLUE": super_glue, "AVG": [glue, super_glue]}


@dataclass(frozen=True)
class HyperGridScale(Scale):
    """How large the runs are.

    Attributes:
        run: fields of the runs on both benchmarks.
        sizes: the base models as printed, with the fields in which their runs differ.
        alone: fields in which the runs on one task differ (PTFT).
        many_seeds: of plain multi-task training, of which the paper has four runs of the base size.
        grid: fields in which the runs of grids of many sizes (Figures 3 to 9) differ, by which they have a folder of
            their own; where there are none, they share those of Table 3.
        fan_in, fan_out: the grids' rows and columns.
        default_grid: of all other runs.
        output_gates: numbers of blocks of the output gates; None is a gate for each number.
    """

    sizes: Mapping[str, Fields] = field(default_factory=dict)
    alone: Fields = field(default_factory=dict)
    many_seeds: tuple[int, ...] = (1, 2, 3, 4)
    grid: Fields = field(default_factory=dict)
    fan_in: tuple[int, ...] = (4, 8, 16, 32, 128, 256)
    fan_out: tuple[int, ...] = (8, 16, 32, 128, 256)
    default_grid: Fields = field(default_factory=dict)
    output_gates: tuple[int | None, ...] = (None, 16, 32, 64)

    def on(self, base: str) -> Self:
        """Return the scale with another base model, in place of all."""
        return replace(super().on(base), sizes={"base": {}})


# Section 7.2: above base, 200,000 steps, and the best checkpoint by GLUE's average.
LARGE = as_configured("hypergrid/large")
SMALL_RUN = merged(
    SMALL,
    {
        "data": {
            "tasks": ["en_mix"],
            "temperature": 1,
            "size_limit": 4000,
            "max_eval_rows": 16,
            "max_test_rows": 500,
        },
        "training": {"eval_steps": 600, "keep": "last"},
    },
)
SCALES = {
    "paper": HyperGridScale(
        run=as_configured("hypergrid/en-mix"),
        sizes={
            "base": {},
            "large": LARGE,
            "3B": as_configured("hypergrid/3b"),
            "11B": as_configured("hypergrid/11b"),
        },
    ),
    "small": HyperGridScale(
        run=SMALL_RUN,
        seeds=(1, 2, 3),
        many_seeds=(1, 2, 3),
        sizes={"base": {}},
        alone={"training": {"max_steps": 75, "eval_steps": 75, "batch_size": 16, "warmup_steps": 15}},
        grid={"training": {"max_steps": 200, "eval_steps": 200, "warmup_steps": 40}},
        output_gates=(None,),
        fan_in=(4, 16, 64),
        fan_out=(8, 64, 256),
    ),
    "smoke": HyperGridScale(
        run=merged(SMOKE, {"data": {"tasks": ["en_mix"]}}),
        seeds=(1,),
        many_seeds=(1,),
        sizes={"base": {}},
        fan_in=(4,),
        fan_out=(8, 16),
        default_grid={"fan_in": 4, "fan_out": 8},
    ),
}
OurPlan = Plan[HyperGridScale]
Rows = dict[Labels, list[Cell]]
PLAIN: Fields = {"name": "full_fine_tuning", "train_embeddings": False}  # section 7.2


def gated(variant: str, **options: int) -> Fields:
    """Return HyperGrid of a variant."""
    return {"name": "hypergrid", "variant": variant, **options}


def on_both(
    planned: OurPlan, name: str, method: Fields, size: str = "base", seeds: Sequence[int] | None = None
) -> list[Cell]:
    """Make runs on both benchmarks."""
    group = "en-mix" if size == "base" else f"en-mix-{size}"
    seeds = planned.scale.seeds if seeds is None else seeds
    return planned.runs(group, {name: {"method": method}}, seeds, planned.scale.sizes[size])


def plain(planned: OurPlan, size: str = "base") -> list[Cell]:
    """Make runs without gates, of the base size as many as the scale has."""
    seeds = planned.scale.many_seeds if size == "base" else planned.scale.seeds
    return on_both(planned, "full_fine_tuning", PLAIN, size, seeds)


def hypergrid(planned: OurPlan, variant: str, size: str = "base") -> list[Cell]:
    """Make runs of a variant, with the default grid."""
    return on_both(planned, f"hypergrid,{variant}", gated(variant, **planned.scale.default_grid), size)


def each_alone(planned: OurPlan) -> list[Cell]:
    """Make a model for each task, pretrained and fine-tuned (PTFT)."""
    return [
        cell
        for task in SUITES["en_mix"]
        for cell in planned.runs(
            f"{task.removesuffix(DEV)}-alone",
            {"full_fine_tuning": {"method": PLAIN}},
            planned.scale.seeds,
            planned.scale.alone,
            {"data": {"tasks": [task]}},
        )
    ]


# Tables 1 and 2.


def table_1_rows(planned: OurPlan) -> Rows:
    """Make the runs of Tables 1 and 2."""
    rows: Rows = {("PTFT",): each_alone(planned), ("MTL",): plain(planned)}
    return rows | {(f"Ours ({variant})",): hypergrid(planned, variant) for variant in ("L2", "LG", "L")}


def table_1_page(planned: OurPlan) -> str:
    """Set both tables' rows beside ours, and compare the variants with plain multi-task training."""
    parts = []
    for number, metrics in (("1", GLUE), ("2", SUPER_GLUE)):
        table = published_table("hypergrid", number)
        columns = columns_of(table, metrics) | {"parameters (B)": "billions"}
        found = {labels: ours(cells, columns) for labels, cells in table_1_rows(planned).items()}
        parts.append(beside(table, found, against(table, ("MTL",), "Avg")))
    return "\n".join([*parts, "PTFT is a model for each of the sixteen tasks, the others one for all.\n"])


# Tables 3 and 4.

VARIANTS = {
    "Local (L)": "L",
    "Local-Local (L2)": "L2",
    "Global-Local (GL)": "GL",
    "Local-Global (LG)": "LG",
}
OUTPUT_GATES = {"OutGate (Full)": None, "OutGate (16)": 16, "OutGate (32)": 32, "OutGate (64)": 64}


def table_3_rows(planned: OurPlan) -> Rows:
    """Make the runs of Table 3."""
    rows: Rows = {}
    for size in ("base", "large"):
        if size not in planned.scale.sizes:
            continue
        rows[size, "Baseline"] = plain(planned, size)
        rows |= {(size, name): hypergrid(planned, variant, size) for name, variant in VARIANTS.items()}
    for name, blocks in OUTPUT_GATES.items():
        if blocks not in planned.scale.output_gates:
            continue
        gate = {"name": "output_gate"} | ({} if blocks is None else {"n": blocks})
        rows["base", name] = on_both(
            planned, "output_gate" if blocks is None else f"output_gate,n={blocks}", gate
        )
    return rows


def best_of(runs: Ours | None, column: str) -> Ours | None:
    """Return the one run of several that is the best in a column."""
    if runs is None or column not in runs.by_seed:
        return None
    seed = max(runs.by_seed[column], key=runs.by_seed[column].__getitem__)
    return Ours({name: {seed: by_seed[seed]} for name, by_seed in runs.by_seed.items()})


def table_3_page(planned: OurPlan) -> str:
    """Set the variants beside the printed rows; the paper compares them with the best run without gates."""
    table = published_table("hypergrid", 3)
    found = {labels: ours(cells, suite_averages()) for labels, cells in table_3_rows(planned).items()}
    found["base", "Baseline (Max)"] = best_of(found["base", "Baseline"], "AVG")
    pairs = [
        pair
        for size in planned.scale.sizes
        for column in ("AVG", "GLUE", "SuperGLUE")
        for pair in against(table, (size, "Baseline"), column)
        if pair.second[0][0] == size and pair.second[0][1] != "Baseline (Max)"
    ]
    named = [replace(pair, name=f"{pair.name}, {pair.first[1]}") for pair in pairs]
    return (
        f"{beside(table, found, named)}\nThe printed gains are relative to the best of the baseline's runs; here each "
        "is compared with the mean of them.\n"
    )


def table_4_rows(planned: OurPlan) -> Rows:
    """Make the runs of Table 4: the base model with L2, the larger ones with LG."""
    rows: Rows = {}
    for size in ("Base", "Large", "3B"):
        name = size if size == "3B" else size.lower()
        if name in planned.scale.sizes:
            rows["T5", size] = plain(planned, name)
            rows["Ours", size] = hypergrid(planned, "L2" if name == "base" else "LG", name)
    return rows


def table_4_page(planned: OurPlan) -> str:
    """Set each size with and without gates beside the printed rows."""
    table = published_table("hypergrid", 4)
    found = {labels: ours(cells, suite_averages()) for labels, cells in table_4_rows(planned).items()}
    pairs = [
        replace(pair, name=f"{pair.name}, {column}")
        for _, size in found
        for column in ("GLUE", "SuperGLUE", "AVG")
        for pair in against(table, ("Ours", size), column)
        if pair.second[0] == ("T5", size)
    ]
    return beside(table, found, list(dict.fromkeys(pairs)))


# Tables 5 and 6.


def largest(planned: OurPlan) -> Rows:
    """Make the runs of 3B and 11B, trained once each, LG; a scale that has neither has no runs."""
    there = [size for size in ("3B", "11B") if size in planned.scale.sizes]
    return {(f"Ours ({size})",): hypergrid(planned, "LG", size) for size in there}


def table_5_page(planned: OurPlan) -> str:
    """Set our development rows beside the test servers' scores."""
    parts = []
    for number, metrics in (("5", GLUE), ("6", SUPER_GLUE)):
        table = published_table("hypergrid", number)
        columns = columns_of(table, metrics) | {"parameters (B)": "billions"}
        found = {labels: ours(cells, columns) for labels, cells in largest(planned).items()}
        parts.append(beside(table, found, against(table, ("Ours (3B)",), "Avg")))
    return "\n".join(
        [
            *parts,
            "The printed scores are the test servers', whose labels are not public; ours are of the development rows, "
            "so that the distance is not of the same rows. WNLI is in no run, nor an average over it.\n",
        ]
    )


# Figures 3 to 9.

# The text here has captions of Figures 6 to 8 alone; 3 to 5 are taken to have the same order.
FIGURES = {
    "3": ("L2", "fan_in"),
    "4": ("LG", "fan_in"),
    "5": ("GL", "fan_in"),
    "6": ("L2", "fan_out"),
    "7": ("LG", "fan_out"),
    "8": ("GL", "fan_out"),
}


def grids(planned: OurPlan, variant: str) -> dict[tuple[int, int], list[Cell]]:
    """Make the runs of a variant with every grid."""
    scale, default = planned.scale, method_from(gated(variant, **planned.scale.default_grid))
    assert isinstance(default, HyperGrid)
    found = {}
    for rows, columns in product(scale.fan_in, scale.fan_out):
        name, method = f"hypergrid,{variant}", gated(variant, fan_in=rows, fan_out=columns)
        if (rows, columns) != (default.fan_in, default.fan_out):
            name = f"{name},{rows}x{columns}"
        else:  # Table 3's run
            method = gated(variant, **scale.default_grid)
        group = "grids" if scale.grid else "en-mix"
        found[rows, columns] = planned.runs(group, {name: {"method": method}}, scale.seeds[:1], scale.grid)
    return found


def grid_page(*figures: str) -> Callable[[OurPlan], str]:
    """Make the page of figures: the maximum, mean and minimum over the other size, along one."""

    def page(planned: OurPlan) -> str:
        average: Columns = {"AVG": suite_averages()["AVG"]}
        parts, scores = [], dict[str, dict[tuple[int, int], float]]()
        for figure in figures:
            variant, axis = FIGURES[figure]
            if variant not in scores:
                measured = {size: ours(cells, average) for size, cells in grids(planned, variant).items()}
                scores[variant] = {
                    size: row["AVG"]
                    for size, row in measured.items()
                    if row is not None and "AVG" in row.by_seed
                }
            parts.append(grid_figure(planned, figure, variant, axis, scores[variant]))
        return "\n".join(
            [
                *parts,
                "The macro-average of GLUE and SuperGLUE along one size of the grid: maximum, mean and minimum over "
                "the other size, of one run each, so that nothing is tested. The figures' numbers are not printed; "
                "section 4.2.4 says that small fan-outs, as 32, and small fan-ins work well, and that above a fan-out "
                "of 128 it gets better again.\n",
            ]
        )

    return page


def grid_figure(
    planned: OurPlan, number: str, variant: str, axis: str, scores: Mapping[tuple[int, int], float]
) -> str:
    """Draw a figure's curves, and write their numbers.

    Args:
        planned: gets the picture.
        number: of the figure.
        variant: of the gate.
        axis: "fan_in" or "fan_out".
        scores: by fan-in and fan-out, of the runs that are finished.
    """
    along, words = ("fan_in", "fan_out").index(axis), axis.replace("_", "-")
    lines: dict[str, Line] = {"max": [], "mean": [], "min": []}
    for size in getattr(planned.scale, axis):
        values = [value for sizes, value in scores.items() if sizes[along] == size]
        for name, summary in (("max", max), ("mean", fmean), ("min", min)) if values else ():
            lines[name].append((size, summary(values), None))
    if not lines["mean"]:
        return f"Figure {number}, {words}, {variant}: no run is finished that has both averages.\n"
    picture = planned.picture(
        f"{variant}-{words}", scores_by_size(lines, f"{words}, {variant}", "GLUE and SuperGLUE")
    )
    table = [
        {words: str(size), **{name: f"{points[place][1]:.1f}" for name, points in lines.items()}}
        for place, (size, *_) in enumerate(lines["mean"])
    ]
    return f"Figure {number}, {words}, {variant}:\n\n![{words}]({picture})\n\n{markdown(table)}"


def figure(name: str, source: str, title: str, *figures: str) -> Experiment[HyperGridScale]:
    """Make the experiment of figures."""

    def cells(planned: OurPlan) -> list[Cell]:
        variants = dict.fromkeys(FIGURES[number][0] for number in figures)
        return [cell for variant in variants for cells in grids(planned, variant).values() for cell in cells]

    return Experiment(f"hypergrid/{name}", SOURCE.format(source), title, cells, grid_page(*figures), SCALES)


def table(name: str, source: str, title: str, rows: Any, page: Any) -> Experiment[HyperGridScale]:
    """Make the experiment of a table's rows."""

    def cells(planned: OurPlan) -> list[Cell]:
        return [cell for cells in rows(planned).values() for cell in cells]

    return Experiment(f"hypergrid/{name}", SOURCE.format(source), title, cells, page, SCALES)


SOURCE = "HyperGrid, {}"
EXPERIMENTS: tuple[Experiment[Any], ...] = (
    table("tables-1-2", "Tables 1 and 2", "GLUE and SuperGLUE, base models", table_1_rows, table_1_page),
    table("table-3", "Table 3", "variants of the gate, and output gates", table_3_rows, table_3_page),
    table("table-4", "Table 4", "by size of the model", table_4_rows, table_4_page),
    table("tables-5-6", "Tables 5 and 6", "the test servers", largest, table_5_page),
    *(
        figure(f"figure-{number}", f"Figure {number}", f"{axis.replace('_', '-')} of {variant}", number)
        for number, (variant, axis) in FIGURES.items()
    ),
    figure("figure-9", "Figure 9", "sizes of the grid", *FIGURES),
)
