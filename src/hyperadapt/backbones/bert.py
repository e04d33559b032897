"""BERT, RoBERTa and their like, MiniLM among them (Devlin et al. 2019), and DeBERTa 2 and 3 (He et al. 2021).

A sub-layer's norm stands behind its sum: so what a sub-layer reads has been through a norm, and adapters stand behind
its last linear map, before the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import BertConfig, DebertaV2Config, PretrainedConfig, RobertaConfig

from hyperadapt.backbones.base import Backbone, NormKind, Stack
from hyperadapt.sites import Source, Tap


def stack(maps: Mapping[str, str]) -> Stack:
    """Write the table of the encoder; the maps of queries, keys and values have other names in DeBERTa."""
    return Stack(
        path="",  # the model is the stack
        blocks="encoder.layer",
        places={
            "feed_forward": "output.dense",
            "self_attention": "attention.output.dense",
            "feed_forward.output": "output.dense",
            **{f"self_attention.{letter}": f"attention.self.{name}" for letter, name in maps.items()},
            "self_attention.o": "attention.output.dense",
        },
        taps={
            Tap.BLOCK_INPUT: Source("intermediate.dense", "input"),
            Tap.NORM_OUTPUT: Source("intermediate.dense", "input"),
        },
        norms={"self_attention_norm": "attention.output.LayerNorm", "feed_forward_norm": "output.LayerNorm"},
        outer_norms={"embeddings_norm": "embeddings.LayerNorm"},
    )


def published(name: str) -> PretrainedConfig | None:
    """Make the configuration of a published model, as "google-bert/bert-base-uncased"; None of others."""
    owner, _, name = name.rpartition("/")
    owners = {"", "google-bert", "FacebookAI", "microsoft", "sentence-transformers", "nreimers"}
    if owner not in owners:
        return None
    base: dict[str, Any] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    large = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    mini = {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    }
    roberta = {
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }
    deberta = {
        "vocab_size": 128100,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "layer_norm_eps": 1e-7,
    }
    shapes: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "bert-base-uncased": (BertConfig, {**base, "vocab_size": 30522}),
        "bert-base-cased": (BertConfig, {**base, "vocab_size": 28996}),
        "bert-large-uncased": (BertConfig, {**large, "vocab_size": 30522}),
        "bert-large-cased": (BertConfig, {**large, "vocab_size": 28996}),
        "all-MiniLM-L6-v2": (BertConfig, {**mini, "vocab_size": 30522}),
        "MiniLM-L6-H384-uncased": (BertConfig, {**mini, "vocab_size": 30522}),
        "roberta-base": (RobertaConfig, {**base, **roberta}),
        "roberta-large": (RobertaConfig, {**large, **roberta}),
        "deberta-v3-small": (DebertaV2Config, {**base, **deberta, "num_hidden_layers": 6}),
        "deberta-v3-base": (DebertaV2Config, {**base, **deberta}),
        "deberta-v3-large": (DebertaV2Config, {**large, **deberta}),
    }
    if name not in shapes:
        return None
    kind, fields = shapes[name]
    return kind(**fields)


BERT = Backbone(
    name="BERT",
    architecture="encoder_only",
    model_types=("bert",),
    stacks={"encoder": stack({"q": "query", "k": "key", "v": "value"})},
    norm=NormKind.LAYER,
    norm_eps="layer_norm_eps",
    published=published,
    loading={"add_pooling_layer": False},  # heads take its place
)
# Of its places those up to the padding token's are never used.
ROBERTA = replace(
    BERT,
    name="RoBERTa",
    model_types=("roberta", "xlm-roberta", "camembert"),
    published=lambda name: None,
    positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
)
DEBERTA = Backbone(
    name="DeBERTa",
    architecture="encoder_only",
    model_types=("deberta-v2",),
    stacks={"encoder": stack({"q": "query_proj", "k": "key_proj", "v": "value_proj"})},
    norm=NormKind.LAYER,
    norm_eps="layer_norm_eps",
    positions=lambda config: config.max_position_embeddings if config.position_biased_input else None,
    hands_on=False,
    # With shared keys these maps are called a second time, with the embeddings of relative positions.
    not_of_rows=lambda config: (
        (".query_proj", ".key_proj") if config.share_att_key else (".pos_query_proj", ".pos_key_proj")
    ),
    fields=("norm_rel_ebd",),
)
