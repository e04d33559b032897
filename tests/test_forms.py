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
from hyperadapt.forms.bottleneck import FOLDED_FROM, inverse_deviation
from hyperadapt.forms.norm import RmsNorm, fused_rms_norm
from hyperadapt.sites import Site, Weight, numel, split

SITE = Site("encoder", 0, "feed_forward", "encoder.block.0.layer.1.DenseReluDense", 16, 16)
ROWS = torch.tensor([2, 0, 1, 1, 2])


def draw(
    weights: dict[str, Weight], conditions: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(conditions, *weight.shape, generator=generator).to(dtype)
        for name, weight in weights.items()
    }


def states(rows: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, 7, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


def applied(
    form: Any, x: Tensor, y: Tensor, weights: dict[str, Tensor], rows: Tensor | None = ROWS
) -> Tensor:
    """Prepare the weights of one site, give every row its own (None: as they are), and apply them."""
    prepared = form.prepare({name: weight.unsqueeze(1) for name, weight in weights.items()}, y.dtype)
    at_site = {
        name: weight[:, 0] if rows is None or len(weight) == 1 else weight[rows, 0]
        for name, weight in prepared.items()
    }
    return form.apply(x, y, at_site)


def houlsby(x: Tensor, weights: dict[str, Tensor], activation: Any, block: bool) -> Tensor:
    """One row's adapter, token by token: A(x) = LN(U act(D x + b) + b) + x."""
    out = []
    for token in x:
        inner = token
        if block:
            inner = activation(weights["down"] @ inner + weights["down_bias"])
            inner = weights["up"] @ inner + weights["up_bias"]
        centred = inner - inner.mean()
        normed = centred / (centred.pow(2).mean() + 1e-5).sqrt()
        out.append(weights["norm_weight"] * normed + weights["norm_bias"] + token)
    return torch.stack(out)


BY_HAND = {
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "relu": lambda x: x * (x > 0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "tanh": lambda x: 1 - 2 / (torch.exp(2 * x) + 1),
}


def test_every_activation_is_checked_here() -> None:
    assert BY_HAND.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("activation", BY_HAND)
@pytest.mark.parametrize(("reduction_factor", "adapter_block"), [(4, True), (FOLDED_FROM, True), (4, False)])
def test_the_bottleneck_is_houlsbys_adapter_of_each_rows_own_condition(
    activation: str, reduction_factor: int, adapter_block: bool
) -> None:
    form = Bottleneck(reduction_factor, activation, adapter_block)
    weights, y = draw(form.weights(SITE), 3), states()
    found = applied(form, torch.zeros(()), y, weights)
    for index, condition in enumerate(ROWS):
        own = {name: value[condition] for name, value in weights.items()}
        expected = houlsby(y[index], own, BY_HAND[activation], adapter_block)
        assert (found[index] - expected).abs().max() < 1e-5


FORMS = [
    Bottleneck(4),
    Bottleneck(FOLDED_FROM),
    Bottleneck(4, adapter_block=False),
    NormScale(1e-6),
    ParallelBottleneck(3),
    LowRank(2),
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


@pytest.mark.parametrize("form", [Bottleneck(4), Bottleneck(FOLDED_FROM), NormScale(1e-6)])
def test_weights_shared_by_all_conditions_may_stand_beside_ones_that_are_not(form: Any) -> None:
    weights, y = draw(form.weights(SITE), 3), states()
    shared = {name: value[:1] if "norm" in name else value for name, value in weights.items()}
    spelt_out = {
        name: value[:1].expand(3, -1) if "norm" in name else value for name, value in weights.items()
    }
    assert (applied(form, y, y, shared) - applied(form, y, y, spelt_out)).abs().max() < 1e-5


@pytest.mark.parametrize("form", [Bottleneck(4), Bottleneck(FOLDED_FROM)])
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


@pytest.mark.parametrize(("near", "shift"), [(-0.9, 100.0), (-0.999, 0.0)])
def test_a_folded_norm_keeps_its_digits_where_columns_nearly_cancel_and_far_from_zero(
    near: float, shift: float
) -> None:
    form = Bottleneck(FOLDED_FROM)
    weights, y = draw(form.weights(SITE), 1), states()
    for name, factor in (("up", near), ("down", 1.0), ("down_bias", 1.0)):
        axis = -1 if name == "up" else 1
        weights[name].select(axis, 1).copy_(factor * weights[name].select(axis, 0))
    weights["up_bias"] = shift + 0.01 * weights["up_bias"]
    exact = {name: value[0].double() for name, value in weights.items()}
    expected = torch.stack([houlsby(row, exact, BY_HAND["gelu_new"], block=True) for row in y.double()])
    assert (applied(form, y, y, weights) - expected).abs().max() < 2e-3


def test_a_folded_norms_deviation_is_exact_under_autocast() -> None:
    form = Bottleneck(FOLDED_FROM)
    weights = {name: value[:, None] for name, value in draw(form.weights(SITE), 1).items()}
    hidden = states()[..., :3]  # of the bottleneck's width and a one
    exact = form.prepare({name: value.double() for name, value in weights.items()}, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        prepared = form.prepare(weights, torch.bfloat16)
        found = inverse_deviation(hidden, prepared["variance"][:, 0])
    assert prepared["up"].dtype == torch.bfloat16
    assert torch.allclose(found, inverse_deviation(hidden.double(), exact["variance"][:, 0]), rtol=1e-5)


def test_in_float16_nothing_is_folded_as_its_range_would_be_left() -> None:
    form = Bottleneck(FOLDED_FROM)
    weights, y = draw(form.weights(SITE), 1), 300 * states()
    weights["up"] = 0 * weights["up"]
    weights["up_bias"] = 0 * weights["up_bias"]
    low = {name: value.half() for name, value in weights.items()}
    expected = y + weights["norm_bias"]
    assert (applied(form, y.half(), y.half(), low).float() - expected).abs().max() < 1


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
    form = Bottleneck(FOLDED_FROM)
    weights, y = draw(form.weights(SITE), 3), states()
    stacked = {name: weight.unsqueeze(1) for name, weight in weights.items()}
    assert "variance" in form.prepare(stacked, y.dtype)
    folded = applied(form, y, y, weights)
    with torch.no_grad():
        assert "variance" not in form.prepare(stacked, y.dtype)
        torch.testing.assert_close(applied(form, y, y, weights), folded, rtol=1e-5, atol=1e-5)
