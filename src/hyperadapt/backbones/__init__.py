"""Backbones: where the sites of a model family lie. Each family is one small file of names; none knows of tasks."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from hyperadapt.backbones.base import Backbone
from hyperadapt.backbones.gemma import GEMMA
from hyperadapt.backbones.gpt2 import GPT2
from hyperadapt.backbones.llama import LLAMA
from hyperadapt.backbones.t5 import T5
from hyperadapt.errors import UserError, nearest

BACKBONES: tuple[Backbone, ...] = (T5, LLAMA, GEMMA, GPT2)


def backbone_of(model: Any) -> Backbone:
    """Find the backbone of a model.

    Raises:
        UserError: if the model's family has none.
    """
    for backbone in BACKBONES:
        if model.config.model_type in backbone.model_types:
            return backbone
    known = [model_type for backbone in BACKBONES for model_type in backbone.model_types]
    raise UserError(
        f"no backbone for model type '{model.config.model_type}'; {nearest(model.config.model_type, known)}"
    )


def published_config(name: str) -> PretrainedConfig | None:
    """Return the configuration of a published model, as "google-t5/t5-base", without any download."""
    configs = (backbone.published(name) for backbone in BACKBONES)
    return next((config for config in configs if config is not None), None)
