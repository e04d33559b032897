"""The output layer's product by oneDNN where PyTorch would take MKL: float32 on an x86 CPU.

    y = W x,    dx = W^T dy

MKL takes longer for a few tokens and a whole vocabulary, on an AMD processor up to twice as long; for the other maps
and for many tokens it is the better one or as good (`python benchmarks/linear_maps.py`). A generation of T5-small takes
0.886 (0.860 to 0.894) of the bare model's time on an AMD EPYC; on an Intel Xeon 1.010 (0.898 to 1.050), no difference.
PyTorch's binding of oneDNN's product has no gradient, as a trained W would need one; a frozen one needs none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperadapt.forms.base import autocast_dtype

HAS_BOTH = (
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
FEW_TOKENS = 256


class OutputLayer(nn.Module):
    """Mixed in before the class of the base model's output layer, where that is frozen and has no bias."""

    weight: Tensor

    def forward(self, input: Tensor) -> Tensor:
        if takes_onednn(input, self.weight):
            return FrozenProduct.apply(input, self.weight)
        return super().forward(input)


def takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there and allowed, and these tensors are for it: few x; W frozen, no shard, not quantised."""
    return (
        HAS_BOTH
        and bool(torch.backends.mkldnn.enabled)
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(weight) is nn.Parameter
        and not weight.requires_grad
        and autocast_dtype("cpu") is None
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and x.numel() <= FEW_TOKENS * x.shape[-1]
    )


class FrozenProduct(torch.autograd.Function):
    """The product with its gradient for x, for which nothing is kept but W."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return product(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradient @ weight, None  # by MKL: of this one neither library is the better


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply by oneDNN, (..., d_in) -> (..., d_out)."""
    y = torch.ops.mkldnn._linear_pointwise(x.reshape(-1, x.shape[-1]), weight, None, "none", [], "")
    # Not as a view, of which autograd would let nothing be changed in place.
    return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))
