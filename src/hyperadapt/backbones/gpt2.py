"""GPT-2 (Radford et al. 2019), whose queries, keys and values come from one matrix."""

from __future__ import annotations

from transformers import GPT2Config, PretrainedConfig

from hyperadapt.backbones.base import Backbone, NormKind, Stack, around

# name -> (width, blocks, heads)
PUBLISHED = {
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}


def published(name: str) -> PretrainedConfig | None:
    """Make the configuration of a published model, as "openai-community/gpt2"; None of others."""
    owner, _, name = name.rpartition("/")
    if owner not in ("", "openai-community") or name not in PUBLISHED:
        return None
    width, blocks, heads = PUBLISHED[name]
    return GPT2Config(n_embd=width, n_layer=blocks, n_head=heads)


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
            outer_norms={"final_norm": "ln_f"},
        )
    },
    norm=NormKind.LAYER,
    norm_eps="layer_norm_epsilon",
    published=published,
)
