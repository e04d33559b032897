"""What a training step calls on an accelerator, counted without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hyperadapt.bench import worker
from hyperadapt.bench.section import ON_DEVICE, Found, Setting
from hyperadapt.bench.sections import (
    FLOOR,
    LORA,
    LORA_R8,
    adapted,
    frozen_or_not,
    named,
    options_of,
    spec,
    t5,
)

META = torch.device("meta")  # shapes without numbers, which no method takes for a CPU


class FusedNorm(torch.autograd.Function):
    """Stands for PyTorch's root-mean-square norm on an accelerator: a kernel forward, and one for each gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x + weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient.clone(), gradient.sum(tuple(range(gradient.ndim - 1)))


class AsOnAnAccelerator(TorchFunctionMode):
    """Calls the norm as one operator, which elsewhere is a dozen."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if function is F.rms_norm:
            return FusedNorm.apply(args[0], kwargs["weight"])
        return function(*args, **(kwargs or {}))


def operators(setting: Setting) -> Found:
    """Count what a step calls, each operator at least a kernel to launch."""
    options, model = options_of("hyperformer++"), t5("t5-base", setting)
    alone = {
        "hyperformer++, a model of 1 task": spec(setting, "hyperadapt", options, 1, tasks=1, model=model)
    }
    peers = {LORA_R8: spec(setting, "peft", LORA, model=model)}
    contenders = {**frozen_or_not(setting, model=model), **adapted(setting, model=model), **alone, **peers}
    counts = {name: worker.operators(step(asdict(of)), META) for name, of in contenders.items()}
    rows = [
        {"": name, "operators": str(count), f"of {FLOOR}": f"{count / counts[FLOOR]:.3f}"}
        for name, count in counts.items()
    ]
    number, tokens, targets = ON_DEVICE
    how = (
        f"Forward and backward of {named('t5-base', setting)} in bfloat16, {number} rows of {tokens} source and "
        f"{targets} target tokens, as an accelerator is given them one by one; views and the fused optimizer are left "
        "out. Counted on tensors that have shapes alone, so that no accelerator is needed, and none has confirmed it."
    )
    return Found(how, rows, [])


def step(fields: dict[str, Any]) -> Callable[[], None]:
    """Return forward and backward of a contender whose base model is in bfloat16."""
    number, tokens, targets = ON_DEVICE
    with META:
        model = worker.adapted({**fields, "bf16": True, "work": "generate"}).train()
        batch = {
            "input_ids": torch.zeros(number, tokens, dtype=torch.long),
            "labels": torch.zeros(number, targets, dtype=torch.long),
        }
        if fields["library"] == "hyperadapt":
            batch["task_ids"] = torch.zeros(number, dtype=torch.long)

    def run() -> None:
        with AsOnAnAccelerator():
            loss = model(**batch).loss
        loss.backward()

    return run
