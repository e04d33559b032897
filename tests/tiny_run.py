"""A tiny run, trained once a session through the command line: two tasks of jsonl files, a tiny T5 that reads bytes."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM

from hyperadapt.cli import entry
from hyperadapt.model.file import digest
from hyperadapt.model.fingerprint import sampled_fingerprint
from hyperadapt.studies.comparison import Cell

COLOURS = {"red rose": 0, "blue whale": 1, "crimson tide at dusk": 0, "azur é": 1}
SPLITS = {"train": 48, "validation": 10, "test": 14}
BASE = {
    "vocab_size": 384,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "dropout_rate": 0.0,
}


class Outcome(NamedTuple):
    """What a command did: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


def hyperadapt(*arguments: object, stdin: str = "") -> Outcome:
    """Run a command in this process, as its entry point does; anything but an exit, as a traceback, is raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["hyperadapt", *map(str, arguments)], io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            entry.main()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    finally:
        sys.argv, sys.stdin = before
    return Outcome(code, out.getvalue(), err.getvalue())


FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [
        "hyperadapt.cli",
        "hyperadapt.studies.comparison",
        "hyperadapt.pretraining",
        "hyperadapt.runs.train",
        "transformers.models.t5.modeling_t5",
    ]
)


class Forked:
    """A function in a process of its own, forked from one that has imported what commands need.

    A new interpreter takes ten seconds for that. Signals, exit code, process group and what is read of the environment
    later are as in one; modules that are imported already saw the environment of the first, no atexit runs, and it has
    no multiprocessing children, as it is one itself.
    """

    def __init__(
        self, directory: Path, function: Callable[..., object], *arguments: object, **environment: str
    ) -> None:
        number = len(list(directory.glob("*.out")))
        self.files = [directory / f"{number}.{name}" for name in ("out", "err")]
        for file in self.files:
            file.touch()
        self.process = FORKING.Process(
            target=in_this_process, args=(self.files, environment, function, *arguments), daemon=True
        )
        self.process.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self.process.pid is not None
        return self.process.pid

    def told(self) -> Outcome:
        """What it has written so far; its exit code is -1 while there is none."""
        code = self.process.exitcode
        return Outcome(-1 if code is None else code, *(file.read_text() for file in self.files))

    def wait(self, seconds: float = 240) -> Outcome:
        """What it did, once it has ended; killed by a signal its exit code is that signal's number, negative."""
        self.process.join(seconds)
        assert not self.process.is_alive(), self.told()
        return self.told()

    def wait_until(self, reached: Callable[[], bool], seconds: float = 240) -> None:
        """Look again and again whether a running process has come so far."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.process.is_alive(), self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)


def in_this_process(
    files: Sequence[Path], environment: dict[str, str], function: Callable[..., object], *arguments: object
) -> None:
    """What a forked process does: with streams and environment of its own, it calls a function."""
    os.environ.update(environment)
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), stream)
    function(*arguments)


def command(*arguments: str) -> None:
    """Run a command as its entry point does, in a process that has nothing else to do."""
    sys.argv = ["hyperadapt", *arguments]
    entry.main()


def ranks(processes: int) -> list[dict[str, str]]:
    """What a launcher tells each of the processes that are to train together."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **together} for rank in range(processes)]


def one_after_another(cells: Sequence[Cell], jobs: int, processes: int) -> Iterator[tuple[Cell, int]]:
    """Train runs in this process, as `spread_over_processes` does in others, each of which imports everything anew."""
    for cell in cells:
        command = cell.command(jobs, processes)
        outcome = hyperadapt(*command[command.index("train") :])
        cell.beside(".log").write_text(outcome.out + outcome.err)
        yield cell, outcome.code


def write_tasks(directory: Path) -> list[str]:
    """Write two tasks: `colour` with labels, `warmth` with scores, whose targets may be longer."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in SPLITS.items():
        colours, warmths = [], []
        for row in range(rows):
            text = f"{list(COLOURS)[row % len(COLOURS)]}{' and so on' * (row % 3)}"
            colours.append({"text": text, "label": COLOURS[list(COLOURS)[row % len(COLOURS)]]})
            warmths.append({"text": text, "warmth": (row % 4) + 0.4})
        for task, lines in (("colour", colours), ("warmth", warmths)):
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (directory / f"{task}-{split}.jsonl").write_text(text, encoding="utf-8")
    colour = {"labels": ["warm", "cold"], "metrics": ["accuracy", "f1"]}
    warmth = {"kind": "score", "label": "warmth", "metrics": ["pearson", "spearman"]}
    for task, rest in (("colour", colour), ("warmth", warmth)):
        files = {split: f"{task}-{split}.jsonl" for split in SPLITS}
        spec = {"name": task, "files": files, "fields": ["text"], **rest}
        (directory / f"{task}.yaml").write_text(yaml.safe_dump(spec))
    return [str(directory / f"{task}.yaml") for task in ("colour", "warmth")]


def write_config(directory: Path, tasks: list[str], **changes: Any) -> Path:
    """Write the configuration of a tiny run into `directory / "run"`."""
    values = {
        "output_dir": str(directory / "run"),
        "model": {"config": BASE, "tokenizer": "bytes", "seed": 0},
        "method": {"name": "adapters", "reduction_factor": 2},
        "data": {"tasks": tasks, "max_source_length": 48},
        "training": {
            "max_steps": 40,
            "batch_size": 16,
            "eval_steps": 20,
            "learning_rate": 1e-2,
            "logging_steps": 20,
        },
        "evaluation": {"answers": "generate", "batch_size": 5},
        **changes,
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(values))
    return directory / "config.yaml"


def contents(directory: Path) -> dict[str, bytes]:
    """Everything below a directory: path -> content."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def as_of_an_earlier_version(run: Path) -> None:
    """Make a run, and its checkpoints, those of a version that kept neither manifests nor digests."""
    for file in [*run.rglob("manifest.json"), *run.glob("data.json")]:
        file.unlink()
    results = json.loads((run / "results.json").read_text())
    results.pop("digest", None)
    (run / "results.json").write_text(json.dumps(results))
    base = AutoModelForSeq2SeqLM.from_pretrained(run / "base")
    for file in run.rglob("model.safetensors"):
        as_of_format_1(file, base)
    for file in run.rglob("trainer_state.json"):
        state = json.loads(file.read_text())
        state["stateful_callbacks"].pop("Totals", None)
        file.write_text(json.dumps(state))


def as_of_format_1(file: Path, base: Any) -> None:
    """Give a saved model the header of format 1, which knew its base model by samples; what is none stays as it is."""
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    if "hyperadapt" not in header:
        return
    config = json.loads(header["hyperadapt"])
    for field in ("base_dtypes", "base_vocabulary", "generation_config"):
        del config[field]
    config |= {"format_version": 1, "base_fingerprint": sampled_fingerprint(base)}
    config["digest"] = digest(config, tensors)
    save_file(tensors, file, {**header, "hyperadapt": json.dumps(config)})


def assert_one_line(outcome: Outcome, message: str) -> None:
    """Exit code 2, nothing on standard output, and on standard error one line that begins with "error: "."""
    # No progress bar counts: in a process of their own, evaluate and predict draw none before two seconds. Nor does
    # what was noted of the rows before.
    lines = [
        line
        for line in re.split(r"[\r\n]+", outcome.err)
        if line.strip() and "it/s]" not in line and not line.startswith("note: ")
    ]
    assert outcome.code == 2, outcome
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert outcome.out == ""
