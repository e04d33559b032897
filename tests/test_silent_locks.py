"""No two processes write into the same directory, and no lock outlives the process that held it."""

from __future__ import annotations

import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from hyperadapt.config.written import CompareConfig
from hyperadapt.errors import UserError
from hyperadapt.files.locks import LOCK_FILE, holder, locked
from hyperadapt.studies.comparison import cells_of, prepare
from hyperadapt.training.checkpoints import last_checkpoint
from tiny_run import (
    BASE,
    Forked,
    assert_one_line,
    contents,
    hyperadapt,
    ranks,
    write_config,
    write_tasks,
)

FEW_STEPS = ("training.max_steps=2", "training.eval_steps=2")
SECONDS = 200  # that a process on a busy machine may take


@contextmanager
def held_elsewhere(directory: Path) -> Iterator[int]:
    """Another process, whose number this is, holds a directory until it is killed."""
    ready, tell = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            with locked(directory):
                os.write(tell, b"1")
                signal.pause()
        finally:
            os._exit(1)
    try:
        os.read(ready, 1)
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(ready)
        os.close(tell)


def write_comparison(directory: Path, **training: Any) -> Path:
    """A comparison of one run."""
    values = {
        "output_dir": str(directory / "table"),
        "seeds": [0],
        "base": {
            "model": {"config": BASE, "tokenizer": "bytes"},
            "data": {"tasks": write_tasks(directory / "tasks"), "max_source_length": 48},
            "training": {"max_steps": 4, "batch_size": 8, "eval_steps": 4, "logging_steps": 2, **training},
        },
        "variants": {"adapters": {"method": {"name": "adapters", "reduction_factor": 2}}},
    }
    (directory / "compare.yaml").write_text(yaml.safe_dump(values))
    return directory / "compare.yaml"


def test_a_directory_that_another_process_trains_is_refused_until_that_ends_however_it_does(
    run: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, write_tasks(tmp_path / "tasks"))
    new, finished = tmp_path / "new/run", run
    with held_elsewhere(new) as process, held_elsewhere(finished) as other:
        before = contents(tmp_path)
        assert_one_line(
            hyperadapt("train", config, f"output_dir={new}"), f"{new} is in use by process {process} on "
        )
        resumed = hyperadapt("train", config, f"output_dir={finished}", "training.max_steps=60", "--resume")
        assert_one_line(resumed, f"is in use by process {other} on ")
        assert_one_line(hyperadapt("evaluate", finished), f"is in use by process {other} on ")
        assert_one_line(hyperadapt("report", finished), f"is in use by process {other} on ")
        assert contents(tmp_path) == before
    assert (new / LOCK_FILE).is_file()  # as a killed process leaves it
    outcome = hyperadapt("train", config, f"output_dir={new}", *FEW_STEPS)
    assert outcome.code == 0, outcome.err
    assert hyperadapt("evaluate", finished, "--task", "colour").code == 0
    assert not list(new.rglob(LOCK_FILE))


def test_pretrain_compare_and_reproduce_are_refused_as_well(tmp_path: Path) -> None:
    values = {
        "output_dir": str(tmp_path / "pretrained"),
        "model": {"config": BASE, "tokenizer": "bytes"},
        "text": {"files": ["none.txt"]},
    }
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(values))
    commands = {
        tmp_path / "pretrained": ("pretrain", tmp_path / "pretrain.yaml"),
        tmp_path / "table": ("compare", write_comparison(tmp_path)),
        tmp_path / "paper/smoke/hyperformer": (
            "reproduce",
            "table-1",
            "--scale",
            "smoke",
            "--output-dir",
            tmp_path / "paper",
        ),
    }
    for directory, command in commands.items():
        with locked(directory):
            assert_one_line(hyperadapt(*command), f"{directory} is in use by process {os.getpid()} on ")


def test_those_who_look_at_a_lock_that_nobody_holds_take_each_other_for_no_holder(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("process 1 on dead\n")
    seen: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(holder(tmp_path) for _ in range(40))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [None] * 80


def test_a_lock_leaves_nothing_behind_but_what_was_put_beside_it(tmp_path: Path) -> None:
    new = tmp_path / "a/b"
    with locked(new):
        assert holder(new) is not None
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "), locked(new):
            pass
        assert holder(new) is not None  # whom a refusal leaves alone
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    for directory in (new, new, tmp_path / "empty"):
        with locked(directory):
            if directory == new:
                (new / "file").touch()
    assert contents(tmp_path) == {"a/b/file": b""}
    assert (tmp_path / "empty").is_dir()
    assert holder(new) is None
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot be made or written to: Not a directory"),
        locked(tmp_path / "file/run"),
    ):
        pass


def test_where_several_processes_start_together_none_waits_for_one_that_was_refused(
    tmp_path: Path, started: Callable[..., Forked]
) -> None:
    config = write_config(tmp_path, write_tasks(tmp_path / "tasks"))
    with held_elsewhere(tmp_path / "run"):
        # No launcher, which would end the second when the first has failed.
        outcomes = [
            process.wait(SECONDS) for process in [started("train", config, **rank) for rank in ranks(2)]
        ]
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert all("is in use by process" in outcome.err for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_the_runs_of_a_comparison_that_is_killed_stop_with_a_checkpoint(
    tmp_path: Path, started: Callable[..., Forked]
) -> None:
    config = write_comparison(tmp_path, max_steps=100_000)
    run, log = tmp_path / "table/adapters/seed-0", tmp_path / "table/adapters/seed-0.log"
    comparison = started("compare", config)
    children: list[psutil.Process] = []
    try:
        comparison.wait_until(lambda: last_checkpoint(run / "checkpoints") is not None, SECONDS)
        children = psutil.Process(comparison.pid).children()
        os.kill(comparison.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=SECONDS / 4)
        assert children
        assert not alive
    finally:
        for left in children:
            if left.is_running():
                left.kill()
    # Each thread of the parent that dies sends a signal: the last may come when all is done but to say so.
    told = (
        r"stopped at step (\d+) of 100000|stopped at once; its last checkpoint is \S+/checkpoint-(\d+); go on"
    )
    stopped = re.search(told, " ".join(log.read_text().split()))
    last = last_checkpoint(run / "checkpoints")
    assert stopped is not None
    assert last is not None
    assert last.name == f"checkpoint-{stopped[1] or stopped[2]}"
    assert holder(run) is None


def test_a_run_that_is_still_being_trained_is_waited_for_and_left_as_it_is(
    tmp_path: Path, said: queue.Queue[str]
) -> None:
    (cell,) = cells_of(CompareConfig.load(write_comparison(tmp_path)))
    with locked(cell.directory):
        (cell.directory / "config.yaml").write_text("of a run without a checkpoint yet\n")
        thread = threading.Thread(target=prepare, args=[cell])
        thread.start()
        line = said.get(timeout=60)
        assert not cell.beside(".yaml").exists()
    thread.join()
    assert cell.beside(".yaml").is_file()
    assert (cell.directory / "config.yaml").read_text() == "of a run without a checkpoint yet\n"
    assert f"which is using {cell.directory}" in line
