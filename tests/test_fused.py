"""The adapter block in one kernel, on a GPU or, where Triton is installed without one, in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from hyperadapt.forms import Bottleneck, ParallelBottleneck, base, fused
from hyperadapt.forms.base import ACTIVATIONS, fuses
from hyperadapt.forms.bottleneck import LAYER_NORM_EPS
from hyperadapt.sites import Site
from tiny import relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SITE = Site("encoder", 0, "feed_forward", "encoder.block.0.layer.1.DenseReluDense", 72, 72)
ROWS = 4
# Groups of rows with a block, and with a layer norm, of their own; tokens of a row, more and less than a program takes.
SHAPES = [(4, 4, 37), (2, 2, 37), (1, 1, 37), (4, 1, 37), (1, 4, 37), (4, 4, 1), (1, 1, 1)]


def blocks(form: Any, groups: int, norm_groups: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw the weights of three sites."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            0.1
            + 0.3 * torch.randn(norm_groups if "norm" in name else groups, 3, *of.shape, generator=generator)
        )
        .to(DEVICE, dtype)
        .requires_grad_()
        for name, of in form.weights(SITE).items()
    }


def plain(
    form: Any, x: Tensor, y: Tensor, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    """Compute by PyTorch's operators, of which the norm folded into a product is another test's."""
    monkeypatch.setattr(base, "HAS_TRITON", False)
    monkeypatch.setattr("hyperadapt.forms.bottleneck.FOLDED_FROM", 10**9)
    return form.apply(x, y, {name: of[:, 1] for name, of in form.prepare(weights, x.dtype).items()})


def in_one_kernel(form: Any, x: Tensor, y: Tensor, weights: dict[str, Tensor]) -> Tensor:
    at_site = {name: of[:, 1] for name, of in weights.items()}  # as far apart in memory as sites make them
    residual = None if isinstance(form, Bottleneck) else y
    return fused.adapter_block(x, residual, at_site, form.activation, LAYER_NORM_EPS)


@pytest.mark.parametrize(("groups", "norm_groups", "tokens"), SHAPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_it_is_the_block_of_pytorchs_operators_gradients_included(
    kind: str, activation: str, groups: int, norm_groups: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    form: Any = Bottleneck(8, activation) if kind == "sequential" else ParallelBottleneck(20, activation)
    x, y = (torch.randn(ROWS, tokens, 72, device=DEVICE, requires_grad=True) for _ in range(2))
    y = x if kind == "sequential" else y
    weights = blocks(form, groups, norm_groups, torch.float32)
    leaves = list({id(of): of for of in (x, y, *weights.values())}.values())
    with torch.no_grad():
        without = in_one_kernel(form, x, y, weights)
    found = in_one_kernel(form, x, y, weights)
    expected = plain(form, x, y, weights, monkeypatch)
    assert torch.equal(without, found)
    assert relative_error(found, expected) < 1e-5
    towards = torch.randn_like(expected)
    for got, wanted in zip(
        torch.autograd.grad(found, leaves, towards),
        torch.autograd.grad(expected, leaves, towards),
        strict=True,
    ):
        assert relative_error(got, wanted) < 1e-4


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hyperadapt.forms import fused

NUMBERS = ("tokens", "d_in", "d_out", "bottleneck")


def source(kernel, of, **constants):
    def kind(name):
        if name in constants:
            return "constexpr"
        if name == "eps":
            return "fp32"
        whole = name in NUMBERS or name.startswith("step_")
        return "i32" if whole else "*fp32" if name in ("mean", "inverse", "sums") else f"*{of}"

    names = kernel.arg_names
    places = {(names.index(name),): value for name, value in constants.items()}
    return ASTSource(kernel, {name: kind(name) for name in names}, constexprs=places)


for of, tile in (("bf16", (32, 64, 32)), ("bf16", (16, 128, 64)), ("fp32", (16, 64, 128))):
    tile = dict(zip(("t_tile", "w_tile", "b_tile"), tile))
    for has_norm in (True, False):
        for kernel, own in ((fused.forward_kernel, "keep"), (fused.backward_kernel, "adds_to_x")):
            made = source(kernel, of, kind="gelu_new", has_norm=has_norm, **{own: True}, **tile)
            compiled = triton.compile(made, target=GPUTarget("cuda", 90, 32))
            assert compiled.metadata.shared <= 227 * 1024, compiled.metadata.shared
"""


def test_it_compiles_for_a_gpu_that_is_not_there() -> None:
    """Triton's interpreter takes what its compiler refuses, as a name that holds another shape in a second loop."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_low_precision_it_is_as_near_as_pytorchs_operators(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = Bottleneck(8)
    x = torch.randn(ROWS, 37, 72, device=DEVICE, dtype=dtype)
    weights = blocks(form, 4, 4, dtype)
    exact = plain(
        form, x.double(), x.double(), {name: of.double() for name, of in weights.items()}, monkeypatch
    )
    errors = [
        relative_error(of.double(), exact)
        for of in (in_one_kernel(form, x, x, weights), plain(form, x, x, weights, monkeypatch))
    ]
    assert errors[0] < 1.5 * errors[1]


def test_a_wide_bottleneck_and_what_is_not_on_a_gpu_are_left_to_pytorch() -> None:
    assert not fuses(torch.zeros(1, 8, 64))
    if DEVICE == "cuda":
        assert fuses(torch.zeros(1, 128, 64, device=DEVICE))
        assert not fuses(torch.zeros(1, 129, 64, device=DEVICE))
        assert not fuses(torch.zeros(1, 8, 64, device=DEVICE, dtype=torch.float64))
