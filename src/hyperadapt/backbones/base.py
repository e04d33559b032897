"""What a model family is: a table of names, from which the sites of a model are found.

Widths are read from the model's own modules. No family has code but for the configurations of its published models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig

from hyperadapt.errors import UserError, nearest, notice, shortened
from hyperadapt.sites import Site, Source, Tap

ArchitectureName = Literal["encoder_decoder", "decoder_only", "encoder_only"]
# The class of transformers that loads a model of an architecture: with its output layer, where it writes.
AUTO_CLASSES: dict[ArchitectureName, str] = {
    "encoder_decoder": "AutoModelForSeq2SeqLM",
    "decoder_only": "AutoModelForCausalLM",
    "encoder_only": "AutoModel",
}


class NormKind(StrEnum):
    """The formula of a family's norms, with w the scale and b the shift."""

    RMS = "w x / rms(x)"
    RMS_PLUS_ONE = "(1 + w) x / rms(x)"
    LAYER = "w (x - mean(x)) / std(x) + b"


def around(norm: str) -> dict[Tap, Source]:
    """Return the taps of a sub-layer that has a norm of this path before it, and none of its own sum."""
    return {Tap.BLOCK_INPUT: Source(norm, "input"), Tap.NORM_OUTPUT: Source(norm, "output")}


@dataclass(frozen=True)
class Stack:
    """Where the places of one stack lie; paths within a block are relative to it.

    Attributes:
        path: of the stack in the model; "" where the model is the stack.
        blocks: of its blocks, in the stack.
        places: position -> path in a block of the module there. What "self_attention" and "feed_forward" name gives the
            sub-layer's output before dropout and residual; "feed_forward.output" is its last linear map,
            "self_attention.q" a map of the attention. "feed_forward.sum", where there is one, is a module that adds
            the sub-layer's output to its input.
        taps: what forms may read of the feed-forward sub-layer, and in which module of a block it is found.
        norms: name -> path in a block, in the order in which a batch passes them.
        outer_norms: name -> path in the stack of norms before and behind all blocks.
    """

    path: str
    blocks: str
    places: Mapping[str, str]
    taps: Mapping[Tap, Source]
    norms: Mapping[str, str]
    outer_norms: Mapping[str, str] = field(default_factory=dict)

    @property
    def attention_maps(self) -> tuple[str, ...]:
        """The positions of the linear maps of its attentions."""
        return tuple(position for position in self.places if "attention." in position)

    def in_model(self, path: str) -> str:
        """Return the path in the model of what has one in the stack."""
        return f"{self.path}.{path}" if self.path else path


@dataclass(frozen=True)
class Backbone:
    """A model family.

    Attributes:
        name: in messages.
        architecture: the name of how rows go into it and answers come out (hyperadapt.architectures).
        model_types: as configurations of transformers have them.
        stacks: by name, in the order in which a batch passes them.
        norm: the formula of its norms.
        norm_eps: the field of the configuration that holds their epsilon; None where the norms alone do.
        published: makes the configuration of a published model of its name, without any download; None of others.
        loading: options with which its models are loaded and built.
        fixed: ends of the names of parameters that are computed, and never trained.
        hands_on: whether its stacks hand further arguments on to their blocks.
        fields: of configurations of published models, which transformers' class takes without naming them.
        not_of_rows: ends of the paths of linear maps that read what is no row, as embeddings of positions, of a
            configuration: they have no task, and stay as they are.
        positions: the most tokens of an input that a configuration has places for; None where that is any number.
    """

    name: str
    architecture: ArchitectureName
    model_types: tuple[str, ...]
    stacks: Mapping[str, Stack]
    norm: NormKind
    norm_eps: str | None
    published: Callable[[str], PretrainedConfig | None] = field(default=lambda name: None)
    loading: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    hands_on: bool = True
    fields: tuple[str, ...] = ()
    not_of_rows: Callable[[Any], tuple[str, ...]] = field(default=lambda config: ())
    positions: Callable[[Any], int | None] = field(
        default=lambda config: getattr(config, "max_position_embeddings", None)
    )

    @property
    def auto_class(self) -> Any:
        """The class of transformers that loads and builds its models."""
        return getattr(transformers, AUTO_CLASSES[self.architecture])

    def build(self, config: PretrainedConfig) -> Any:
        """Build a model of a configuration, with random weights."""
        return self.auto_class.from_config(config, **self.loading)

    def load(self, model_class: Any, name: str, trust_remote_code: bool = False, **options: Any) -> Any:
        """Load a model by transformers, and say in one line each what its files lack and what of them is left out.

        That heads of an encoder alone are left out is no news: tasks have their own. Transformers' report, of many
        lines, is left out too.

        Args:
            model_class: of transformers.
            name: of a directory, or on the hub.
            trust_remote_code: must be false; nobody's code is run.
            options: of `from_pretrained`.
        """
        assert not trust_remote_code
        logger = logging.getLogger("transformers.modeling_utils")
        logger.addFilter(no_report)
        try:
            model, report = model_class.from_pretrained(
                name, trust_remote_code=False, output_loading_info=True, **{**self.loading, **options}
            )
        finally:
            logger.removeFilter(no_report)
        known = HEADS if self.has_heads else ()
        left_out = [weight for weight in sorted(report["unexpected_keys"]) if not weight.startswith(known)]
        if missing := sorted(report["missing_keys"]):
            notice(f"{name} lacks weights of a {type(model).__name__}, which are drawn: {few_of(missing)}")
        if left_out:
            notice(
                f"{name} has weights that a {type(model).__name__} has not, and are left out: {few_of(left_out)}"
            )
        return model

    def modules(self, model: Any) -> dict[str, nn.Module]:
        """Return the model's stacks by name.

        Raises:
            UserError: if it has not all of the family's.
        """
        found = {}
        for name, stack in self.stacks.items():
            if get_module(model, stack.in_model(stack.blocks)) is None:
                raise UserError(
                    f"a {type(model).__name__} has no {name}; load the model with {AUTO_CLASSES[self.architecture]}"
                )
            found[name] = model.get_submodule(stack.path)
        return found

    def blocks(self, model: Any, stack: str) -> Sequence[nn.Module]:
        """Return a stack's blocks in order."""
        return list(attrgetter(self.stacks[stack].blocks)(self.modules(model)[stack]))

    def block_paths(self, model: Any, stack: str) -> list[str]:
        """Return the paths in the model of a stack's blocks, in order."""
        table = self.stacks[stack]
        return [table.in_model(f"{table.blocks}.{layer}") for layer in range(len(self.blocks(model, stack)))]

    @property
    def has_heads(self) -> bool:
        """Whether its models write nothing, so that each task has a head of its own."""
        return self.architecture == "encoder_only"

    @property
    def has_shifts(self) -> bool:
        """Whether its norms are layer norms, which have a shift."""
        return self.norm == NormKind.LAYER

    def eps(self, model: Any) -> float:
        """Return the epsilon of the model's norms."""
        if self.norm_eps is not None:
            return getattr(model.config, self.norm_eps)
        norm: Any = model.get_submodule(self.norm_sites(model, next(iter(self.stacks)))[0].path)
        return norm.eps

    def sites(self, model: Any, stack: str, positions: Sequence[str]) -> tuple[Site, ...]:
        """Return the sites behind a stack's sub-layers, block by block, positions in the given order.

        Raises:
            UserError: if the family has no such position.
        """
        table, width = self.stacks[stack], model.config.hidden_size
        known = [place for place in table.places if "." not in place]
        for position in positions:
            if position not in known:
                raise UserError(f"{self.name} has no position '{position}'; {nearest(position, known)}")
        return tuple(
            Site(stack, layer, position, f"{block}.{table.places[position]}", width, width)
            for layer, block in enumerate(self.block_paths(model, stack))
            for position in positions
        )

    def feed_forward_sites(self, model: Any, stack: str) -> tuple[Site, ...]:
        """Return a stack's feed-forward sub-layers, for forms that run beside them and read the state before them."""
        table, width = self.stacks[stack], model.config.hidden_size
        place = table.places.get("feed_forward.sum", table.places["feed_forward"])
        return tuple(
            Site(stack, layer, "feed_forward", f"{block}.{place}", width, width, self.sources(table, block))
            for layer, block in enumerate(self.block_paths(model, stack))
        )

    def linear_maps(self, model: Any, stack: str, positions: Sequence[str]) -> tuple[Site, ...]:
        """Return linear maps of a stack's blocks that read rows, block by block, positions in the given order."""
        table, width, found = self.stacks[stack], model.config.hidden_size, []
        left_out = self.not_of_rows(model.config)
        for layer, block in enumerate(self.block_paths(model, stack)):
            for position in positions:
                path = f"{block}.{table.places[position]}"
                if path.endswith(left_out):
                    continue
                d_in, d_out = widths_of(model.get_submodule(path))
                found.append(
                    Site(stack, layer, position, path, d_in, d_out, self.sources(table, block), width)
                )
        return tuple(found)

    def norm_start(self, model: Any, site: Site) -> Tensor:
        """Return what a norm of the model computes with, flat: its scale, and its shift where it has one."""
        norm: Any = model.get_submodule(site.path)
        if self.norm == NormKind.LAYER:
            shift = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
            return torch.cat([norm.weight.detach(), shift.detach()]).float()
        scale = norm.weight.detach().float()
        return 1 + scale if self.norm == NormKind.RMS_PLUS_ONE else scale

    def norm_sites(self, model: Any, stack: str) -> tuple[Site, ...]:
        """Return all of a stack's norms as sites; the layer of those outside its blocks is -1."""
        table, width = self.stacks[stack], model.config.hidden_size
        places = [
            (layer, name, f"{block}.{path}")
            for layer, block in enumerate(self.block_paths(model, stack))
            for name, path in table.norms.items()
        ]
        places += [(-1, name, table.in_model(path)) for name, path in table.outer_norms.items()]
        # Where a block has none, as ModernBERT's first, there is a module that does nothing.
        found = [(place, get_module(model, place[2])) for place in places]
        return tuple(Site(stack, *place, width, width) for place, norm in found if hasattr(norm, "weight"))

    @staticmethod
    def sources(table: Stack, block: str) -> dict[Tap, Source]:
        """Return where forms find what they read in a block of this path."""
        return {tap: Source(f"{block}.{source.path}", source.side) for tap, source in table.taps.items()}


# What encoders alone are pretrained and fine-tuned with, as published models name it.
HEADS = (
    "pooler.",
    "cls.",
    "lm_head.",
    "head.",
    "decoder.",
    "classifier.",
    "lm_predictions.",
    "mask_predictions.",
)


def few_of(names: Sequence[str]) -> str:
    """List names, of many the first three and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(map(shortened, names[:3]))}{more}"


def no_report(record: logging.LogRecord) -> bool:
    """Tell transformers' report of loading from what else it logs."""
    return "LOAD REPORT" not in record.getMessage()


def get_module(model: Any, path: str) -> Any:
    """Return the module at a path, None where there is none."""
    try:
        return attrgetter(path)(model)
    except AttributeError:
        return None


def is_transposed(module: Any) -> bool:
    """Tell whether a linear map keeps its matrix transposed, as GPT-2's do."""
    return not hasattr(module, "in_features")


def widths_of(module: Any) -> tuple[int, int]:
    """Return the widths of a linear map's input and output."""
    if is_transposed(module):
        d_in, d_out = module.weight.shape
        return d_in, d_out
    return module.in_features, module.out_features
