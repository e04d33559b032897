"""The HyperFormer paper's experiments, each one command: comparisons, one after another, and a page of their numbers.

OUTPUT/NAME-SCALE/
    STAGE/       a comparison, as `hyperadapt compare` keeps it: what is finished is not run again
    page.md      our numbers, with the printed ones where they are known        *.svg   its pictures
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hyperadapt.checkpoint import write_atomically
from hyperadapt.comparison import Cell, compare, markdown, scores_of, spread_of, table_rows
from hyperadapt.config import CompareConfig, merged
from hyperadapt.errors import UserError, nearest
from hyperadapt.figures import embedding_map, scores_by_size
from hyperadapt.published import published_rows
from hyperadapt.runs import load_run
from hyperadapt.tasks import resolve_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Fields = dict[str, Any]
FULL, ADAPTERS, DAGGER, HYPER, HYPER_PP = (
    "full_fine_tuning",
    "adapters",
    "adapters_dagger",
    "hyperformer",
    "hyperformer++",
)


@dataclass(frozen=True)
class Scale:
    """How large the runs of an experiment are.

    Attributes:
        run: fields that all runs share; `data.tasks` are those of GLUE, or what stands for them.
        seeds: of runs on all rows; those on few rows have `few_seeds`.
        reduction_factors: of Tables 1 and 7; `narrow` of Table 3, `few_factors` of Figure 2, `one_factor` elsewhere.
        learning_rates: of methods for which the run's is not the best.
        low_resource: training rows a task in Figure 2.
        samples: training rows of a new task in Table 2.
        targets: new task -> the task whose parameters it starts from.
        fewshot_steps: of a transfer to a new task.
        efficiency_steps: of Tables 5 and 6.
    """

    run: Fields
    seeds: tuple[int, ...]
    few_seeds: tuple[int, ...]
    reduction_factors: tuple[int, ...]
    narrow: tuple[int, ...]
    few_factors: tuple[int, ...]
    one_factor: int
    low_resource: tuple[int, ...]
    samples: tuple[int, ...]
    targets: Mapping[str, str]
    fewshot_steps: int
    efficiency_steps: int
    learning_rates: Mapping[str, float] = field(default_factory=dict)


TARGETS = {
    "scitail": "mnli",
    "transfer-cb": "mnli",
    "transfer-boolq": "qnli",
    "imdb": "sst2",
    "yelp_polarity": "sst2",
    "paws": "qqp",
    "trec": "mnli",
}
PAPER = Scale(
    run={
        "model": {"name": "google-t5/t5-base"},
        "data": {"tasks": ["glue"], "max_source_length": 128},
        "training": {"max_steps": 262_144, "batch_size": 32, "learning_rate": 3e-4, "eval_steps": 1000},
    },
    seeds=(42,),
    few_seeds=(1, 2, 3, 4, 5),
    reduction_factors=(8, 16, 32),
    narrow=(2, 4),
    few_factors=(16, 32, 64),
    one_factor=32,
    low_resource=(100, 500, 1000, 2000, 4000),
    samples=(4, 16, 32, 100, 500, 1000, 2000),
    targets=TARGETS,
    fewshot_steps=5000,
    efficiency_steps=1000,
)
SCALES = {
    "paper": PAPER,
    "small": replace(
        PAPER,
        run={
            "model": {"name": "tiny-t5", "attn_implementation": "eager"},
            "data": {
                "tasks": ["glue"],
                "data_dir": "../shared/data",
                "max_source_length": 128,
                "max_eval_rows": 250,
                "max_test_rows": 1000,
            },
            "training": {
                "max_steps": 1000,
                "batch_size": 32,
                "learning_rate": 3e-4,
                "lr_scheduler_type": "linear",
                "warmup_steps": 100,
                "eval_steps": 500,
                "arguments": {"bf16": True},
            },
            "evaluation": {"batch_size": 128},
        },
        learning_rates={FULL: 1e-3},
        seeds=(1, 2, 3),
        reduction_factors=(4, 8, 16),
        few_factors=(4, 8, 16),
        one_factor=4,
        samples=(4, 32, 100, 500, 2000),
        targets={
            f"{task}-halved" if task in ("scitail", "paws") else task: of for task, of in TARGETS.items()
        },
        fewshot_steps=200,
        efficiency_steps=100,
    ),
    "smoke": replace(
        PAPER,
        run={
            "model": {
                "config": {
                    "vocab_size": 384,
                    "d_model": 32,
                    "d_kv": 8,
                    "d_ff": 48,
                    "num_layers": 1,
                    "num_heads": 2,
                },
                "tokenizer": "bytes",
                "seed": 0,
            },
            "data": {
                "tasks": ["sentiment", "entailment"],
                "max_source_length": 64,
                "max_train_rows": 16,
                "max_eval_rows": 4,
                "max_test_rows": 4,
            },
            "training": {"max_steps": 2, "batch_size": 4, "eval_steps": 2},
        },
        seeds=(1,),
        few_seeds=(1,),
        reduction_factors=(8,),
        few_factors=(8,),
        one_factor=8,
        narrow=(2,),
        low_resource=(4,),
        samples=(4,),
        targets={"acceptability": "sentiment"},
        fewshot_steps=2,
        efficiency_steps=2,
    ),
}


@dataclass(frozen=True)
class Plan:
    """An experiment at a scale, in a folder."""

    experiment: Experiment
    scale: Scale
    folder: Path

    def stages(self) -> list[CompareConfig]:
        """Make the comparisons, in their order: a later one may begin from the runs of an earlier one."""
        return self.experiment.stages(self)

    def cells(self) -> list[Cell]:
        """List all runs."""
        return [cell for stage in self.stages() for cell in cells_of(stage)]

    def stage(
        self, name: str, variants: Mapping[str, Fields], seeds: Sequence[int] | None = None, **changes: Any
    ) -> CompareConfig:
        """Make a comparison of these variants."""
        return CompareConfig(
            output_dir=str(self.folder / name),
            base=merged(self.scale.run, changes),
            variants=dict(variants),
            seeds=tuple(self.scale.seeds if seeds is None else seeds),
        )

    def variant(self, method: str, **options: Any) -> Fields:
        """Return the fields of a run of a method, at its learning rate."""
        rate = self.scale.learning_rates.get(method)
        training = {} if rate is None else {"training": {"learning_rate": rate}}
        return {"method": {"name": method, **options}, **training}


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        source: where it stands there.
        title: what it shows.
        stages: its comparisons.
        page: writes its pictures, and returns its page's text below the title.
    """

    source: str
    title: str
    stages: Callable[[Plan], list[CompareConfig]]
    page: Callable[[Plan], str]


def plan(
    name: str,
    scale: str = "small",
    output_dir: str | Path = "runs/reproduce",
    base: str | None = None,
    data_dir: str | None = None,
) -> Plan:
    """Plan an experiment.

    Args:
        name: of `EXPERIMENTS`.
        scale: of `SCALES`.
        output_dir: the experiment gets a folder there.
        base: another base model, hub name or directory.
        data_dir: another local copy of the data.

    Raises:
        UserError: if the name or the scale is unknown.
    """
    if name not in EXPERIMENTS:
        raise UserError(f"experiment '{name}' is unknown; {nearest(name, EXPERIMENTS)}")
    if scale not in SCALES:
        raise UserError(f"--scale '{scale}' is unknown; {nearest(scale, SCALES)}")
    chosen = SCALES[scale]
    if base is not None:
        chosen = replace(chosen, run={**chosen.run, "model": {"name": base}})
    if data_dir is not None:
        chosen = replace(chosen, run=merged(chosen.run, {"data": {"data_dir": data_dir}}))
    return Plan(EXPERIMENTS[name], chosen, Path(output_dir) / f"{name}-{scale}")


def reproduce(planned: Plan, jobs: int = 1, ray: str | None = None) -> Path:
    """Train what is not finished of an experiment, and write its page.

    Args:
        planned: from `plan`.
        jobs, ray: as of `compare`.

    Returns:
        The page.

    Raises:
        UserError: for anything wrong with what was given, or where runs failed.
    """
    for stage in planned.stages():
        compare(stage, jobs, ray)
    planned.folder.mkdir(parents=True, exist_ok=True)
    experiment = planned.experiment
    text = f"# {experiment.source}: {experiment.title}\n\n{experiment.page(planned)}"
    page = planned.folder / "page.md"
    write_atomically(page, text.encode())
    return page


def cells_of(stage: CompareConfig) -> list[Cell]:
    """List a comparison's runs."""
    return [Cell(variant, seed, run) for (variant, seed), run in stage.runs().items()]


def overview(scale: str, output_dir: str | Path = "runs/reproduce") -> list[dict[str, Any]]:
    """List the experiments: how many runs and steps they are at a scale, and how many runs are finished."""
    rows = []
    for name, experiment in EXPERIMENTS.items():
        cells = plan(name, scale, output_dir).cells()
        rows.append(
            {
                "name": name,
                "paper": experiment.source,
                "shows": experiment.title,
                "runs": len(cells),
                "steps": sum(cell.config.training.max_steps for cell in cells),
                "finished": sum(cell.finished for cell in cells),
            }
        )
    return rows


# Tables 1, 3 and 7: GLUE.


def glue_stages(planned: Plan) -> list[CompareConfig]:
    factors = planned.scale.reduction_factors
    multi = {FULL: planned.variant(FULL)} | {
        f"{method},r={factor}": planned.variant(method, reduction_factor=factor)
        for method in (DAGGER, HYPER, HYPER_PP)
        for factor in factors
    }
    single = {
        f"{method}{suffix},{task.name}": {
            **planned.variant(method, **options),
            "data": {"tasks": [task.name]},
        }
        for method, suffix, options in (
            (FULL, "", {}),
            *((ADAPTERS, f",r={factor}", {"reduction_factor": factor}) for factor in factors),
        )
        for task in resolve_tasks(planned.scale.run["data"]["tasks"])
    }
    return [planned.stage("multi-task", multi), planned.stage("single-task", single)]


def glue_page(planned: Plan) -> str:
    multi, single = planned.stages()
    rows = best_by_validation([*single_task_rows(single), *table_rows(cells_of(multi))])
    return (
        f"{markdown(rows)}\nScores on the test rows; of each method the reduction factor with the best average on the "
        f"validation rows. Single-task rows are one model a task, the others one for all.\n\n"
        f"## As printed\n\n{markdown(printed_rows())}"
    )


def single_task_rows(stage: CompareConfig) -> list[dict[str, Any]]:
    """Join runs of one task each to rows of all tasks, seed by seed."""
    joined: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in cells_of(stage):
        variant, task = cell.variant.rsplit(",", 1)
        results = cell.results()
        assert results is not None
        joined.setdefault(variant, {}).setdefault(cell.seed, {})[task] = results
    rows = []
    for variant, by_seed in joined.items():
        tasks = list(next(iter(by_seed.values())))
        row: dict[str, Any] = {"variant": f"single-task {variant}", "seeds": len(by_seed)}
        for task in tasks:
            row[task] = spread_of([scores_of(of[task])["average"] for of in by_seed.values()])
        row["average"] = spread_of(
            [fmean(scores_of(of[task])["average"] for task in tasks) for of in by_seed.values()]
        )
        row["validation"] = spread_of(
            [fmean(of[task]["validation"]["average"] for task in tasks) for of in by_seed.values()]
        )
        rows.append(row)
    return rows


def best_by_validation(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep of each method the row with the best average on the validation rows."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        method = row["variant"].split(",")[0]
        if method not in best or row["validation"][0] > best[method]["validation"][0]:
            best[method] = row
    return list(best.values())


def printed_rows() -> list[dict[str, Any]]:
    """Lay Table 1 out as printed, each task's metrics averaged as in our tables."""
    rows = []
    for row in published_rows(1):
        by_task: dict[str, list[float]] = {}
        for metric, score in row.scores.items():
            by_task.setdefault(metric.split()[0], []).append(score)
        method = row.method if row.tasks_in_one_model > 1 else f"single-task {row.method}"
        scores = {task: f"{fmean(values):.2f}" for task, values in by_task.items()}
        rows.append({"model": row.model, "method": method, **scores, "average": f"{row.average:.2f}"})
    return rows


def narrow_stages(planned: Plan) -> list[CompareConfig]:
    variants = {
        f"{DAGGER},r={factor}": planned.variant(DAGGER, reduction_factor=factor)
        for factor in planned.scale.narrow
    }
    factor = planned.scale.one_factor
    variants[f"{HYPER_PP},r={factor}"] = planned.variant(HYPER_PP, reduction_factor=factor)
    return [planned.stage("runs", variants)]


def table_page(planned: Plan) -> str:
    """Write the table of an experiment's only comparison."""
    [stage] = planned.stages()
    return markdown(table_rows(cells_of(stage)))


# Table 4: ablations of HyperFormer.

ABLATIONS: dict[str, Fields] = {
    "hyperformer": {},
    "no_adapter_blocks": {"adapter_block": False},
    "no_conditional_layer_norm": {"conditional_layer_norm": False},
    "no_task_projector": {"task_projector": False},
    "no_T5_layer_norm": {"train_layer_norms": False},
    "no_conditional_nor_T5_layer_norm": {"conditional_layer_norm": False, "train_layer_norms": False},
}


def ablation_stages(planned: Plan) -> list[CompareConfig]:
    options = {"reduction_factor": planned.scale.one_factor}
    variants = {name: planned.variant(HYPER, **options, **ablated) for name, ablated in ABLATIONS.items()}
    return [planned.stage("runs", variants)]


# Figure 2: GLUE with few rows a task.


def low_resource_stages(planned: Plan) -> list[CompareConfig]:
    methods = {FULL: planned.variant(FULL)} | {
        f"{method},r={factor}": planned.variant(method, reduction_factor=factor)
        for method in (DAGGER, HYPER_PP)
        for factor in planned.scale.few_factors
    }
    return [
        planned.stage(
            f"{rows}-rows",
            methods,
            planned.scale.few_seeds,
            data={"max_train_rows": rows, "subsample_seed": None},
        )
        for rows in planned.scale.low_resource
    ]


def low_resource_page(planned: Plan) -> str:
    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    table = []
    for rows, stage in zip(planned.scale.low_resource, planned.stages(), strict=True):
        best = [
            row for row in best_by_validation(table_rows(cells_of(stage))) if row["variant"] != "majority"
        ]
        table += [{"rows a task": str(rows), **row} for row in best]
        for row in best:
            lines.setdefault(row["variant"].split(",")[0], []).append((rows, *row["average"]))
    write_atomically(
        planned.folder / "figure.svg", scores_by_size(lines, "training rows a task", "average").encode()
    )
    return f"![average by training rows](figure.svg)\n\n{markdown(table)}"


# Table 2: transfer of a GLUE model to new tasks.

TASK_EMBEDDING = f"{HYPER_PP},task_embedding"
FEWSHOT: dict[str, tuple[str, Fields]] = {
    FULL: (FULL, {}),
    DAGGER: (DAGGER, {}),
    HYPER_PP: (HYPER_PP, {}),
    TASK_EMBEDDING: (HYPER_PP, {"train_task_embeddings_only": True}),
}


def transfer_stages(planned: Plan) -> list[CompareConfig]:
    scale = planned.scale
    factor = {"reduction_factor": scale.one_factor}
    sources = {
        method: planned.variant(method, **({} if method == FULL else factor))
        for method in (FULL, DAGGER, HYPER_PP)
    }
    stages = [planned.stage("glue", sources, scale.seeds[:1])]
    for target, init_from in scale.targets.items():
        for samples in scale.samples:
            variants = {}
            for name, (method, options) in FEWSHOT.items():
                run = planned.folder / "glue" / method / f"seed-{scale.seeds[0]}"
                start = {"start": {"run": str(run), "init_from": init_from}}
                variants[name] = {**merged(sources[method], {"method": {"name": method, **options}}), **start}
            stages.append(few_rows_stage(planned, target, samples, variants))
    return stages


def few_rows_stage(planned: Plan, task: str, samples: int, variants: Mapping[str, Fields]) -> CompareConfig:
    """Make a comparison on few rows of one task."""
    steps = planned.scale.fewshot_steps
    return planned.stage(
        f"{task}-{samples}",
        variants,
        planned.scale.few_seeds,
        data={"tasks": [task], "max_train_rows": samples, "subsample_seed": None},
        training={"max_steps": steps, "eval_steps": steps, "warmup_steps": 0},
    )


def transfer_page(planned: Plan) -> str:
    return transfer_text(planned, planned.stages()[1:])


def transfer_text(planned: Plan, stages: Sequence[CompareConfig]) -> str:
    """Lay comparisons on few rows out, a row a task and number of rows, and draw their mean over the tasks."""
    table: list[dict[str, Any]] = []
    by_size: dict[tuple[str, int], list[tuple[float, float | None]]] = {}
    for stage in stages:
        target, samples = Path(stage.output_dir).name.rsplit("-", 1)
        row: dict[str, Any] = {"task": target, "rows": samples}
        for of in table_rows(cells_of(stage)):
            row[of["variant"]] = of["average"]
            by_size.setdefault((of["variant"], int(samples)), []).append(of["average"])
        table.append(row)
    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for (variant, size), scores in by_size.items():
        lines.setdefault(variant, []).append((size, fmean(mean for mean, _ in scores), None))
    write_atomically(
        planned.folder / "figure.svg",
        scores_by_size(lines, "training rows of the new task", "score, mean of the tasks").encode(),
    )
    return f"![score by training rows](figure.svg)\n\n{markdown(table)}"


# Figure 3: the task embeddings before and after transfer.


def map_stages(planned: Plan) -> list[CompareConfig]:
    stages = transfer_stages(planned)
    chosen = [stages[0].model_copy(update={"variants": {HYPER_PP: stages[0].variants[HYPER_PP]}})]
    for target in planned.scale.targets:
        [stage] = [
            of for of in stages if Path(of.output_dir).name == f"{target}-{max(planned.scale.samples)}"
        ]
        alone = {TASK_EMBEDDING: stage.variants[TASK_EMBEDDING]}
        chosen.append(stage.model_copy(update={"variants": alone, "seeds": stage.seeds[:1]}))
    return chosen


def map_page(planned: Plan) -> str:
    import torch
    from sklearn.decomposition import PCA

    names, vectors = [], []
    for stage in planned.stages():
        [cell] = cells_of(stage)
        run = load_run(cell.directory)
        names += [task.name for task in run.tasks]
        vectors.append(run.model.hyperadapt.task_embeddings())
    embeddings, old = torch.cat(vectors), len(vectors[0])
    for file, count in (("before.svg", old), ("after.svg", len(names))):
        components = PCA(2).fit(embeddings[:count].numpy())
        picture = embedding_map(
            names[:count],
            components.transform(embeddings[:count].numpy()),
            components.explained_variance_ratio_,
        )
        write_atomically(planned.folder / file, picture.encode())
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    nearness = unit @ unit.T - 2 * torch.eye(len(names))
    table = []
    for number, name in enumerate(names):
        best = int(nearness[number, :old].argmax())
        table.append(
            {"task": name, "nearest GLUE task": names[best], "cosine": f"{nearness[number, best]:.3f}"}
        )
    return (
        f"Before:\n\n![before](before.svg)\n\nAfter transfer, the new tasks' embeddings trained alone:\n\n"
        f"![after](after.svg)\n\n{markdown(table)}"
    )


# Beyond the paper: each task left out of the mixture, then transferred to.


def left_out_stages(planned: Plan) -> list[CompareConfig]:
    scale, first, then = planned.scale, [], []
    method = planned.variant(HYPER_PP, reduction_factor=scale.one_factor)
    tasks = [task.name for task in resolve_tasks(scale.run["data"]["tasks"])]
    for left_out in tasks:
        others = [task for task in tasks if task != left_out]
        first.append(
            planned.stage(f"without-{left_out}", {HYPER_PP: method}, scale.seeds[:1], data={"tasks": others})
        )
        run = planned.folder / f"without-{left_out}" / HYPER_PP / f"seed-{scale.seeds[0]}"
        start = {"start": {"run": str(run), "init_from": others}}
        alone = merged(method, {"method": {"name": HYPER_PP, "train_task_embeddings_only": True}})
        variants = {
            "from_nothing": method,
            "from_the_others": {**method, **start},
            TASK_EMBEDDING: {**alone, **start},
        }
        then += [few_rows_stage(planned, left_out, samples, variants) for samples in scale.samples]
    return [*first, *then]


def left_out_page(planned: Plan) -> str:
    return transfer_text(planned, planned.stages()[len(resolve_tasks(planned.scale.run["data"]["tasks"])) :])


# Tables 5 and 6: memory and time of a training step.


def efficiency_stages(planned: Plan) -> list[CompareConfig]:
    factor = {"reduction_factor": planned.scale.one_factor}
    variants = {
        method: planned.variant(method, **({} if method == FULL else factor))
        for method in (FULL, DAGGER, HYPER, HYPER_PP)
    }
    steps = planned.scale.efficiency_steps
    training = {"max_steps": steps, "eval_steps": steps}
    return [planned.stage("runs", variants, planned.scale.seeds[:1], training=training)]


def efficiency_page(planned: Plan) -> str:
    [stage] = planned.stages()
    rows = []
    plain: dict[str, Any] | None = None
    for cell in cells_of(stage):
        results = cell.results()
        assert results is not None
        plain = plain or results
        rows.append(
            {
                "variant": cell.variant,
                "training (s)": results["train_seconds"],
                "of T5's": f"{results['train_seconds'] / plain['train_seconds']:.2f}x",
                "memory (MB)": results["peak_memory_mb"],
                "of T5's memory": f"{results['peak_memory_mb'] / plain['peak_memory_mb']:.2f}x",
            }
        )
    return f"{markdown(rows)}\n{planned.scale.efficiency_steps} steps, one run after another.\n"


# Section 4.1: parameters.


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
    from hyperadapt.methods import METHODS

    counted = count_without_weights(config, METHODS[method](**options), tasks)
    return counted.total - counted.base


def parameters_page(planned: Plan) -> str:
    from hyperadapt.backbones import published_config

    model = "t5-base" if planned.scale.run["model"].get("name", "").endswith("t5-base") else "t5-small"
    config, r = published_config(model), planned.scale.one_factor
    assert config is not None
    h, layers = config.d_model, config.num_layers
    d, t = h // r, 64
    rows, by_tasks, by_layers = (
        [],
        dict[str, list[tuple[int, float, None]]](),
        dict[str, list[tuple[int, float, None]]](),
    )
    for tasks in (1, 2, 4, 8, 16, 64, 256):
        formulas = {
            DAGGER: adapters_count(layers, h, d, tasks),
            HYPER_PP: hyperformer_pp_count(layers, h, d, t, tasks),
        }
        row: dict[str, Any] = {"tasks": str(tasks), "layers": str(layers)}
        for method, count in formulas.items():
            row |= {f"{method}, formula": f"{count:,}"}
            row |= {f"{method}, real": f"{real_count(method, config, tasks, reduction_factor=r):,}"}
            by_tasks.setdefault(method, []).append((tasks, count / 1e6, None))
        rows.append(row)
    for depth in (2, 4, 6, 12, 24, 48):
        for method, count in (
            (DAGGER, adapters_count(depth, h, d, 8)),
            (HYPER_PP, hyperformer_pp_count(depth, h, d, t, 8)),
        ):
            by_layers.setdefault(method, []).append((depth, count / 1e6, None))
    for file, lines, what in (
        ("tasks.svg", by_tasks, "tasks"),
        ("layers.svg", by_layers, "layers a stack, 8 tasks"),
    ):
        picture = scores_by_size(lines, what, "million parameters added", log_y=True)
        write_atomically(planned.folder / file, picture.encode())
    return (
        f"{model}: h = {h}, d = {d}, t = {t}, L = {layers} layers a stack; what the methods add, the base model's own "
        f"trained layer norms left out.\n\n{markdown(rows)}\n"
        "Adapters-dagger: 4 L (T (2 h d + h + d) + 2 h). HyperFormer++: T z + 2 (L z + 2 z + (3 z e + e + e t + t) + "
        "2 t + (t + 1) (2 h d + 3 h + d)), z = 64, e = 128.\n\n![by tasks](tasks.svg)\n\n![by layers](layers.svg)\n"
    )


def none(planned: Plan) -> list[CompareConfig]:
    """Train nothing."""
    return []


EXPERIMENTS: dict[str, Experiment] = {
    "table-1": Experiment("Tables 1 and 7", "GLUE, one task a model and all in one", glue_stages, glue_page),
    "table-2": Experiment("Table 2", "transfer of a GLUE model to new tasks", transfer_stages, transfer_page),
    "table-3": Experiment("Table 3", "Adapters-dagger with wide bottlenecks", narrow_stages, table_page),
    "table-4": Experiment("Table 4", "ablations of HyperFormer", ablation_stages, table_page),
    "tables-5-6": Experiment(
        "Tables 5 and 6", "memory and time of training", efficiency_stages, efficiency_page
    ),
    "figure-2": Experiment("Figure 2", "GLUE with few rows a task", low_resource_stages, low_resource_page),
    "figure-3": Experiment("Figure 3", "task embeddings before and after transfer", map_stages, map_page),
    "leave-one-out": Experiment(
        "Beyond the paper",
        "each task left out of the mixture, then transferred to",
        left_out_stages,
        left_out_page,
    ),
    "parameters": Experiment("Section 4.1", "parameters by tasks and layers", none, parameters_page),
}
