"""GPT-2 (Radford et al. 2019), whose queries, keys and values come from one matrix."""

from __future__ import annotations

from hyperadapt.backbones.base import Backbone, NormKind, Stack, around

GPT2 = Backbone(
    name="GPT-2",
    architecture="decoder_only",
    model_types=("gpt2",),
    stacks={
        "decoder": Stack(
            path="transformer",
            blocks="h",
            places={
                "feed_forward": "mlp",
                "self_attention": "attn",
                "feed_forward.output": "mlp.c_proj",
                "self_attention.qkv": "attn.c_attn",
                "self_attention.o": "attn.c_proj",
            },
            taps=around("ln_2"),
            norms={"self_attention_norm": "ln_1", "feed_forward_norm": "ln_2"},
            final_norm="ln_f",
        )
    },
    norm=NormKind.LAYER,
    norm_eps="layer_norm_epsilon",
)
