"""Beyond the papers: all three families with as many trained parameters, on the same rows, seeds and steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from hyperadapt.comparison import Cell, markdown
from hyperadapt.config import merged
from hyperadapt.experiments.beside import Measure, Ours, difference, number, ours, written
from hyperadapt.experiments.hyperformer.glue import GLUE_METRICS
from hyperadapt.experiments.plan import Experiment, Plan
from hyperadapt.experiments.scales import SMALL, SMOKE, Fields, Scale, as_configured
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
    "polytropon": {"n_skills": 4, "rank": 8},
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
    "polytropon": {"n_skills": 4, "rank": 6},
    "hypergrid": {**GATES, "fan_in": 24, "fan_out": 64},
}


@dataclass(frozen=True)
class MatchedScale(Scale):
    """How large the runs are.

    Attributes:
        methods: options by method.
    """

    methods: Mapping[str, Fields] = field(default_factory=dict)


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
        name: of
        for name in (REFERENCE, *planned.scale.methods)
        if (of := ours([cell for cell in runs if cell.variant == name], columns)) is not None
    }
    lines = [
        {
            "method": name,
            "seeds": str(len(of.by_seed["average"])),
            **{column: written(of.by_seed[column].values()) for column in columns if column in of.by_seed},
        }
        for name, of in found.items()
    ]
    pairs = pairwise({name: of for name, of in found.items() if name != REFERENCE})
    base = planned.scale.run["model"].get("name", "a tiny T5")
    return (
        f"{markdown(lines)}\n{pairs}\nFrom {base}, {planned.scale.run['training']['max_steps']} steps. Full "
        f"fine-tuning trains all parameters; what the others train differs by {apart(found)} at most. HyperGrid "
        "trains its gates alone, which the paper does not: there the whole model is trained.\n"
    )


def apart(found: Mapping[str, Ours]) -> str:
    """Say by how much the numbers of trained parameters of the matched methods differ at most."""
    trained = [of["trained (%)"] for name, of in found.items() if name != REFERENCE]
    return f"{100 * (max(trained) / min(trained) - 1):.0f} %" if trained else "nothing"


def pairwise(found: Mapping[str, Ours]) -> str:
    """Write the differences of all pairs, the better one first, with p by Holm's method over all of them."""
    apart = []
    for one, other in combinations(found, 2):
        if (of := difference((found[one], "average"), (found[other], "average"))) is not None:
            if of.mean < 0:
                one, other = other, one
                of = difference((found[one], "average"), (found[other], "average"))
            apart.append((f"{one} − {other}", of))
    if not apart:
        return "No two methods have runs that are finished, so they cannot be told apart.\n"
    corrected = holm({name: of.seeds.p for name, of in apart if of is not None and of.seeds is not None})
    lines: list[dict[str, Any]] = []
    told = 0
    for name, of in sorted(apart, key=lambda pair: -pair[1].mean if pair[1] is not None else 0):
        assert of is not None
        clear = corrected.get(name, 1.0) < 0.05 and of.rows is not None and of.rows.excludes_zero
        told += clear
        lines.append(
            {
                "difference of the averages": name,
                "ours": number(of.mean, sign="+"),
                "95 % over seeds": str(of.seeds or ""),
                "p, Holm": f"{corrected[name]:.3f}" if name in corrected else "",
                "95 % over rows": str(of.rows or ""),
                "told apart": "yes" if clear else "no",
            }
        )
    return (
        f"{markdown(lines)}\n**{told} of {len(lines)} pairs are told apart**: by the paired t-test over seeds, "
        "p < 0.05 by Holm's method over all pairs, and by the paired bootstrap over rows.\n"
    )


def holm(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """Correct p-values for there being several (Holm, 1979)."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected, highest = {}, 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[name] = highest
    return corrected


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
