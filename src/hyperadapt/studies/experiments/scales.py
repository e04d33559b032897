"""How large the runs of the experiments are: as in the paper, small, and so small that a test can run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from hyperadapt import bundled
from hyperadapt.config.reading import read_fields

Fields = dict[str, Any]
FULL, ADAPTERS, DAGGER, HYPER, HYPER_PP = (
    "full_fine_tuning",
    "adapters",
    "adapters_dagger",
    "hyperformer",
    "hyperformer++",
)
HYPERDECODER, ADAPTER, TASK_HYPERNET, MODULAR = (
    "hyperdecoder",
    "single_adapter",
    "task_hypernet",
    "polytropon",
)


@dataclass(frozen=True)
class Scale:
    """How large runs are; a paper's scales have more fields.

    Attributes:
        run: fields that all of its runs share.
        seeds: of runs where the paper has one.
        learning_rates: by method, where the run's is not the best.
    """

    run: Fields
    seeds: tuple[int, ...] = (1,)
    learning_rates: Mapping[str, float] = field(default_factory=dict)

    def on(self, base: str) -> Self:
        """Return the scale with another base model, a hub name or a directory."""
        return replace(self, run={**self.run, "model": {"name": base}})


def as_configured(name: str) -> Fields:
    """Return the fields of a reported run's configuration, which comes with the package, but for method and place."""
    fields = read_fields(bundled.place_of(Path(name)))
    return {key: value for key, value in fields.items() if key not in ("output_dir", "method")}


TINY_T5: Fields = {"name": "tiny-t5", "attn_implementation": "eager"}
# Real rows of a local copy, from the model that comes with the package: minutes a run on a core.
SMALL: Fields = {
    "model": TINY_T5,
    "data": {"tasks": ["glue"], "max_source_length": 128, "max_eval_rows": 250, "max_test_rows": 1000},
    "training": {
        "max_steps": 600,
        "batch_size": 32,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 100,
        "eval_steps": 300,
        "arguments": {"bf16": True},
    },
    "evaluation": {"answers": "generate", "batch_size": 128},
}
# Rows that are made up, in the columns of the real ones: two steps of a model that knows nothing.
SMOKE: Fields = {
    "model": {
        "config": {
            "vocab_size": 384,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 1,
            "num_heads": 2,
        },
        "tokenizer": "bytes",
        "seed": 0,
    },
    "data": {
        "tasks": ["glue"],
        "max_source_length": 64,
        "max_train_rows": 8,
        "max_eval_rows": 4,
        "max_test_rows": 4,
    },
    "training": {"max_steps": 2, "batch_size": 4, "eval_steps": 2},
    "evaluation": {"answers": "generate"},
}
