"""Architectures: how an example becomes a row of tokens, rows a batch, where the loss lies, how an answer is had.

Each is a file. Nothing else asks which architecture a model has: it asks the architecture.
"""

from __future__ import annotations

from typing import Any

from hyperadapt.architectures.base import Answer, Answering, Architecture, Request
from hyperadapt.architectures.encoder_decoder import EncoderDecoder
from hyperadapt.backbones import backbone_of
from hyperadapt.errors import UserError

__all__ = ["Answer", "Answering", "Architecture", "EncoderDecoder", "Request", "architecture_of"]

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture for architecture in (EncoderDecoder(),)
}


def architecture_of(model: Any) -> Architecture:
    """Return the architecture of a model, adapted or not.

    Raises:
        UserError: if its family has no backbone, or none of `ARCHITECTURES`.
    """
    backbone = backbone_of(model)
    if backbone.architecture not in ARCHITECTURES:
        raise UserError(
            f"{backbone.name} has no encoder; runs train encoder-decoders alone so far. ha.adapt adapts it in Python, "
            "to be trained with transformers' Trainer"
        )
    return ARCHITECTURES[backbone.architecture]
