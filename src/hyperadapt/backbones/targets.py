"""The linear maps of a model that PEFT's target_modules name."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from hyperadapt.backbones.base import Backbone, widths_of
from hyperadapt.errors import UserError, nearest
from hyperadapt.sites import Site

Targets = str | Sequence[str]
ALL_LINEAR = "all-linear"  # PEFT's word for every linear map of the blocks
POOLER = "pooler."  # of an encoder alone
# The maps of queries and values, or the one that makes them all, as PEFT's defaults.
BY_DEFAULT = ("q", "v", "qkv")


def target_maps(backbone: Backbone, model: Any, targets: Targets | None) -> dict[str, tuple[Site, ...]]:
    """Find the linear maps to be changed in each stack, block by block, in the model's order.

    Args:
        backbone: the model's.
        model: the base model.
        targets: as PEFT's target_modules: names of modules or ends of their paths, a regular expression for whole
            paths, or "all-linear"; None takes the maps of queries and values.

    Returns:
        stack -> its sites, of those stacks that have some; a site's position is its path in the block.

    Raises:
        UserError: if a name matches nothing, or what is matched is no linear map of a block.
    """
    blocks = {
        path: (stack, layer)
        for stack in backbone.stacks
        for layer, path in enumerate(backbone.block_paths(model, stack))
    }
    left_out = backbone.not_of_rows(model.config)
    maps = {
        name: (block, module)
        for name, module in model.named_modules()
        if is_linear(module) and (block := block_of(name, blocks)) is not None and not name.endswith(left_out)
    }
    if targets is None:
        named = default_paths(backbone, blocks) & maps.keys()
    elif isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        named = set(maps)
    else:
        # Heads of tasks take the pooler's place.
        paths = [name for name, _ in model.named_modules() if name and not name.startswith(POOLER)]
        named = matched(paths, targets, maps)
    if not named:
        raise UserError(f"target_modules: none is named; {nearest('', last_names(maps))}")
    if wrong := [name for name in sorted(named) if name not in maps]:
        module = model.get_submodule(wrong[0])
        kind = type(module).__name__
        what = "lies outside the blocks" if is_linear(module) else f"is no linear map but a {kind}"
        if wrong[0].endswith(left_out):
            what = "reads embeddings of positions too, which are no task's"
        raise UserError(f"target_modules: {wrong[0]} {what}; {nearest(wrong[0], last_names(maps))}")
    found: dict[str, list[Site]] = {}
    for name, (block, module) in maps.items():
        if name in named:
            stack, layer = blocks[block]
            position = name.removeprefix(f"{block}.")
            found.setdefault(stack, []).append(Site(stack, layer, position, name, *widths_of(module)))
    return {stack: tuple(found[stack]) for stack in backbone.stacks if stack in found}


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear map: PyTorch's, a quantised one, or GPT-2's, whose matrix is transposed."""
    return isinstance(module, nn.Linear | Conv1D)


def block_of(name: str, blocks: Container[str]) -> str | None:
    """Return the path of the block in which a module lies, None of one outside of them."""
    parts = name.split(".")
    return next((path for end in range(1, len(parts)) if (path := ".".join(parts[:end])) in blocks), None)


def default_paths(backbone: Backbone, blocks: dict[str, tuple[str, int]]) -> set[str]:
    """Return the paths of the maps of queries and values in every block."""
    return {
        f"{block}.{backbone.stacks[stack].places[position]}"
        for block, (stack, _) in blocks.items()
        for position in backbone.stacks[stack].attention_maps
        if position.rpartition(".")[2] in BY_DEFAULT
    }


def matched(paths: Sequence[str], targets: Targets, maps: Iterable[str]) -> set[str]:
    """Return which modules are named.

    Args:
        paths: of all modules.
        targets: a regular expression, or names.
        maps: paths of the linear maps, for messages.

    Raises:
        UserError: if an expression or a name matches nothing.
    """
    if isinstance(targets, str):
        try:
            expression = re.compile(targets)
        except re.error as error:
            raise UserError(f"target_modules: '{targets}' is no regular expression ({error})") from None
        found = {path for path in paths if expression.fullmatch(path)}
        if not found:
            raise UserError(
                f"target_modules: the regular expression '{targets}' matches no whole path of a module, as "
                f"{next(iter(maps))}; names are written as a list, as [{targets}]; {nearest('', last_names(maps))}"
            )
        return found
    found = set()
    for name in targets:
        ends = {path for path in paths if path == name or path.endswith(f".{name}")}
        if not ends:
            raise UserError(f"target_modules: there is no module '{name}'; {nearest(name, last_names(maps))}")
        found |= ends
    return found


def last_names(paths: Iterable[str]) -> list[str]:
    """List the last parts of paths, each once."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def shortest_targets(model: Any, paths: Sequence[str]) -> list[str]:
    """Return the shortest ends of paths that name these modules and no other: what PEFT takes as target_modules."""
    chosen = set(paths)
    others = [
        name for name, _ in model.named_modules() if name not in chosen and not name.startswith("hyperadapt")
    ]
    others.append(f"{POOLER}dense")  # which the base model may have, though `adapt` takes it out
    found: dict[str, None] = {}
    for path in paths:
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            end = ".".join(parts[-length:])
            if end in found:
                break
            if not any(other == end or other.endswith(f".{end}") for other in others):
                found[end] = None
                break
    return list(found)
