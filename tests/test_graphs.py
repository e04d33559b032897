"""Steps that are repeated, by what stands for a CUDA graph (`repeated_call`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Seq2SeqTrainingArguments

from hyperadapt.errors import UserError
from hyperadapt.fast import cuda_graphs as graphs
from hyperadapt.fast.cuda_graphs import CapturedSteps
from hyperadapt.training.arguments import check_graphs
from tiny import PLUS_PLUS, gradients, of_task, relative_error, repeated_call, tiny_adapted, tiny_batch
from tiny_run import assert_one_line, hyperadapt, write_config, write_tasks


def steps_of(model: Any) -> CapturedSteps:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(batch: dict[str, Tensor]) -> Tensor:
        loss = model(**batch).loss
        loss.backward()
        return loss.detach()

    def gradients_lie() -> list[int]:
        return [parameter.grad.data_ptr() for parameter in trained if parameter.grad is not None]

    def capture(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        replay, loss = repeated_call(call)
        places = gradients_lie()
        assert len(places) == len(trained)

        def where_it_was_captured() -> None:
            assert gradients_lie() == places, "a graph would write elsewhere"
            replay()

        return where_it_was_captured, loss

    return CapturedSteps(step, trained, capture)


def test_repeated_steps_have_the_losses_and_gradients_of_each_batch() -> None:
    model, plain = tiny_adapted().train(), tiny_adapted().train()
    repeated = steps_of(model)
    # A shape's first batch runs as it is, its second is captured, its third repeats; another shape comes between.
    batches = [tiny_batch(seed=seed, rows=6 if seed != 1 else 12) for seed in range(5)]
    losses = []
    for batch in batches:
        losses.append(repeated(batch))
        expected = plain(**batch).loss
        expected.backward()
        assert losses[-1] == pytest.approx(expected.item(), rel=1e-5)
        own, wanted = gradients(model), gradients(plain)
        assert all(relative_error(own[name], wanted[name]) < 1e-4 for name in wanted)
        for of in (model, plain):
            of.zero_grad()
    assert len(repeated.captured) == 1
    assert len({loss.item() for loss in losses}) == 5, "a loss is overwritten by the next step's"


def test_gradients_add_up_over_a_steps_batches_and_start_anew_after_it() -> None:
    model, plain = tiny_adapted().train(), tiny_adapted().train()
    repeated = steps_of(model)
    for seed in range(3):
        for number in (0, 1):
            repeated(tiny_batch(seed=10 * seed + number))
            plain(**tiny_batch(seed=10 * seed + number)).loss.backward()
        own, wanted = gradients(model), gradients(plain)
        assert all(relative_error(own[name], wanted[name]) < 1e-4 for name in wanted)
        for of in (model, plain):
            of.zero_grad()


def test_what_a_graph_reads_is_its_own() -> None:
    repeated = steps_of(tiny_adapted(PLUS_PLUS).train())
    batches = [of_task(tiny_batch(seed=seed), seed % 3) for seed in range(4)]
    kept = [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]
    for batch in batches:
        repeated(batch)
    for batch, as_it_was in zip(batches, kept, strict=True):
        assert all(torch.equal(batch[name], as_it_was[name]) for name in batch)


def test_gradients_that_are_there_are_taken_over() -> None:
    model, plain = tiny_adapted().train(), tiny_adapted().train()
    repeated = steps_of(model)
    for of in (model, plain):
        of(**tiny_batch(seed=1)).loss.backward()
    for seed in (2, 3, 4):
        repeated(tiny_batch(seed=seed))
        plain(**tiny_batch(seed=seed)).loss.backward()
    own, wanted = gradients(model), gradients(plain)
    assert all(relative_error(own[name], wanted[name]) < 1e-4 for name in wanted)


def test_more_shapes_than_there_may_be_graphs_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 1)
    model, plain = tiny_adapted().train(), tiny_adapted().train()
    repeated = steps_of(model)
    for number in range(6):
        batch = tiny_batch(rows=6 + 6 * (number % 2), seed=number)
        assert repeated(batch) == pytest.approx(plain(**batch).loss.item(), rel=1e-5)
    assert len(repeated.captured) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"optim": "lomo"}, "lomo, which takes its step within the backward"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"torch_compile": True}, "torch_compile"),
        ({"torch_empty_cache_steps": 5}, "torch_empty_cache_steps"),
    ],
)
def test_what_a_graph_cannot_repeat_is_refused(
    arguments: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    args = Seq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)
    args.use_cpu = False
    with pytest.raises(UserError, match=f"training.cuda_graphs: not with .*{reason}"):
        check_graphs(args)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_with_graphs_is_the_run_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int
) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    monkeypatch.setattr(graphs, "on_the_gpu", lambda: repeated_call)
    monkeypatch.setattr("hyperadapt.training.arguments.check_graphs", lambda args: None)
    losses: dict[bool, list[float]] = {}
    for on in (False, True):
        directory = tmp_path / f"{on}"
        directory.mkdir()
        options = (f"gradient_accumulation_steps={accumulation}", f"cuda_graphs={on}", "logging_steps=5")
        outcome = hyperadapt("train", write_config(directory, tasks), *(f"training.{of}" for of in options))
        assert outcome.code == 0, outcome.err
        state = json.loads(next((directory / "run").rglob("trainer_state.json")).read_text())
        losses[on] = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses[True]) > 3
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_they_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = write_config(tmp_path, write_tasks(tmp_path / "tasks"))
    outcome = hyperadapt("train", config, "training.cuda_graphs=true")
    assert_one_line(outcome, "training.cuda_graphs: a GPU is needed, and there is none")
    assert not (tmp_path / "run").exists()
