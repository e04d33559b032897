"""Transfer of a GLUE model to new tasks of few rows (Table 2, Figure 3), and to each task left out of GLUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from hyperadapt.comparison import Cell, markdown, table_rows
from hyperadapt.config import merged
from hyperadapt.experiments.glue import on_glue
from hyperadapt.experiments.plan import Experiment, Plan
from hyperadapt.experiments.scales import DAGGER, FULL, HYPER_PP, TASK_EMBEDDING, Fields
from hyperadapt.figures import Line, embedding_map, scores_by_size
from hyperadapt.published import NOT_PRINTED
from hyperadapt.runs import load_run
from hyperadapt.tasks import resolve_tasks


def few_rows(
    planned: Plan, group: str, task: str, samples: int, variants: Mapping[str, Fields]
) -> list[Cell]:
    """Make runs on few rows of one task, drawn by each run's seed, at the rates of a transfer."""
    scale = planned.scale
    drawn = {"data": {"tasks": [task], "max_train_rows": samples, "subsample_seed": None}}
    rated = {}
    for name, fields in variants.items():
        rate = scale.transfer_rates.get(kind(name))
        rated[name] = fields if rate is None else merged(fields, {"training": {"learning_rate": rate}})
    return planned.runs(group, rated, scale.few_seeds, scale.transfer, drawn)


def kind(variant: str) -> str:
    """Return a variant's name without its reduction factor."""
    return ",".join(part for part in variant.split(",") if not part.startswith("r="))


def going_on(source: Cell, fields: Fields, init_from: Sequence[str]) -> Fields:
    """Return fields with which a run goes on from another."""
    return {**fields, "start": {"run": str(source.directory), "init_from": list(init_from)}}


def embedding_alone(variants: Mapping[str, Fields]) -> dict[str, Fields]:
    """Make variants that train the new task's embedding and nothing else."""
    return {
        f"{name},task_embedding": merged(fields, {"method": {"train_task_embeddings_only": True}})
        for name, fields in variants.items()
    }


# Table 2.


def sources(planned: Plan) -> dict[str, Cell]:
    """Return the runs on GLUE from which the transfers start, by method: Table 1's."""
    cells = on_glue(planned, planned.methods(FULL, DAGGER, HYPER_PP))
    return {kind(cell.variant): cell for cell in cells if cell.seed == planned.scale.seeds[0]}


def transfer(planned: Plan, target: str, samples: int) -> list[Cell]:
    """Make the runs on so many rows of a new task."""
    starts = sources(planned)
    variants = planned.methods(FULL, DAGGER, HYPER_PP)
    variants |= embedding_alone(planned.methods(HYPER_PP))
    init_from = [planned.scale.targets[target].init_from]
    starting = {
        name: going_on(starts[name.split(",")[0]], fields, init_from) for name, fields in variants.items()
    }
    return few_rows(planned, f"{target}-{samples}-rows", target, samples, starting)


def transfers(planned: Plan) -> dict[tuple[str, int], list[Cell]]:
    """Make the runs of every new task and number of rows."""
    return {
        (target, samples): transfer(planned, target, samples)
        for target, of in planned.scale.targets.items()
        for samples in of.sizes(planned.scale.samples)
    }


def table_2_cells(planned: Plan) -> list[Cell]:
    """Make the runs on GLUE, and all that start from them."""
    return [*sources(planned).values(), *(cell for of in transfers(planned).values() for cell in of)]


def table_2_page(planned: Plan) -> str:
    """Write a row for each new task and number of rows, and draw their means."""
    return f"{by_rows(planned, transfers(planned))}\n{NOT_PRINTED}\n"


def by_rows(planned: Plan, runs: Mapping[tuple[str, int], Sequence[Cell]]) -> str:
    """Lay runs on few rows out, a row a task and number of rows, and draw their mean over the tasks."""
    table: list[dict[str, Any]] = []
    smallest_first: dict[str, list[dict[str, Any]]] = {}
    for (task, samples), cells in runs.items():
        scores = {row["variant"]: row["average"] for row in table_rows(cells)}
        table.append({"task": task, "rows": str(samples), **scores})
        smallest_first.setdefault(task, []).append({"rows": samples, **scores})
    lines: dict[str, Line] = {}
    # A task of few rows has its last number of them where the others have more; the k-th numbers belong together.
    for rows in zip(*smallest_first.values(), strict=False):
        size = max(row["rows"] for row in rows)
        for variant in rows[0].keys() - {"rows"}:
            lines.setdefault(variant, []).append((size, fmean(row[variant][0] for row in rows), None))
    ordered = {name: lines[name] for name in table[0] if name in lines}
    picture = planned.picture(
        "scores", scores_by_size(ordered, "training rows of the new task", "score, mean of the tasks")
    )
    return f"![score by training rows]({picture})\n\n{markdown(table)}"


# Figure 3.


def figure_3_cells(planned: Plan) -> list[Cell]:
    """Take of Table 2's runs HyperFormer++'s on GLUE, and a transfer of the task embedding alone to each new task."""
    source, scale = sources(planned)[HYPER_PP], planned.scale
    moved = [
        cell
        for target, of in scale.targets.items()
        for cell in transfer(planned, target, of.sizes(scale.samples)[-1])
        if kind(cell.variant) == TASK_EMBEDDING and cell.seed == scale.few_seeds[0]
    ]
    return [source, *moved]


def figure_3_page(planned: Plan) -> str:
    """Draw the task embeddings by their first two principal components, and name the nearest task of each."""
    import torch
    from sklearn.decomposition import PCA

    names, vectors = [], []
    for cell in planned.cells():
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
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    nearness = unit @ unit.T - 2 * torch.eye(len(names))
    table = []
    for number, name in enumerate(names):
        best = int(nearness[number, :old].argmax())
        cosine = f"{nearness[number, best]:.3f}"
        table.append({"task": name, "nearest trained task": names[best], "cosine": cosine})
    before, after = pictures
    return (
        f"Before:\n\n![before]({before})\n\nAfter transfer, the new tasks' embeddings trained alone:\n\n"
        f"![after]({after})\n\n{markdown(table)}"
    )


# Beyond the paper.


def left_out(planned: Plan, task: str) -> tuple[Cell, dict[tuple[str, int], list[Cell]]]:
    """Make the run without a task, and those on few rows of it."""
    scale, method = planned.scale, planned.methods(HYPER_PP)
    others = [of.name for of in resolve_tasks(scale.run["data"]["tasks"]) if of.name != task]
    [source] = planned.runs(f"glue-without-{task}", method, scale.seeds[:1], {"data": {"tasks": others}})
    variants = {f"{name},from_nothing": fields for name, fields in method.items()}
    variants |= {
        f"{name},from_the_others": going_on(source, fields, others)
        for name, fields in (method | embedding_alone(method)).items()
    }
    return source, {
        (task, samples): few_rows(planned, f"{task}-{samples}-rows-left-out", task, samples, variants)
        for samples in scale.left_out_samples
    }


def left_out_cells(planned: Plan) -> list[Cell]:
    """Make the runs without each task in turn, and all that start from them."""
    cells = []
    for task in planned.scale.left_out:
        source, then = left_out(planned, task)
        cells += [source, *(cell for of in then.values() for cell in of)]
    return cells


def left_out_page(planned: Plan) -> str:
    """Write a row for each task left out and number of rows, and draw their means."""
    runs: dict[tuple[str, int], list[Cell]] = {}
    for task in planned.scale.left_out:
        runs |= left_out(planned, task)[1]
    return by_rows(planned, runs)


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
