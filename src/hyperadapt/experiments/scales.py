"""How large the runs of the experiments are: as in the paper, small, and so small that a test can run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Fields = dict[str, Any]
FULL, ADAPTERS, DAGGER, HYPER, HYPER_PP = (
    "full_fine_tuning",
    "adapters",
    "adapters_dagger",
    "hyperformer",
    "hyperformer++",
)


@dataclass(frozen=True)
class Target:
    """A new task of Table 2.

    Attributes:
        init_from: the task whose parameters it starts from.
        rows: all training rows it has, where they are few.
    """

    init_from: str
    rows: int | None = None

    def sizes(self, samples: tuple[int, ...]) -> tuple[int, ...]:
        """Return the numbers of samples, none above the rows there are."""
        return tuple(sorted({count if self.rows is None else min(count, self.rows) for count in samples}))


@dataclass(frozen=True)
class Scale:
    """How large the runs of the experiments are.

    Attributes:
        run: fields that all runs share; its tasks are those of GLUE, or what stands for them.
        single_task, low_resource, transfer, timed: fields in which the runs on one task of GLUE, on few rows of all of
            them (Figure 2), on a new task (Table 2) and those that are timed (Tables 5 and 6) differ.
        ablated: fields in which the ablations (Table 4) differ from the runs on GLUE, where they do.
        seeds: of runs on all rows of GLUE.
        few_seeds: of runs on few rows, and the rounds of timed runs.
        learning_rates: by method, where the run's is not the best; `low_resource_rates` and `transfer_rates` of those
            runs, `task_embedding_rate` of a task embedding that is trained alone.
        reduction_factors: of Tables 1 and 7.
        wide_factors: of Table 3.
        low_resource_factors: of Figure 2.
        one_factor: of all else.
        low_resource_rows: of each task, in Figure 2.
        samples: of a new task, in Table 2.
        targets: the new tasks.
        left_out: tasks of the run's that leave-one-out leaves out, with `left_out_samples` of theirs.
    """

    run: Fields
    single_task: Fields
    low_resource: Fields
    transfer: Fields
    timed: Fields
    seeds: tuple[int, ...]
    few_seeds: tuple[int, ...]
    reduction_factors: tuple[int, ...]
    wide_factors: tuple[int, ...]
    low_resource_factors: tuple[int, ...]
    one_factor: int
    low_resource_rows: tuple[int, ...]
    samples: tuple[int, ...]
    targets: Mapping[str, Target]
    left_out: tuple[str, ...]
    left_out_samples: tuple[int, ...]
    ablated: Fields = field(default_factory=dict)
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    low_resource_rates: Mapping[str, float] = field(default_factory=dict)
    transfer_rates: Mapping[str, float] = field(default_factory=dict)
    task_embedding_rate: float | None = None


GLUE = ("cola", "sst2", "stsb", "mrpc", "qqp", "mnli", "qnli", "rte")
PAPER = Scale(
    run={
        "model": {"name": "google-t5/t5-base"},
        "data": {"tasks": ["glue"], "mixed_batches": False, "max_source_length": 128},
        "training": {"max_steps": 262_144, "batch_size": 32, "learning_rate": 3e-4, "eval_steps": 1000},
    },
    single_task={},
    low_resource={"training": {"max_steps": 15_000}},
    transfer={"training": {"max_steps": 5000}},
    timed={"training": {"max_steps": 1000}},
    seeds=(42,),
    few_seeds=(1, 2, 3, 4, 5),
    reduction_factors=(8, 16, 32),
    wide_factors=(2, 4),
    low_resource_factors=(16, 32, 64),
    one_factor=32,
    low_resource_rows=(100, 500, 1000, 2000, 4000),
    samples=(4, 16, 32, 100, 500, 1000, 2000),
    targets={
        "scitail": Target("mnli"),
        "transfer-cb": Target("mnli", rows=250),
        "transfer-boolq": Target("qnli"),
        "imdb": Target("sst2"),
        "yelp_polarity": Target("sst2"),
        "paws": Target("qqp"),
        "trec": Target("mnli"),
    },
    left_out=GLUE,
    left_out_samples=(100, 1000),
    # Table 4 is of T5-small, whose batch has 64 rows (appendix A).
    ablated={"model": {"name": "google-t5/t5-small"}, "training": {"batch_size": 64}},
)
SCALES = {
    "paper": PAPER,
    "small": replace(
        PAPER,
        ablated={},
        run={
            "model": {"name": "tiny-t5", "attn_implementation": "eager"},
            "data": {
                "tasks": ["glue"],
                "max_source_length": 128,
                "max_eval_rows": 250,
                "max_test_rows": 1000,
            },
            "training": {
                "max_steps": 600,
                "batch_size": 32,
                "learning_rate": 3e-4,
                "lr_scheduler_type": "linear",
                "warmup_steps": 100,
                "eval_steps": 300,
                "arguments": {"bf16": True},
            },
            "evaluation": {"batch_size": 128},
        },
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
        reduction_factors=(4, 16),
        low_resource_factors=(4,),
        one_factor=4,
        low_resource_rows=(100, 500, 2000),
        samples=(32, 500),
        targets={
            "scitail-halved": Target("mnli"),
            "transfer-cb": Target("mnli", rows=250),
            "transfer-boolq": Target("qnli"),
            "imdb": Target("sst2"),
            "yelp_polarity": Target("sst2"),
            "paws-halved": Target("qqp"),
            "trec": Target("mnli"),
        },
        left_out=("mnli",),
        left_out_samples=(100,),
    ),
    "smoke": replace(
        PAPER,
        ablated={},
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
        low_resource={},
        transfer={},
        timed={},
        seeds=(1,),
        few_seeds=(1,),
        reduction_factors=(8,),
        wide_factors=(2,),
        low_resource_factors=(8,),
        one_factor=8,
        low_resource_rows=(4,),
        samples=(4,),
        targets={"acceptability": Target("sentiment")},
        left_out=("sentiment",),
        left_out_samples=(4,),
    ),
}
