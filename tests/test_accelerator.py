"""What only an accelerator shows; without one these tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import hyperadapt as ha
from hyperadapt.fast.cuda_graphs import CapturedSteps
from hyperadapt.methods import Method
from tiny import (
    NARROW,
    PLUS_PLUS,
    TASKS,
    every_conditioned_method,
    every_method,
    gradients,
    name_of,
    redraw,
    relative_error,
    tiny_adapted,
    tiny_batch,
    tiny_t5,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

BATCH = tiny_batch()
# Its sites' weights are as wide as tensor cores want them, and so are the generated ones.
WIDE = {"d_model": 64, "d_kv": 16, "d_ff": 128}


def on_gpu(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cuda() for name, tensor in batch.items()}


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise where the program would wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_method
def test_a_gpu_computes_what_the_cpu_does_gradients_included(method: Method) -> None:
    here, there = tiny_adapted(method), tiny_adapted(method).cuda()
    on_cpu, on_device = here(**BATCH), there(**on_gpu(BATCH))
    torch.testing.assert_close(on_device.logits.cpu(), on_cpu.logits, rtol=1e-4, atol=1e-5)
    on_cpu.loss.backward()
    on_device.loss.backward()
    expected, found = gradients(here), gradients(there)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert relative_error(gradient.cpu(), expected[name]) < 2e-3, name


@every_method
def test_a_step_does_not_wait_for_the_gpu(method: Method) -> None:
    model = tiny_adapted(method).cuda().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    batch = on_gpu(BATCH)
    del batch["attention_mask"]  # transformers waits to know whether there is padding

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with no_waiting():
        step()


@every_conditioned_method
def test_a_captured_step_trains_as_one_that_is_not(method: Method) -> None:
    """All that a step launches depends on shapes alone, so that a CUDA graph can repeat it."""
    losses: dict[bool, list[float]] = {}
    for captured in (False, True):
        torch.manual_seed(0)
        model = tiny_adapted(method).cuda().train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, fused=True)

        def step(batch: dict[str, torch.Tensor], model: Any = model) -> torch.Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            return loss.detach()

        repeated = CapturedSteps(step, trained) if captured else step
        losses[captured] = []
        for number in range(10):  # two shapes in turns
            batch = on_gpu(tiny_batch(rows=6 + 6 * (number % 2), seed=number % 4))
            losses[captured].append(repeated(batch).item())
            optimizer.step()
            optimizer.zero_grad()
    assert losses[True] == pytest.approx(losses[False], rel=2e-2)
    assert losses[True][-1] < losses[True][1]


@every_conditioned_method
def test_a_model_in_bfloat16_trains_under_autocast_as_without(method: Method) -> None:
    losses = []
    for enabled in (False, True):
        model = redraw(ha.adapt(tiny_t5(**WIDE).to(torch.bfloat16), method, TASKS)).cuda()
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            losses.append(model(**on_gpu(BATCH)).loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.mark.parametrize("method", [PLUS_PLUS, ha.Hyperdecoder(**NARROW)], ids=name_of)
def test_a_compiled_step_has_the_eager_gradients(method: Method) -> None:
    found = []
    for compiled in (False, True):
        model = tiny_adapted(method).cuda().train()
        step = torch.compile(model, fullgraph=True) if compiled else model
        step(**on_gpu(BATCH)).loss.backward()
        found.append(gradients(model))
    for name, gradient in found[1].items():
        assert relative_error(gradient, found[0][name]) < 2e-3, name


@pytest.mark.parametrize("method", [PLUS_PLUS, ha.Hyperdecoder(**NARROW)], ids=name_of)
def test_a_static_cache_whose_steps_are_compiled_generates_the_same(method: Method) -> None:
    model = tiny_adapted(method).cuda()
    batch = {name: tensor for name, tensor in on_gpu(BATCH).items() if name != "labels"}
    length = {"max_new_tokens": 6, "do_sample": False}
    plain = model.generate(**batch, **length)
    assert torch.equal(model.generate(**batch, **length, cache_implementation="static"), plain)
    other = {**batch, "task_ids": (batch["task_ids"] + 1) % len(TASKS)}
    again = model.generate(**other, **length, cache_implementation="static")
    assert torch.equal(again, model.generate(**other, **length))
