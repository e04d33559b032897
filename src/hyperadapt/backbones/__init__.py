"""Backbones: where the sites of a model family lie. Each family is one small file of names; none knows of tasks."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from hyperadapt.backbones.bart import BART, MBART, PEGASUS
from hyperadapt.backbones.base import Backbone
from hyperadapt.backbones.bert import BERT, DEBERTA, ROBERTA
from hyperadapt.backbones.gemma import GEMMA
from hyperadapt.backbones.gpt2 import GPT2
from hyperadapt.backbones.llama import LLAMA
from hyperadapt.backbones.modernbert import MODERNBERT
from hyperadapt.backbones.t5 import T5
from hyperadapt.errors import UserError, nearest

BACKBONES: tuple[Backbone, ...] = (
    *(T5, BART, MBART, PEGASUS),
    *(LLAMA, GEMMA, GPT2),
    *(BERT, ROBERTA, DEBERTA, MODERNBERT),
)


def backbone_of(model: Any) -> Backbone:
    """Find the backbone of a model.

    Raises:
        UserError: if the model's family has none.
    """
    return backbone_of_type(model.config.model_type)


def backbone_of_type(model_type: str) -> Backbone:
    """Find the backbone of a model type, as configurations of transformers have it.

    Raises:
        UserError: if it has none, naming the nearest that has one, and what is needed.
    """
    for backbone in BACKBONES:
        if model_type in backbone.model_types:
            return backbone
    known = [known for backbone in BACKBONES for known in backbone.model_types]
    raise UserError(
        f"no backbone for model type '{model_type}'; {nearest(model_type, known, len(known))}; a new one is a table of "
        "names in hyperadapt/backbones"
    )


def published_config(name: str) -> PretrainedConfig | None:
    """Return the configuration of a published model, as "google-t5/t5-base", without any download."""
    configs = (backbone.published(name) for backbone in BACKBONES)
    return next((config for config in configs if config is not None), None)
