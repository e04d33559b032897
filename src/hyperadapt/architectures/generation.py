"""Generation of answers: what a base model's own generation_config would add to it is left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from hyperadapt.errors import notice

# Of a base model's generation_config: the tokens that begin, end and fill a text, and how it is computed.
HONOURED = {
    *("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"),
    *("use_cache", "cache_implementation", "cache_config", "compile_config", "disable_compile"),
}


def plain_generation(brought: GenerationConfig, starts: Sequence[int] = ()) -> dict[str, Any]:
    """Return options that undo what a base model's generation_config asks for, but for what is `HONOURED`.

    A model is trained to write its targets alone. Penalties, forced tokens and lengths that its base brings along are
    for other texts, and several sequences or records of scores are no answer. A forced first token with which every
    target starts, as mBART's of a language, is what would be written anyway.

    Args:
        brought: the base model's.
        starts: the tokens with which every target starts.
    """
    neutral = {**vars(GenerationConfig()), **GenerationConfig._get_default_generation_params()}
    kept = {*HONOURED, "transformers_version"}
    if brought.forced_bos_token_id in starts[:1]:
        kept.add("forced_bos_token_id")
    undone = {
        name: value
        for name, value in vars(brought).items()
        if name in neutral.keys() - kept and name[0] != "_" and value and value != neutral[name]
    }
    if undone:
        listed = ", ".join(f"{name}={value!r}" for name, value in undone.items())
        notice_once(f"predicting goes without what the base model's generation_config asks for: {listed}")
    # These two give way to max_new_tokens and min_new_tokens.
    return {name: neutral[name] for name in undone.keys() - {"max_length", "min_length"}}


@cache
def notice_once(message: str) -> None:
    """Say it once a process: a training predicts many times."""
    notice(message)


def likelihoods_of(logits: Tensor, tokens: Tensor, ends: Any, per_token: bool) -> list[float]:
    """Add up, or average, the logarithms of the probabilities of each sequence's tokens, its end included.

    Args:
        logits: (batch, tokens, vocabulary), of what comes at each place.
        tokens: (batch, tokens), what did come.
        ends: the number of the end token, several, or None.
        per_token: average.
    """
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), tokens, reduction="none")
    # What follows the end fills the batch, with whatever token; the same token may be one of the text before it.
    ended = torch.isin(tokens, torch.as_tensor([] if ends is None else ends, device=tokens.device)).long()
    behind = ended.cumsum(1) > ended
    sums = -losses.masked_fill(behind, 0.0).sum(1)
    return (sums / behind.logical_not().sum(1) if per_token else sums).tolist()
