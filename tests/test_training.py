"""Training: the same run however it is started, stopped and shared out over processes."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from hyperadapt.architectures import EncoderDecoder
from hyperadapt.config.written import RunConfig
from hyperadapt.errors import UserError
from hyperadapt.methods import METHODS
from hyperadapt.model.file import read
from hyperadapt.runs.base_model import build_base
from hyperadapt.runs.run import load_run
from hyperadapt.runs.train import train
from hyperadapt.training.checkpoints import last_checkpoint
from hyperadapt.training.trainer import MixtureTrainer
from tiny_run import Forked, hyperadapt, ranks

ROOT = Path(__file__).resolve().parents[1]
WORDS = [
    "red",
    "blue",
    "tall",
    "short",
    "loud",
    "calm",
    "a very long and winding sentence about nothing at all",
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two small tasks of a user's own, with rows of very different lengths."""
    directory = tmp_path_factory.mktemp("tasks")
    for number, task in enumerate(("colour", "size")):
        for split, rows in (("train", 60), ("validation", 10)):
            lines = [
                json.dumps({"text": f"{WORDS[(row * 3 + number) % 7]} {row}", "label": row % 2})
                for row in range(rows)
            ]
            (directory / f"{task}-{split}.jsonl").write_text("\n".join(lines))
        spec = {
            "name": task,
            "files": {split: f"{task}-{split}.jsonl" for split in ("train", "validation")},
            "fields": ["text"],
            "labels": ["even", "odd"],
            "metrics": ["accuracy"],
        }
        (directory / f"{task}.yaml").write_text(yaml.safe_dump(spec))
    return [str(directory / f"{task}.yaml") for task in ("colour", "size")]


def write_config(directory: Path, tasks: list[str], **training: Any) -> Path:
    """A tiny run: dropout on, so that a resumed run must also find its random state again."""
    dropout = training.pop("dropout", 0.1)
    method = training.pop("method", {"name": "hyperformer++", "reduction_factor": 4})
    options = {
        "max_steps": 20,
        "batch_size": 8,
        "eval_steps": 10,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        **training,
    }
    model = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    values = {
        "output_dir": str(directory / "run"),
        "model": {"config": {**model, "dropout_rate": dropout}, "tokenizer": "bytes"},
        "method": method,
        "data": {"tasks": tasks, "max_source_length": 32},
        "training": options,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(values))
    return directory / "config.yaml"


def finish(process: Forked) -> None:
    """Wait for a command that succeeds."""
    outcome = process.wait()
    assert outcome.code == 0, outcome.err[-3000:]


def trained(*arguments: object) -> None:
    """Train in this process, which need not import everything anew."""
    outcome = hyperadapt("train", *arguments)
    assert outcome.code == 0, outcome.err[-3000:]


def losses(run: Path) -> list[float]:
    """Every logged loss, of which there is one a step."""
    checkpoint = last_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tasks: list[str]) -> Path:
    """A run of 20 steps with dropout, in one go."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    trained(write_config(directory, tasks))
    return directory / "run"


def test_a_run_stopped_at_step_10_and_resumed_equals_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, tasks: list[str], uninterrupted: Path, started: Callable[..., Forked]
) -> None:
    config = write_config(tmp_path, tasks)
    trained(config, "training.max_steps=10")
    assert len(losses(tmp_path / "run")) == 10
    finish(started("train", config, "--resume"))  # another process, which cannot remember a random state
    assert losses(tmp_path / "run") == losses(uninterrupted)
    resumed, whole = (read(run / "model")[1] for run in (tmp_path / "run", uninterrupted))
    assert set(resumed) == set(whole)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_sigterm_writes_a_checkpoint_and_exits_with_its_number_and_the_run_goes_on_from_there(
    tmp_path: Path, tasks: list[str], started: Callable[..., Forked]
) -> None:
    config = write_config(tmp_path, tasks, max_steps=100_000, eval_steps=50_000)
    process = started("train", config)
    # Training has begun once Trainer has drawn its first bar; a little later some steps are done.
    process.wait_until(lambda: "it/s" in process.told().err)
    time.sleep(1)
    os.kill(process.pid, signal.SIGTERM)
    code, _, stderr = process.wait(60)
    assert code == 128 + signal.SIGTERM, stderr[-2000:]
    assert "Traceback" not in stderr
    stopped_at = last_checkpoint(tmp_path / "run/checkpoints")
    assert stopped_at is not None
    step = int(stopped_at.name.removeprefix("checkpoint-"))
    assert f"stopped at step {step} of 100000" in " ".join(stderr.split())
    trained(config, "--resume", f"training.max_steps={step + 3}")
    assert len(losses(tmp_path / "run")) == step + 3


@pytest.mark.parametrize("accumulation", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_equal_one_on_the_same_global_batch(
    tmp_path: Path, tasks: list[str], accumulation: int, started: Callable[..., Forked]
) -> None:
    runs = {"one": tmp_path / "one", "two": tmp_path / "two"}
    options = {
        "dropout": 0.0,
        "learning_rate": 1e-3,  # ten times that, and Adam would grow differences of rounding past the bound
        "gradient_accumulation_steps": accumulation,
        "label_smoothing": 0.1,
    }
    trained(write_config(runs["one"], tasks, **options))
    config = write_config(runs["two"], tasks, **options)
    if accumulation == 2:  # as users start them
        launcher = [
            "torch.distributed.run",
            "--nproc_per_node=2",
            f"--master_port={29400 + os.getpid() % 500}",
        ]
        command = [sys.executable, "-m", *launcher, "-m", "hyperadapt.cli", "train", str(config)]
        alone = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "src")}
        subprocess.run(command, check=True, timeout=240, capture_output=True, env=alone)
    else:
        for process in [started("train", config, **rank) for rank in ranks(2)]:
            finish(process)
    one, two = (losses(directory / "run") for directory in runs.values())
    assert len(one) == len(two) == 20
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    scores = [
        json.loads((directory / "run/results.json").read_text())["validation"] for directory in runs.values()
    ]
    errors = [[task.pop("calibration_error") for task in of["tasks"].values()] for of in scores]
    assert errors[0] == pytest.approx(errors[1], abs=1e-3)
    assert scores[0] == scores[1]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_tasks(
    tmp_path: Path, tasks: list[str]
) -> None:
    config = write_config(tmp_path, tasks, learning_rate=1e30, arguments={"max_grad_norm": 0.0})
    code, _, stderr = hyperadapt("train", config)
    message = next(line for line in stderr.splitlines() if line.startswith("error: "))
    assert re.match(r"error: the loss is (nan|inf) at step \d+, in a batch of colour, size; ", message)
    assert code == 2
    assert "Traceback" not in stderr


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    for step in (10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-10/trainer_state.json").write_text('{"global_step": 10}')
    for half_written in (None, "", '{"global_st'):
        if half_written is not None:
            (tmp_path / "checkpoint-20/trainer_state.json").write_text(half_written)
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-20/trainer_state.json").write_text('{"global_step": 20}')
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-20"


def token_loss(epsilon: float, logits: Tensor, labels: Tensor, num_items: Tensor | None) -> Tensor:
    return EncoderDecoder().loss(SimpleNamespace(logits=logits), labels, num_items, epsilon)


def test_the_loss_is_the_mean_over_target_tokens_of_the_whole_step() -> None:
    logits, labels = torch.randn(4, 3, 11), torch.randint(0, 11, (4, 3))
    labels[1, 2] = labels[3, 1:] = -100
    kept = labels.flatten() != -100
    log_probabilities = logits.flatten(0, 1)[kept].log_softmax(-1)
    nll = -log_probabilities.gather(1, labels.flatten()[kept][:, None]).mean()
    smooth = 0.9 * nll - 0.1 * log_probabilities.mean()
    assert math.isclose(token_loss(0.0, logits, labels, None), nll, rel_tol=1e-6)
    assert math.isclose(token_loss(0.1, logits, labels, None), smooth, rel_tol=1e-6)
    halves = [token_loss(0.1, logits[half], labels[half], kept.sum()) for half in (slice(2), slice(2, 4))]
    assert math.isclose(sum(halves), smooth, rel_tol=1e-6)
    assert math.isclose(
        token_loss(0.0, logits, labels, None), F.cross_entropy(logits.mT, labels), rel_tol=1e-6
    )


def test_only_what_may_change_may_change_on_resume(
    tmp_path: Path, tasks: list[str], uninterrupted: Path
) -> None:
    from hyperadapt.runs.resume import checkpoint_to_resume

    config = write_config(tmp_path, tasks)
    changed = RunConfig.load(config, [f"output_dir={uninterrupted}", "training.learning_rate=1"])
    with pytest.raises(
        UserError,
        match=r"training\.learning_rate was 0\.01 and is now 1\.0; restore it, or choose another output_dir$",
    ):
        checkpoint_to_resume(uninterrupted, changed)
    changed = RunConfig.load(config, [f"output_dir={uninterrupted}", "training.learning_rate=1", "seed=9"])
    with pytest.raises(
        UserError, match=r"seed was \d+ and is now 9; training\.learning_rate was .*; restore them, or"
    ):
        checkpoint_to_resume(uninterrupted, changed)
    other_method = RunConfig.load(config, [f"output_dir={uninterrupted}", "method={name: adapters}"])
    with pytest.raises(UserError, match=r"method.name was 'hyperformer\+\+' and is now 'adapters'"):
        checkpoint_to_resume(uninterrupted, other_method)
    longer = RunConfig.load(config, [f"output_dir={uninterrupted}", "training.max_steps=30"])
    assert checkpoint_to_resume(uninterrupted, longer).name == "checkpoint-20"


@pytest.fixture
def trainer(tmp_path: Path, tasks: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run's trainer, before its first step."""
    made: list[Any] = []

    class BeganError(BaseException):  # an Exception in a first step is told as the user's mistake
        pass

    def keep(self: Any, **_: Any) -> None:
        made.append(self)
        raise BeganError

    monkeypatch.setattr(MixtureTrainer, "train", keep)
    with pytest.raises(BeganError):
        train(RunConfig.load(write_config(tmp_path, tasks, gradient_accumulation_steps=2), []))
    return made[0]


def test_target_tokens_are_counted_where_the_batch_is_unless_processes_add_theirs_up(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterator = iter(trainer.get_train_dataloader())
    batches, count = trainer.get_batch_samples(iterator, 2, torch.device("meta"))
    assert count.device.type == "cpu"
    assert count == sum(int((batch["labels"] != -100).sum()) for batch in batches)
    monkeypatch.setattr(trainer.args, "_n_gpu", 2)
    _, count = trainer.get_batch_samples(iterator, 1, torch.device("meta"))
    assert count.device.type == "meta"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_with_one_task_a_batch(tmp_path: Path, tasks: list[str], name: str) -> None:
    fitting = {"reduction_factor": 4, "fan_in": 4, "fan_out": 8}
    options = {option: value for option, value in fitting.items() if option in METHODS[name].model_fields}
    config = write_config(tmp_path, tasks, max_steps=4, eval_steps=4, method={"name": name, **options})
    trained(config, "data.mixed_batches=false")
    assert len(losses(tmp_path / "run")) == 4


def test_the_mixture_of_skills_has_a_learning_rate_of_its_own_and_decays_with_the_rest(
    tmp_path: Path, tasks: list[str]
) -> None:
    method = {"name": "polytropon", "n_skills": 2, "rank": 2, "allocation_learning_rate": 0.25}
    config = write_config(tmp_path, tasks, max_steps=4, eval_steps=2, method=method)
    trained(config, "training.lr_scheduler_type=linear")
    state = torch.load(tmp_path / "run/checkpoints/checkpoint-2/optimizer.pt", weights_only=True)
    groups = [group for group in state["param_groups"] if group["params"]]
    rates = sorted((group["lr"], len(group["params"])) for group in groups)
    # Encoder and decoder have one shape of maps each here; halfway both rates are half of what they were.
    assert rates == [(0.005, 2), (0.125, 1), (0.125, 1)]


def test_t5s_adafactor_takes_steps_relative_to_the_size_of_each_tensor(
    tmp_path: Path, tasks: list[str]
) -> None:
    options = ["training.t5_adafactor=true", "training.max_steps=1", "training.eval_steps=1"]
    method = {"name": "full_fine_tuning"}
    config = write_config(tmp_path, tasks, method=method)
    trained(config, *options)
    settings = RunConfig.load(config, options)
    before = build_base(settings.model, settings.seed).state_dict()
    after = load_run(tmp_path / "run").model.state_dict()
    ratios = {
        name: float((after[name] - tensor).square().mean().sqrt() / tensor.square().mean().sqrt())
        for name, tensor in before.items()
        if tensor.dim() > 1
    }
    # The learning rate: no tensor moves by more of its size, and most by as much, those of few rows by less.
    assert max(ratios.values()) == pytest.approx(0.01, rel=1e-3)
    assert median(ratios.values()) > 0.005
