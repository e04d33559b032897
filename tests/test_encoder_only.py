"""Encoder-only models: what their classifiers read, how these are trained, and where the scores go."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import ByT5Tokenizer

import hyperadapt as ha
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from hyperadapt.runs import results_file
from hyperadapt.runs.run import load_run
from hyperadapt.studies.embeddings import embed, mean_states
from hyperadapt.studies.encoder_only import Examples, batches_of, fit, new_model, predict, score_encoder_only
from tiny import METHODS, NARROW, name_of, relative_error, tiny_adapted
from tiny_run import SPLITS, assert_one_line, contents, hyperadapt, write_config, write_tasks

LEARN: dict[str, Any] = {"epochs": 60, "learning_rate": 2e-2, "warmup_steps": 5, "batch_size": 16}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in LEARN.items()]
INPUTS, TASK_IDS = [[5, 6, 7, 1], [8, 9, 1], [10, 1]], [0, 2, 1]


def run_of(method: Method) -> Any:
    return SimpleNamespace(model=tiny_adapted(method), tokenizer=ByT5Tokenizer())


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_classifiers_read_the_mean_state_of_the_encoder_whatever_the_method(method: Method) -> None:
    run = run_of(method)
    for ids, task, found in zip(INPUTS, TASK_IDS, mean_states(run, INPUTS, TASK_IDS, 2), strict=True):
        with torch.no_grad():
            whole = run.model(
                torch.tensor([ids]), task_ids=torch.tensor([task]), decoder_input_ids=torch.tensor([[0]])
            )
        expected = whole.encoder_last_hidden_state.mean(1)[0]
        assert relative_error(torch.from_numpy(found), expected) < 1e-5


def test_of_a_hyperdecoder_the_mean_state_is_what_its_own_mlp_embeds() -> None:
    run = run_of(ha.Hyperdecoder(**NARROW))
    states, e = (torch.from_numpy(of(run, INPUTS, TASK_IDS, 2)) for of in (mean_states, embed))
    with torch.no_grad():
        assert relative_error(run.model.hyperadapt.conditioning.of["decoder"].mlp(states), e) < 1e-5
    assert relative_error(states, e) > 0.1


def examples(rows: int = 24) -> Examples:
    """Rows of two tasks in turns, with two labels and three."""
    generator = torch.Generator().manual_seed(3)
    tasks = torch.arange(rows) % 2
    labels = torch.where(tasks == 0, torch.arange(rows) // 2 % 2, 2 + torch.arange(rows) // 2 % 3)
    return Examples(torch.randn(rows, 8, generator=generator), tasks, labels)


@pytest.mark.parametrize("warmup_steps", [0, 2, 9])
def test_training_is_adamw_on_a_shared_mlp_and_a_linear_layer_for_each_task(warmup_steps: int) -> None:
    rows, rate = examples(), 1e-2
    batches = list(torch.arange(24).split(6))
    model = new_model(8, (2, 3), seed=1)
    mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    mlp.load_state_dict(model.mlp.state_dict())
    layers = nn.ModuleList([nn.Linear(8, 2), nn.Linear(8, 3)])
    places = slice(0, 2), slice(2, 5)
    with torch.no_grad():
        for layer, place in zip(layers, places, strict=True):
            layer.weight.copy_(model.classifiers.weight[place])
            layer.bias.copy_(model.classifiers.bias[place])
    optimizer = torch.optim.AdamW([*mlp.parameters(), *layers.parameters()], weight_decay=0.0)
    for step, batch in enumerate(batches):
        after = (4 - step) / (4 - warmup_steps) if step >= warmup_steps else step / warmup_steps
        optimizer.param_groups[0]["lr"] = rate * after
        losses = []
        for row in batch.tolist():
            task = int(rows.tasks[row])
            logits = layers[task](mlp(rows.states[row]))
            losses.append(-logits.log_softmax(0)[rows.labels[row] - places[task].start])
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    fit(model, rows, batches, rate, warmup_steps)
    for trained in (model, mlp, layers):
        trained.requires_grad_(False)
    assert relative_error(model.mlp[0].weight, mlp[0].weight) < 1e-5
    for layer, place in zip(layers, places, strict=True):
        assert relative_error(model.classifiers.weight[place], layer.weight) < 1e-5
        assert relative_error(model.classifiers.bias[place], layer.bias) < 1e-5


@pytest.mark.parametrize(("epochs", "expected"), [(1, 7), (3, 21), (2.5, 18), (0.01, 1)])
def test_every_row_is_seen_once_an_epoch_in_an_order_that_the_seed_decides(
    epochs: float, expected: int
) -> None:
    batches = batches_of(7, epochs, 4, seed=5)
    assert [len(batch) for batch in batches[:-1]] == [4] * (len(batches) - 1)
    rows = torch.cat(batches).tolist()
    assert len(rows) == expected
    for start in range(0, expected, 7):
        epoch = rows[start : start + 7]
        assert len(set(epoch)) == len(epoch)
    assert torch.cat(batches_of(7, epochs, 4, seed=5)).tolist() == rows
    assert any(torch.cat(batches_of(7, epochs, 4, seed)).tolist() != rows for seed in range(5))


def test_a_row_is_given_no_label_of_another_task() -> None:
    rows, model = examples(), new_model(8, (2, 3), seed=1)
    with torch.no_grad():
        model.classifiers.bias[0] += 100  # the likeliest label of all is one of the first task
    tasks: Any = [SimpleNamespace(label_texts=("0", "1")), SimpleNamespace(label_texts=("no", "so", "yes"))]
    first, second = predict(model, rows, tasks)
    assert first == ["0"] * 12
    assert len(second) == 12
    assert set(second) <= {"no", "so", "yes"}


def test_scores_are_of_the_validation_rows_and_stand_beside_those_of_the_whole_model(run: Path) -> None:
    before = results_file.read(run)
    outcome = hyperadapt("encoder-only", run, *OPTIONS)
    assert outcome.code == 0, outcome.err
    assert "note: 1 of 2 tasks is not of kind 'class', and left out: warmth\n" in outcome.err
    assert "warm-up" not in outcome.err
    lines = {
        cells[1].strip(): cells[2:-1] for line in outcome.out.splitlines() if (cells := line.split("│"))[1:]
    }
    whole = f"{before['validation']['tasks']['colour']['score']:.2f}"
    assert [cell.strip() for cell in lines["colour"]] == [whole, "100.00", "accuracy 100.00  f1 100.00", "10"]
    assert [cell.strip() for cell in lines["average"]] == [whole, "100.00", "", ""]
    after = results_file.read(run)
    scores = after.pop("encoder_only")
    assert after == before
    colour = {"score": 100.0, "metrics": {"accuracy": 100.0, "f1": 100.0}, "rows": 10, "invalid": 0}
    assert scores == {
        "average": 100.0,
        "tasks": {"colour": colour},
        "training": {**LEARN, "max_rows": None, "seed": 42, "steps": 60 * SPLITS["train"] // 16},
        "changed_data": False,
    }


def test_the_encoder_stays_as_it_is_and_scores_follow_from_the_seed(trained: Path) -> None:
    run = load_run(trained)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    few = {**LEARN, "epochs": 2}
    torch.manual_seed(1)
    first = score_encoder_only(run, **few)
    torch.manual_seed(2)
    assert score_encoder_only(run, **few) == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
    untrained = score_encoder_only(run, **{**LEARN, "learning_rate": 1e-12})
    assert untrained["average"] < 90


def test_a_training_within_its_warm_up_is_said(run: Path) -> None:
    outcome = hyperadapt("encoder-only", run, "--max-rows", 40)
    assert outcome.code == 0, outcome.err
    message = "note: all 8 steps of the classifiers' training are within its 500 steps of warm-up: "
    assert message in outcome.err
    assert results_file.read(run)["encoder_only"]["training"]["steps"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", 0), "epochs is 0: it must be more than 0, and at most 1,000"),
        (("--epochs", "inf"), "epochs is inf"),
        (("--learning-rate", "nan"), "learning_rate is nan: it must be more than 0, and at most 1"),
        (("--max-rows", 2), "task 'colour': all 2 training rows have one label; raise max_rows"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_nothing_is_written(
    run: Path, options: tuple[object, ...], message: str
) -> None:
    before = contents(run)
    assert_one_line(hyperadapt("encoder-only", run, *options), message)
    assert contents(run) == before


def test_states_that_are_not_finite_are_refused(trained: Path) -> None:
    run = load_run(trained)
    with torch.no_grad():
        run.model.shared.weight.fill_(float("inf"))
    with pytest.raises(UserError, match="task 'colour': the encoder's states are not finite"):
        score_encoder_only(run)


def test_numbers_out_of_range_are_told_in_python_too(trained: Path) -> None:
    run = load_run(trained)
    with pytest.raises(UserError, match="batch_size is 0: it must be at least 1"):
        score_encoder_only(run, batch_size=0)
    with pytest.raises(UserError, match="warmup_steps is -1: it must be at least 0"):
        score_encoder_only(run, warmup_steps=-1)


def test_a_run_without_labels_is_told_so(tmp_path: Path) -> None:
    warmth = write_tasks(tmp_path / "tasks")[1:]
    steps = ["training.max_steps=1", "training.eval_steps=1"]
    assert hyperadapt("train", write_config(tmp_path, warmth), *steps).code == 0
    message = "has no task of kind 'class', whose labels a classifier could tell apart; its tasks: warmth"
    assert_one_line(hyperadapt("encoder-only", tmp_path / "run"), message)


def test_rows_that_have_changed_are_refused_and_their_scores_are_only_printed(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, run := tmp_path / "run")
    rows = trained.parent / "tasks/colour-validation.jsonl"
    kept = rows.read_text()
    before = contents(run)
    rows.write_text("".join(kept.splitlines(keepends=True)[:6]))
    try:
        message = f"cannot score the encoder of {run}: task 'colour': the validation rows are not those"
        assert_one_line(hyperadapt("encoder-only", run, *OPTIONS), message)
        outcome = hyperadapt("encoder-only", run, *OPTIONS, "--allow-changed-data")
    finally:
        rows.write_text(kept)
    assert outcome.code == 0, outcome.err
    assert "encoder-decoder" not in outcome.out, "its scores are of other rows"
    assert f"the scores are only printed, as rows have changed: {run} keeps those" in outcome.err
    assert contents(run) == before
