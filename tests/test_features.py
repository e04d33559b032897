"""Task features from data: what the definitions say, row by row, and that a run takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hyperadapt.config.written import RunConfig
from hyperadapt.runs.base_model import build_base, load_tokenizer
from hyperadapt.runs.run import load_run
from hyperadapt.tasks import load_split, resolve_tasks
from tiny_run import hyperadapt, write_config, write_tasks

METHOD = {"name": "hyperformer++", "reduction_factor": 2, "projector_hidden_dim": 8, "task_embedding_dim": 4}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, write_tasks(tmp_path / "tasks"), method=METHOD)


@pytest.mark.parametrize("kind", ["text", "fisher"])
def test_features_are_the_mean_over_rows_that_are_taken_one_by_one(
    tmp_path: Path, config: Path, kind: str
) -> None:
    output = tmp_path / "z.json"
    outcome = hyperadapt(
        "features", config, "--output", output, "--kind", kind, "--max-rows", 7, "--steps", 0
    )
    assert outcome.code == 0, outcome.err
    found, settings = json.loads(output.read_text()), RunConfig.load(config)
    model, tokenizer = build_base(settings.model, settings.seed).eval(), load_tokenizer(settings.model)
    norms = [
        parameter
        for name, parameter in model.encoder.named_parameters()
        if name.endswith("layer_norm.weight")
    ]
    for task in resolve_tasks(settings.data.tasks):
        vectors = []
        for row in load_split(task, "train", None, 7, 42):
            given = tokenizer(row["source"], return_tensors="pt", truncation=True, max_length=48)
            if kind == "text":
                vectors.append(model.encoder(**given).last_hidden_state[0].mean(0).detach())
                continue
            labels = tokenizer(text_target=row["target"], return_tensors="pt")["input_ids"]
            mean_loss = model(**given, labels=labels).loss
            gradients = torch.autograd.grad(-mean_loss * labels.numel(), norms)
            vectors.append(torch.cat([gradient.square() for gradient in gradients]))
        parts = torch.stack(vectors).mean(0).view(len(norms) if kind == "fisher" else 1, -1)
        expected = (parts / parts.square().mean(1, keepdim=True).sqrt()).flatten()
        assert torch.allclose(torch.tensor(found[task.name]), expected, atol=1e-4)


def test_the_fisher_information_is_of_a_model_fine_tuned_on_the_task_alone(
    tmp_path: Path, config: Path
) -> None:
    tasks = RunConfig.load(config).data.tasks
    found = {}
    for name, steps, given in (("plain", 0, tasks), ("tuned", 3, tasks), ("alone", 3, tasks[1:])):
        options = ["--kind", "fisher", "--max-rows", 7, "--steps", steps, f"data.tasks=[{','.join(given)}]"]
        outcome = hyperadapt("features", config, "--output", tmp_path / f"{name}.json", *options)
        assert outcome.code == 0, outcome.err
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["tuned"]["warmth"] == found["alone"]["warmth"]
    assert found["tuned"]["warmth"] != found["plain"]["warmth"]


def test_a_run_takes_the_features_and_does_not_train_them(tmp_path: Path, config: Path) -> None:
    output = tmp_path / "z.json"
    assert hyperadapt("features", config, "--output", output).code == 0
    steps = ["training.max_steps=2", "training.eval_steps=2"]
    outcome = hyperadapt("train", config, f"method.task_features={output}", *steps)
    assert outcome.code == 0, outcome.err
    z = load_run(tmp_path / "run").model.hyperadapt.conditioning.z
    assert torch.equal(z, torch.tensor(list(json.loads(output.read_text()).values())))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "txt"], "--kind 'txt' is unknown; did you mean 'text'?"),
        (["data.tasks=[colours]"], "task 'colours' is unknown"),
        (["data={tasks: [sick, snli]}"], "the hub has no such data set; 1 more task lacks its rows: snli"),
        (["--output", "{there}"], "there is a file"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, config: Path, options: list[str], message: str) -> None:
    (tmp_path / "there.json").write_text("kept")
    given = [option.replace("{there}", str(tmp_path / "there.json")) for option in options]
    outcome = hyperadapt("features", config, "--output", tmp_path / "z.json", *given)
    assert outcome.code == 2
    assert message in outcome.err
    assert (tmp_path / "there.json").read_text() == "kept"
    assert not (tmp_path / "z.json").exists()
