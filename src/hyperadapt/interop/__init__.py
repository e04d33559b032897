"""Checkpoints of the reference implementations, imported; each is one file, which maps its names to ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from hyperadapt.errors import UserError, nearest
from hyperadapt.interop import hyperdecoders, hyperformer
from hyperadapt.interop.state import load_exactly
from hyperadapt.model.adapt import adapt

SOURCES: dict[str, ModuleType] = {"hyperformer": hyperformer, "hyperdecoders": hyperdecoders}
ABSENT_TODAY = "EncDecAttention.relative_attention_bias"  # zero there, and no part of T5 today


def from_reference(state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Any:
    """Import a checkpoint of a reference implementation.

    Args:
        state: its state dict.
        meta: "source" (hyperformer, hyperdecoders), "tasks", "adapter" (its adapter configuration) and "t5" (the
            arguments of T5Config); of hyperformer also "reduction_factor" and "non_linearity".

    Returns:
        An adapted T5 in evaluation mode, equal to the reference model.

    Raises:
        UserError: if the source is unknown, meta lacks a field, or the state does not fit it.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    require(meta, ("source", "tasks", "adapter", "t5"))
    if meta["source"] not in SOURCES:
        raise UserError(
            f"from_reference: source '{meta['source']}' is unknown; {nearest(meta['source'], SOURCES)}"
        )
    source = SOURCES[meta["source"]]
    require(meta, source.FIELDS)
    try:
        method = source.method_of(meta)
    except KeyError as missing:
        raise UserError(f"from_reference: meta's adapter lacks the field {missing}") from None
    base = T5ForConditionalGeneration(T5Config(**{**meta["t5"], "decoder_start_token_id": 0}))
    if not meta["t5"].get("tie_word_embeddings", True):
        # T5Config takes the option as the output's scale alone.
        base.lm_head.weight = nn.Parameter(base.lm_head.weight.detach().clone())
    base_state = {
        name: value
        for name, value in state.items()
        if ABSENT_TODAY not in name and not any(part in name for part in source.ADDED)
    }
    load_exactly(base, base_state, "the base model")
    model = adapt(base, method, meta["tasks"])
    added = {name: value for name, value in state.items() if any(part in name for part in source.ADDED)}
    load_exactly(model.hyperadapt, source.imported(model, added), "the adaptation")
    if added:
        raise UserError(f"from_reference: the state holds '{next(iter(added))}', for which meta has no place")
    return model.eval()


def require(meta: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    """Check that meta has what the import reads."""
    for field in fields:
        if field not in meta:
            raise UserError(f"from_reference: meta lacks the field '{field}'")
