"""Beyond the papers: all three families with as many trained parameters, on the same rows, seeds and steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Self

from hyperadapt.config.reading import merged
from hyperadapt.errors import UserError
from hyperadapt.studies.comparison import Cell, markdown
from hyperadapt.studies.experiments.beside import (
    GLUE_METRICS,
    Measure,
    Ours,
    difference,
    number,
    ours,
    written,
)
from hyperadapt.studies.experiments.plan import Experiment, Plan
from hyperadapt.studies.experiments.scales import SMALL, SMOKE, Fields, Scale, as_configured
from hyperadapt.studies.resampling import holm
from hyperadapt.tasks import resolve_tasks

REFERENCE = "full_fine_tuning"  # trains all, and is in no pair
# Each method's options, with which it trains as many parameters as the first, within TOLERANCE; a test counts them.
# HyperGrid trains its gates alone here, not the model, and so begins with what is pretrained.
TOLERANCE = 0.06
GATES: Fields = {"name": "hypergrid", "variant": "L2", "frozen": True, "pretrained_start": True}
OF_TINY_T5: dict[str, Fields] = {
    "adapters_dagger": {"reduction_factor": 16},
    "hyperformer": {"reduction_factor": 32, "task_embedding_dim": 11},
    "hyperformer++": {"reduction_factor": 16, "task_embedding_dim": 53},
    "single_adapter": {"encoder_bottleneck_dim": 203, "decoder_bottleneck_dim": 203},
    "task_hypernet": {
        "encoder_bottleneck_dim": 24,
        "decoder_bottleneck_dim": 24,
        "hypernetwork_bottleneck": 31,
    },
    "hyperdecoder": {
        "encoder_bottleneck_dim": 202,
        "decoder_bottleneck_dim": 24,
        "hypernetwork_bottleneck": 24,
    },
    "polytropon": {"n_skills": 4, "r": 8},
    "hypergrid": {**GATES, "fan_in": 64, "fan_out": 128},
}
OF_T5_BASE: dict[str, Fields] = {
    "hyperformer++": {"reduction_factor": 32},
    "adapters_dagger": {"reduction_factor": 96},
    "hyperformer": {"reduction_factor": 192, "task_embedding_dim": 12},
    "single_adapter": {"encoder_bottleneck_dim": 141, "decoder_bottleneck_dim": 141},
    "task_hypernet": {
        "encoder_bottleneck_dim": 24,
        "decoder_bottleneck_dim": 24,
        "hypernetwork_bottleneck": 67,
    },
    "hyperdecoder": {
        "encoder_bottleneck_dim": 166,
        "decoder_bottleneck_dim": 24,
        "hypernetwork_bottleneck": 24,
    },
    "polytropon": {"n_skills": 4, "r": 6},
    "hypergrid": {**GATES, "fan_in": 24, "fan_out": 64},
}


@dataclass(frozen=True)
class MatchedScale(Scale):
    """How large the runs are.

    Attributes:
        methods: options by method.
    """

    methods: Mapping[str, Fields] = field(default_factory=dict)

    def on(self, base: str) -> Self:
        """Refuse another base model, of which the widths would not match.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"--base {base}: beyond/matched has widths that match on {self.run['model'].get('name', 'its own model')}; "
            "leave --base out"
        )


OurPlan = Plan[MatchedScale]
SCALES = {
    "paper": MatchedScale(
        run=merged(as_configured("glue"), {"data": {"mixed_batches": True}}),
        seeds=(1, 2, 3, 4, 5),
        methods=OF_T5_BASE,
    ),
    "small": MatchedScale(
        run=merged(SMALL, {"training": {"max_steps": 400, "eval_steps": 200, "warmup_steps": 50}}),
        seeds=(1, 2, 3),
        methods=OF_TINY_T5,
        # By compare/matched-search, and of similar widths by compare/{glue,hyperdecoders}-search; the gates alone learn
        # with none of the rates tried.
        learning_rates={
            "full_fine_tuning": 1e-3,
            "single_adapter": 1e-3,
            "hyperdecoder": 1e-3,
            "polytropon": 1e-2,
            "hypergrid": 3e-3,
        },
    ),
    "smoke": MatchedScale(
        run=SMOKE,
        seeds=(1, 2),
        methods={
            "hyperformer++": {"reduction_factor": 8, "task_embedding_dim": 4},
            "hyperdecoder": {"decoder_bottleneck_dim": 2, "hypernetwork_bottleneck": 2},
        },
    ),
}


def cells(planned: OurPlan) -> list[Cell]:
    """Make the runs of every method, and of full fine-tuning for reference."""
    scale = planned.scale
    variants = {}
    for name, options in {REFERENCE: {}, **scale.methods}.items():
        rate = scale.learning_rates.get(name)
        training = {} if rate is None else {"training": {"learning_rate": rate}}
        variants[name] = {"method": {"name": name, **options}, **training}
    return planned.runs("glue", variants, scale.seeds)


def measures(planned: OurPlan) -> dict[str, Measure]:
    """Name what is measured: each task by its metrics, their average, and parameters."""
    by_task: dict[str, list[Measure]] = {}
    for metric in GLUE_METRICS.values():
        by_task.setdefault(str(metric).partition(".")[0], []).append(metric)
    of_tasks: dict[str, Measure] = {
        task.name: by_task[task.name] for task in resolve_tasks(planned.scale.run["data"]["tasks"])
    }
    return {**of_tasks, "average": list(of_tasks.values()), "trained (%)": "trained"}


def page(planned: OurPlan) -> str:
    """Write every method's scores, and each pair's difference with its tests."""
    runs, columns = cells(planned), measures(planned)
    found = {
        name: row
        for name in (REFERENCE, *planned.scale.methods)
        if (row := ours([cell for cell in runs if cell.variant == name], columns)) is not None
    }
    lines = [
        {
            "method": name,
            "seeds": str(len(row.by_seed["average"])),
            **{column: written(row.by_seed[column].values()) for column in columns if column in row.by_seed},
        }
        for name, row in found.items()
    ]
    pairs = pairwise({name: row for name, row in found.items() if name != REFERENCE})
    first, *others = [row["trained (%)"] for name, row in found.items() if name != REFERENCE] or [1.0]
    apart = max((abs(other / first - 1) for other in others), default=0.0)
    matched = f"what the others train differs from the first of them by {100 * apart:.0f} % at most"
    if apart > TOLERANCE:
        matched = f"nothing is matched at this scale: {matched}"
    gates = ""
    if "hypergrid" in found:
        gates = (
            " HyperGrid trains its gates alone, which the paper does not: there the whole model is trained."
        )
    return f"{markdown(lines)}\n{pairs}\nFull fine-tuning trains all parameters; {matched}.{gates}\n"


def pairwise(found: Mapping[str, Ours]) -> str:
    """Write the differences of all pairs, the better one first, with p by Holm's method over all of them."""
    apart = []
    for one, other in combinations(found, 2):
        if (apart_by := difference((found[one], "average"), (found[other], "average"))) is not None:
            if apart_by.mean < 0:
                one, other = other, one
                apart_by = difference((found[one], "average"), (found[other], "average"))
            assert apart_by is not None
            apart.append((f"{one} − {other}", apart_by))
    if not apart:
        return "No two methods have runs that are finished, so they cannot be told apart.\n"
    ordered = sorted(apart, key=lambda pair: -pair[1].mean)
    tests = [apart_by.both for _, apart_by in ordered]
    corrected = holm([None if test is None else test.p for test in tests])
    lines: list[dict[str, Any]] = []
    for (name, apart_by), p in zip(ordered, corrected, strict=True):
        lines.append(
            {
                "difference of the averages": name,
                "ours": number(apart_by.mean, sign="+"),
                "95 % CI, seeds": str(apart_by.seeds or ""),
                "p, Holm": "" if p is None else f"{p:.3f}",
                "95 % CI, rows": str(apart_by.rows or ""),
                "told apart": "yes" if apart_by.order(1.0, p) == "same" else "no",
            }
        )
    told = sum(line["told apart"] == "yes" for line in lines)
    return (
        f"{markdown(lines)}\n**{told} of {len(lines)} pairs are told apart**: p < 0.05 over seeds and rows, by "
        "Holm's method over all pairs.\n"
    )


EXPERIMENTS: tuple[Experiment[Any], ...] = (
    Experiment(
        "beyond/matched",
        "Beyond the papers",
        "all three families at matched trained parameters",
        cells,
        page,
        SCALES,
    ),
)
