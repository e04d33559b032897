"""The methods: each one a choice of condition, generator, form and site, and the options that its paper varies.

A paper's methods are one file; `METHODS` is where configurations and saved models find them by name.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from hyperadapt.errors import UserError, nearest
from hyperadapt.methods.base import FullFineTuning, Method
from hyperadapt.methods.hyperdecoders import Hyperdecoder, SingleAdapter, TaskHypernet
from hyperadapt.methods.hyperformer import Adapters, AdaptersDagger, HyperFormer, HyperFormerPlusPlus
from hyperadapt.methods.hypergrid import HyperGrid, OutputGate
from hyperadapt.methods.lora import HyperLoRA, LoRA, SharedLoRA
from hyperadapt.methods.polytropon import Polytropon

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        FullFineTuning,
        Adapters,
        AdaptersDagger,
        HyperFormer,
        HyperFormerPlusPlus,
        Hyperdecoder,
        SingleAdapter,
        TaskHypernet,
        Polytropon,
        HyperGrid,
        OutputGate,
        LoRA,
        SharedLoRA,
        HyperLoRA,
    )
}


def method_from(options: Mapping[str, Any]) -> Method:
    """Make a method from its name and options, as a configuration file has them.

    Raises:
        UserError: if the name or an option is unknown, or a value is of the wrong type.
    """
    options = dict(options)
    name = options.pop("name", None)
    if name is None:
        raise UserError(f"method: the field 'name' is missing; choices: {', '.join(METHODS)}")
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"method '{name}' is unknown; {nearest(name, METHODS, len(METHODS))}")
    return METHODS[name](**options)


def as_method(method: Method | type[Method] | Mapping[str, Any] | str) -> Method:
    """Return a method, which may be given by its name or class alone, or by name and options as in a configuration.

    Raises:
        UserError: if it is none, or an option is wrong.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return method_from({"name": method})
    if isinstance(method, Mapping):
        return method_from(method)
    if isinstance(method, type) and issubclass(method, Method) and method is not Method:
        return method()
    raise UserError(f"{reprlib.repr(method)} is no method; choices: {', '.join(METHODS)}")
