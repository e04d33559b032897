"""Transfer of a GLUE model to new tasks of few rows (Table 2, Figure 3), and to each task left out of GLUE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hyperadapt.comparison import MAJORITY, Cell, markdown, scores_of, spread_of, table_rows
from hyperadapt.config import merged
from hyperadapt.errors import UserError
from hyperadapt.experiments.glue import on_glue
from hyperadapt.experiments.plan import Experiment, Plan, as_printed
from hyperadapt.experiments.scales import DAGGER, FULL, HYPER_PP, Fields
from hyperadapt.figures import Line, embedding_map, scores_by_size
from hyperadapt.runs import load_run
from hyperadapt.tasks import resolve_tasks

if TYPE_CHECKING:
    from torch import Tensor

METHODS = (FULL, DAGGER, HYPER_PP)


def few_rows(
    planned: Plan, group: str, task: str, samples: int, variants: Mapping[str, Fields]
) -> list[Cell]:
    """Make runs on few rows of one task, drawn by each run's seed."""
    scale = planned.scale
    drawn = {"data": {"tasks": [task], "max_train_rows": samples, "subsample_seed": None}}
    return planned.runs(group, variants, scale.few_seeds, scale.transfer, drawn)


def continued(planned: Plan, sources: Mapping[str, Cell], init_from: Sequence[str]) -> dict[str, Fields]:
    """Make variants that go on from trained runs, of HyperFormer++ one more that trains its task embedding alone.

    Args:
        planned: says the learning rates.
        sources: the runs, by method.
        init_from: the task whose parameters the new one starts from, or several, from whose mean.
    """
    variants = {}
    for method, source in sources.items():
        start = {"start": {"run": str(source.directory), "init_from": list(init_from)}}
        [(name, fields)] = planned.methods(method, rates=planned.scale.transfer_rates).items()
        variants[name] = {**fields, **start}
        if method == HYPER_PP:
            rate = planned.scale.task_embedding_rate
            alone: Fields = {"method": {"train_task_embeddings_only": True}}
            alone |= {"training": {"learning_rate": rate}} if rate is not None else {}
            variants[f"{name},task_embedding"] = merged(variants[name], alone)
    return variants


def by_rows(planned: Plan, runs: Mapping[tuple[str, int], Sequence[Cell]]) -> str:
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
    columns = Counter(tuple(of) for of in by_task.values())
    sizes = max(columns, key=lambda sizes: (columns[sizes], len(sizes)))
    whole = {task: of for task, of in by_task.items() if tuple(of) == sizes}
    lines: dict[str, Line] = {}
    means = {size: dict[str, Any]({"task": f"mean of {len(whole)}", "rows": str(size)}) for size in sizes}
    for variant in table[0]:
        if all(variant in of[size] for of in whole.values() for size in sizes):
            for size in sizes:
                of_tasks = [of[size][variant] for of in whole.values()]
                if seeds := [seed for seed in of_tasks[0] if all(seed in of for of in of_tasks)]:
                    mean = spread_of([fmean(of[seed] for of in of_tasks) for seed in seeds])
                    means[size][variant] = mean
                    lines.setdefault(variant, []).append((size, *mean))
    if not lines or len(sizes) == 1:
        return markdown(table)
    label = "score, mean of the tasks"
    picture = planned.picture("scores", scores_by_size(lines, "training rows of the new task", label))
    of_these = f"The mean, of each seed's own, is over {', '.join(whole)}."
    return f"![score by training rows]({picture})\n\n{of_these}\n\n{markdown([*table, *means.values()])}"


# Table 2.


def glue_sources(planned: Plan) -> dict[str, Cell]:
    """Return the runs on GLUE from which the transfers start, by method: Table 1's, with the first seed."""
    cells = on_glue(planned, planned.methods(*METHODS))
    return {cell.config.method["name"]: cell for cell in cells if cell.seed == planned.scale.seeds[0]}


def transfers(planned: Plan) -> dict[tuple[str, int], list[Cell]]:
    """Make the runs of every new task and number of rows."""
    sources, runs = glue_sources(planned), {}
    for target, of in planned.scale.targets.items():
        variants = continued(planned, sources, [of.init_from])
        for samples in of.sizes(planned.scale.samples):
            runs[target, samples] = few_rows(planned, f"{target}-{samples}-rows", target, samples, variants)
    return runs


def table_2_cells(planned: Plan) -> list[Cell]:
    """Make the runs on GLUE, and all that start from them."""
    return [*glue_sources(planned).values(), *(cell for of in transfers(planned).values() for cell in of)]


def table_2_page(planned: Plan) -> str:
    """Write a row for each new task and number of rows, and draw their means."""
    starts = ", ".join(f"{target} from {of.init_from}" for target, of in planned.scale.targets.items())
    return (
        f"{by_rows(planned, transfers(planned))}\n"
        f"A new task starts from the parameters of the one most like it ({starts}) in one model trained on GLUE, with "
        f"a reduction factor of {planned.scale.one_factor}. Full fine-tuning trains everything, Adapters-dagger the "
        "task's adapters and all layer norms, HyperFormer++ hypernetworks, task embedding and T5's layer norms, or, "
        f"as `task_embedding`, that vector alone.\n\n## As printed\n\n{as_printed('2')}"
    )


# Figure 3.


def embeddings_alone(planned: Plan) -> list[Cell]:
    """Make transfers of the task embedding alone, from the mean of GLUE's, so that none is favoured at first."""
    scale, runs = planned.scale, []
    source = {HYPER_PP: glue_sources(planned)[HYPER_PP]}
    others = [task.name for task in resolve_tasks(scale.run["data"]["tasks"])]
    for target, of in scale.targets.items():
        samples = of.sizes(scale.samples)[-1]
        _, (name, alone) = continued(planned, source, others).items()
        cells = few_rows(planned, f"{target}-{samples}-rows-from-the-mean", target, samples, {name: alone})
        runs += [cell for cell in cells if cell.seed == scale.few_seeds[0]]
    return runs


def figure_3_cells(planned: Plan) -> list[Cell]:
    """Make HyperFormer++'s run on GLUE, and the transfers of its task embedding."""
    return [glue_sources(planned)[HYPER_PP], *embeddings_alone(planned)]


def figure_3_page(planned: Plan) -> str:
    """Draw the task embeddings by their first two principal components, and name the nearest tasks of each."""
    import torch
    from sklearn.decomposition import PCA

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
    return (
        f"Before:\n\n![before]({before})\n\nAfter transfer, the new tasks' embeddings trained alone, from the mean of "
        f"the trained tasks':\n\n![after]({after})\n\n{markdown(nearest_tasks(names, embeddings, old))}\n"
        "Cosines of the differences from the trained tasks' mean, where the new tasks started: of a new task that is "
        "the way it went.\n"
    )


def nearest_tasks(names: Sequence[str], embeddings: Tensor, old: int) -> list[dict[str, Any]]:
    """Name the trained tasks nearest to each, as seen from their mean, from which the new ones have started.

    Args:
        names: of the tasks, the trained ones first.
        embeddings: (tasks, t').
        old: how many are trained.
    """
    import torch

    away = embeddings - embeddings[:old].mean(0)
    unit = torch.nn.functional.normalize(away, dim=1)
    nearness = (unit @ unit[:old].T).fill_diagonal_(-2)
    table = []
    for number, name in enumerate(names):
        nearest = nearness[number].topk(min(3, old - 1))
        near = ", ".join(
            f"{names[at]} {cosine:.2f}" for cosine, at in zip(*(of.tolist() for of in nearest), strict=True)
        )
        distance = away[number].norm().item()
        table.append(
            {"task": name, "nearest trained tasks, cosine": near, "from their mean": f"{distance:.2f}"}
        )
    return table


# Beyond the paper.


def left_out(planned: Plan, task: str) -> tuple[list[Cell], dict[tuple[str, int], list[Cell]]]:
    """Make the runs on all tasks but one, and those on few rows of it, from them and from the base model."""
    scale = planned.scale
    others = [of.name for of in resolve_tasks(scale.run["data"]["tasks"]) if of.name != task]
    without = {"data": {"tasks": others}}
    sources = planned.runs(f"glue-without-{task}", planned.methods(*METHODS), scale.seeds[:1], own=without)
    by_method = {cell.config.method["name"]: cell for cell in sources}
    anew = {f"{name},from_the_base": fields for name, fields in planned.methods(*METHODS).items()}
    variants = anew | continued(planned, by_method, others)
    return sources, {
        (task, samples): few_rows(planned, f"{task}-{samples}-rows-left-out", task, samples, variants)
        for samples in scale.left_out_samples
    }


def left_out_cells(planned: Plan) -> list[Cell]:
    """Make the runs without each task in turn, and all that start from them."""
    cells = []
    for task in planned.scale.left_out:
        sources, then = left_out(planned, task)
        cells += [*sources, *(cell for of in then.values() for cell in of)]
    return cells


def left_out_page(planned: Plan) -> str:
    """Write a row for each task left out and number of rows, and draw their means."""
    runs: dict[tuple[str, int], list[Cell]] = {}
    for task in planned.scale.left_out:
        runs |= left_out(planned, task)[1]
    return (
        f"{by_rows(planned, runs)}\nA task's parameters start from the mean of the other tasks' in a model trained on "
        "those; `from_the_base`, as any new task's do, on the base model.\n"
    )


TABLE_2 = Experiment(
    "table-2", "Table 2", "transfer of a GLUE model to new tasks", table_2_cells, table_2_page
)
FIGURE_3 = Experiment(
    "figure-3", "Figure 3", "task embeddings before and after transfer", figure_3_cells, figure_3_page
)
LEAVE_ONE_OUT = Experiment(
    "leave-one-out",
    "Beyond the paper",
    "each task left out of the mixture, then transferred to",
    left_out_cells,
    left_out_page,
)
