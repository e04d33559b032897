"""Llama and those of its shape: Mistral, Qwen2, Qwen3, SmolLM (Touvron et al. 2023 and successors).

Qwen3's norms of queries and keys are of a head's width, and are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import AutoConfig, PretrainedConfig

from hyperadapt.backbones.base import Backbone, NormKind, Stack, around

LONGEST = 8192  # places of a published model at the least; rotary ones have no weights
PLACES = {
    "feed_forward": "mlp",
    "self_attention": "self_attn",
    "feed_forward.output": "mlp.down_proj",
    **{f"self_attention.{letter}": f"self_attn.{letter}_proj" for letter in ("q", "k", "v", "o")},
}

# owner, name -> model type, (width, d_ff, blocks, heads, heads of keys, width of a head, vocabulary), tied embeddings
PUBLISHED: dict[tuple[str, str], tuple[str, tuple[int, ...], bool]] = {
    ("meta-llama", "Llama-3.1-8B"): ("llama", (4096, 14336, 32, 32, 8, 128, 128256), False),
    ("meta-llama", "Llama-3.2-1B"): ("llama", (2048, 8192, 16, 32, 8, 64, 128256), True),
    ("meta-llama", "Llama-3.2-3B"): ("llama", (3072, 8192, 28, 24, 8, 128, 128256), True),
    ("mistralai", "Mistral-7B-v0.1"): ("mistral", (4096, 14336, 32, 32, 8, 128, 32000), False),
    ("Qwen", "Qwen2.5-0.5B"): ("qwen2", (896, 4864, 24, 14, 2, 64, 151936), True),
    ("Qwen", "Qwen2.5-7B"): ("qwen2", (3584, 18944, 28, 28, 4, 128, 152064), False),
    ("Qwen", "Qwen3-0.6B"): ("qwen3", (1024, 3072, 28, 16, 8, 128, 151936), True),
    ("Qwen", "Qwen3-4B"): ("qwen3", (2560, 9728, 36, 32, 8, 128, 151936), True),
    ("Qwen", "Qwen3-8B"): ("qwen3", (4096, 12288, 36, 32, 8, 128, 151936), False),
    ("HuggingFaceTB", "SmolLM2-135M"): ("llama", (576, 1536, 30, 9, 3, 64, 49152), True),
    ("HuggingFaceTB", "SmolLM2-360M"): ("llama", (960, 2560, 32, 15, 5, 64, 49152), True),
    ("HuggingFaceTB", "SmolLM3-3B"): ("smollm3", (2048, 11008, 36, 16, 4, 128, 128256), True),
    ("HuggingFaceTB", "SmolLM2-1.7B"): ("llama", (2048, 8192, 24, 32, 32, 64, 49152), True),
}


def published(name: str) -> PretrainedConfig | None:
    """Make the configuration of a published model, as "meta-llama/Llama-3.1-8B"; None of others."""
    return of_shape(PUBLISHED, name)


def of_shape(
    shapes: Mapping[tuple[str, str], tuple[str, tuple[int, ...], bool]], name: str
) -> PretrainedConfig | None:
    """Make the configuration of a published model, an instruction-tuned one as its base; None of others.

    Args:
        shapes: owner, name -> model type, sizes, whether embeddings are tied.
        name: with or without its owner.
    """
    owner, _, name = name.rpartition("/")
    name = name.removesuffix("-Instruct").removesuffix("-it").removesuffix("-pt")
    for (maker, known), (model_type, sizes, tied) in shapes.items():
        if known == name and owner in ("", maker):
            width, d_ff, blocks, heads, key_heads, head, vocabulary = sizes
            return AutoConfig.for_model(
                model_type,
                hidden_size=width,
                intermediate_size=d_ff,
                num_hidden_layers=blocks,
                num_attention_heads=heads,
                num_key_value_heads=key_heads,
                head_dim=head,
                vocab_size=vocabulary,
                tie_word_embeddings=tied,
                max_position_embeddings=LONGEST,
            )
    return None


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
            outer_norms={"final_norm": "norm"},
        )
    },
    norm=NormKind.RMS,
    norm_eps="rms_norm_eps",
    published=published,
)
