"""Task features z from what is said of a task: the mean of a frozen text encoder's last states.

So a task that was never trained has parameters as soon as it is described (Text-to-LoRA, Charakorn et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperadapt import hub
from hyperadapt.conditioning import mean_state
from hyperadapt.errors import UserError, nearest, reason_of, shortened
from hyperadapt.fields import one_or_more
from hyperadapt.tiny_t5 import NAME, place_of

AT_ONCE = 64  # descriptions that are read in one batch
UNBOUNDED = 10**6  # tokenizers say of a model without a limit that it reads more than this
LONGEST = 512  # tokens that an encoder reads whose files say nothing of it

Descriptions = Mapping[str, str | Sequence[str]]


class TextEncoder(NamedTuple):
    """A frozen text encoder.

    Attributes:
        name: for messages.
        tokenizer, model: of transformers; the model is its encoder alone.
        longest: tokens that it reads.
    """

    name: str
    tokenizer: Any
    model: nn.Module
    longest: int


@lru_cache(maxsize=2)
def load_encoder(name: str) -> TextEncoder:
    """Load a text encoder, once for a process.

    Args:
        name: a hub name or a local directory, of an encoder or of a model that has one.

    Raises:
        UserError: if it cannot be loaded, or has no encoder.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        AutoModel,
        AutoTokenizer,
    )

    place = place_of(name)
    with hub.asking(place, "method.text_encoder") as unreachable:
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            model: Any = AutoModel.from_pretrained(place, trust_remote_code=False, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise UserError(
                f"text_encoder '{name}' is neither a local directory of transformers nor on the hub "
                f"({unreachable or reason_of(error)}); '{NAME}' comes with the package"
            ) from None
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        model = model.get_encoder()
    elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(f"text_encoder '{name}' is a decoder alone; name an encoder, or a model that has one")
    said = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    limits = [limit for limit in said if isinstance(limit, int) and 0 < limit < UNBOUNDED]
    return TextEncoder(name, tokenizer, model.eval().requires_grad_(False), min(limits, default=LONGEST))


def described(tasks: Sequence[str], descriptions: Descriptions, encoder: str) -> Tensor:
    """Encode what is said of tasks.

    Args:
        tasks: names, in the order of their ids.
        descriptions: task -> one or several.
        encoder: the name of a text encoder.

    Returns:
        (n_tasks, most, t'), zeros where a task has fewer descriptions than another.

    Raises:
        UserError: if a task has none, one is no text, empty, or longer than the encoder reads, or of no task.
    """
    for name in descriptions:
        if name not in tasks:
            raise UserError(f"descriptions: there is no task '{name}'; {nearest(name, tasks)}")
    texts = [texts_of(task, descriptions.get(task, ())) for task in tasks]
    rows = encode([text for of_task in texts for text in of_task], encoder).split([len(of) for of in texts])
    most = max(map(len, texts))
    return torch.stack([F.pad(of_task, (0, 0, 0, most - len(of_task))) for of_task in rows])


def texts_of(task: str, description: str | Sequence[str]) -> list[str]:
    """Return what is said of a task.

    Raises:
        UserError: if it is nothing, or no text.
    """
    texts = list(one_or_more(description))
    if not texts:
        raise UserError(
            f"task '{task}' has no description; write description: and what is to be done, in the task's file"
        )
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"the description of task '{task}' is empty, or no text: {text!r}")
    return texts


@torch.no_grad()
def encode(texts: Sequence[str], encoder: str) -> Tensor:
    """Encode texts, (n, t'): the mean of the encoder's last states of each.

    Args:
        texts: none of them empty.
        encoder: its name.

    Raises:
        UserError: if one is longer than the encoder reads.
    """
    loaded = load_encoder(encoder)
    ids = loaded.tokenizer(list(texts))["input_ids"]
    for text, of_text in zip(texts, ids, strict=True):
        if len(of_text) > loaded.longest:
            raise UserError(
                f"a description has {len(of_text)} tokens, and {Path(encoder).name} reads {loaded.longest}: "
                f"{shortened(text)!r}"
            )
    # Like lengths together, then put back in order.
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        batch = loaded.tokenizer.pad({"input_ids": [ids[number] for number in chosen]}, return_tensors="pt")
        states = loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        found |= dict(zip(chosen, mean_state(states.last_hidden_state, batch["attention_mask"]), strict=True))
    return torch.stack([found[number] for number in range(len(ids))])


def width_of(encoder: str) -> int:
    """Return the width t' of what an encoder makes of a text, from its configuration alone."""
    from transformers import AutoConfig

    place = place_of(encoder)
    with hub.asking(place, "method.text_encoder"):
        return AutoConfig.from_pretrained(place, trust_remote_code=False).hidden_size
