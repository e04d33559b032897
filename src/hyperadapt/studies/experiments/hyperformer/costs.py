"""What the methods cost: time and memory of training (Tables 5 and 6), and parameters (section 4.1)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from hyperadapt.counting import count_without_weights, model_config, section_4_1_table
from hyperadapt.methods import METHODS
from hyperadapt.studies.comparison import Cell, markdown, spread_of
from hyperadapt.studies.experiments.beside import Labels, Ours, Pair, beside
from hyperadapt.studies.experiments.hyperformer.glue import SOURCE, OurPlan, by_method
from hyperadapt.studies.experiments.hyperformer.scales import SCALES
from hyperadapt.studies.experiments.plan import Experiment
from hyperadapt.studies.experiments.scales import ADAPTERS, DAGGER, FULL, HYPER, HYPER_PP, Fields
from hyperadapt.studies.figures import Line, scores_by_size
from hyperadapt.studies.published import published_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Tables 5 and 6.

# The batches of the paper's code, of one task each; the same inputs for all, without the task's name; and few rows to
# score, so that the peak is training's. The median of the step is that of laps, which end where something is logged.
TIMED: Fields = {
    "data": {"mixed_batches": False, "prefix": False, "max_eval_rows": 8, "max_test_rows": 8},
    "training": {"logging_steps": 10},
    "evaluation": {"answers": "generate", "batch_size": 8},
}


def timed(planned: OurPlan) -> list[Cell]:
    """Make the timed runs in rounds, each begun by another method, so that what else the machine does falls on all."""
    scale = planned.scale
    variants = by_method(planned, FULL, DAGGER, HYPER, HYPER_PP)
    cells = planned.runs("timed", variants, scale.few_seeds, scale.timed, TIMED)
    rounds = [[cell for cell in cells if cell.seed == seed] for seed in scale.few_seeds]
    turned = [runs[number % len(runs) :] + runs[: number % len(runs)] for number, runs in enumerate(rounds)]
    return [cell for runs in turned for cell in runs]


MODELS = {"T5": FULL, "Adapters†": DAGGER, "HyperFormer": HYPER, "HyperFormer++": HYPER_PP}
# What the columns of Tables 5 and 6 are of, by the names of results.json and in the paper's units.
MEASURES = {
    "5": ("memory (GB)", "peak_memory_mb", 1 / 1024),
    "6": ("time (min)", "step_seconds", 1000 / 60),
}


def by_round(planned: OurPlan) -> dict[int, dict[str, dict[str, Any]]]:
    """Return the results of the rounds of which every method is finished, by method."""
    rounds: dict[int, dict[str, dict[str, Any]]] = {}
    for cell in timed(planned):
        if (results := cell.results()) is not None:
            rounds.setdefault(cell.seed, {})[cell.config.method["name"]] = results
    return {seed: measured for seed, measured in rounds.items() if measured.keys() == set(MODELS.values())}


def timed_page(planned: OurPlan) -> str:
    """Set time and memory of training beside the printed ones, and their change from T5's of the round."""
    rounds, parts = by_round(planned), []
    for number, (column, field, unit) in MEASURES.items():
        table = published_table("hyperformer", number)
        found: dict[Labels, Ours | None] = {}
        for model, method in MODELS.items():
            absolute = {seed: measured[method][field] * unit for seed, measured in rounds.items()}
            change = {
                seed: 100 * (measured[method][field] / measured[FULL][field] - 1)
                for seed, measured in rounds.items()
            }
            found[(model,)] = Ours({column: absolute, "change (%)": change}) if rounds else None
        pairs = [
            Pair(f"{model} − T5", ((model,), column), (("T5",), column)) for model in MODELS if model != "T5"
        ]
        parts.append(beside(table, found, pairs))
    added = [
        {
            "method": method,
            "added by training (MB)": spread_of(
                [
                    measured[method]["peak_memory_mb"] - measured[method]["loaded_memory_mb"]
                    for measured in rounds.values()
                ]
            ),
        }
        for method in (MODELS.values() if rounds else ())
    ]
    steps = planned.cells()[0].config.training.max_steps
    return (
        f"{parts[0]}\n{parts[1]}\n{markdown(added)}\n"
        f"{len(rounds)} rounds of {steps} steps, a process each, one after another: mean and deviation of each run's "
        "own median step, times 1,000, and of its peak of memory (the device's allocator; on the CPU the process, with "
        "libraries, data and model, which are left out of what is added). A round is a seed; seconds have no rows to "
        "be drawn.\n"
    )


# Section 4.1.


def adapters_count(layers: int, h: int, d: int, tasks: int) -> int:
    """Count Adapters': T (4 L (2 h d + h + d + 2 h) + (5 L + 2) h), for L layers a stack and T tasks.

    Two adapters a layer with their layer norms, and T5's own layer norms, two a layer of the encoder, three of the
    decoder and one at the end of each, all of them of each task's own.
    """
    return tasks * (4 * layers * (2 * h * d + 3 * h + d) + (5 * layers + 2) * h)


def adapters_dagger_count(layers: int, h: int, d: int, tasks: int) -> int:
    """Count Adapters-dagger's: 4 L (T (2 h d + h + d) + 2 h), for L layers a stack and T tasks.

    Two adapters a layer, D (d, h), U (h, d) and their biases, each with a layer norm's gamma and beta, shared by tasks.
    """
    return 4 * layers * (tasks * (2 * h * d + h + d) + 2 * h)


def hyperformer_pp_count(layers: int, h: int, d: int, t: int, tasks: int, z: int = 64, e: int = 128) -> int:
    """Count HyperFormer++'s: T z + 2 (L z + 2 z + (3 z e + e + e t + t) + 2 t + (t + 1) (2 h d + 3 h + d)).

    Task embeddings of size z; for each stack those of layers and two positions, the projector 3 z -> e -> t, the layer
    norm of its output, and the heads that generate an adapter and its layer norm.
    """
    projector = 3 * z * e + e + e * t + t
    return tasks * z + 2 * (layers * z + 2 * z + projector + 2 * t + (t + 1) * (2 * h * d + 3 * h + d))


def real_count(method: str, config: PreTrainedConfig, tasks: int, **options: Any) -> int:
    """Count what a method adds to a model, by building it without memory for weights."""
    counted = count_without_weights(config, METHODS[method](**options), tasks)
    return counted.total - counted.base


def parameters_page(planned: OurPlan) -> str:
    """Set the formulas beside real counts, by tasks and by layers, draw them, and say where they cross."""
    from transformers import T5Config

    model = planned.scale.run["model"]
    config = T5Config(**model["config"]) if "config" in model else model_config(model["name"])
    r, h, t, depth = planned.scale.one_factor, config.d_model, 64, config.num_layers
    d = h // r

    def formulas(tasks: int, layers: int) -> dict[str, int]:
        return {
            ADAPTERS: adapters_count(layers, h, d, tasks),
            DAGGER: adapters_dagger_count(layers, h, d, tasks),
            HYPER_PP: hyperformer_pp_count(layers, h, d, t, tasks),
        }

    grids = {
        "tasks": [(tasks, depth) for tasks in (1, 2, 4, 8, 16, 64, 256)],
        "layers": [(8, layers) for layers in (1, 2, 4, 6, 12, 24)],
    }
    rows, pictures, crossings = [], [], []
    for number, (what, grid) in enumerate(grids.items()):
        lines: dict[str, Line] = {}
        for tasks, layers in grid:
            deep = copy.deepcopy(config)
            deep.num_layers = deep.num_decoder_layers = layers
            row: dict[str, Any] = {"tasks": str(tasks), "layers": str(layers)}
            for method, count in formulas(tasks, layers).items():
                row[f"{method}, formula"] = f"{count:,}"
                row[f"{method}, real"] = f"{real_count(method, deep, tasks, reduction_factor=r):,}"
                lines.setdefault(method, []).append(((tasks, layers)[number], count / 1e6, None))
            rows.append(row)
        fixed = f"{depth} layers a stack" if what == "tasks" else "8 tasks"
        label = f"{what}, {fixed}"
        pictures.append(
            planned.picture(what, scores_by_size(lines, label, "million parameters added", log_y=True))
        )
        counts = [formulas(n, depth) if what == "tasks" else formulas(8, n) for n in range(1, 10_000)]
        for other in (ADAPTERS, DAGGER):
            smaller = next(n for n, sizes in enumerate(counts, start=1) if sizes[HYPER_PP] < sizes[other])
            crossings.append(f"than {other} from {smaller} {what} on ({fixed})")
    return (
        f"{model.get('name') or 'A tiny T5'}: h = {h}, d = {d}, t = {t}; what the methods add, the base model's own "
        f"trained layer norms left out. HyperFormer++ adds less {', '.join(crossings)}.\n\n{markdown(rows)}\n"
        "Adapters: T (4 L (2 h d + 3 h + d) + (5 L + 2) h), with T5's own layer norms, which are each task's own. "
        "Adapters-dagger: 4 L (T (2 h d + h + d) + 2 h). HyperFormer++: T z + 2 (L z + 2 z + (3 z e + e + e t + t) + "
        "2 t + (t + 1) (2 h d + 3 h + d)). For L layers a stack, T tasks, z = 64, e = 128: `adapters_count`, "
        "`adapters_dagger_count` and `hyperformer_pp_count` of `experiments.hyperformer.costs` take any numbers.\n\n"
        f"![by tasks]({pictures[0]})\n\n![by layers]({pictures[1]})\n\n"
        "## As printed\n\nThe formulas of section 4.1, which leave biases and layer norms out, part by part beside the "
        f"exact counts, of 8 tasks with r = 32:\n\n{markdown(section_4_1_table())}"
    )


TABLES_5_6 = Experiment(
    "hyperformer/tables-5-6",
    SOURCE.format("Tables 5 and 6"),
    "memory and time of training",
    timed,
    timed_page,
    SCALES,
    timed=True,
)
PARAMETER_COUNTS = Experiment(
    "hyperformer/parameters",
    SOURCE.format("section 4.1"),
    "parameters by tasks and layers",
    lambda planned: [],
    parameters_page,
    SCALES,
)
EXPERIMENTS: tuple[Experiment[Any], ...] = (TABLES_5_6, PARAMETER_COUNTS)
