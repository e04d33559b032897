"""Parameter counts: of any model, and ours beside every one that the papers print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperadapt.errors import UserError, nearest, reason_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hyperadapt.methods import Method


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of an adapted model, in numbers and as multiples of the base model.

    Attributes:
        base: parameters of the base model.
        total: parameters of the adapted model.
        trained: those that are trained.
        tasks: number of tasks.
    """

    base: int
    total: int
    trained: int
    tasks: int

    @property
    def trained_per_task(self) -> float:
        """Trained parameters over tasks."""
        return self.trained / self.tasks

    @property
    def total_ratio(self) -> float:
        """Total as a multiple of the base model ("#Total params")."""
        return self.total / self.base

    @property
    def trained_per_task_percent(self) -> float:
        """Trained parameters per task in percent of the base model ("#Trained params / per task")."""
        return 100 * self.trained_per_task / self.base

    def as_dict(self) -> dict[str, float]:
        """Return all counts and ratios by name."""
        ratios = ("trained_per_task", "total_ratio", "trained_per_task_percent")
        return {**asdict(self), **{name: getattr(self, name) for name in ratios}}


def count_parameters(model: Any) -> ParameterCount:
    """Count the parameters of an adapted model; tied ones once, those in four bits as what they stand for."""
    own = sum(parameter.numel() for parameter in model.hyperadapt.parameters())
    total = model.num_parameters()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return ParameterCount(total - own, total, trained, len(model.tasks))


def count_without_weights(config: PretrainedConfig, method: Method, n_tasks: int) -> ParameterCount:
    """Count what adapting a model would give, from its configuration alone."""
    import copy

    import torch
    from torch import nn

    from hyperadapt.backbones import backbone_of_type

    # In a T5 whose head is not tied to the embeddings, those of the two stacks still are one; transformers can build
    # only all or nothing without the checkpoint.
    tied = copy.deepcopy(config)
    tied.tie_word_embeddings = True
    with torch.device("meta"):
        base = backbone_of_type(config.model_type).build(tied)
        head: Any = base.get_output_embeddings()
        if not config.tie_word_embeddings and head is not None:
            head.weight = nn.Parameter(torch.empty_like(head.weight))
        return count_parameters(adapted_to(base, method, n_tasks))


LABELS = 2  # of each task that is counted, where tasks have heads


def adapted_to(base: Any, method: Method, n_tasks: int) -> Any:
    """Adapt a model to so many tasks; an encoder alone has a head of two labels for each."""
    import torch

    from hyperadapt.backbones import backbone_of
    from hyperadapt.descriptions import width_of
    from hyperadapt.model.adapt import adapt_with_features
    from hyperadapt.model.heads import HeadOptions

    tasks, features = [f"task{index}" for index in range(n_tasks)], None
    if method.description_encoder is not None:  # of one description each, in place of any reading
        features = torch.ones(n_tasks, 1, width_of(method.description_encoder), device="cpu")
    heads = HeadOptions(dict.fromkeys(tasks, LABELS)) if backbone_of(base).has_heads else None
    return adapt_with_features(base, method, tasks, features, heads=heads)


def sizes_by_name(config: PretrainedConfig, method: Method, n_tasks: int) -> dict[str, int]:
    """Count each parameter that a method adds to a model, from the model's configuration alone."""
    import torch

    from hyperadapt.backbones import backbone_of_type

    with torch.device("meta"):
        adapted = adapted_to(backbone_of_type(config.model_type).build(config), method, n_tasks)
        return {name: parameter.numel() for name, parameter in adapted.hyperadapt.named_parameters()}


def model_config(name: str) -> PretrainedConfig:
    """Find a model's configuration: known here, in a local directory, or on the hub."""
    from transformers import AutoConfig, PretrainedConfig

    from hyperadapt import hub
    from hyperadapt.backbones import published_config
    from hyperadapt.tiny_t5 import place_of

    if not Path(name).is_dir() and (known := published_config(name)) is not None:
        return known
    place = place_of(name)
    with hub.asking(place, "--model") as unreachable:
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
            if PretrainedConfig.get_config_dict(place)[0].get("tie_word_embeddings") is False:
                config.tie_word_embeddings = False  # see backbones/t5.py
            return config
        except (OSError, ValueError) as error:
            raise UserError(
                f"model '{name}' is not a published model known here (as google-t5/t5-base), a local directory or on "
                f"the hub ({unreachable or reason_of(error)})"
            ) from None


@cache
def count_published(model: str, method: Method, n_tasks: int) -> ParameterCount:
    """Count what adapting a published model would give; tables have many rows twice."""
    return count_without_weights(model_config(model), method, n_tasks)


def hyperformer_table() -> list[dict[str, Any]]:
    """Set our counts beside those that the paper's Tables 1 and 3 print, for 8 tasks and reduction factor 32.

    That of Table 3's Adapters-dagger is 2. A single-task row is one model for each task: what is trained for one task
    stands eight times, the frozen base once.
    """
    from hyperadapt.methods import METHODS
    from hyperadapt.studies.published import HYPERFORMER_METHODS, published_table

    rows = []
    printed = [(number, row) for number in ("1", "3") for row in published_table("hyperformer", number).rows]
    for number, row in printed:
        *training, model, size = row.labels
        name, tasks = HYPERFORMER_METHODS[model], 1 if training == ["single-task"] else 8
        options = {"reduction_factor": 2} if (number, model) == ("3", "Adapters†") else {}
        counted = count_published(f"t5-{size}", METHODS[name](**options), tasks)
        frozen = (
            counted.base - min(counted.trained, counted.base) if name == "full_fine_tuning" else counted.base
        )
        total = (frozen + 8 // tasks * (counted.total - frozen)) / counted.base
        rows.append(
            {
                "table": number,
                "model": f"t5-{size}",
                "method": name + "".join(f" {option}={value}" for option, value in options.items()),
                "tasks a model": tasks,
                "#total (x), paper": row["total (x)"].text,
                "#total (x), ours": f"{total:.4f}",
                "#trained per task (%), paper": row["trained per task (%)"].text,
                "#trained per task (%), ours": f"{counted.trained_per_task_percent:.2f}",
            }
        )
    return rows


def section_4_1_table() -> list[dict[str, Any]]:
    """Set the formulas of the HyperFormer paper's section 4.1 beside the exact counts, part by part.

    For T tasks, L layers a stack, width h, bottleneck d, embeddings of size t and a projector of width e; 8 tasks,
    reduction factor 32. The formulas leave out biases and layer norms, of which each part here says what it has.
    """
    from hyperadapt.methods import Adapters, HyperFormerPlusPlus

    tasks, rows = 8, []
    plus_plus = HyperFormerPlusPlus(reduction_factor=32)
    for name in ("t5-small", "t5-base"):
        config = model_config(name)
        parts = sizes_by_name(config, plus_plus, tasks)
        own = sizes_by_name(config, Adapters(reduction_factor=32), tasks)
        h, t, e = config.d_model, plus_plus.task_embedding_dim, plus_plus.projector_hidden_dim
        d, layers = h // plus_plus.reduction_factor, config.num_layers
        adapter = 2 * h * d + 2 * h
        of_norms = count_without_weights(config, plus_plus, tasks).trained - sum(parts.values())

        def ours(*words: str, parts: dict[str, int] = parts) -> int:
            return sum(count for part, count in parts.items() if any(word in part for word in words))

        rows += [
            {
                "model": name,
                "method": method,
                "part": part,
                "section 4.1": formula,
                "value": value,
                "ours": count,
                "why": why,
            }
            for method, part, formula, value, count, why in (
                (
                    "hyperformer++",
                    "embeddings of tasks, layers, positions",
                    "t(T + 4 + 2L)",
                    t * (tasks + 4 + 2 * layers),
                    ours("conditioning.z", "layer_embedding", "position_embedding"),
                    "",
                ),
                (
                    "hyperformer++",
                    "task projectors",
                    "8te",
                    8 * t * e,
                    ours("projector", ".norm."),
                    "biases, and the layer norm of their output: 2(e + t) + 4t",
                ),
                (
                    "hyperformer++",
                    "hypernetworks",
                    "2t(2hd + 2h)",
                    2 * t * adapter,
                    ours("head_"),
                    "biases, those of the adapters generated too: 2t(h + d) + 2(2hd + 3h + d)",
                ),
                (
                    "hyperformer++",
                    "T5's layer norms",
                    "",
                    0,
                    of_norms,
                    "trained, and not counted there: (5L + 2)h",
                ),
                (
                    "adapters",
                    "adapters",
                    "4TL(2hd + 2h)",
                    4 * tasks * layers * adapter,
                    sum(count for part, count in own.items() if part.endswith("0.generators.0.table")),
                    "biases: 4TL(h + d)",
                ),
                (
                    "adapters",
                    "T5's layer norms",
                    "",
                    0,
                    sum(count for part, count in own.items() if part.endswith("1.generators.0.table")),
                    "each task's own, and not counted there: T(5L + 2)h",
                ),
            )
        ]
    return rows


def hyperdecoders_table() -> list[dict[str, Any]]:
    """Set our counts beside every percentage of trained parameters that the Hyperdecoders paper prints.

    They are of all tasks together, in percent of the base model.
    """
    from hyperadapt.methods import METHODS
    from hyperadapt.studies.published import published_table
    from hyperadapt.studies.published_runs import HYPERDECODERS

    rows = []
    for table, (model, tasks, runs) in HYPERDECODERS.items():
        for row in published_table("hyperdecoders", table).rows:
            method, options, trained, percent = "", "sizes are not said", None, ""
            if (run := runs[row.name]) is not None:
                counted = count_published(model, METHODS[run.method](**run.options), tasks)
                method, trained = run.method, counted.trained
                options = " ".join(f"{name}={value}" for name, value in run.options.items())
                percent = f"{100 * trained / counted.base:.2f}"
            rows.append(
                {
                    "table": table,
                    "row": row.name,
                    "model": model,
                    "method": method,
                    "options": options,
                    "trained, ours": trained,
                    "% trained, paper": row["trained (%)"].text,
                    "% trained, ours": percent,
                }
            )
    return rows


def hypergrid_table() -> list[dict[str, Any]]:
    """Set what HyperGrid's variants add to a layer beside the paper's costs (section 3.2), for grids of 32 by 128.

    "L" and the output gates are no part of these: their costs are the sizes of U in eq. 2 and 7. "L_rows" is ours.
    """
    from hyperadapt.methods import HyperGrid, OutputGate

    d_r, d_c = 32, 128
    grids: list[tuple[str, Method, str]] = [
        ("LG", HyperGrid(variant="LG", fan_in=d_r, fan_out=d_c), "d_m d_r + d_c"),
        ("GL", HyperGrid(variant="GL", fan_in=d_r, fan_out=d_c), "d_r + d_f d_c"),
        ("L2", HyperGrid(variant="L2", fan_in=d_r, fan_out=d_c), "d_m d_r + d_f d_c"),
        ("L", HyperGrid(variant="L", fan_out=d_c), "d_m d_c"),
        ("L_rows", HyperGrid(variant="L_rows", fan_in=d_r), "d_m d_r"),
        ("output gate", OutputGate(), "d_m d_f"),
        ("output gate, n = 16", OutputGate(n=16), "d_m n"),
    ]
    rows = []
    for name in ("t5-base", "t5-large"):
        config = model_config(name)
        sizes = {"d_m": config.d_model, "d_f": config.d_ff, "d_r": d_r, "d_c": d_c, "n": 16}
        for variant, method, formula in grids:
            counted = count_without_weights(config, method, 1)
            layers = config.num_layers + config.num_decoder_layers
            cost = sum(prod(sizes[size] for size in term.split()) for term in formula.split(" + "))
            rows.append(
                {
                    "model": name,
                    "variant": variant,
                    "per layer, paper": f"{formula} = {cost:,}",
                    "per layer, ours": (counted.total - counted.base) / layers,
                    "#total, ours": f"{counted.total_ratio:.3f}x",
                }
            )
    return rows


def hypergrid_sizes_table() -> list[dict[str, Any]]:
    """Set our counts beside the sizes that HyperGrid's tables print, in billions, of what GLUE and SuperGLUE take.

    The paper reckons sixteen models where each task has its own. Ours have grids of 32 by 128.
    """
    from hyperadapt.methods import FullFineTuning, HyperGrid
    from hyperadapt.studies.published import published_table

    def gated(variant: Literal["L", "L2", "LG"]) -> Method:
        return HyperGrid(variant=variant, fan_in=32, fan_out=128)

    plain = FullFineTuning()
    small: dict[str, tuple[str, Method, int]] = {
        "T5†": ("t5-base", plain, 16),
        "PTFT": ("t5-base", plain, 16),
        "MTL": ("t5-base", plain, 1),
        "Ours (L2)": ("t5-base", gated("L2"), 1),
        "Ours (LG)": ("t5-base", gated("LG"), 1),
        "Ours (L)": ("t5-base", gated("L"), 1),
    }
    large: dict[str, tuple[str, Method, int]] = {
        f"{whose} ({size})": (f"t5-{size.lower()}", method, models)
        for whose, method, models in (("T5", plain, 16), ("Ours", gated("LG"), 1))
        for size in ("3B", "11B")
    }
    rows = []
    for table, models in (("1", small), ("2", small), ("5", large), ("6", large)):
        for row in published_table("hypergrid", table).rows:
            if row.name not in models:  # no T5
                continue
            name, method, number = models[row.name]
            total = number * count_published(name, method, 1).total
            rows.append(
                {
                    "table": table,
                    "row": row.name,
                    "models": f"{number} x {name}",
                    "parameters (B), paper": row["parameters (B)"].text,
                    "parameters (B), ours": f"{total / 1e9:.2f}",
                }
            )
    return rows


def paper_tables(papers: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Make the tables of our counts beside what papers print, by their titles.

    Args:
        papers: names; of none, all.

    Raises:
        UserError: if there is no such paper; with the nearest.
    """
    from hyperadapt.studies import text_to_lora

    tables: dict[str, dict[str, Callable[[], list[dict[str, Any]]]]] = {
        "hyperformer": {
            "HyperFormer, Tables 1 and 3, 8 tasks": hyperformer_table,
            "HyperFormer, section 4.1's formulas, 8 tasks": section_4_1_table,
        },
        "hyperdecoders": {"Hyperdecoders, Tables 1 to 3 and 13 to 16": hyperdecoders_table},
        "hypergrid": {
            "HyperGrid, parameters added, grid of 32 by 128": hypergrid_table,
            "HyperGrid, Tables 1, 2, 5 and 6, parameters that GLUE and SuperGLUE take": hypergrid_sizes_table,
        },
        "text-to-lora": {
            "HyperLoRA beside Text-to-LoRA's heads, Mistral-7B, q and v, r = 8": text_to_lora.table
        },
    }
    for paper in papers:
        if paper not in tables:
            raise UserError(f"paper '{paper}' is unknown; {nearest(paper, tables)}")
    return {title: make() for paper in papers or tables for title, make in tables[paper].items()}
