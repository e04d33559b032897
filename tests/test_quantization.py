"""A base model whose frozen weights are quantised, by bitsandbytes or by torchao, is adapted as any."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    T5Config,
    T5ForConditionalGeneration,
    TorchAoConfig,
)

import hyperadapt as ha
from hyperadapt.counting import count_parameters
from hyperadapt.errors import UserError
from hyperadapt.runs.run import load_run
from tiny import TASKS, redraw, tiny_batch, tiny_t5
from tiny_run import BASE, assert_one_line, hyperadapt, write_config, write_tasks

BATCH = tiny_batch()
METHOD = ha.HyperFormerPlusPlus(reduction_factor=4)
WIDE = {"d_model": 64, "d_kv": 32, "d_ff": 128}  # bitsandbytes quantises 64 numbers at a time
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def torchao_int8() -> TorchAoConfig:
    """Tested where torchao is installed: by that alone transformers imports it, and it warns of what it cannot load."""
    torchao = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(torchao.Int8WeightOnlyConfig())


KINDS: dict[str, Any] = {
    "nf4": lambda: BitsAndBytesConfig(**NF4),
    "LLM.int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "torchao int8": torchao_int8,
}


@pytest.fixture(scope="module")
def saved_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    tiny_t5(**WIDE).save_pretrained(directory)
    return directory


def load_base(directory: Path, kind: str | None = None) -> Any:
    quantization = None if kind is None else KINDS[kind]()
    return AutoModelForSeq2SeqLM.from_pretrained(directory, quantization_config=quantization)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(**BATCH).logits


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_leaves_the_base_as_it_is_and_is_loaded_as_it_was_saved(
    saved_base: Path, kind: str, tmp_path: Path
) -> None:
    model = ha.adapt(load_base(saved_base, kind), METHOD, TASKS).train()
    frozen = {name: copy.deepcopy(p) for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(**BATCH).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    for name, value in frozen.items():
        now = model.get_parameter(name)
        assert torch.equal(values(now), values(value)), name
    model.save_pretrained(tmp_path)
    again = ha.load(tmp_path)
    assert type(again.encoder.block[0].layer[0].SelfAttention.q) is type(
        model.encoder.block[0].layer[0].SelfAttention.q
    )
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(ha.CheckpointError, match="was trained on another base model"):
        ha.load(tmp_path, load_base(saved_base))


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_between_two_steps_leaves_the_gradients_as_they_were(
    saved_base: Path, kind: str
) -> None:
    evaluated, fresh = (redraw(ha.adapt(load_base(saved_base, kind), METHOD, TASKS)) for _ in range(2))
    logits(evaluated)
    expected, found = gradients(fresh), gradients(evaluated)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_a_base_that_was_packed_by_an_evaluation_is_refused(saved_base: Path) -> None:
    base = load_base(saved_base, "nf4")
    with torch.no_grad():
        base.eval()(**{name: value for name, value in BATCH.items() if name != "task_ids"})
    if not base.encoder.block[0].layer[0].SelfAttention.q.support_avx512bf16_for_cpu:
        pytest.skip("this machine's CPU is none for which bitsandbytes packs weights")
    with pytest.raises(UserError, match="q has been evaluated already, by which bitsandbytes packs"):
        ha.adapt(base, METHOD, TASKS)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.train()(**BATCH).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def values(parameter: torch.Tensor) -> torch.Tensor:
    """Return what a parameter holds, whatever class it is of."""
    return parameter.dequantize() if type(parameter.data) is not torch.Tensor else parameter.data


@pytest.mark.parametrize(("kind", "tolerance"), [("nf4", 0.3), ("LLM.int8", 0.03), ("torchao int8", 0.03)])
def test_it_computes_what_the_full_precision_does_but_for_the_rounding(
    saved_base: Path, kind: str, tolerance: float
) -> None:
    plain = redraw(ha.adapt(load_base(saved_base), METHOD, TASKS))
    low = ha.adapt(load_base(saved_base, kind), METHOD, TASKS)
    low.hyperadapt.load_state_dict(plain.hyperadapt.state_dict())
    expected = logits(plain)
    assert 1e-4 < (logits(low) - expected).norm() / expected.norm() < tolerance
    assert count_parameters(low) == count_parameters(plain)


@pytest.mark.parametrize("method", [ha.FullFineTuning(), ha.HyperGrid(variant="L")])
def test_a_method_that_trains_what_is_quantised_is_refused(saved_base: Path, method: Any) -> None:
    with pytest.raises(UserError, match=f"{method.name} trains weights of the base model that are quantised"):
        ha.adapt(load_base(saved_base, "nf4"), method, TASKS)


def test_a_run_trains_and_predicts(tmp_path: Path) -> None:
    T5ForConditionalGeneration(T5Config(**BASE | WIDE, decoder_start_token_id=0)).save_pretrained(
        tmp_path / "base"
    )
    base = {"name": str(tmp_path / "base"), "tokenizer": "bytes", "quantization": NF4}
    outcome = hyperadapt("train", write_config(tmp_path, write_tasks(tmp_path / "tasks"), model=base))
    assert outcome.code == 0, outcome.err
    run = load_run(tmp_path / "run")
    assert type(run.model.encoder.block[0].layer[0].SelfAttention.q).__name__ == "Linear4bit"
    assert len(run.predict("colour", [{"text": "red rose"}])) == 1


def test_random_weights_are_not_quantised(tmp_path: Path) -> None:
    base = {"config": BASE, "tokenizer": "bytes", "quantization": NF4}
    config = write_config(tmp_path, write_tasks(tmp_path / "tasks"), model=base)
    assert_one_line(
        hyperadapt("train", config), "quantization is of weights that are loaded: give it with a name"
    )
