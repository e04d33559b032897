"""What the methods cost: time and memory of training (Tables 5 and 6), and parameters (section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperadapt.comparison import Cell, markdown, spread_of
from hyperadapt.experiments.plan import Experiment, Plan
from hyperadapt.experiments.scales import DAGGER, FULL, HYPER, HYPER_PP, Fields
from hyperadapt.figures import Line, scores_by_size
from hyperadapt.methods import METHODS
from hyperadapt.published import NOT_PRINTED

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Tables 5 and 6.

# All have the same inputs, without the task's name before them; few rows are scored, so that the peak is training's.
TIMED: Fields = {
    "data": {"prefix": False, "max_eval_rows": 8, "max_test_rows": 8},
    "evaluation": {"batch_size": 8},
}


def timed(planned: Plan) -> list[Cell]:
    """Make the timed runs, round by round, so that what else the machine does falls on all methods alike."""
    scale = planned.scale
    variants = planned.methods(FULL, DAGGER, HYPER, HYPER_PP)
    cells = planned.runs("timed", variants, scale.few_seeds, scale.timed, TIMED)
    return sorted(cells, key=lambda cell: scale.few_seeds.index(cell.seed))


def timed_page(planned: Plan) -> str:
    """Write time and memory of training, with their ratios to full fine-tuning's of the same round."""
    rounds: dict[int, dict[str, dict[str, Any]]] = {}
    for cell in timed(planned):
        results = cell.results()
        assert results is not None
        rounds.setdefault(cell.seed, {})[cell.variant] = {
            "1,000 steps (s)": 1000 * results["step_seconds"],
            "memory (MB)": results["peak_memory_mb"],
        }
    rows: list[dict[str, Any]] = []
    for variant in next(iter(rounds.values())):
        row: dict[str, Any] = {"variant": variant}
        for measure in ("1,000 steps (s)", "memory (MB)"):
            row[measure] = spread_of([of[variant][measure] for of in rounds.values()])
            ratio, deviation = spread_of([of[variant][measure] / of[FULL][measure] for of in rounds.values()])
            row[f"of T5's {measure}"] = f"{ratio:.2f}" + (
                f" ± {deviation:.2f}" if deviation is not None else ""
            )
        rows.append(row)
    steps = timed(planned)[0].config.training.max_steps
    return (
        f"{markdown(rows)}\n{len(rounds)} rounds of {steps} steps, a process each, one after another: mean and "
        "deviation of each run's own median step, and of its peak of memory (the device's allocator; on the CPU the "
        f"process, with its libraries). {NOT_PRINTED}\n"
    )


# Section 4.1.


def adapters_count(layers: int, h: int, d: int, tasks: int) -> int:
    """Count Adapters-dagger's parameters: 4 L (T (2 h d + h + d) + 2 h), for L layers a stack and T tasks.

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
    from hyperadapt.counting import count_without_weights

    counted = count_without_weights(config, METHODS[method](**options), tasks)
    return counted.total - counted.base


def parameters_page(planned: Plan) -> str:
    """Set both formulas beside real counts, and draw them by tasks and by layers."""
    from hyperadapt.backbones import published_config

    model = "t5-base" if planned.scale.run["model"].get("name", "").endswith("t5-base") else "t5-small"
    config, r = published_config(model), planned.scale.one_factor
    assert config is not None
    h, layers, t = config.d_model, config.num_layers, 64
    d = h // r

    def formulas(layers: int, tasks: int) -> dict[str, int]:
        return {
            DAGGER: adapters_count(layers, h, d, tasks),
            HYPER_PP: hyperformer_pp_count(layers, h, d, t, tasks),
        }

    by_tasks: dict[str, Line] = {DAGGER: [], HYPER_PP: []}
    by_layers: dict[str, Line] = {DAGGER: [], HYPER_PP: []}
    rows = []
    for tasks in (1, 2, 4, 8, 16, 64, 256):
        row: dict[str, Any] = {"tasks": str(tasks), "layers": str(layers)}
        for method, count in formulas(layers, tasks).items():
            row[f"{method}, formula"] = f"{count:,}"
            row[f"{method}, real"] = f"{real_count(method, config, tasks, reduction_factor=r):,}"
            by_tasks[method].append((tasks, count / 1e6, None))
        rows.append(row)
    for depth in (2, 4, 6, 12, 24, 48):
        for method, count in formulas(depth, tasks=8).items():
            by_layers[method].append((depth, count / 1e6, None))
    pictures = [
        planned.picture(what, scores_by_size(lines, label, "million parameters added", log_y=True))
        for what, lines, label in (
            ("tasks", by_tasks, "tasks"),
            ("layers", by_layers, "layers a stack, 8 tasks"),
        )
    ]
    return (
        f"{model}: h = {h}, d = {d}, t = {t}, L = {layers} layers a stack; what the methods add, the base model's own "
        f"trained layer norms left out.\n\n{markdown(rows)}\n"
        "Adapters-dagger: 4 L (T (2 h d + h + d) + 2 h). HyperFormer++: T z + 2 (L z + 2 z + (3 z e + e + e t + t) + "
        "2 t + (t + 1) (2 h d + 3 h + d)), z = 64, e = 128.\n\n"
        f"![by tasks]({pictures[0]})\n\n![by layers]({pictures[1]})\n"
    )


TABLES_5_6 = Experiment(
    "tables-5-6", "Tables 5 and 6", "memory and time of training", timed, timed_page, timed=True
)
PARAMETERS = Experiment(
    "parameters", "Section 4.1", "parameters by tasks and layers", lambda planned: [], parameters_page
)
