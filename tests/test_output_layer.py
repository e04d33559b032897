"""The output layer: oneDNN's product is the same map, with the same gradient, wherever it is taken."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import hyperadapt as ha
from hyperadapt.fast import output_layer
from hyperadapt.fast.output_layer import OutputLayer
from hyperadapt.model.mixed import subclass
from tiny import PLUS_PLUS, TASKS, tiny_adapted, tiny_batch, tiny_t5

LIBRARIES = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="this PyTorch does not have both MKL and oneDNN")


def test_pytorch_still_has_its_private_binding_of_onednns_product() -> None:
    """Without it the layer would silently be slower, and the other tests of it mean nothing."""
    assert output_layer.HAS_BOTH


@contextmanager
def products() -> Iterator[list[str]]:
    """Note which library's products are called."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = operator.name()
            if "linear_pointwise" in name:
                called.append("onednn")
            elif name in ("aten::mm", "aten::addmm", "aten::linear"):
                called.append("pytorch")
            return operator(*args, **(kwargs or {}))

    called: list[str] = []
    with Watch():
        yield called


def frozen_map(d_in: int = 12, d_out: int = 20) -> Any:
    torch.manual_seed(0)
    module = nn.Linear(d_in, d_out, bias=False).requires_grad_(False)
    subclass(module, OutputLayer)
    return module


INPUTS = {
    "rows of tokens": torch.randn(3, 5, 12),
    "one token": torch.randn(1, 12),
    "one vector": torch.randn(12),
    "no row": torch.randn(0, 5, 12),
    "transposed": torch.randn(5, 3, 12).transpose(0, 1),
    "every other": torch.randn(3, 5, 24)[..., ::2],
    "expanded": torch.randn(1, 1, 12).expand(3, 5, 12),
}


@pytest.mark.parametrize("name", list(INPUTS))
def test_it_is_the_linear_map_and_has_its_gradient(name: str) -> None:
    module, x = frozen_map(), INPUTS[name].detach().requires_grad_(True)
    with products() as called:
        y = module(x)
    assert called == ["onednn"]
    expected = F.linear(x, module.weight)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    gradient = torch.randn_like(y)
    [found] = torch.autograd.grad(y, x, gradient)
    [asked] = torch.autograd.grad(expected, x, gradient)
    torch.testing.assert_close(found, asked, rtol=1e-5, atol=1e-6)
    with torch.no_grad(), products() as called:
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
    assert called == ["onednn"]


def test_it_keeps_no_input_for_the_backward() -> None:
    module, x = frozen_map(), torch.randn(3, 5, 12, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x)
    assert [tensor.data_ptr() for tensor in kept] == [module.weight.data_ptr()]


def test_what_it_returns_may_be_changed_in_place() -> None:
    module, x = frozen_map(), torch.randn(3, 5, 12, requires_grad=True)
    F.relu(module(x), inplace=True).sum().backward()
    expected = torch.autograd.grad(F.relu(F.linear(x, module.weight)).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)


def cubed(layer: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: (layer(x) ** 3).sum()


def test_other_derivatives_are_right_or_refused() -> None:
    layer, x = frozen_map(), torch.randn(4, 12)
    plain = nn.Linear(12, 20, bias=False).requires_grad_(False)
    plain.load_state_dict(layer.state_dict())
    ways: list[Callable[[Any], Tensor]] = [
        lambda of: torch.func.grad(cubed(of))(x),
        lambda of: torch.vmap(of)(x),
        lambda of: torch.autograd.functional.hessian(cubed(of), x[0]),
    ]
    for way in ways:
        torch.testing.assert_close(way(layer), way(plain), rtol=1e-4, atol=1e-4)
    for refused in (lambda: torch.func.jvp(layer, (x,), (x,)), lambda: torch.func.hessian(cubed(layer))(x)):
        with pytest.raises(RuntimeError, match="jvp"):
            refused()


def in_float64(module: Any, x: Tensor) -> Tensor:
    return module.double()(x.double())


def in_bfloat16(module: Any, x: Tensor) -> Tensor:
    return module.bfloat16()(x.bfloat16())


def under_autocast(module: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    return y


def switched_off(module: Any, x: Tensor) -> Tensor:
    with torch.backends.mkldnn.flags(enabled=False):
        return module(x)


def traced(module: Any, x: Tensor) -> Tensor:
    return torch.jit.trace(module, (x,), check_trace=False)(x)


def with_many_tokens(module: Any, x: Tensor) -> Tensor:
    return module(x.repeat(1, 20, 1))


def with_a_trained_weight(module: Any, x: Tensor) -> Tensor:
    module.weight.requires_grad_(True)
    return module(x)


ELSEWHERE = [
    in_float64,
    in_bfloat16,
    under_autocast,
    switched_off,
    traced,
    with_many_tokens,
    with_a_trained_weight,
]


@pytest.mark.parametrize("way", ELSEWHERE)
def test_elsewhere_it_is_the_base_models_own(way: Any) -> None:
    module, x = frozen_map(), torch.randn(3, 5, 12)
    plain = nn.Linear(12, 20, bias=False).requires_grad_(False)
    plain.load_state_dict(module.state_dict())
    with products() as called:
        y = way(module, x)
    assert set(called) == {"pytorch"}
    assert torch.equal(y, way(plain, x))
    if module.weight.requires_grad:
        y.sum().backward()
        assert module.weight.grad is not None


def test_an_adapted_models_output_layer_takes_it_where_it_is_frozen() -> None:
    model = tiny_adapted(PLUS_PLUS)
    assert [name for name, of in model.named_modules() if isinstance(of, OutputLayer)] == ["lm_head"]
    with products() as called:
        model(**tiny_batch())
    assert called.count("onednn") == 1
    full = ha.adapt(tiny_t5(), ha.FullFineTuning(), TASKS)
    assert not any(isinstance(module, OutputLayer) for module in full.modules())


def test_an_adapted_models_gradients_are_those_without_it() -> None:
    model = tiny_adapted(PLUS_PLUS)
    plain = copy.deepcopy(model)
    model(**tiny_batch()).loss.backward()
    with torch.backends.mkldnn.flags(enabled=False):
        plain(**tiny_batch()).loss.backward()
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)
