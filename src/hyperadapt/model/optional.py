"""What makes an adapted model faster, if the folder hyperadapt/fast is there; if not, it is slower and the same."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

IS_THERE = find_spec("hyperadapt.fast") is not None


def speed_up(base: Any, backbone: Any, adaptation: Any) -> None:
    """Speed up the base model and the method's forms, before its sites take them."""
    if IS_THERE:
        from hyperadapt import fast

        fast.speed_up_forms(adaptation)
        fast.speed_up_base(base, backbone)


def speed_up_output_layer(model: Any) -> None:
    """Speed up the output layer, which may be another module since."""
    if IS_THERE:
        from hyperadapt import fast

        fast.speed_up_output_layer(model)
