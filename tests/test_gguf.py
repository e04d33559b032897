"""A base model of a GGUF file: its weights are the file's, it trains, and what is saved finds it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hyperadapt as ha
from families import SHAPE
from hyperadapt.config.sections import ModelConfig
from hyperadapt.runs.base_model import build_base
from tiny import METHODS
from tiny_run import assert_one_line, hyperadapt, write_config, write_tasks

gguf = pytest.importorskip("gguf")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    **{f"self_attn.{letter}_proj": f"attn_{letter}" for letter in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")},
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def written(file: Path) -> Any:
    """Write a tiny random Llama as GGUF has it, in which each head's rotated numbers lie in pairs."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": 384})).eval()
    config, writer = model.config, gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    for name, tensor in model.state_dict().items():
        path, weight = name.removesuffix(".weight"), tensor.float().numpy()
        prefix = ""
        if path.startswith("model.layers."):
            _, _, block, path = path.split(".", 3)
            prefix = f"blk.{block}."
        if path in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = len(weight) // config.head_dim
            weight = weight.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(f"{prefix}{NAMES[path]}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@torch.no_grad()
def test_a_gguf_file_is_the_model_that_it_holds_and_what_is_saved_finds_it(tmp_path: Path) -> None:
    model, file = written(tmp_path / "tiny.gguf"), tmp_path / "tiny.gguf"
    base = build_base(ModelConfig(gguf=str(file), tokenizer="bytes"), 0).eval()
    ids = torch.randint(3, 384, (2, 7))
    assert torch.equal(base(ids).logits, model(ids).logits)
    adapted = ha.adapt(base, METHODS[4], ["x", "y"])
    adapted.save_pretrained(tmp_path / "saved")
    task_ids = torch.tensor([0, 1])
    expected = adapted(ids, task_ids=task_ids).logits
    assert torch.equal(ha.load(tmp_path / "saved")(ids, task_ids=task_ids).logits, expected)


def test_a_run_trains_on_one_and_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    written(tmp_path / "tiny.gguf")
    training = {"max_steps": 2, "batch_size": 4, "eval_steps": 2}
    model = {"gguf": "tiny.gguf", "tokenizer": "bytes"}
    config = write_config(tmp_path, write_tasks(tmp_path), model=model, training=training)
    outcome = hyperadapt("train", config)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run/results.json").read_text())["steps"] == 2
    assert hyperadapt("evaluate", tmp_path / "run").code == 0
    wrong = f"output_dir={tmp_path / 'other'}", f"model.gguf={tmp_path / 'tinny.gguf'}"
    assert_one_line(hyperadapt("train", config, *wrong), "model.gguf: there is no file")
    assert not (tmp_path / "other").exists()
