"""BART (Lewis et al. 2020), whose norms stand behind the sums; mBART and Pegasus, whose norms stand before.

The feed-forward sub-layer is no module of its own: its second map stands for it, of whose output nothing but dropout
and the sum follows.
"""

from __future__ import annotations

from typing import Any

from transformers import BartConfig, MBartConfig, PegasusConfig, PretrainedConfig

from hyperadapt.backbones.base import Backbone, NormKind, Stack, around
from hyperadapt.sites import Source, Tap

ATTENTIONS = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
MAPS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}


def stacks(behind: bool, outer: tuple[str, ...]) -> dict[str, Stack]:
    """Write the tables of both stacks.

    Args:
        behind: whether norms stand behind the sums.
        outer: names of the stack's own norms, before and behind all blocks.
    """
    found = {}
    for name in ("encoder", "decoder"):
        attentions = list(ATTENTIONS)[: 1 if name == "encoder" else 2]
        maps = {
            f"{attention}.{letter}": f"{ATTENTIONS[attention]}.{path}"
            for attention in attentions
            for letter, path in MAPS.items()
        }
        read = Source("fc1", "input")
        found[name] = Stack(
            path=f"model.{name}",
            blocks="layers",
            places={
                "feed_forward": "fc2",
                "self_attention": "self_attn",
                "feed_forward.output": "fc2",
                **maps,
            },
            taps={Tap.BLOCK_INPUT: read, Tap.NORM_OUTPUT: read} if behind else around("final_layer_norm"),
            norms={
                **{f"{attention}_norm": f"{ATTENTIONS[attention]}_layer_norm" for attention in attentions},
                "feed_forward_norm": "final_layer_norm",
            },
            outer_norms={
                f"{'embeddings' if norm == 'layernorm_embedding' else 'final'}_norm": norm for norm in outer
            },
        )
    return found


def published(name: str) -> PretrainedConfig | None:
    """Make the configuration of a published model, as "facebook/bart-large"; None of others."""
    owner, _, name = name.rpartition("/")

    def shape(d_model: int, layers: int, heads: int, d_ff: int) -> dict[str, Any]:
        return {
            "d_model": d_model,
            **{f"{stack}_layers": layers for stack in ("encoder", "decoder")},
            **{f"{stack}_attention_heads": heads for stack in ("encoder", "decoder")},
            **{f"{stack}_ffn_dim": d_ff for stack in ("encoder", "decoder")},
        }

    large = shape(1024, 12, 16, 4096)
    shapes: dict[tuple[str, str], tuple[type[Any], dict[str, Any]]] = {
        ("facebook", "bart-base"): (BartConfig, {**shape(768, 6, 12, 3072), "vocab_size": 50265}),
        ("facebook", "bart-large"): (BartConfig, {**large, "vocab_size": 50265}),
        ("facebook", "bart-large-cnn"): (BartConfig, {**large, "vocab_size": 50264}),
        ("facebook", "mbart-large-cc25"): (MBartConfig, {**large, "vocab_size": 250027}),
        ("facebook", "mbart-large-50"): (MBartConfig, {**large, "vocab_size": 250054}),
        ("google", "pegasus-xsum"): (PegasusConfig, {**shape(1024, 16, 16, 4096), "vocab_size": 96103}),
        ("google", "pegasus-large"): (PegasusConfig, {**shape(1024, 16, 16, 4096), "vocab_size": 96103}),
    }
    found = [shape for (maker, known), shape in shapes.items() if known == name and owner in ("", maker)]
    return found[0][0](**found[0][1]) if found else None


COMMON: dict[str, Any] = {
    "architecture": "encoder_decoder",
    "norm": NormKind.LAYER,
    "norm_eps": None,
}
BART = Backbone(
    name="BART",
    model_types=("bart",),
    stacks=stacks(behind=True, outer=("layernorm_embedding",)),
    published=published,
    **COMMON,
)
MBART = Backbone(
    name="mBART",
    model_types=("mbart",),
    stacks=stacks(behind=False, outer=("layernorm_embedding", "layer_norm")),
    **COMMON,
)
PEGASUS = Backbone(
    name="Pegasus",
    model_types=("pegasus",),
    stacks=stacks(behind=False, outer=("layer_norm",)),
    fixed=("embed_positions.weight",),
    **COMMON,
)
