"""Parameter counts: of any model, and what the papers' tables say beside ours."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from transformers import AutoModelForSeq2SeqLM

    from hyperadapt.model import adapt

    # In a T5 whose head is not tied to the embeddings, those of the two stacks still are one; transformers can build
    # only all or nothing without the checkpoint.
    tied = copy.deepcopy(config)
    tied.tie_word_embeddings = True
    with torch.device("meta"):
        base = AutoModelForSeq2SeqLM.from_config(tied)
        if not config.tie_word_embeddings:
            head = base.get_output_embeddings()
            head.weight = nn.Parameter(torch.empty_like(head.weight))
        return count_parameters(adapt(base, method, [f"task{index}" for index in range(n_tasks)]))


def model_config(name: str) -> PretrainedConfig:
    """Find a model's configuration: known here, in a local directory, or on the hub."""
    from transformers import AutoConfig, PretrainedConfig

    from hyperadapt import hub
    from hyperadapt.backbones import published_config
    from hyperadapt.errors import UserError, reason_of
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


def hyperformer_table() -> list[dict[str, Any]]:
    """Set our counts beside those that the paper's Tables 1 and 3 print, for 8 tasks and reduction factor 32.

    A single-task row is one model for each task: what is trained for one task stands eight times, the frozen base once.
    """
    from hyperadapt.methods import METHODS
    from hyperadapt.published import published_rows

    rows = []
    for table, row in ((number, row) for number in (1, 3) for row in published_rows(number)):
        counted = count_without_weights(
            model_config(row.model), METHODS[row.method](**row.options), row.tasks_in_one_model
        )
        models = 8 // row.tasks_in_one_model
        frozen = (
            counted.base - min(counted.trained, counted.base)
            if row.method == "full_fine_tuning"
            else counted.base
        )
        total = (frozen + models * (counted.total - frozen)) / counted.base
        rows.append(
            {
                "table": str(table),
                "model": row.model,
                "method": row.method + "".join(f" {name}={value}" for name, value in row.options.items()),
                "tasks a model": row.tasks_in_one_model,
                "#total, paper": row.total,
                "#total, ours": f"{total:.3f}x",
                "#trained per task, paper": f"{row.trained_percent:.2f} %",
                "#trained per task, ours": f"{counted.trained_per_task_percent:.2f} %",
            }
        )
    return rows


class PublishedRun(NamedTuple):
    """What a run of the Hyperdecoders paper trained: experiment, model, number of tasks, method and its sizes."""

    experiment: str
    model: str
    tasks: int
    method: str
    options: dict[str, Any]


def widths(
    encoder_width: int, decoder_width: int, hidden: int | None = None, **options: Any
) -> dict[str, Any]:
    """Name the widths of the adapters, and of the hidden layer of what generates them."""
    options |= {"encoder_bottleneck_dim": encoder_width, "decoder_bottleneck_dim": decoder_width}
    return options if hidden is None else {**options, "hypernetwork_bottleneck": hidden}


GLUE = ("GLUE", "t5-large-lm-adapt", 8)
MRQA = ("MRQA", "t5-base-lm-adapt", 6)
SUMMARISATION_NLI = ("summarisation, NLI", "t5-base-lm-adapt", 6)
# The sizes are those of the authors' own configurations: within an experiment nearly all train about as much.
HYPERDECODERS = [
    PublishedRun(*GLUE, "single_adapter", widths(230, 230)),
    PublishedRun(*GLUE, "task_hypernet", widths(50, 50, 100)),
    PublishedRun(*GLUE, "hyperdecoder", widths(64, 64, 128)),
    PublishedRun(*GLUE, "hyperdecoder", widths(512, 36, 72)),
    PublishedRun(*MRQA, "single_adapter", widths(800, 2)),
    PublishedRun(*MRQA, "hyperdecoder", widths(64, 64, encoder="manual_specific", decoder="manual_specific")),
    PublishedRun(*MRQA, "task_hypernet", widths(50, 50, 100)),
    PublishedRun(*MRQA, "hyperdecoder", widths(64, 64, 128, mlp=False)),
    PublishedRun(*MRQA, "hyperdecoder", widths(800, 2, 16, mlp=False)),
    PublishedRun(*SUMMARISATION_NLI, "single_adapter", widths(412, 412)),
    PublishedRun(*SUMMARISATION_NLI, "task_hypernet", widths(64, 64, 128)),
    PublishedRun(*SUMMARISATION_NLI, "hyperdecoder", widths(64, 64, 128)),
]


def hyperdecoders_table() -> list[dict[str, Any]]:
    """Count what the runs of the Hyperdecoders paper train, in percent of the base model.

    What the paper prints is not beside it: its tables were not at hand.
    """
    from hyperadapt.methods import METHODS

    rows = []
    for run in HYPERDECODERS:
        counted = count_without_weights(
            model_config(run.model), METHODS[run.method](**run.options), run.tasks
        )
        rows.append(
            {
                "experiment": run.experiment,
                "model": run.model,
                "tasks": run.tasks,
                "method": run.method,
                "options": " ".join(f"{name}={value}" for name, value in run.options.items()),
                "#trained, ours": counted.trained,
                "% trained, ours": f"{100 * counted.trained / counted.base:.2f} %",
            }
        )
    return rows


def hypergrid_table() -> list[dict[str, Any]]:
    """Set what HyperGrid's variants add to a layer beside the paper's costs, for grids of 32 by 128."""
    from hyperadapt.methods import HyperGrid, OutputGate

    d_r, d_c = 32, 128
    grids: list[tuple[str, Method, str]] = [
        ("LG", HyperGrid(variant="LG", fan_in=d_r, fan_out=d_c), "d_m d_r + d_c"),
        ("GL", HyperGrid(variant="GL", fan_in=d_r, fan_out=d_c), "d_r + d_f d_c"),
        ("L2", HyperGrid(variant="L2", fan_in=d_r, fan_out=d_c), "d_m d_r + d_f d_c"),
        ("L", HyperGrid(variant="L", fan_in=d_r), "d_m d_r"),
        ("output gate", OutputGate(), "d_m d_m"),
    ]
    rows = []
    for name in ("t5-base", "t5-large"):
        config = model_config(name)
        sizes = {"d_m": config.d_model, "d_f": config.d_ff, "d_r": d_r, "d_c": d_c}
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
