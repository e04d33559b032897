"""What a training step calls on an accelerator, counted without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hyperadapt.studies.bench import worker
from hyperadapt.studies.bench.section import Found, Setting
from hyperadapt.studies.bench.sections import (
    FLOOR,
    FULL,
    LORA,
    LORA_R8,
    OUR_FLOOR,
    adapted,
    options_of,
    our_floor,
    sizes,
    spec,
    t5,
)

META = torch.device("meta")  # shapes without numbers, which no method takes for a CPU


class Fused(torch.autograd.Function):
    """Stands for one kernel that gives `like`, and one for the gradient of each input that has one."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, *inputs: Tensor | None) -> Tensor:
        ctx.save_for_backward(*inputs)
        return like.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return None, *(tensor.clone() if needed else None for tensor, needed in wanted)


class AsOnAnAccelerator(TorchFunctionMode):
    """Calls as one operator what is a kernel on an accelerator and a dozen operators elsewhere."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if function is F.rms_norm:
            return Fused.apply(args[0].detach(), args[0], options["weight"])
        if (
            function is F.scaled_dot_product_attention
        ):  # the mask has T5's position bias, which may be trained
            return Fused.apply(args[0].detach(), *args[:3], options.get("attn_mask"))
        return function(*args, **options)


def operators(setting: Setting) -> Found:
    """Count what a step calls, each operator at least a kernel to launch."""
    low: dict[str, Any] = {"model": t5("t5-base", setting), "dtype": "bfloat16"}
    options, plain = options_of("hyperformer++"), {FULL: {"train": "all"}, FLOOR: {"train": "layer_norms"}}
    contenders = {
        **{name: spec(setting, "transformers", trained, **low) for name, trained in plain.items()},
        **our_floor(setting, **low),
        # An accelerator generates all tasks, so that a batch of one counts as one of all.
        **{
            name: contender
            for name, contender in adapted(setting, **low).items()
            if not name.endswith(" 1 task")
        },
        "hyperformer++, a model of 1 task": spec(setting, "hyperadapt", options, 1, tasks=1, **low),
        LORA_R8: spec(setting, "peft", LORA, **low),
    }
    counts = {
        name: worker.operators(forward_and_backward(asdict(contender)), META)
        for name, contender in contenders.items()
    }
    rows = [
        {
            "": name,
            "operators": str(count),
            **{f"of {other}": f"{count / counts[other]:.3f}" for other in (FLOOR, OUR_FLOOR)},
        }
        for name, count in counts.items()
    ]
    how = (
        "Forward and backward, the base model of all in bfloat16, without autocast and without a mask: "
        f"{sizes(setting, 't5-base')}. Views and the optimizer are left out; attention and PyTorch's norm, which "
        "hyperadapt takes on an accelerator in place of T5's, are one operator forward and one for each gradient. "
        "Counted on tensors that have shapes alone, so that no accelerator is needed. There all 8 tasks are generated, "
        "whichever are in the batch."
    )
    return Found(how, rows, [])


def forward_and_backward(fields: dict[str, Any]) -> Callable[[], None]:
    """Return a contender's step but for the optimizer, on tensors without numbers."""
    with META:
        model = worker.adapted(fields).train()
    model.config.use_cache = False  # as Trainer sets it
    [batch] = worker.inputs(fields, META)
    del batch["attention_mask"]  # of which transformers would ask whether it has padding
    labels = torch.zeros(len(batch["input_ids"]), fields["targets"], dtype=torch.long, device=META)

    def run() -> None:
        with AsOnAnAccelerator():
            loss = model(**batch, labels=labels).loss
        loss.backward()

    return run
