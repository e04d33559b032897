"""Tiny random models and batches, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

import hyperadapt as ha
from hyperadapt.conditioning import Inputs
from hyperadapt.methods import Method

# On tensors as small as these, threads only wait for each other: with several test processes, a hundred times longer.
torch.set_num_threads(1)

TASKS = ("alpha", "beta", "gamma")
TINY: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
SMALL: dict[str, Any] = {"task_feature_dim": 12, "projector_hidden_dim": 16, "task_embedding_dim": 8}
NARROW: dict[str, Any] = {
    "encoder_bottleneck_dim": 6,
    "decoder_bottleneck_dim": 4,
    "hypernetwork_bottleneck": 10,
}
METHODS: tuple[Method, ...] = (
    ha.FullFineTuning(),
    ha.Adapters(reduction_factor=8),
    ha.AdaptersDagger(reduction_factor=8),
    ha.HyperFormer(reduction_factor=8, **SMALL),
    ha.HyperFormerPlusPlus(reduction_factor=8, **SMALL),
    ha.Hyperdecoder(**NARROW),
    ha.SingleAdapter(**NARROW),
    ha.TaskHypernet(**NARROW),
    ha.Polytropon(n_skills=4, rank=8, allocation="softmax"),
    ha.HyperGrid(fan_in=4, fan_out=8),
    ha.OutputGate(n=8),
    ha.LoRA(r=4, lora_alpha=4),
    ha.SharedLoRA(r=4, lora_alpha=4),
    ha.HyperLoRA(r=4, lora_alpha=4, generated="both", **SMALL),
    ha.Hyperdecoder(encoder="generated", decoder="manual_specific", after_layer_norm=True, **NARROW),
    ha.HyperGrid(variant="LG", fan_in=8, fan_out=16, pool="mean", frozen=True),
)
CONDITIONED = tuple(method for method in METHODS if method.task_conditioned)
PLUS_PLUS = METHODS[4]


def name_of(method: Method) -> str:
    """A method's name, with its kinds of adapters where they are not the preset's."""
    changed = method.model_fields_set & {"encoder", "decoder", "variant"}
    return "-".join([method.name, *(str(getattr(method, field)) for field in sorted(changed))])


FURTHER = ("lora", "shared_lora")  # of the form of others: tables, as Adapters' and SingleAdapter's


def listed(methods: Iterable[Method]) -> list[Any]:
    """Methods as parameters of a test, those of `FURTHER` as slow ones."""
    slow = pytest.mark.slow
    return [pytest.param(method, marks=slow) if method.name in FURTHER else method for method in methods]


every_method = pytest.mark.parametrize("method", listed(METHODS), ids=name_of)
every_conditioned_method = pytest.mark.parametrize("method", listed(CONDITIONED), ids=name_of)


def tiny_t5(seed: int = 0, **config: Any) -> T5ForConditionalGeneration:
    """A tiny random T5 in evaluation mode; its layer norms are random too, as those of a pretrained one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(T5Config(**{**TINY, **config}))
        redraw_norms(model)
    return model.eval()


def redraw_norms(model: nn.Module) -> None:
    """Draw the base model's layer norms from N(1, 0.3), as pretraining would have moved them."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm.weight" in name:
                parameter.normal_(1.0, 0.3)


def redraw(model: Any, seed: int = 1, std: float = 0.3) -> Any:
    """Draw all that the method added from N(0, std), so that nothing is trivially zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.hyperadapt.named_parameters():
            # Logits of this size would leave the tasks' mixtures of skills alike.
            wide = 10 * std if name.endswith("logits") else std
            parameter.copy_(torch.empty(parameter.shape).normal_(0, wide, generator=generator))
    return model


def tiny_adapted(
    method: Method = PLUS_PLUS, tasks: Sequence[str] = TASKS, seed: int = 0, **config: Any
) -> Any:
    """A tiny adapted T5 whose tasks differ."""
    return redraw(ha.adapt(tiny_t5(seed, **config), method, tasks))


def tiny_batch(rows: int = 6, n_tasks: int = 3, seed: int = 2, vocab_size: int = 96) -> dict[str, Tensor]:
    """A padded batch of mixed tasks: 9 source and 4 target tokens a row, one label ignored."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, vocab_size, (rows, 9), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[rows // 2, 5:] = 0
    input_ids[rows // 2, 5:] = 0
    labels = torch.randint(3, vocab_size, (rows, 4), generator=generator)
    labels[0, 3] = -100
    task_ids = torch.tensor([0, 2, 1, 1, 0, 2]).repeat(rows // 6 + 1)[:rows] % n_tasks
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "task_ids": task_ids,
    }


def row(batch: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """One row of a batch, as a batch."""
    return {name: value[index : index + 1] for name, value in batch.items()}


def of_task(batch: dict[str, Tensor], task_id: int) -> dict[str, Tensor]:
    """The same rows, all of one task."""
    return {**batch, "task_ids": torch.full_like(batch["task_ids"], task_id)}


def given_tasks(stack: str, task_ids: list[int]) -> Inputs:
    """A stack's inputs of which only the tasks matter, a token a row."""
    ids = torch.tensor(task_ids)
    return Inputs(stack, ids[:, None], ids)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients of all trained parameters; a trained parameter without one is the caller's failure."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} is trained and has no gradient"
            found[name] = parameter.grad.clone()
    return found


def relative_error(value: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value."""
    return float((value - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def repeated_call(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """As a CUDA graph: nothing runs when it is captured, and each replay reads and writes the same memory."""
    loss = torch.zeros(())
    return lambda: loss.copy_(call()), loss  # type: ignore[return-value]


def assert_checkpointing_changes_no_gradient(model: Any, batch: dict[str, Any]) -> None:
    """The gradients of all that is trained, with activations that are kept and with those that are recomputed."""
    found = []
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**batch).loss.backward()
        found.append(gradients(model))
    assert found[0]
    for name, value in found[0].items():
        assert relative_error(found[1][name], value) < 1e-4, name
