"""What cannot be written is one line that names it, and what was computed until then is not lost."""

from __future__ import annotations

import json
import os
import queue
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hyperadapt.cli import reading
from hyperadapt.errors import UserError
from hyperadapt.evaluation import Results
from hyperadapt.files.locks import LOCK_FILE, locked
from hyperadapt.files.writing import make_directory, write_atomically, writing
from hyperadapt.runs import results_file
from hyperadapt.runs.run import Run
from tiny_run import Outcome, assert_one_line, contents, hyperadapt, write_config, write_tasks

FEW_STEPS = {"max_steps": 2, "batch_size": 8, "eval_steps": 2}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as a full disk does, and unlike permissions for the superuser too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_unwritten(outcome: Outcome, place: Path) -> None:
    """Exit code 2, and one line of an error, which names the place and says why."""
    errors = [line for line in re.split(r"[\r\n]+", outcome.err) if line.startswith("error: ")]
    assert outcome.code == 2, outcome
    assert len(errors) == 1, outcome.err
    assert errors[0].startswith(f"error: cannot write {place}"), errors[0]
    assert "Traceback" not in outcome.err


def test_threads_that_write_the_same_file_do_not_take_each_others_half(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(30):
                write_atomically(tmp_path / "results.json", content)
        except BaseException as error:
            failures.append(error)

    contents = (b"a" * 5_000, b"b" * 7_000)
    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (tmp_path / "results.json").read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_evaluate_prints_its_scores_before_it_writes_them(run: Path) -> None:
    before = contents(run)
    with files_of_at_most(100):
        outcome = hyperadapt("evaluate", run)
    assert_unwritten(outcome, run / "predictions-test.jsonl.gz")
    assert "File too large" in outcome.err
    average = json.loads((run / "results.json").read_text())["test"]["average"]
    assert f"{average:.2f}" in outcome.out
    assert "colour" in outcome.out
    assert contents(run) == before


def test_scores_of_a_model_are_not_added_to_those_of_another_that_was_trained_meanwhile(
    run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Run.evaluate
    trained_on: dict[str, bytes] = {}

    def trained_meanwhile(*given: Any, **named: Any) -> Results:
        config = trained.parent / "config.yaml"
        outcome = hyperadapt("train", config, f"output_dir={run}", "training.max_steps=60", "--resume")
        assert outcome.code == 0, outcome.err
        trained_on.update(contents(run))
        return evaluate(*given, **named)

    monkeypatch.setattr(Run, "evaluate", trained_meanwhile)
    outcome = hyperadapt("evaluate", run)
    assert outcome.code == 2, outcome.err
    assert f"error: {run} was trained on while its model was scored" in outcome.err
    assert "colour" in outcome.out
    assert contents(run) == trained_on


def test_two_evaluations_that_end_at_once_add_both_their_scores(run: Path, said: queue.Queue[str]) -> None:
    model = results_file.model_entries(run)

    def add(split: str) -> None:
        with results_file.adding(run, model):
            results_file.add(run, {split: "scores"})

    second = threading.Thread(target=add, args=["second"])
    with results_file.adding(run, model):
        before = results_file.read(run)
        second.start()
        assert "waiting for process" in said.get(timeout=60)
        results_file.write(run, {**before, "first": "scores"})
    second.join()
    assert results_file.read(run) == {**before, "first": "scores", "second": "scores"}


def test_an_evaluation_waits_for_who_writes_into_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, said: queue.Queue[str]
) -> None:
    before, evaluate = contents(run), Run.evaluate
    release, holding = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(run):
            holding.set()
            release.wait()

    def held_meanwhile(*given: Any, **named: Any) -> Results:
        holder.start()
        holding.wait()
        return evaluate(*given, **named)

    holder = threading.Thread(target=hold)
    monkeypatch.setattr(Run, "evaluate", held_meanwhile)
    evaluation = threading.Thread(target=reading.evaluate, args=[run], kwargs={"split": "train"})
    evaluation.start()
    line = said.get(timeout=60)
    during = contents(run)
    release.set()
    evaluation.join()
    holder.join()
    assert line.startswith("waiting for process ")
    assert f"which is using {run}" in line
    during.pop(LOCK_FILE)
    assert during == before
    assert "train" in results_file.read(run)


def test_damaged_results_are_found_before_an_evaluation_and_not_after_it(run: Path) -> None:
    (run / "results.json").write_text('{"a": ')
    assert_one_line(hyperadapt("evaluate", run), "results.json is missing or damaged")


def test_what_can_be_neither_written_nor_removed_is_one_error(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    (tmp_path / f".scores.json.{os.getpid()}-{threading.get_ident()}.tmp").mkdir()
    with pytest.raises(UserError, match=rf"^cannot write {file}: Is a directory; "):
        write_atomically(file, b"{}")


def test_a_file_stays_as_it_was_where_the_new_one_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    write_atomically(file, b"before")
    with files_of_at_most(10), pytest.raises(UserError, match="File too large"):
        write_atomically(file, b"much longer than that")
    assert contents(tmp_path) == {"scores.json": b"before"}


def test_below_a_file_there_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"^cannot write .*file/folder: Not a directory; "):
        make_directory(tmp_path / "file/folder")
    with pytest.raises(UserError, match=r"^cannot write .*scores.json: "):
        write_atomically(tmp_path / "file/scores.json", b"{}")


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["report", "{run}"], "{run}/report.html"),
        (["embed", "{run}"], "{run}/embeddings/rows.parquet"),
        (["features", "{config}", "--output", "{run}/z.json", "--max-rows", "2"], "{run}/z.json"),
        (["train", "{config}", "output_dir={new}"], "{new}/config.yaml"),
    ],
)
def test_every_writer_says_what_does_not_fit(
    run: Path, trained: Path, tmp_path: Path, command: list[str], file: str
) -> None:
    places = {"run": run, "config": trained.parent / "config.yaml", "new": tmp_path / "new"}
    with files_of_at_most(20):
        outcome = hyperadapt(*(part.format_map(places) for part in command))
    assert_unwritten(outcome, Path(file.format_map(places)))


def test_an_embedding_folder_that_is_a_file_is_one_line(run: Path) -> None:
    (run / "embeddings").write_text("mine")
    assert_unwritten(hyperadapt("embed", run), run / "embeddings/rows.parquet")
    assert (run / "embeddings").read_text() == "mine"


@pytest.mark.parametrize("most", [3_000, 30_000])
def test_a_checkpoint_that_does_not_fit_is_one_line_and_is_not_taken_for_whole(
    tmp_path: Path, most: int
) -> None:
    from hyperadapt.training.checkpoints import last_checkpoint

    base = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = write_config(
        tmp_path,
        write_tasks(tmp_path / "tasks"),
        model={"config": base, "tokenizer": "bytes"},
        method={"name": "full_fine_tuning"},
        training=FEW_STEPS,
    )
    command = ["train", config, "training.max_steps=1"]
    with files_of_at_most(most):
        outcome = hyperadapt(*command)
    assert outcome.code == 2, outcome.err
    assert "error: cannot write" in outcome.err
    assert "Traceback" not in outcome.err
    assert last_checkpoint(tmp_path / "run/checkpoints") is None


def test_the_errors_of_all_libraries_that_write_are_one_line(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    tensors = {"a": torch.zeros(10_000)}
    tokenizer = Tokenizer(models.WordLevel({str(number): number for number in range(1000)}, "0"))
    for write in (
        lambda place: torch.save(tensors, place),
        lambda place: save_file(tensors, place),
        lambda place: tokenizer.save(str(place)),
        lambda place: place.write_bytes(b"." * 10_000),
    ):
        place = tmp_path / "file"
        with files_of_at_most(100), pytest.raises(UserError) as error, writing(place):
            write(place)
        assert str(error.value).startswith(f"cannot write {place}: ")
        assert "\n" not in str(error.value)
    with (
        pytest.raises(KeyError),
        writing(tmp_path / "file"),
    ):  # what is no fault of the place stays what it is
        raise KeyError("a")
