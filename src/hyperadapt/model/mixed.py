"""Classes that are mixed in before a module's own at run time: made once, copied and pickled as any other."""

from __future__ import annotations

import copy
import inspect
from functools import cache
from typing import Any

from torch import nn


def subclass(module: nn.Module, mixin: Any) -> None:
    """Put a mixin before a module's class."""
    module.__class__ = mixed(mixin, type(module))  # type: ignore[arg-type]


@cache
def mixed(mixin: Any, original: Any) -> type:
    """Make a class of both, one for all modules of a class, as torch.compile looks at each class anew.

    It keeps its name and module, by which transformers, FSDP and device maps know it, and its forward's signature, from
    which Trainer and generate read what may be passed.
    """
    signature = inspect.signature(original.forward)
    added = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(mixin.forward).parameters.items()
        if name not in {*signature.parameters, "args", "kwargs"}
    ]
    parameters = sorted([*signature.parameters.values(), *added], key=lambda parameter: parameter.kind)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return mixin.forward(self, *args, **kwargs)

    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    names = {name: getattr(original, name) for name in ("__module__", "__qualname__")}
    own = {"forward": forward, "_mixed_from": (mixin, original)}
    copies = {"__reduce_ex__": reduce_mixed, "__deepcopy__": copy_mixed}
    return type(original.__name__, (mixin, original), {**names, **own, **copies})


def original_class(mixture: Any) -> Any:
    """Return the class before which others were mixed in."""
    while "_mixed_from" in vars(mixture):
        mixture = vars(mixture)["_mixed_from"][1]
    return mixture


def reduce_mixed(module: nn.Module, protocol: int) -> Any:
    """Copy or pickle a module as any object, but for its class, which `import` would not find under its name."""
    original, mixins = type(module), list[Any]()
    while "_mixed_from" in vars(original):
        mixin, original = vars(original)["_mixed_from"]
        mixins.append(mixin)
    reduced: Any = object.__reduce_ex__(module, max(protocol, 2))
    _, _, *state = reduced
    return (blank, (original, *reversed(mixins)), *state)


def copy_mixed(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a module deeply; copied alone, as PEFT copies norms, it shares what its class says is `not_copied`."""
    make, arguments, state, *_ = reduce_mixed(module, 2)
    kept = set[str]() if memo else getattr(type(module), "not_copied", set())
    memo[id(module)] = copied = make(*arguments)
    copied.__setstate__(
        {name: value if name in kept else copy.deepcopy(value, memo) for name, value in state.items()}
    )
    return copied


def blank(original: Any, *mixins: Any) -> nn.Module:
    """Make an empty object of a class and what was mixed in before it, one after another."""
    for mixin in mixins:
        original = mixed(mixin, original)
    return original.__new__(original)
