"""Transfer of a GLUE model to new tasks of few rows (Table 2, Figure 3), and to each task left out of GLUE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hyperadapt.config.reading import merged
from hyperadapt.errors import UserError
from hyperadapt.studies.comparison import MAJORITY, Cell, markdown, scores_of, spread_of, table_rows
from hyperadapt.studies.experiments.beside import Ours, Pair, beside, joined, ours
from hyperadapt.studies.experiments.hyperformer.glue import SOURCE, OurPlan, by_method, on_glue
from hyperadapt.studies.experiments.hyperformer.scales import SCALES, Target
from hyperadapt.studies.experiments.plan import Experiment
from hyperadapt.studies.experiments.scales import DAGGER, FULL, HYPER_PP, Fields
from hyperadapt.studies.figures import Line, embedding_map, scores_by_size
from hyperadapt.studies.published import published_table
from hyperadapt.tasks import resolve_tasks

if TYPE_CHECKING:
    from torch import Tensor

METHODS = (FULL, DAGGER, HYPER_PP)


def few_rows(
    planned: OurPlan, group: str, task: str, samples: int, variants: Mapping[str, Fields]
) -> list[Cell]:
    """Make runs on few rows of one task, drawn by each run's seed."""
    scale = planned.scale
    drawn = {"data": {"tasks": [task], "max_train_rows": samples, "subsample_seed": None}}
    return planned.runs(group, variants, scale.few_seeds, scale.transfer, drawn)


def continued(planned: OurPlan, sources: Mapping[str, Cell], init_from: Sequence[str]) -> dict[str, Fields]:
    """Make variants that go on from trained runs, of HyperFormer++ one more that trains its task embedding alone.

    Args:
        planned: says the learning rates.
        sources: the runs, by method.
        init_from: the task whose parameters the new one starts from, or several, from whose mean.
    """
    variants = {}
    for method, source in sources.items():
        start = {"start": {"run": str(source.directory), "init_from": list(init_from)}}
        [(name, fields)] = by_method(planned, method, rates=planned.scale.transfer_rates).items()
        variants[name] = {**fields, **start}
        if method == HYPER_PP:
            rate = planned.scale.task_embedding_rate
            alone: Fields = {"method": {"train_task_embeddings_only": True}}
            alone |= {"training": {"learning_rate": rate}} if rate is not None else {}
            variants[f"{name},task_embedding"] = merged(variants[name], alone)
    return variants


def by_rows(planned: OurPlan, runs: Mapping[tuple[str, int], Sequence[Cell]]) -> str:
    """Lay runs on few rows out, a row a task and number of rows, and draw the mean of the tasks of like numbers.

    Args:
        planned: gets the picture.
        runs: by task and number of rows.
    """
    table: list[dict[str, Any]] = []
    by_task: dict[str, dict[int, dict[str, dict[int, float]]]] = {}  # variants' scores by seed
    for (task, samples), cells in runs.items():
        scores = {row["variant"]: row["average"] for row in table_rows(cells)}
        table.append({"task": task, "rows": str(samples), **scores})
        by_seed: dict[str, dict[int, float]] = {}
        for cell in cells:
            if (results := cell.results()) is not None:
                by_seed.setdefault(cell.variant, {})[cell.seed] = scores_of(results)["average"]
                by_seed.setdefault(MAJORITY, {})[cell.seed] = scores_of(results["majority"])["average"]
        by_task.setdefault(task, {})[samples] = by_seed
    columns = Counter(tuple(by_size) for by_size in by_task.values())
    sizes = max(columns, key=lambda sizes: (columns[sizes], len(sizes)))
    whole = {task: by_size for task, by_size in by_task.items() if tuple(by_size) == sizes}
    lines: dict[str, Line] = {}
    means = {size: dict[str, Any]({"task": f"mean of {len(whole)}", "rows": str(size)}) for size in sizes}
    for variant in table[0]:
        if all(variant in by_size[size] for by_size in whole.values() for size in sizes):
            for size in sizes:
                of_tasks = [by_size[size][variant] for by_size in whole.values()]
                if seeds := [
                    seed
                    for seed in of_tasks[0]
                    if all(seed in by_seed_of_task for by_seed_of_task in of_tasks)
                ]:
                    mean = spread_of(
                        [fmean(by_seed_of_task[seed] for by_seed_of_task in of_tasks) for seed in seeds]
                    )
                    means[size][variant] = mean
                    lines.setdefault(variant, []).append((size, *mean))
    if not lines or len(sizes) == 1:
        return markdown(table)
    label = "score, mean of the tasks"
    picture = planned.picture("scores", scores_by_size(lines, "training rows of the new task", label))
    of_these = f"The mean, of each seed's own, is over {', '.join(whole)}."
    return f"![score by training rows]({picture})\n\n{of_these}\n\n{markdown([*table, *means.values()])}"


# Table 2.


def glue_sources(planned: OurPlan) -> dict[str, Cell]:
    """Return the runs on GLUE from which the transfers start, by method: Table 1's, with the first seed."""
    cells = on_glue(planned, by_method(planned, *METHODS))
    return {cell.config.method["name"]: cell for cell in cells if cell.seed == planned.scale.seeds[0]}


def transfers(planned: OurPlan) -> dict[tuple[str, int], list[Cell]]:
    """Make the runs of every new task and number of rows."""
    sources, runs = glue_sources(planned), {}
    for target, aim in planned.scale.targets.items():
        variants = continued(planned, sources, [aim.init_from])
        for samples in aim.sizes(planned.scale.samples):
            runs[target, samples] = few_rows(planned, f"{target}-{samples}-rows", target, samples, variants)
    return runs


def table_2_cells(planned: OurPlan) -> list[Cell]:
    """Make the runs on GLUE, and all that start from them."""
    return [
        *glue_sources(planned).values(),
        *(cell for cells in transfers(planned).values() for cell in cells),
    ]


def table_2_page(planned: OurPlan) -> str:
    """Write a row for each new task and number of rows, and draw their means."""
    starts = ", ".join(f"{target} from {aim.init_from}" for target, aim in planned.scale.targets.items())
    table, runs = published_table("hyperformer", 2), transfers(planned)
    found: dict[tuple[str, ...], Ours | None] = {}
    for (task, samples), cells in runs.items():
        labels = (planned.scale.targets[task].printed, str(samples))
        if any(row.labels == labels for row in table.rows):
            found[labels] = joined(
                *(
                    ours(variant_of(cells, method), {column: f"{task}.accuracy"})
                    for column, method in COLUMNS.items()
                )
            )
    pairs = [
        Pair(f"{', '.join(labels)} rows: HyperFormer++ − {other}", (labels, "HyperFormer++"), (labels, other))
        for labels in found
        for other in ("T5", "Adapters")
    ]
    return (
        f"{beside(table, found, pairs)}\n## By rows\n\n{by_rows(planned, runs)}\n"
        f"A new task starts from the parameters of the one most like it ({starts}) in one model trained on GLUE, with "
        f"a reduction factor of {planned.scale.one_factor}, whichever was the best in Table 1. Full fine-tuning "
        "trains everything, Adapters-dagger the task's adapters and all layer norms, HyperFormer++ hypernetworks, task "
        "embedding and T5's layer norms, or, as `task_embedding`, that vector alone. "
        "The seeds draw the rows and train on them; the model that all of a method start from is one.\n"
    )


COLUMNS = {"T5": FULL, "Adapters": DAGGER, "HyperFormer++": HYPER_PP}


def variant_of(cells: Sequence[Cell], method: str) -> list[Cell]:
    """Return a method's runs, of HyperFormer++ those in which the hypernetworks are trained too."""
    return [
        cell
        for cell in cells
        if cell.config.method["name"] == method and not cell.config.method.get("train_task_embeddings_only")
    ]


# Figure 3.


def most_samples(planned: OurPlan) -> list[Cell]:
    """Return Table 2's runs of HyperFormer++ with the most samples of each new task, and the first seed."""
    scale, runs = planned.scale, transfers(planned)
    chosen = []
    for target, aim in scale.targets.items():
        cells = variant_of(runs[target, aim.sizes(scale.samples)[-1]], HYPER_PP)
        chosen += [cell for cell in cells if cell.seed == scale.few_seeds[0]]
    return chosen


def figure_3_cells(planned: OurPlan) -> list[Cell]:
    """Return HyperFormer++'s run on GLUE, and what it was transferred to."""
    return [glue_sources(planned)[HYPER_PP], *most_samples(planned)]


def figure_3_page(planned: OurPlan) -> str:
    """Draw the task embeddings by their first two principal components, and name the nearest tasks of each."""
    import torch
    from sklearn.decomposition import PCA

    from hyperadapt.runs.run import load_run

    source, *moved = planned.cells()
    if not source.finished:
        raise UserError(f"{source.directory} is not finished: there are no task embeddings to draw")
    names, vectors = [], []
    for cell in (source, *(cell for cell in moved if cell.finished)):
        run = load_run(cell.directory)
        names += [task.name for task in run.tasks]
        vectors.append(run.model.hyperadapt.task_embeddings())
    embeddings, old = torch.cat(vectors), len(vectors[0])
    pictures = []
    for when, count in (("before", old), ("after", len(names))):
        components = PCA(2).fit(embeddings[:count].numpy())
        picture = embedding_map(
            names[:count],
            components.transform(embeddings[:count].numpy()),
            components.explained_variance_ratio_,
        )
        pictures.append(planned.picture(when, picture))
    before, after = pictures
    targets: Mapping[str, Target] = planned.scale.targets
    init_from = {task: targets[task].init_from for task in names[old:]}
    return (
        f"Before:\n\n![before]({before})\n\nAfter transfer, hypernetworks and embedding trained, from the most similar "
        f"task's embedding, with the most samples of Table 2:\n\n![after]({after})\n\n"
        f"{markdown(nearest_tasks(names, embeddings, old, init_from))}\n"
        "Cosines of the differences from the trained tasks' mean. A new task started where the task that it is "
        "initialised from is, so that being nearest to that one says no more than that it has not left.\n"
    )


def nearest_tasks(
    names: Sequence[str], embeddings: Tensor, old: int, init_from: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Name the trained tasks nearest to each, as seen from their mean, and how far a new one is from where it began.

    Args:
        names: of the tasks, the trained ones first.
        embeddings: (tasks, t').
        old: how many are trained.
        init_from: the trained task whose embedding a new one began with.
    """
    import torch

    away = embeddings - embeddings[:old].mean(0)
    unit = torch.nn.functional.normalize(away, dim=1)
    nearness = (unit @ unit[:old].T).fill_diagonal_(-2)
    table = []
    for number, name in enumerate(names):
        nearest = nearness[number].topk(min(3, old - 1))
        near = ", ".join(
            f"{names[at]} {cosine:.2f}" for cosine, at in zip(*(row.tolist() for row in nearest), strict=True)
        )
        row = {
            "task": name,
            "nearest trained tasks, cosine": near,
            "from their mean": f"{away[number].norm().item():.2f}",
            "from where it began": "",
        }
        if name in init_from:
            moved = embeddings[number] - embeddings[names.index(init_from[name])]
            row["from where it began"] = f"{moved.norm().item():.2f} ({init_from[name]})"
        table.append(row)
    return table


# Beyond the paper.


def left_out(planned: OurPlan, task: str) -> tuple[list[Cell], dict[tuple[str, int], list[Cell]]]:
    """Make the runs on all tasks but one, and those on few rows of it, from them and from the base model."""
    scale = planned.scale
    others = [other.name for other in resolve_tasks(scale.run["data"]["tasks"]) if other.name != task]
    without = {"data": {"tasks": others}}
    sources = planned.runs(f"glue-without-{task}", by_method(planned, *METHODS), scale.seeds[:1], own=without)
    trained = {cell.config.method["name"]: cell for cell in sources}
    anew = {f"{name},from_the_base": fields for name, fields in by_method(planned, *METHODS).items()}
    variants = anew | continued(planned, trained, others)
    return sources, {
        (task, samples): few_rows(planned, f"{task}-{samples}-rows-left-out", task, samples, variants)
        for samples in scale.left_out_samples
    }


def left_out_cells(planned: OurPlan) -> list[Cell]:
    """Make the runs without each task in turn, and all that start from them."""
    cells = []
    for task in planned.scale.left_out:
        sources, then = left_out(planned, task)
        cells += [*sources, *(cell for cells_of_one in then.values() for cell in cells_of_one)]
    return cells


def left_out_page(planned: OurPlan) -> str:
    """Write a row for each task left out and number of rows, and draw their means."""
    runs: dict[tuple[str, int], list[Cell]] = {}
    for task in planned.scale.left_out:
        runs |= left_out(planned, task)[1]
    return (
        f"{by_rows(planned, runs)}\nA task's parameters start from the mean of the other tasks' in a model trained on "
        "those; `from_the_base`, as any new task's do, on the base model.\n"
    )


TABLE_2 = Experiment(
    "hyperformer/table-2",
    SOURCE.format("Table 2"),
    "transfer of a GLUE model to new tasks",
    table_2_cells,
    table_2_page,
    SCALES,
)
FIGURE_3 = Experiment(
    "hyperformer/figure-3",
    SOURCE.format("Figure 3"),
    "task embeddings before and after transfer",
    figure_3_cells,
    figure_3_page,
    SCALES,
)
LEAVE_ONE_OUT = Experiment(
    "hyperformer/leave-one-out",
    "Beyond the HyperFormer paper",
    "each task left out of the mixture, then transferred to",
    left_out_cells,
    left_out_page,
    SCALES,
)
EXPERIMENTS: tuple[Experiment[Any], ...] = (TABLE_2, FIGURE_3, LEAVE_ONE_OUT)
