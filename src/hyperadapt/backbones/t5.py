"""T5 in all its versions: v1.0, v1.1, Flan, mT5, UMT5 and ByT5 (Raffel et al. 2020 and successors).

A block's `layer` holds self-attention, cross-attention (in the decoder alone) and feed-forward.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, T5Config, UMT5Config

from hyperadapt.backbones.base import Backbone, NormKind, Stack
from hyperadapt.sites import Source, Tap

# name -> (d_model, d_kv, d_ff, encoder blocks, decoder blocks, heads)
V1_0 = {
    "t5-small": (512, 64, 2048, 6, 6, 8),
    "t5-base": (768, 64, 3072, 12, 12, 12),
    "t5-large": (1024, 64, 4096, 24, 24, 16),
    "t5-3b": (1024, 128, 16384, 24, 24, 32),
    "t5-11b": (1024, 128, 65536, 24, 24, 128),
}
V1_1 = {
    "small": (512, 64, 1024, 8, 8, 6),
    "base": (768, 64, 2048, 12, 12, 12),
    "large": (1024, 64, 2816, 24, 24, 16),
    "xl": (2048, 64, 5120, 24, 24, 32),
    "xxl": (4096, 64, 10240, 24, 24, 64),
}
MULTILINGUAL: dict[str, tuple[Any, int]] = {"mt5-": (T5Config, 250112), "umt5-": (UMT5Config, 256384)}
BYT5 = {
    "byt5-small": (1472, 64, 3584, 12, 4, 6),
    "byt5-base": (1536, 64, 3968, 18, 6, 12),
    "byt5-large": (1536, 64, 3840, 36, 12, 16),
}


def stack(name: str, attentions: dict[str, str]) -> Stack:
    """Write a stack's table.

    Args:
        name: of the stack.
        attentions: its attentions, each with its module's name, in the order of the sub-layers.
    """
    maps = {
        f"{attention}.{letter}": f"layer.{number}.{module}.{letter}"
        for number, (attention, module) in enumerate(attentions.items())
        for letter in ("q", "k", "v", "o")
    }
    last = len(attentions)  # the number of the feed-forward sub-layer
    norms = [*attentions, "feed_forward"]
    return Stack(
        path=name,
        blocks="block",
        places={
            "feed_forward": f"layer.{last}.DenseReluDense",
            "self_attention": "layer.0.SelfAttention",
            "feed_forward.sum": f"layer.{last}",
            "feed_forward.output": f"layer.{last}.DenseReluDense.wo",
            **maps,
        },
        taps={
            Tap.BLOCK_INPUT: Source(f"layer.{last}", "input"),
            Tap.NORM_OUTPUT: Source(f"layer.{last}.layer_norm", "output"),
        },
        norms={f"{place}_norm": f"layer.{number}.layer_norm" for number, place in enumerate(norms)},
        outer_norms={"final_norm": "final_layer_norm"},
    )


def published(name: str) -> PretrainedConfig | None:
    """Make the configuration of a published T5, as "google-t5/t5-base"; None of a name that is not known."""
    owner, _, name = name.rpartition("/")
    if owner not in ("", "google", "google-t5"):
        return None
    v1_1, byte_level = name.replace("flan-t5-", "t5-v1_1-"), "byt5-"
    if name.startswith("t5-") and name.endswith("-lm-adapt"):
        v1_1 = f"t5-v1_1-{name.removeprefix('t5-').removesuffix('-lm-adapt')}"
    if name in V1_0:
        return shaped(V1_0[name], vocab_size=32128)
    if v1_1.startswith("t5-v1_1-") and (size := v1_1.removeprefix("t5-v1_1-")) in V1_1:
        return shaped(V1_1[size], vocab_size=32128, gated=True)
    for multilingual, (config, vocabulary) in MULTILINGUAL.items():
        if name.startswith(multilingual) and (size := name.removeprefix(multilingual)) in V1_1:
            return shaped(V1_1[size], vocab_size=vocabulary, gated=True, config=config)
    if name.startswith(byte_level) and name in BYT5:
        return shaped(BYT5[name], vocab_size=384, gated=True)
    return None


def shaped(dims: tuple[int, ...], vocab_size: int, gated: bool = False, config: Any = T5Config) -> Any:
    """Build a T5 configuration; those with a gated feed-forward (v1.1 and later) have an output head of their own."""
    d_model, d_kv, d_ff, num_layers, num_decoder_layers, num_heads = dims
    options: dict[str, Any] = {
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "tie_word_embeddings": not gated,
        "decoder_start_token_id": 0,
    }
    made = config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_layers=num_layers,
        num_decoder_layers=num_decoder_layers,
        num_heads=num_heads,
        **options,
    )
    # The class takes the option as the output's scale alone, and lets the checkpoint's tensors decide what is tied.
    made.tie_word_embeddings = not gated
    return made


T5 = Backbone(
    name="T5",
    architecture="encoder_decoder",
    model_types=("t5", "mt5", "umt5"),
    stacks={
        "encoder": stack("encoder", {"self_attention": "SelfAttention"}),
        "decoder": stack(
            "decoder", {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention"}
        ),
    },
    norm=NormKind.RMS,
    norm_eps="layer_norm_epsilon",
    published=published,
)
