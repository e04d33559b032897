"""All or nothing: what fails half-way leaves a model as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel


@contextmanager
def unchanged_on_failure(model: PreTrainedModel) -> Iterator[None]:
    """Give a model back its classes, attributes, hooks, types and frozen parameters if anything is raised within.

    The numbers of its tensors are not copied: what is done within does not write into them.
    """
    classes = [(module, module.__class__) for module in model.modules()]
    attributes = [snapshot(vars(module)) for module, _ in classes]
    config = snapshot(vars(model.config))
    parameters = [(parameter, parameter.requires_grad, parameter.data) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for (module, kind), before in zip(classes, attributes, strict=True):
            module.__class__ = kind
            restore(before)
        restore(config)
        for parameter, trained, data in parameters:
            parameter.data = data
            parameter.requires_grad_(trained)
        raise


def snapshot(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Copy an object's attributes, and those of them that are containers, as a module's parameters and hooks are."""
    containers = [value for value in attributes.values() if isinstance(value, dict | set)]
    return [(container, container.copy()) for container in (attributes, *containers)]


def restore(before: list[tuple[Any, Any]]) -> None:
    """Fill the containers as they were; they stay the same objects, to which handles of hooks refer."""
    for container, content in before:
        container.clear()
        container.update(content)
