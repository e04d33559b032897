"""T5 in all its versions: where the sites lie, and that a model of each is adapted, run, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
)
from transformers.models.t5.modeling_t5 import T5LayerNorm

import hyperadapt as ha
from families import ENCODER, tiny_base
from hyperadapt.backbones import BACKBONES, backbone_of, published_config
from hyperadapt.backbones.bert import BERT
from hyperadapt.backbones.llama import LLAMA
from hyperadapt.counting import count_without_weights
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from tiny import METHODS, PLUS_PLUS, TASKS, TINY, redraw, redraw_norms, row, tiny_batch, tiny_t5

BATCH = tiny_batch()
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def untied(model: Any) -> Any:
    """A head of its own, as the published checkpoints have it since v1.1."""
    model.lm_head.weight = nn.Parameter(torch.randn(96, 32, generator=torch.Generator().manual_seed(0)))
    return model


def v1_0() -> Any:
    return tiny_t5()


def v1_1() -> Any:
    return untied(tiny_t5(**GATED))


def mt5() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MT5ForConditionalGeneration(MT5Config(**{**TINY, "num_heads": 2}))
        redraw_norms(model)
    return untied(model.eval())


def byt5() -> Any:
    return untied(tiny_t5(num_layers=3, num_decoder_layers=1, d_kv=4, **GATED))


FAMILY = {"v1.0": v1_0, "v1.1": v1_1, "mt5": mt5, "byt5": byt5}
LAYERS = {"v1.0": (2, 2), "v1.1": (2, 2), "mt5": (2, 2), "byt5": (3, 1)}
every_version = pytest.mark.parametrize("version", FAMILY)


def logits(model: Any, batch: dict[str, torch.Tensor] = BATCH) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


@every_version
@pytest.mark.parametrize("method", [METHODS[1], PLUS_PLUS], ids=lambda method: method.name)
def test_every_version_mixes_tasks_in_a_batch_and_is_saved_and_loaded(
    version: str, method: Method, tmp_path: Path
) -> None:
    model = redraw(ha.adapt(FAMILY[version](), method, TASKS))
    mixed = logits(model)
    generation = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2}
    given = {name: value for name, value in BATCH.items() if name != "labels"}
    sequences = model.generate(**given, **generation)
    for index in range(6):
        assert (logits(model, row(BATCH, index))[0] - mixed[index]).abs().max() < 1e-5
        assert torch.equal(model.generate(**row(given, index), **generation)[0], sequences[index])
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(ha.load(tmp_path, base_model=FAMILY[version]())), mixed)
    model(**BATCH).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@every_version
def test_adapters_stand_behind_self_attention_and_feed_forward_in_every_block(version: str) -> None:
    model = FAMILY[version]()
    backbone = backbone_of(model)
    for stack, layers in zip(("encoder", "decoder"), LAYERS[version], strict=True):
        sites = backbone.sites(model, stack, ("feed_forward", "self_attention"))
        assert [(site.layer, site.position) for site in sites] == [
            (layer, position) for layer in range(layers) for position in ("feed_forward", "self_attention")
        ]
        assert all((site.stack, site.d_in, site.d_out) == (stack, 32, 32) for site in sites)
        for site in sites:
            kind = type(model.get_submodule(site.path)).__name__
            wanted = "Attention" if site.position == "self_attention" else "Dense"
            assert wanted in kind, (site.path, kind)
            block = model.get_submodule(stack).block[site.layer]
            assert model.get_submodule(site.path) in list(block.modules())
        blocks = list(backbone.blocks(model, stack))
        assert blocks == list(model.get_submodule(stack).block)
        assert len(blocks) == layers


def test_no_adapter_stands_behind_cross_attention() -> None:
    model = tiny_t5()
    paths = [site.path for site in backbone_of(model).sites(model, "decoder", ("self_attention",))]
    assert paths == ["decoder.block.0.layer.0.SelfAttention", "decoder.block.1.layer.0.SelfAttention"]


@every_version
def test_the_norm_sites_are_all_layer_norms_each_once(version: str) -> None:
    model = FAMILY[version]()
    backbone = backbone_of(model)
    sites = [site for stack in ("encoder", "decoder") for site in backbone.norm_sites(model, stack)]
    norms = [name for name, module in model.named_modules() if type(module).__name__.endswith("LayerNorm")]
    assert sorted(site.path for site in sites) == sorted(norms)
    assert len({(site.stack, site.layer, site.position) for site in sites}) == len(sites)
    before = {
        "self_attention_norm": "SelfAttention",
        "cross_attention_norm": "EncDecAttention",
        "feed_forward_norm": "DenseReluDense",
    }
    for site in sites:
        assert site.layer < 0 or hasattr(
            model.get_submodule(site.path.rpartition(".")[0]), before[site.position]
        )
        norm: Any = model.get_submodule(site.path)
        assert norm.variance_epsilon == backbone.eps(model)
        assert (site.layer < 0) == ("final" in site.path)


def test_the_norms_epsilon_is_the_models() -> None:
    model = tiny_t5(layer_norm_epsilon=1e-3)
    assert backbone_of(model).eps(model) == 1e-3
    assert isinstance(model.encoder.final_layer_norm, T5LayerNorm)
    adapted = ha.adapt(model, ha.Adapters(reduction_factor=8), TASKS)
    plain = {name: value for name, value in BATCH.items() if name != "task_ids"}
    seen: list[Any] = []
    hook = adapted.encoder.final_layer_norm.register_forward_hook(
        lambda module, args, out: seen.append((args[0], out))
    )
    logits(adapted)
    hook.remove()
    given, output = seen[0]
    expected = given * (given.pow(2).mean(-1, keepdim=True) + 1e-3).rsqrt()
    expected = expected * tiny_t5(layer_norm_epsilon=1e-3).encoder.final_layer_norm.weight
    assert (output - expected).abs().max() < 1e-5
    assert plain.keys() == BATCH.keys() - {"task_ids"}


def test_an_unknown_position_is_refused_with_the_nearest() -> None:
    model = tiny_t5()
    with pytest.raises(UserError, match="T5 has no position 'self_atention'; did you mean 'self_attention'"):
        backbone_of(model).sites(model, "encoder", ("self_atention",))


# As the published checkpoints of v1.0 have it; those since v1.1 have an output head of their own, see test_cli.py.
PUBLISHED = {
    "t5-small": 60_506_624,
    "google-t5/t5-base": 222_903_552,
    "google-t5/t5-large": 737_668_096,
    "google-t5/t5-3b": 2_851_598_336,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_models_configuration_gives_its_number_of_parameters(name: str) -> None:
    config = published_config(name)
    assert config is not None
    assert count_without_weights(config, ha.FullFineTuning(), 1).base == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google/flan-t5-base", (768, 2048, 12, 12, 12, 32128)),
        ("google/t5-large-lm-adapt", (1024, 2816, 24, 24, 16, 32128)),
        ("google/t5-v1_1-small", (512, 1024, 8, 8, 6, 32128)),
        ("google/mt5-small", (512, 1024, 8, 8, 6, 250112)),
        ("google/byt5-small", (1472, 3584, 12, 4, 6, 384)),
    ],
)
def test_later_versions_are_gated_and_do_not_scale_their_output(name: str, expected: tuple[int, ...]) -> None:
    config: Any = published_config(name)
    found = (config.d_model, config.d_ff, config.num_layers, config.num_decoder_layers, config.num_heads)
    assert (*found, config.vocab_size) == expected
    assert config.is_gated_act
    assert not config.scale_decoder_outputs
    assert published_config("t5-small").scale_decoder_outputs  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", ["t5", "t5-huge", "flan-t5-", "t5-lm-adapt", "mt5", "bart-tiny", "byt5-xxl", ""]
)
def test_a_model_that_is_not_known_has_no_configuration_here(name: str) -> None:
    assert published_config(name) is None


def test_every_model_type_has_one_backbone() -> None:
    types = [model_type for backbone in BACKBONES for model_type in backbone.model_types]
    assert len(set(types)) == len(types)
    assert {T5Config.model_type, MT5Config.model_type} <= set(types)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("HuggingFaceTB/SmolLM3-3B", 3_075_098_624),
        ("google/umt5-small", 306_601_984),
        ("google/gemma-3-270m", 268_098_176),
        ("google/gemma-3-1b-it", 999_885_952),
        ("google/gemma-2-2b", 2_614_341_888),
        ("openai-community/gpt2", 124_439_808),
        ("google-bert/bert-base-uncased", 108_891_648),  # without the pooler's 590,592
        ("answerdotai/ModernBERT-base", 149_014_272),
        ("facebook/bart-base", 139_420_416),
        ("facebook/bart-large", 406_291_456),
    ],
)
def test_published_models_have_as_many_parameters_as_their_weights(name: str, parameters: int) -> None:
    from hyperadapt.counting import count_without_weights
    from hyperadapt.methods import FullFineTuning

    config = published_config(name)
    assert config is not None
    counted = count_without_weights(config, FullFineTuning(), 1)
    assert counted.base == parameters


def test_what_a_models_files_lack_and_what_of_them_is_left_out_is_a_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for heads of an encoder alone, and its pooler: tasks have heads of their own."""
    for family, model in (("llama", tiny_base("llama")), ("bert", BertForMaskedLM(BertConfig(**ENCODER)))):
        model.save_pretrained(tmp_path / family)
    weights = load_file(tmp_path / "llama/model.safetensors")
    lost = "model.layers.0.mlp.up_proj.weight"
    rest = {name: value for name, value in weights.items() if name != lost} | {"other": torch.zeros(1)}
    save_file(rest, tmp_path / "llama/model.safetensors", metadata={"format": "pt"})
    LLAMA.load(LLAMA.auto_class, str(tmp_path / "llama"))
    lacking, left_out = (line for line in capsys.readouterr().err.splitlines() if line.startswith("note: "))
    assert lacking.endswith(f"llama lacks weights of a LlamaForCausalLM, which are drawn: {lost}")
    assert left_out.endswith("has weights that a LlamaForCausalLM has not, and are left out: other")
    assert isinstance(BERT.load(BERT.auto_class, str(tmp_path / "bert")), BertModel)
    assert "note: " not in capsys.readouterr().err
