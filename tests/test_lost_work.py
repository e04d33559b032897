"""Work is not lost: what stops a run leaves a checkpoint and says so, and what fails leaves nothing in the way."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hyperadapt.config.written import RunConfig
from hyperadapt.files.locks import locked
from hyperadapt.model.file import read
from hyperadapt.pretraining.train import PretrainingTrainer
from hyperadapt.runs import train
from hyperadapt.signals import end, heard_by
from hyperadapt.training.arguments import training_arguments
from hyperadapt.training.checkpoints import last_checkpoint
from hyperadapt.training.trainer import MixtureTrainer
from hyperadapt.training.trial import try_out, try_to_answer
from tiny_run import BASE, Forked, assert_one_line, command, contents, hyperadapt, write_config, write_tasks

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FEW_STEPS = ("training.max_steps=4", "training.eval_steps=4", "training.logging_steps=1")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a run into `tmp_path / "run"`."""
    return write_config(tmp_path, write_tasks(tmp_path / "tasks"))


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, Any]]:
    """What hears the signals, the same after each test; an interrupt is not ignored, as it is without a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    yield kept
    assert {number: signal.getsignal(number) for number in SIGNALS} == kept
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do something within a step of training."""

    def install(number: int, act: Callable[[], object], kind: type = MixtureTrainer) -> None:
        step = kind.training_step

        def acting(self: Any, *arguments: Any, **options: Any) -> Any:
            if self.state.global_step + 1 == number:
                act()
            return step(self, *arguments, **options)

        monkeypatch.setattr(kind, "training_step", acting)

    return install


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_lets_the_step_end_saves_a_checkpoint_and_is_the_exit_code(
    config: Path, in_step: Callable[..., None], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        in_step(2, lambda: send(number))
        outcome = hyperadapt("train", config, *FEW_STEPS)
        assert outcome.code == 128 + number, outcome.err
        assert "stopped at step 2 of 4" in outcome.err
        last = last_checkpoint(tmp_path / "run/checkpoints")
        assert last is not None
        assert last.name == "checkpoint-2"
        assert_one_line(hyperadapt("train", config, *FEW_STEPS), "go on with --resume")
        monkeypatch.undo()
    assert hyperadapt("train", config, *FEW_STEPS, "--resume").code == 0
    unbroken = f"output_dir={tmp_path / 'unbroken'}"
    assert hyperadapt("train", config, *FEW_STEPS, unbroken).code == 0
    resumed, whole = (read(tmp_path / run / "model")[1] for run in ("run", "unbroken"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def met(function: str, number: int, *arguments: str, of: str = "") -> None:
    """Run a command, in a process of its own, which a signal meets where it calls this function.

    Args:
        function: as hyperadapt.runs:prepare.
        number: of the signal.
        arguments: of the command.
        of: what the function's first argument has in it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have had it ignore
    place, _, name = function.rpartition(".")
    whole = getattr(resolve_name(place), name)

    def meeting(*given: Any, **options: Any) -> Any:
        if of in str(given[0]):
            send(number)
            if of:  # in training the first is heard, and waited for
                send(number)
            time.sleep(60)  # it does not go on to that
        return whole(*given, **options)

    setattr(resolve_name(place), name, meeting)
    command(*arguments)


def met_twice(kind: type, *arguments: str) -> None:
    """Run a command, in a process of its own, in whose second step Ctrl-C comes twice."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    step = kind.training_step  # type: ignore[attr-defined]

    def stepping(self: Any, *of: Any, **options: Any) -> Any:
        if self.state.global_step == 1:
            send(signal.SIGINT)
            send(signal.SIGINT)
        return step(self, *of, **options)

    kind.training_step = stepping  # type: ignore[attr-defined]
    command(*arguments)


# Where the signal comes, of what, what is left, and how it is gone on with.
AGAIN = "it has no checkpoint yet; the same command begins it anew"
PHASES = {
    "before anything is written": ("hyperadapt.runs.train.prepare", "", "nothing was written", ""),
    "before the first step": ("hyperadapt.runs.train.train_until_stopped", "", AGAIN, ""),
    "at the end": (
        "hyperadapt.runs.train.finish",
        "",
        "/checkpoints/checkpoint-4; go on with --resume",
        "--resume",
    ),
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_before_the_first_step_or_after_the_last_says_what_is_left(
    config: Path, number: int, phase: str, tmp_path: Path, forked: Callable[..., Forked]
) -> None:
    function, of, left, option = PHASES[phase]
    outcome = forked(partial(met, of=of), function, number, "train", str(config), *FEW_STEPS).wait()
    assert outcome.code == 128 + number, outcome.err
    assert "stopped" not in outcome.out
    assert re.search(rf"^stopped at once; .*{re.escape(left)}$", outcome.err, re.MULTILINE), outcome.err
    assert (tmp_path / "run").exists() == (left != "nothing was written")
    assert not (tmp_path / "run/.lock").exists()
    assert hyperadapt("train", config, *FEW_STEPS, *option.split()).code == 0


def test_a_run_that_is_stopped_within_its_first_checkpoint_is_begun_anew(
    config: Path, tmp_path: Path, forked: Callable[..., Forked]
) -> None:
    in_checkpoint = partial(met, of="checkpoint-")
    for _ in range(2):  # without --resume, over the leavings of the one before
        outcome = forked(
            in_checkpoint, "hyperadapt.files.manifest.add", signal.SIGINT, "train", str(config), *FEW_STEPS
        ).wait()
        assert outcome.code == 128 + signal.SIGINT, outcome.err
        assert outcome.err.endswith(f"stopped at once; {AGAIN}\n")
        assert (tmp_path / "run/checkpoints/checkpoint-4/trainer_state.json").is_file()
    assert hyperadapt("train", config, *FEW_STEPS).code == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_any_command_with_a_line(
    trained: Path, number: int, forked: Callable[..., Forked]
) -> None:
    before = contents(trained)
    outcome = forked(met, "hyperadapt.runs.run.Run.evaluate", number, "evaluate", str(trained)).wait()
    assert (outcome.code, outcome.out) == (128 + number, "")
    assert outcome.err.endswith("\nstopped\n")
    assert contents(trained) == before


AT_IMPORT = """
import os, signal, sys
from hyperadapt import cli

class Sends:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy._core._multiarray_umath":  # within C
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Sends())
cli.main()
"""


def test_a_signal_while_libraries_are_imported_ends_with_a_line_too(trained: Path) -> None:
    arguments = [sys.executable, "-c", AT_IMPORT, "evaluate", str(trained)]
    outcome = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (128 + signal.SIGTERM, "", "\nstopped\n")


def test_a_child_ends_by_sigterm_as_if_nobody_heard_it(capfd: pytest.CaptureFixture[str]) -> None:
    with heard_by(end):
        for _ in range(20):  # at once, before it has come to itself
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
            child.start()
            child.terminate()
            child.join(30)
            assert child.exitcode == -signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_a_second_ctrl_c_ends_at_once_and_the_run_is_begun_anew(
    config: Path, tmp_path: Path, forked: Callable[..., Forked]
) -> None:
    for _ in range(2):  # without --resume, over the leavings of the one before
        outcome = forked(met_twice, MixtureTrainer, "train", str(config), *FEW_STEPS).wait()
        assert outcome.code == 128 + signal.SIGINT, outcome.err
        assert "stopped at once; it has no checkpoint yet; the same command begins it anew" in outcome.err
        assert (tmp_path / "run/config.yaml").is_file()
        assert last_checkpoint(tmp_path / "run/checkpoints") is None
    outcome = hyperadapt("train", config, *FEW_STEPS, "training.learning_rate=1e-3", "--resume")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("has no checkpoint yet; it is begun anew") == 1
    steps = [
        entry["step"] for entry in json.loads((tmp_path / "run/history.json").read_text()) if "loss" in entry
    ]
    assert steps == [1, 2, 3, 4]
    assert RunConfig.load(tmp_path / "run/config.yaml").training.learning_rate == 1e-3


def test_what_is_valuable_is_never_begun_over(trained: Path, run: Path, tmp_path: Path) -> None:
    config, output = trained.parent / "config.yaml", f"output_dir={run}"
    assert_one_line(hyperadapt("train", config, output), "already holds a run")
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "trainer_state.json").write_text("{")  # damaged
    for outcome in ("model", "results.json", "history.json"):
        (run / outcome).rename(tmp_path / outcome)
        before = contents(run)
        assert_one_line(hyperadapt("train", config, output), "already holds a run")
        assert_one_line(hyperadapt("train", config, output, "--resume"), "no checkpoint before it is whole")
        assert contents(run) == before


@pytest.mark.parametrize(
    "name", ["config.yaml", "tasks.yaml", "base/own.txt", "checkpoints/checkpoint-7/w.bin"]
)
def test_what_a_user_has_of_a_runs_names_is_never_written_over(
    trained: Path, tmp_path: Path, name: str
) -> None:
    own = tmp_path / "mine" / name
    own.parent.mkdir(parents=True)
    own.write_text("# mine\n" + (trained.parent / "config.yaml").read_text())
    before = contents(tmp_path)
    config = own if name == "config.yaml" else trained.parent / "config.yaml"
    assert_one_line(
        hyperadapt("train", config, f"output_dir={tmp_path / 'mine'}"),
        "would be written over: choose another",
    )
    assert contents(tmp_path) == before


def test_a_comparison_writes_over_no_run(trained: Path, run: Path, tmp_path: Path) -> None:
    base = yaml.safe_load((trained.parent / "config.yaml").read_text())
    del base["output_dir"]
    comparison = {"output_dir": str(run), "base": base, "variants": {"one": {}}, "seeds": [0]}
    (tmp_path / "comparison.yaml").write_text(yaml.safe_dump(comparison))
    before = contents(run)
    assert_one_line(hyperadapt("compare", tmp_path / "comparison.yaml"), "would be written over")
    assert contents(run) == before


def test_a_checkpoint_without_a_manifest_is_not_passed_over_in_silence(run: Path) -> None:
    steps = sorted(int(folder.name.split("-")[1]) for folder in (run / "checkpoints").iterdir())
    (run / f"checkpoints/checkpoint-{steps[-1]}/manifest.json").unlink()
    (run / "checkpoints/checkpoint-best").mkdir()  # no name of a checkpoint
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert last_checkpoint(run / "checkpoints") == run / f"checkpoints/checkpoint-{steps[-2]}"
    assert f"checkpoint-{steps[-1]} was cut short; going on from checkpoint-{steps[-2]}" in said.getvalue()


def test_a_training_that_raises_gives_the_signals_back(config: Path, in_step: Callable[..., None]) -> None:
    # That it does is what the fixture `handlers` checks.
    hot = ("training.learning_rate=1e30", "training.arguments={max_grad_norm: 0.0}")
    assert "the loss is" in hyperadapt("train", config, *hot).err

    def fail() -> None:
        raise AttributeError("a mistake of ours")

    in_step(2, fail)
    with pytest.raises(AttributeError, match="a mistake of ours"):
        hyperadapt("train", config, *FEW_STEPS)


def test_a_run_trains_in_a_thread_too(config: Path, tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(train.train(RunConfig.load(config, FEW_STEPS))))
    thread.start()
    thread.join()
    assert set(results[0]) == {"validation", "test"}
    assert (tmp_path / "run/results.json").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.arguments={optim: lomo}", "training.arguments.optim lomo: ImportError"),
        (
            "training.arguments={adam_epsilon: .nan}",
            "arguments.adam_epsilon' is nan: it must be a finite number",
        ),
        (
            "training.arguments={log_level: nope}",
            "'training.arguments.log_level' is 'nope': did you mean 'info'",
        ),
        ("training.lr_scheduler_type=cosine_with_min_lr", "training.lr_scheduler_type cosine_with_min_lr"),
        ("training.arguments={dataloader_persistent_workers: true}", "a batch cannot be loaded"),
        ("training.arguments={torch_compile_backend: nope}", "training.arguments (torch_compile_backend)"),
        ("training.arguments={enable_jit_checkpoint: true}", "'enable_jit_checkpoint' is decided"),
        ("model.config.pad_token_id=500", "has pad_token_id 500, but its vocabulary has only 384 tokens"),
        ("model.config.relative_attention_num_buckets=1", "the model cannot run a batch"),
        ("evaluation.num_beams=100000000", "take fewer beams"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_written(
    config: Path, tmp_path: Path, override: str, message: str
) -> None:
    before = contents(tmp_path)
    outcome = hyperadapt("train", config, override, f"output_dir={tmp_path / 'a/run'}")
    assert_one_line(outcome, message)
    assert contents(tmp_path) == before
    assert not (tmp_path / "a").exists()


def test_what_fails_at_the_first_step_is_one_line_and_the_run_is_begun_anew(config: Path) -> None:
    wrong = "training.arguments={gradient_checkpointing: true, gradient_checkpointing_kwargs: {nope: 1}}"
    outcome = hyperadapt("train", config, *FEW_STEPS, wrong)
    assert_one_line(outcome, "training fails before its first step is done: ValueError: Unexpected keyword")
    assert hyperadapt("train", config, *FEW_STEPS).code == 0


def test_more_beams_than_memory_are_refused_by_evaluate_and_predict_too(trained: Path) -> None:
    beams = ("--num-beams", 10**8)
    assert_one_line(hyperadapt("evaluate", trained, "--task", "colour", *beams), "take fewer beams")
    outcome = hyperadapt("predict", trained, "--task", "colour", *beams, stdin='{"text": "red"}\n')
    assert_one_line(outcome, "take fewer beams")


def test_trying_out_changes_no_weight_and_uses_up_no_random_number(config: Path, tmp_path: Path) -> None:
    given = RunConfig.load(
        config, ["model.config.dropout_rate=0.5", "training.arguments={dataloader_num_workers: 1}"]
    )
    args = training_arguments(given.training, given.seed, tmp_path / "run/checkpoints", best="average")
    with locked(tmp_path / "run"):
        trainer = train.prepare(given, args, last=None).trainer
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()]

    before = states()
    try_out(trainer)
    try_to_answer(trainer)
    assert states() == before
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.state_dict().items())


def test_a_full_disk_at_the_first_checkpoint_is_one_line_and_the_run_is_begun_anew(
    trained: Path, tmp_path: Path
) -> None:
    model = {"name": str(trained / "base"), "tokenizer": "bytes"}
    config = write_config(tmp_path, write_tasks(tmp_path / "tasks"), model=model)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The optimizer's state is the largest file that is written.
    size = (trained / "checkpoints/checkpoint-40/optimizer.pt").stat().st_size
    for limit, written in (
        (size - 100, {"config.yaml", "tasks.yaml", "tokenizer", "data.json", "manifest.json", "checkpoints"}),
        (3_500, None),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            outcome = hyperadapt("train", config, *FEW_STEPS, "training.arguments={disable_tqdm: true}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert outcome.code == 2
        assert outcome.err.splitlines()[-1].startswith(f"error: cannot write {tmp_path / 'run'}")
        assert written is None or {path.name for path in (tmp_path / "run").iterdir()} == written
        assert not list((tmp_path / "run").glob("checkpoints/*"))
    outcome = hyperadapt("train", config, *FEW_STEPS)
    assert outcome.code == 0, outcome.err


def test_pretraining_is_tried_out_stopped_and_begun_anew_in_the_same_way(
    tmp_path: Path,
    in_step: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    forked: Callable[..., Forked],
) -> None:
    text = "".join(
        f"The {word} river crosses the old garden, number {row}.\n" for row in range(60) for word in "ab"
    )
    (tmp_path / "text.txt").write_text(text)
    values = {
        "output_dir": str(tmp_path / "run"),
        "model": {"config": {**BASE, "vocab_size": 512}},
        "text": {"files": [str(tmp_path / "text.txt")], "held_out_tokens": 200},
        "tokenizer": {"kind": "bpe", "vocab_size": 512},
        "objective": {"source_length": 16},
        "training": {"max_steps": 4, "batch_size": 2, "eval_steps": 4, "logging_steps": 1},
    }
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(values))
    absent = ("training.t5_adafactor=false", "training.arguments={optim: lomo}")
    outcome = hyperadapt("pretrain", tmp_path / "pretrain.yaml", *absent)
    assert_one_line(outcome, "training.arguments.optim lomo: ImportError")
    assert not (tmp_path / "run").exists()
    twice = forked(met_twice, PretrainingTrainer, "pretrain", str(tmp_path / "pretrain.yaml")).wait()
    assert twice.code == 128 + signal.SIGINT, twice.err
    in_step(2, lambda: send(signal.SIGINT), PretrainingTrainer)
    outcome = hyperadapt("pretrain", tmp_path / "pretrain.yaml")
    assert outcome.code == 128 + signal.SIGINT, outcome.err
    assert "stopped at step 2 of 4" in outcome.err
    monkeypatch.undo()
    assert hyperadapt("pretrain", tmp_path / "pretrain.yaml", "--resume").code == 0
