"""A backbone's root-mean-square norm in few passes on a CPU, and by one kernel on an accelerator.

y = w * x / sqrt(mean(x^2) + eps),    w (d_model,)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperadapt.model.norm import TrainedNorm


class FastNorm(TrainedNorm):
    """Mixed in before the class of a root-mean-square norm of the base model, frozen or trained."""

    eps: float
    weight: Tensor

    def forward(self, hidden_states: Tensor) -> Tensor:
        y: Any
        if hidden_states.device.type != "cpu":
            y = fused_rms_norm(hidden_states, self.weight, self.eps)
        elif self.weight.requires_grad and self.weight.dtype == torch.float32 and torch.is_grad_enabled():
            y = RmsNorm.apply(hidden_states, self.weight, self.eps)
        else:
            return super().forward(hidden_states)
        return y.to(self.output_dtype)


def fused_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute the norm as PyTorch does: on an accelerator one kernel instead of seven operators.

    It takes one type alone, that of x, to which a scale in float32 is rounded, as autocast rounds what is trained.
    """
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


class RmsNorm(torch.autograd.Function):
    """The norm in few passes over x, which is all that it keeps for the backward; T5's own keeps another as large.

    With r = 1 / sqrt(mean(x^2) + eps), in float32 as T5 has it:
    y = w r x,    dx = r w g - x r^3 (g . w x) / d_model,    dw = sum r g x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).to(weight.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        for_x, for_weight, _ = ctx.needs_input_grad
        dx = dw = None
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.promote_types(x.dtype, torch.float32)
            gradient, states, scale = (tensor.to(exact) for tensor in (gradient, x, weight))
            product = gradient * states
            if for_weight:
                dw = (inverse.flatten().to(exact) @ product.flatten(0, -2)).to(weight.dtype)
            if for_x:
                along = (product @ scale).unsqueeze(-1) * inverse.pow(3) / x.shape[-1]
                dx = (gradient * scale).mul_(inverse).addcmul_(states, along, value=-1).to(x.dtype)
        return dx, dw, None
