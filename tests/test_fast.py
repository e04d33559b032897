"""What is in fast/ computes the same, and the library works without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5LayerNorm

import hyperadapt as ha
from hyperadapt.fast import faster
from hyperadapt.fast.folded_norm import FOLDED_FROM, FoldedBottleneck, inverse_deviation
from hyperadapt.fast.norms import RmsNorm, fused_rms_norm
from hyperadapt.forms import Bottleneck, LowRank
from hyperadapt.methods import Method
from plain_forms import BY_HAND, ROWS, SITE, applied, draw, houlsby, states
from tiny import METHODS, PLUS_PLUS, TASKS, name_of, redraw, tiny_batch, tiny_t5

FOLDED = FoldedBottleneck(FOLDED_FROM)


def test_narrow_bottlenecks_alone_are_folded() -> None:
    assert faster(Bottleneck(FOLDED_FROM, "relu")) == FoldedBottleneck(FOLDED_FROM, "relu")
    for form in (
        Bottleneck(FOLDED_FROM - 1),
        Bottleneck(FOLDED_FROM, adapter_block=False),
        LowRank(2, 0.5),
        FOLDED,
    ):
        assert faster(form) is form


@pytest.mark.parametrize("activation", BY_HAND)
def test_a_folded_bottleneck_is_houlsbys_adapter_of_each_rows_own_condition(activation: str) -> None:
    form = FoldedBottleneck(FOLDED_FROM, activation)
    weights, y = draw(form.weights(SITE), 3), states()
    found = applied(form, torch.zeros(()), y, weights)
    for index, condition in enumerate(ROWS):
        own = {name: value[condition] for name, value in weights.items()}
        assert (found[index] - houlsby(y[index], own, BY_HAND[activation], True)).abs().max() < 1e-5


def test_of_a_folded_bottleneck_one_condition_holds_for_every_row_and_groups_share_theirs() -> None:
    weights, y = draw(FOLDED.weights(SITE), 3), states(6)
    first = {name: value[:1] for name, value in weights.items()}
    repeated = {name: value.repeat(3, *[1] * (value.dim() - 1)) for name, value in first.items()}
    in_groups = torch.tensor([0, 0, 1, 1, 2, 2])
    for given, rows, spelt_out in ((first, None, repeated), (weights, None, weights)):
        found = applied(FOLDED, y, y, given, rows)
        assert (found - applied(FOLDED, y, y, spelt_out, in_groups)).abs().max() < 1e-5


def test_a_norm_that_all_conditions_share_may_be_folded_beside_projections_that_they_do_not() -> None:
    weights, y = draw(FOLDED.weights(SITE), 3), states()
    shared = {name: value[:1] if "norm" in name else value for name, value in weights.items()}
    spelt_out = {
        name: value[:1].expand(3, -1) if "norm" in name else value for name, value in weights.items()
    }
    assert (applied(FOLDED, y, y, shared) - applied(FOLDED, y, y, spelt_out)).abs().max() < 1e-5


def test_gradients_of_a_folded_bottleneck_reach_every_weight_of_every_condition_in_use() -> None:
    weights = {
        name: value.requires_grad_() for name, value in draw(FOLDED.weights(SITE), 3, torch.float64).items()
    }
    rows, y = torch.tensor([2, 0]), states(2, torch.float64)[:, :2].requires_grad_()

    def apply(y: Tensor, *values: Tensor) -> Tensor:
        return applied(FOLDED, y, y, dict(zip(weights, values, strict=True)), rows)

    assert torch.autograd.gradcheck(apply, (y, *weights.values()))
    apply(y, *weights.values()).pow(2).sum().backward()
    for name, value in weights.items():
        assert value.grad is not None
        assert [bool(gradient.any()) for gradient in value.grad] == [True, False, True], name


@pytest.mark.parametrize(("near", "shift"), [(-0.9, 100.0), (-0.999, 0.0)])
def test_a_folded_norm_keeps_its_digits_where_columns_nearly_cancel_and_far_from_zero(
    near: float, shift: float
) -> None:
    form = FoldedBottleneck(FOLDED_FROM)
    weights, y = draw(form.weights(SITE), 1), states()
    for name, factor in (("up", near), ("down", 1.0), ("down_bias", 1.0)):
        axis = -1 if name == "up" else 1
        weights[name].select(axis, 1).copy_(factor * weights[name].select(axis, 0))
    weights["up_bias"] = shift + 0.01 * weights["up_bias"]
    exact = {name: value[0].double() for name, value in weights.items()}
    expected = torch.stack([houlsby(row, exact, BY_HAND["gelu_new"], block=True) for row in y.double()])
    assert (applied(form, y, y, weights) - expected).abs().max() < 2e-3


def test_a_folded_norms_deviation_is_exact_under_autocast() -> None:
    form = FoldedBottleneck(FOLDED_FROM)
    weights = {name: value[:, None] for name, value in draw(form.weights(SITE), 1).items()}
    hidden = states()[..., :3]  # of the bottleneck's width and a one
    exact = form.prepare({name: value.double() for name, value in weights.items()}, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        prepared = form.prepare(weights, torch.bfloat16)
        found = inverse_deviation(hidden, prepared["variance"][:, 0])
    assert prepared["up"].dtype == torch.bfloat16
    assert torch.allclose(found, inverse_deviation(hidden.double(), exact["variance"][:, 0]), rtol=1e-5)


def test_in_float16_nothing_is_folded_as_its_range_would_be_left() -> None:
    form = FoldedBottleneck(FOLDED_FROM)
    weights, y = draw(form.weights(SITE), 1), 300 * states()
    weights["up"] = 0 * weights["up"]
    weights["up_bias"] = 0 * weights["up_bias"]
    low = {name: value.half() for name, value in weights.items()}
    expected = y + weights["norm_bias"]
    assert (applied(form, y.half(), y.half(), low).float() - expected).abs().max() < 1


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("trained", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("rms_norm", [RmsNorm.apply, fused_rms_norm], ids=["few passes", "one kernel"])
def test_a_trained_norm_is_t5s(
    rms_norm: Any, dtype: torch.dtype, tolerance: float, trained: tuple[bool, bool]
) -> None:
    norm = T5LayerNorm(16, eps=1e-3)
    weight_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    norm.weight = torch.nn.Parameter(1 + 0.3 * torch.randn(16, dtype=weight_dtype), requires_grad=trained[1])
    x = states(dtype=dtype).requires_grad_(trained[0])
    leaves = [of for of in (x, norm.weight) if of.requires_grad]
    expected, found = norm(x), rms_norm(x, norm.weight, 1e-3)
    assert found.dtype == (dtype if rms_norm is fused_rms_norm else expected.dtype)
    found = found.to(expected.dtype)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    towards = torch.randn(expected.shape, dtype=expected.dtype)
    for got, wanted in zip(
        torch.autograd.grad(found, leaves, towards),
        torch.autograd.grad(expected, leaves, towards),
        strict=True,
    ):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, rtol=10 * tolerance, atol=10 * tolerance)


def test_nothing_is_folded_where_no_backward_follows_and_the_output_is_the_same() -> None:
    form = FoldedBottleneck(FOLDED_FROM)
    weights, y = draw(form.weights(SITE), 3), states()
    stacked = {name: weight.unsqueeze(1) for name, weight in weights.items()}
    assert "variance" in form.prepare(stacked, y.dtype)
    folded = applied(form, y, y, weights)
    with torch.no_grad():
        assert "variance" not in form.prepare(stacked, y.dtype)
        torch.testing.assert_close(applied(form, y, y, weights), folded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [PLUS_PLUS, METHODS[5]], ids=name_of)
def test_within_a_stack_of_autocasts_own_type_it_is_off_and_nothing_is_wider(method: Method) -> None:
    model = redraw(ha.adapt(tiny_t5().to(torch.bfloat16), method, TASKS))
    seen: list[tuple[bool, torch.dtype]] = []

    def look(module: Any, args: Any, output: Any) -> None:
        seen.append((torch.is_autocast_enabled("cpu"), output[0].dtype))

    for block in (*model.encoder.block, *model.decoder.block):
        block.register_forward_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        model(**tiny_batch()).loss.backward()
        assert torch.is_autocast_enabled("cpu")
    assert set(seen) == {(False, torch.bfloat16)}


# The reference implementations' numbers, and methods on every family: what fast/ speeds up is in all of them.
CORE = ("test_golden.py", "test_golden_hyperdecoders.py", "test_families.py", "test_decoder_only.py")
# But for methods that have nothing which it speeds up beyond what these have.
OTHERS = "polytropon or grid or gate or task_hypernet or single_adapter or hyperdecoder-"
FEW = f"(golden or gradients or forward_and_in_generation or and_their_losses) and not ({OTHERS})"


def test_without_the_folder_no_result_changes(tmp_path: Path) -> None:
    """The suite's core, run on a copy of the library that has no fast/."""
    package, tests = Path(ha.__file__).parent, Path(__file__).parent
    shutil.copytree(package, tmp_path / "hyperadapt", ignore=shutil.ignore_patterns("__pycache__", "fast"))
    code = "import hyperadapt; print(hyperadapt.__file__)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    at = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert at.stdout.startswith(str(tmp_path))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-k",
        FEW,
        *(str(tests / name) for name in CORE),
    ]
    done = subprocess.run(command, env=env, cwd=tests.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
