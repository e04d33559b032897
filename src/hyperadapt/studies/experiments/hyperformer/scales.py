"""How large the runs of the HyperFormer paper's experiments are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from hyperadapt.studies.experiments.scales import DAGGER, FULL, SMALL, SMOKE, Fields, Scale, as_configured


@dataclass(frozen=True)
class Target:
    """A new task of Table 2.

    Attributes:
        printed: the data set's name there.
        init_from: the task whose parameters it starts from.
        rows: all training rows it has, where they are few.
    """

    printed: str
    init_from: str
    rows: int | None = None

    def sizes(self, samples: tuple[int, ...]) -> tuple[int, ...]:
        """Return the numbers of samples, none above the rows there are."""
        return tuple(sorted({count if self.rows is None else min(count, self.rows) for count in samples}))


@dataclass(frozen=True)
class HyperFormerScale(Scale):
    """How large the runs are; those that all share are on GLUE.

    Attributes:
        sizes: the base models of Tables 1, 3 and 7 as printed, with the fields in which their runs differ.
        single_task, low_resource, transfer, timed: fields in which the runs on one task of GLUE, on few rows of all of
            them (Figure 2), on a new task (Table 2) and those that are timed (Tables 5 and 6) differ.
        few_seeds: of runs on few rows, and the rounds of timed runs.
        low_resource_rates, transfer_rates: learning rates of those runs, by method.
        task_embedding_rate: of a task embedding that is trained alone.
        reduction_factors: of Tables 1 and 7.
        wide_factors: of Table 3.
        low_resource_factors: of Figure 2.
        one_factor: of all else.
        low_resource_rows: of each task, in Figure 2.
        samples: of a new task, in Table 2.
        targets: the new tasks.
        left_out: tasks of the run's that leave-one-out leaves out, with `left_out_samples` of theirs.
    """

    sizes: Mapping[str, Fields] = field(default_factory=dict)
    single_task: Fields = field(default_factory=dict)
    low_resource: Fields = field(default_factory=dict)
    transfer: Fields = field(default_factory=dict)
    timed: Fields = field(default_factory=dict)
    few_seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    low_resource_rates: Mapping[str, float] = field(default_factory=dict)
    transfer_rates: Mapping[str, float] = field(default_factory=dict)
    task_embedding_rate: float | None = None
    reduction_factors: tuple[int, ...] = (8, 16, 32)
    wide_factors: tuple[int, ...] = (2, 4)
    low_resource_factors: tuple[int, ...] = (16, 32, 64)  # appendix A
    one_factor: int = 32
    low_resource_rows: tuple[int, ...] = (100, 500, 1000, 2000, 4000)
    samples: tuple[int, ...] = (4, 16, 32, 100, 500, 1000, 2000)
    targets: Mapping[str, Target] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    left_out_samples: tuple[int, ...] = (100, 1000)

    def on(self, base: str) -> Self:
        """Return the scale with another base model, in place of all."""
        return replace(super().on(base), sizes={"base": {}})


T5_SMALL: dict[str, Any] = {
    "model": {"name": "google-t5/t5-small"},
    "training": {"batch_size": 64},  # appendix A
}
PAPER = HyperFormerScale(
    run=as_configured("glue"),
    sizes={"small": T5_SMALL, "base": {}},
    low_resource={"training": {"max_steps": 15_000}},
    transfer={"training": {"max_steps": 5000}},
    timed={"training": {"max_steps": 1000}},
    targets={
        "scitail": Target("SciTail", "mnli"),
        "transfer-cb": Target("CB", "mnli", rows=250),
        "transfer-boolq": Target("BoolQ", "qnli"),
        "imdb": Target("IMDB", "sst2"),
        "yelp_polarity": Target("Yelp polarity", "sst2"),
        "paws": Target("PAWS", "qqp"),
        "trec": Target("TREC", "mnli"),
    },
    left_out=("cola", "sst2", "stsb", "mrpc", "qqp", "mnli", "qnli", "rte"),
)
SCALES = {
    "paper": PAPER,
    "small": HyperFormerScale(
        run=SMALL,
        sizes={"small": {}},  # the nearer of the two
        # As many rows of each task as where all are trained together.
        single_task={"training": {"max_steps": 150, "batch_size": 16, "eval_steps": 75, "warmup_steps": 25}},
        low_resource={
            "data": {"max_test_rows": 500},
            "training": {"max_steps": 300, "eval_steps": 300},
        },
        transfer={
            "data": {"max_test_rows": 500},
            "training": {"max_steps": 100, "batch_size": 16, "eval_steps": 100, "warmup_steps": 0},
        },
        timed={"training": {"max_steps": 100, "eval_steps": 100}},
        seeds=(1, 2, 3),
        few_seeds=(1, 2, 3),
        # By the configurations compare/{glue,one-task,low-resource,transfer}-search, see docs/results/hyperformer.md.
        learning_rates={FULL: 1e-3},
        low_resource_rates={FULL: 1e-3, DAGGER: 1e-3},
        transfer_rates={FULL: 3e-4},
        task_embedding_rate=0.03,
        reduction_factors=(4, 8, 16),
        low_resource_factors=(4,),
        one_factor=4,
        low_resource_rows=(100, 500, 2000),
        samples=(32, 500),
        # The local copy has no test rows of SciTail and PAWS.
        targets={
            "scitail-halved": Target("SciTail", "mnli"),
            "transfer-cb": Target("CB", "mnli", rows=250),
            "transfer-boolq": Target("BoolQ", "qnli"),
            "imdb": Target("IMDB", "sst2"),
            "yelp_polarity": Target("Yelp polarity", "sst2"),
            "paws-halved": Target("PAWS", "qqp"),
            "trec": Target("TREC", "mnli"),
        },
        left_out=("mnli",),
        left_out_samples=(100,),
    ),
    "smoke": HyperFormerScale(
        run=SMOKE,
        sizes={"base": {}},
        seeds=(1,),
        few_seeds=(1,),
        reduction_factors=(8,),
        wide_factors=(2,),
        low_resource_factors=(8,),
        one_factor=8,
        low_resource_rows=(4,),
        samples=(4,),
        targets={"scitail": Target("SciTail", "mnli")},
        left_out=("mnli",),
        left_out_samples=(4,),
    ),
}
