"""Forms against plain loops over rows, and the shapes that they ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5LayerNorm

from hyperadapt.errors import UserError
from hyperadapt.forms import Bottleneck, LowRank, NormScale, ParallelBottleneck
from hyperadapt.forms.base import ACTIVATIONS, add_linear, linear
from hyperadapt.sites import Weight, numel, split
from plain_forms import BY_HAND, ROWS, SITE, applied, draw, houlsby, states


def test_every_activation_is_checked_here() -> None:
    assert BY_HAND.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("activation", BY_HAND)
@pytest.mark.parametrize("adapter_block", [True, False])
def test_the_bottleneck_is_houlsbys_adapter_of_each_rows_own_condition(
    activation: str, adapter_block: bool
) -> None:
    form = Bottleneck(4, activation, adapter_block)
    weights, y = draw(form.weights(SITE), 3), states()
    found = applied(form, torch.zeros(()), y, weights)
    for index, condition in enumerate(ROWS):
        own = {name: value[condition] for name, value in weights.items()}
        expected = houlsby(y[index], own, BY_HAND[activation], adapter_block)
        assert (found[index] - expected).abs().max() < 1e-5


FORMS = [
    Bottleneck(4),
    Bottleneck(4, adapter_block=False),
    NormScale(1e-6),
    ParallelBottleneck(3),
    LowRank(2, 0.5),
]


@pytest.mark.parametrize("form", FORMS)
def test_one_condition_holds_for_every_row(form: Any) -> None:
    weights, y = draw(form.weights(SITE), 1), states()
    once = applied(form, y, y, weights)
    repeated = {name: value.repeat(3, *[1] * (value.dim() - 1)) for name, value in weights.items()}
    assert (once - applied(form, y, y, repeated)).abs().max() < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_groups_share_their_groups_condition(form: Any) -> None:
    weights, y = draw(form.weights(SITE), 3), states(6)
    found = applied(form, y, y, weights, rows=None)
    assert (found - applied(form, y, y, weights, torch.tensor([0, 0, 1, 1, 2, 2]))).abs().max() < 1e-5


@pytest.mark.parametrize("form", [Bottleneck(4), NormScale(1e-6)])
def test_weights_shared_by_all_conditions_may_stand_beside_ones_that_are_not(form: Any) -> None:
    weights, y = draw(form.weights(SITE), 3), states()
    shared = {name: value[:1] if "norm" in name else value for name, value in weights.items()}
    spelt_out = {
        name: value[:1].expand(3, -1) if "norm" in name else value for name, value in weights.items()
    }
    assert (applied(form, y, y, shared) - applied(form, y, y, spelt_out)).abs().max() < 1e-5


@pytest.mark.parametrize("form", [Bottleneck(4), ParallelBottleneck(3)])
def test_gradients_reach_every_weight_of_every_condition_in_use(form: Any) -> None:
    weights = {
        name: value.requires_grad_() for name, value in draw(form.weights(SITE), 3, torch.float64).items()
    }
    rows, y = torch.tensor([2, 0]), states(2, torch.float64)[:, :2].requires_grad_()

    def apply(y: Tensor, *values: Tensor) -> Tensor:
        return applied(form, y, y, dict(zip(weights, values, strict=True)), rows)

    assert torch.autograd.gradcheck(apply, (y, *weights.values()))
    apply(y, *weights.values()).pow(2).sum().backward()
    for name, value in weights.items():
        assert value.grad is not None
        assert [bool(gradient.any()) for gradient in value.grad] == [True, False, True], name


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("compiling", [False, True])
def test_under_autocast_the_sum_keeps_the_type_of_what_is_added_to(
    groups: int, compiling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, x, weight = states(), states()[..., :4], torch.randn(groups, 4, 16)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = linear(x, torch.eye(4).expand(groups, 4, 4), torch.zeros(groups, 1, 4))
        found = add_linear(y, hidden, weight)
        assert found.dtype == torch.float32
        assert add_linear(y.bfloat16(), hidden, weight).dtype == torch.bfloat16
    assert (found - (y + linear(x, weight))).abs().max() < 0.1
    assert (found - y).abs().max() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_with_a_scale_is_t5s_own_of_that_weight(dtype: torch.dtype) -> None:
    form = NormScale(1e-6)
    weights, x = draw(form.weights(SITE), 3, dtype), 5 * states(dtype=dtype)
    base = T5LayerNorm(16, eps=1e-6).to(dtype)
    found = applied(form, x, base(x), weights)
    assert found.dtype == dtype
    for index, condition in enumerate(ROWS):
        own = T5LayerNorm(16, eps=1e-6).to(dtype)
        own.weight.data = weights["scale"][condition]
        assert torch.equal(found[index], own(x[index]))


def test_the_norms_epsilon_counts() -> None:
    x = 1e-3 * states()
    ones = {"scale": torch.ones(1, 16)}
    for eps in (1e-6, 1e-2):
        found = applied(NormScale(eps), x, x, ones)
        assert torch.allclose(found, F.rms_norm(x, (16,), eps=eps), atol=1e-6)


@pytest.mark.parametrize(("reduction_factor", "width"), [(1, 16), (3, 5), (4, 4), (16, 1)])
def test_a_bottleneck_asks_for_its_weights_by_shape(reduction_factor: int, width: int) -> None:
    shapes = {name: weight.shape for name, weight in Bottleneck(reduction_factor).weights(SITE).items()}
    assert shapes == {
        "down": (width, 16),
        "down_bias": (width,),
        "up": (16, width),
        "up_bias": (16,),
        "norm_weight": (16,),
        "norm_bias": (16,),
    }
    assert numel(Bottleneck(reduction_factor).weights(SITE)) == 2 * 16 * width + width + 16 + 32
    assert list(Bottleneck(reduction_factor, adapter_block=False).weights(SITE)) == [
        "norm_weight",
        "norm_bias",
    ]
    assert {name: weight.shape for name, weight in NormScale(1e-6).weights(SITE).items()} == {"scale": (16,)}


def test_a_bottleneck_of_no_width_is_refused_with_the_largest_factor() -> None:
    with pytest.raises(
        UserError, match="reduction_factor 17 leaves no bottleneck in a model of width 16; the largest is 16"
    ):
        Bottleneck(17).weights(SITE)


def test_an_unknown_activation_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="activation 'rleu' is unknown; did you mean 'relu'"):
        Bottleneck(4, "rleu")


def test_a_flat_vector_is_cut_row_major_in_the_order_of_the_weights() -> None:
    weights = {"first": Weight((2, 3)), "second": Weight((4,))}
    flat = torch.arange(20).reshape(2, 10)
    parts = split(flat, weights)
    assert parts["first"].tolist() == [[[0, 1, 2], [3, 4, 5]], [[10, 11, 12], [13, 14, 15]]]
    assert parts["second"].tolist() == [[6, 7, 8, 9], [16, 17, 18, 19]]
    assert parts["first"].data_ptr() == flat.data_ptr()
    assert numel(weights) == 10
