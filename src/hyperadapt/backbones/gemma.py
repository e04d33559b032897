"""Gemma 2 and 3, whose sub-layers have a norm before them and one behind (Gemma Team 2024, 2025).

Adapters stand behind the sub-layer itself, before its second norm.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from hyperadapt.backbones.base import Backbone, NormKind, Stack, around
from hyperadapt.backbones.llama import PLACES, of_shape

PUBLISHED: dict[tuple[str, str], tuple[str, tuple[int, ...], bool]] = {
    ("google", "gemma-3-270m"): ("gemma3_text", (640, 2048, 18, 4, 1, 256, 262144), True),
    ("google", "gemma-3-1b"): ("gemma3_text", (1152, 6912, 26, 4, 1, 256, 262144), True),
    ("google", "gemma-2-2b"): ("gemma2", (2304, 9216, 26, 8, 4, 256, 256000), True),
    ("google", "gemma-2-9b"): ("gemma2", (3584, 14336, 42, 16, 8, 256, 256000), True),
}


def published(name: str) -> PretrainedConfig | None:
    """Make the configuration of a published model, as "google/gemma-3-270m"; None of others."""
    return of_shape(PUBLISHED, name.replace("Gemma", "gemma").replace("270M", "270m"))


GEMMA = Backbone(
    name="Gemma",
    architecture="decoder_only",
    model_types=("gemma2", "gemma3_text"),
    stacks={
        "decoder": Stack(
            path="model",
            blocks="layers",
            places=PLACES,
            taps=around("pre_feedforward_layernorm"),
            norms={
                "self_attention_norm": "input_layernorm",
                "self_attention_norm_behind": "post_attention_layernorm",
                "feed_forward_norm": "pre_feedforward_layernorm",
                "feed_forward_norm_behind": "post_feedforward_layernorm",
            },
            outer_norms={"final_norm": "norm"},
        )
    },
    norm=NormKind.RMS_PLUS_ONE,
    norm_eps="rms_norm_eps",
    published=published,
)
