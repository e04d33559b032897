"""Gemma 2 and 3, whose sub-layers have a norm before them and one behind (Gemma Team 2024, 2025).

Adapters stand behind the sub-layer itself, before its second norm.
"""

from __future__ import annotations

from hyperadapt.backbones.base import Backbone, NormKind, Stack, around
from hyperadapt.backbones.llama import PLACES

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
            final_norm="norm",
        )
    },
    norm=NormKind.RMS_PLUS_ONE,
    norm_eps="rms_norm_eps",
)
