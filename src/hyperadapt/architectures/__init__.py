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
from hyperadapt.errors import UserError

__all__ = [
    "Answer",
    "Answering",
    "Architecture",
    "DecoderOnly",
    "EncoderDecoder",
    "EncoderOnly",
    "Request",
    "architecture_of",
    "check_encoder_decoder",
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


def check_encoder_decoder(model: Any, purpose: str) -> None:
    """Check that a model is an encoder-decoder, where nothing else is read so far.

    Args:
        model: adapted or not.
        purpose: what begins the error, as "hyperadapt embed".

    Raises:
        UserError: if it is none, or its family has no backbone.
    """
    if not isinstance(architecture_of(model), EncoderDecoder):
        raise UserError(
            f"{purpose} reads encoder-decoders alone so far, and {backbone_of(model).name} is none"
        )
