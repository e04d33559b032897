"""What a training step calls on an accelerator, counted without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hyperadapt.backbones import backbone_of
from hyperadapt.bench import worker
from hyperadapt.bench.measure import Spec
from hyperadapt.bench.section import ON_DEVICE, Found, Setting
from hyperadapt.bench.sections import FLOOR, FULL, LORA, LORA_R8, adapted, named, options_of, spec, t5
from hyperadapt.model import train_norms

META = torch.device("meta")  # shapes without numbers, which no method takes for a CPU
OUR_NORMS = f"{FLOOR}, its norms hyperadapt's"


class Fused(torch.autograd.Function):
    """Stands for one kernel that gives `like`, and one for the gradient of each input."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return like.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(of.clone() for of in ctx.saved_tensors)


class AsOnAnAccelerator(TorchFunctionMode):
    """Calls as one operator what is a kernel on an accelerator and a dozen operators elsewhere."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if function is F.rms_norm:
            return Fused.apply(args[0].detach(), args[0], given["weight"])
        if function is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            return Fused.apply(query.detach(), query, key, value)
        return function(*args, **given)


def operators(setting: Setting) -> Found:
    """Count what a step calls, each operator at least a kernel to launch."""
    floor = {"train": "layer_norms"}
    plain = {FULL: {"train": "all"}, FLOOR: floor, OUR_NORMS: floor}
    contenders = {
        **{name: spec(setting, "transformers", options) for name, options in plain.items()},
        # An accelerator generates all tasks, so that a batch of one counts as one of all.
        **{name: of for name, of in adapted(setting).items() if not name.endswith(" 1 task")},
        "hyperformer++, a model of 1 task": spec(
            setting, "hyperadapt", options_of("hyperformer++"), 1, tasks=1
        ),
        LORA_R8: spec(setting, "peft", LORA),
    }
    counts = {}
    for name, of in contenders.items():
        model = in_bfloat16(of, setting)
        if name == OUR_NORMS:
            train_norms(model, backbone_of(model))
        counts[name] = worker.operators(forward_and_backward(model, of.library == "hyperadapt"), META)
    rows = [
        {
            "": name,
            "operators": str(count),
            **{f"of {other}": f"{count / counts[other]:.3f}" for other in (FLOOR, OUR_NORMS)},
        }
        for name, count in counts.items()
    ]
    number, tokens, targets = ON_DEVICE
    how = (
        f"Forward and backward of {named('t5-base', setting)}, the base model of all in bfloat16, without autocast and "
        f"without a mask, {number} rows of {tokens} source and {targets} target tokens. Views and the optimizer are "
        "left out; attention and PyTorch's norm, which hyperadapt trains on an accelerator in place of T5's, are one "
        "operator forward and one for each gradient. Counted on tensors that have shapes alone: no accelerator is "
        "needed, and none has confirmed it. There all 8 tasks are generated, whichever are in the batch."
    )
    return Found(how, rows, [])


def in_bfloat16(of: Spec, setting: Setting) -> Any:
    """Build a contender on a T5-base in bfloat16, all of it without numbers."""
    with META:
        return worker.adapted({**asdict(of), "model": t5("t5-base", setting), "dtype": "bfloat16"}).train()


def forward_and_backward(model: Any, with_tasks: bool) -> Callable[[], None]:
    """Return a step but for the optimizer."""
    number, tokens, targets = ON_DEVICE
    batch = {
        "input_ids": torch.zeros(number, tokens, dtype=torch.long, device=META),
        "labels": torch.zeros(number, targets, dtype=torch.long, device=META),
    }
    if with_tasks:
        batch["task_ids"] = torch.zeros(number, dtype=torch.long, device=META)

    def run() -> None:
        with AsOnAnAccelerator():
            loss = model(**batch).loss
        loss.backward()

    return run
