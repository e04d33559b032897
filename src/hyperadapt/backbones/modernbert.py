"""ModernBERT (Warner et al. 2024), whose norms have no shift and stand before the sub-layers; the first has none."""

from __future__ import annotations

from typing import Any

from transformers import ModernBertConfig, PretrainedConfig

from hyperadapt.backbones.base import Backbone, NormKind, Stack, around


def published(name: str) -> PretrainedConfig | None:
    """Make the configuration of a published model, as "answerdotai/ModernBERT-base"; None of others."""
    shapes: dict[str, dict[str, Any]] = {
        "ModernBERT-base": {
            "hidden_size": 768,
            "num_hidden_layers": 22,
            "num_attention_heads": 12,
            "intermediate_size": 1152,
        },
        "ModernBERT-large": {
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "intermediate_size": 2624,
        },
    }
    owner, _, name = name.rpartition("/")
    return ModernBertConfig(**shapes[name]) if owner in ("", "answerdotai") and name in shapes else None


MODERNBERT = Backbone(
    name="ModernBERT",
    architecture="encoder_only",
    model_types=("modernbert",),
    stacks={
        "encoder": Stack(
            path="",  # the model is the stack
            blocks="layers",
            places={
                "feed_forward": "mlp",
                "self_attention": "attn",
                "feed_forward.output": "mlp.Wo",
                "self_attention.qkv": "attn.Wqkv",
                "self_attention.o": "attn.Wo",
            },
            taps=around("mlp_norm"),
            norms={"self_attention_norm": "attn_norm", "feed_forward_norm": "mlp_norm"},
            outer_norms={"embeddings_norm": "embeddings.norm", "final_norm": "final_norm"},
        )
    },
    norm=NormKind.LAYER,
    norm_eps="norm_eps",
    published=published,
)
