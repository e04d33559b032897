"""Llama and those of its shape: Mistral, Qwen2, Qwen3, SmolLM (Touvron et al. 2023 and successors).

Qwen3's norms of queries and keys are of a head's width, and are left as they are.
"""

from __future__ import annotations

from hyperadapt.backbones.base import Backbone, NormKind, Stack, around

PLACES = {
    "feed_forward": "mlp",
    "self_attention": "self_attn",
    "feed_forward.output": "mlp.down_proj",
    **{f"self_attention.{letter}": f"self_attn.{letter}_proj" for letter in ("q", "k", "v", "o")},
}

LLAMA = Backbone(
    name="Llama",
    architecture="decoder_only",
    model_types=("llama", "mistral", "qwen2", "qwen3", "smollm3"),
    stacks={
        "decoder": Stack(
            path="model",
            blocks="layers",
            places=PLACES,
            taps=around("post_attention_layernorm"),
            norms={
                "self_attention_norm": "input_layernorm",
                "feed_forward_norm": "post_attention_layernorm",
            },
            final_norm="norm",
        )
    },
    norm=NormKind.RMS,
    norm_eps="rms_norm_eps",
)
