"""Architectures: how an example becomes a row of tokens, rows a batch, where the loss lies, how an answer is had.

Each is a file. Nothing else asks which architecture a model has: it asks the architecture.
"""

from __future__ import annotations

from typing import Any

from hyperadapt.architectures.base import Answer, Answering, Architecture, Request
from hyperadapt.architectures.decoder_only import DecoderOnly
from hyperadapt.architectures.encoder_decoder import EncoderDecoder
from hyperadapt.architectures.encoder_only import EncoderOnly
from hyperadapt.backbones import backbone_of

__all__ = [
    "Answer",
    "Answering",
    "Architecture",
    "DecoderOnly",
    "EncoderDecoder",
    "EncoderOnly",
    "Request",
    "architecture_of",
]

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture for architecture in (EncoderDecoder(), DecoderOnly(), EncoderOnly())
}


def architecture_of(model: Any) -> Architecture:
    """Return the architecture of a model, adapted or not.

    Raises:
        UserError: if its family has no backbone.
    """
    return ARCHITECTURES[backbone_of(model).architecture]
