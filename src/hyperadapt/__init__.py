"""hyperadapt: fine-tune one frozen transformer for many tasks, with hypernetworks that generate their parameters.

Names are imported when first used, so that `import hyperadapt` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hyperadapt import interop
    from hyperadapt.counting import count_parameters
    from hyperadapt.errors import CheckpointError, UserError
    from hyperadapt.methods import (
        METHODS,
        Adapters,
        AdaptersDagger,
        FullFineTuning,
        Hyperdecoder,
        HyperFormer,
        HyperFormerPlusPlus,
        HyperGrid,
        HyperLoRA,
        LoRA,
        OutputGate,
        Polytropon,
        SharedLoRA,
        SingleAdapter,
        TaskHypernet,
    )
    from hyperadapt.model.adapt import adapt
    from hyperadapt.model.load import load
    from hyperadapt.runs.run import load_run
    from hyperadapt.tiny_t5 import load_tiny_t5

HOME = {
    "adapt": "model.adapt",
    "load": "model.load",
    "load_run": "runs.run",
    "load_tiny_t5": "tiny_t5",
    "count_parameters": "counting",
    "METHODS": "methods",
    "Adapters": "methods",
    "AdaptersDagger": "methods",
    "FullFineTuning": "methods",
    "HyperFormer": "methods",
    "HyperFormerPlusPlus": "methods",
    "HyperGrid": "methods",
    "HyperLoRA": "methods",
    "LoRA": "methods",
    "SharedLoRA": "methods",
    "OutputGate": "methods",
    "Hyperdecoder": "methods",
    "Polytropon": "methods",
    "SingleAdapter": "methods",
    "TaskHypernet": "methods",
    "UserError": "errors",
    "CheckpointError": "errors",
    "interop": "interop",
}

__all__ = [
    "METHODS",
    "Adapters",
    "AdaptersDagger",
    "CheckpointError",
    "FullFineTuning",
    "HyperFormer",
    "HyperFormerPlusPlus",
    "HyperGrid",
    "HyperLoRA",
    "Hyperdecoder",
    "LoRA",
    "OutputGate",
    "Polytropon",
    "SharedLoRA",
    "SingleAdapter",
    "TaskHypernet",
    "UserError",
    "adapt",
    "count_parameters",
    "interop",
    "load",
    "load_run",
    "load_tiny_t5",
]


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module 'hyperadapt' has no attribute '{name}'")
    module = import_module(f"hyperadapt.{HOME[name]}")
    return module if name == HOME[name] == "interop" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
