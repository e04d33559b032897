"""Gemma 2 and 3, whose sub-layers have a norm before them and one behind (Gemma Team 2024, 2025).

Adapters stand behind the sub-layer itself, before its second norm.
"""

from __future__ import annotations

from hyperadapt.backbones.base import Backbone, NormKind, Stack
from hyperadapt.backbones.llama import ATTENTION
from hyperadapt.sites import Source, Tap

GEMMA = Backbone(
    name="Gemma",
    architecture="decoder_only",
    model_types=("gemma2", "gemma3_text"),
    stacks={
        "decoder": Stack(
            path="model",
            blocks="layers",
            places={
                "feed_forward": "mlp",
                "self_attention": "self_attn",
                "feed_forward.output": "mlp.down_proj",
                **ATTENTION,
            },
            taps={
                Tap.BLOCK_INPUT: Source("pre_feedforward_layernorm", "input"),
                Tap.NORM_OUTPUT: Source("pre_feedforward_layernorm", "output"),
            },
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
