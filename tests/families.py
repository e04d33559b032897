"""A tiny random model of each family, and what each architecture's batches are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MBartConfig,
    MBartForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from tiny import TINY

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1}
DECODER_ONLY: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
    "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(**SHAPE)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, **SLIDING)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **SLIDING)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**GPT2, eos_token_id=2, pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ),
}
BART: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    **{f"{stack}_layers": 2 for stack in ("encoder", "decoder")},
    **{f"{stack}_attention_heads": 2 for stack in ("encoder", "decoder")},
    **{f"{stack}_ffn_dim": 48 for stack in ("encoder", "decoder")},
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
ENCODER_DECODER: dict[str, Callable[[], Any]] = {
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BART)),
    "mbart": lambda: MBartForConditionalGeneration(MBartConfig(**BART)),
    "pegasus": lambda: PegasusForConditionalGeneration(PegasusConfig(**BART)),
    "umt5": lambda: UMT5ForConditionalGeneration(UMT5Config(**TINY)),
}
ENCODER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_buckets": 8,
}
MODERNBERT = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "local_attention": 8,
}
ENCODER_ONLY: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertModel(BertConfig(**ENCODER, **NO_DROPOUT)),
    "roberta": lambda: RobertaModel(RobertaConfig(**ENCODER, **NO_DROPOUT)),
    "deberta": lambda: DebertaV2Model(DebertaV2Config(**ENCODER, **NO_DROPOUT, **DEBERTA)),
    "modernbert": lambda: ModernBertModel(ModernBertConfig(**ENCODER, **MODERNBERT)),
}
FAMILIES = {**ENCODER_DECODER, **DECODER_ONLY, **ENCODER_ONLY}


def tiny_base(family: str) -> Any:
    """A tiny random model whose norms are random too, as those of a pretrained one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[family]()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ("norm" in name.lower() or "ln_" in name) and parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()
