"""A run, a task, a file or a name from a stranger: nothing of it is run, written outside, or obeyed by the terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ByT5Tokenizer

from hyperadapt.config.written import CompareConfig, RunConfig
from hyperadapt.errors import CheckpointError, UserError
from hyperadapt.model.file import read
from hyperadapt.studies.report import picture
from hyperadapt.tasks import get_task
from tiny_run import (
    BASE,
    as_of_an_earlier_version,
    assert_one_line,
    contents,
    hyperadapt,
    write_config,
    write_tasks,
)

TASK = "name: t\nfields: text\nlabels: [a, b]\nmetrics: accuracy\n"
SOURCE = Path(__file__).resolve().parents[1] / "src" / "hyperadapt"


def with_code(directory: Path, ran: Path) -> None:
    """Let a saved tokenizer bring code of its own, which would leave a file."""
    (directory / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom transformers import ByT5Tokenizer\n"
        "class Own(ByT5Tokenizer):\n    pass\n"
    )
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    file.write_text(json.dumps(settings))


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks on standard input is told yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")


@pytest.mark.usefixtures("yes")
def test_no_code_of_a_runs_tokenizer_runs_whatever_is_answered(run: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with_code(run / "tokenizer", ran)
    task = write_tasks(tmp_path / "tasks")[0]
    for command in (
        ["evaluate", run],
        ["report", run],
        ["embed", run],
        ["encoder-only", run],
        ["predict", run, "--task", "colour"],
        ["fewshot", run, "--task", task, "--output-dir", tmp_path / "new"],
    ):
        outcome = hyperadapt(*command, stdin='{"text": "red"}\n')
        assert_one_line(outcome, "tokenizer")
        assert not ran.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("yes")
@pytest.mark.parametrize("field", ["name", "tokenizer"])
def test_no_code_of_a_base_model_or_tokenizer_runs_in_training(tmp_path: Path, field: str) -> None:
    folder, ran = tmp_path / "model", tmp_path / "ran"
    ByT5Tokenizer().save_pretrained(folder)
    with_code(folder, ran)
    given = {"config": BASE, "tokenizer": str(folder)}
    if field == "name":
        code = {"AutoConfig": "own.Own", "AutoModelForSeq2SeqLM": "own.Own"}
        (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
        given = {"name": str(folder), "tokenizer": "bytes"}
    config = write_config(tmp_path, write_tasks(tmp_path / "tasks"), model=given)
    before = contents(tmp_path)
    assert_one_line(hyperadapt("train", config), f"model.{field}")
    assert contents(tmp_path) == before
    assert not ran.exists()


def test_whatever_transformers_loads_is_told_to_run_no_code() -> None:
    calls = re.compile(
        r"\.from_pretrained\(([^)]*)"
    )  # others are through runs.quietly, which says it for all
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        through_quietly = len(re.findall(r"quietly\([\w.]+\.from_pretrained,", text))
        named = text.count("peft.PeftModel.from_pretrained loads it")  # in a message
        assert text.count(".from_pretrained") - named == len(calls.findall(text)) + through_quietly, file
        for call in calls.finditer(text):
            assert "trust_remote_code=False" in call[1], (file, call[0])
        assert not re.search(
            r"(?<![.\w])(eval|exec)\(|yaml\.(unsafe_)?load|pickle\.loads?\(|torch\.load\(", text
        ), file


class Bomb:
    """What runs a command when it is read."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.ran), "w")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint at which it goes on."""
    directory = tmp_path_factory.mktemp("stopped")
    training = {"max_steps": 2, "batch_size": 4, "eval_steps": 2}
    config = write_config(directory, write_tasks(directory / "tasks"), training=training)
    assert hyperadapt("train", config).code == 0
    return directory


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt", "training_args.bin"])
@pytest.mark.parametrize("form", ["plain", "zip"])
def test_a_pickle_in_a_checkpoint_is_never_run_and_is_one_line(
    stopped: Path, tmp_path: Path, name: str, form: str
) -> None:
    ran = tmp_path / "ran"
    shutil.copytree(stopped / "run", tmp_path / "run")
    file = tmp_path / "run/checkpoints/checkpoint-2" / name
    assert file.is_file()
    if form == "plain":
        file.write_bytes(pickle.dumps(Bomb(ran)))
    else:
        buffer = io.BytesIO()
        torch.save(Bomb(ran), buffer)
        file.write_bytes(buffer.getvalue())
    overrides = [f"output_dir={tmp_path / 'run'}", "training.max_steps=4"]
    outcome = hyperadapt("train", stopped / "config.yaml", "--resume", *overrides)
    assert not ran.exists()
    if outcome.code:  # training_args.bin is not read at all
        lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
        assert outcome.code == 2
        assert len(lines) == 1
        assert "Traceback" not in outcome.err
    else:
        assert name == "training_args.bin"


def test_a_picture_of_a_run_is_an_image_in_which_no_script_runs(run: Path, tmp_path: Path) -> None:
    (run / "embeddings").mkdir()
    (run / "embeddings/pca-task.svg").write_text('<svg onload="alert(1)"><script>alert(2)</script></svg>')
    assert hyperadapt("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "<script" not in page
    assert "alert(" not in page
    assert "<svg" not in page
    assert page.count('<img src="data:image/svg+xml;base64,') > 1
    assert set(picture("a", "<svg/>", "b").values()) == {"a", "b", "PHN2Zy8+"}


@pytest.mark.parametrize(
    "variant",
    [
        *("..", ".", "", "a/b", "a b", "a\x1b", "a\u202e", "x" * 256, "config.yaml", "table.md"),
        *(".hidden", "...", "a|b"),
    ],
)
def test_a_variant_is_a_folder_within_the_comparison(tmp_path: Path, variant: str) -> None:
    values = {
        "output_dir": str(tmp_path / "out"),
        "base": {"model": {"name": "tiny-t5"}, "data": {"tasks": ["cola"]}},
        "variants": {variant: {"method": "adapters"}},
    }
    with pytest.raises(UserError, match=r"a variant names a folder|a file of the comparison"):
        CompareConfig.from_values(values, "compare.yaml")


@pytest.mark.parametrize("path", ["''", '" "'])
def test_an_empty_path_is_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    config = write_config(tmp_path, write_tasks(tmp_path / "tasks"))
    for field in ("output_dir", "data.data_dir", "start.run", "method.task_features"):
        assert_one_line(hyperadapt("train", config, f"{field}={path}"), "the path is empty")
    assert_one_line(hyperadapt("reproduce", "table-1", "--output-dir", ""), "the path is empty")
    assert os.listdir() == []


def test_nothing_that_a_terminal_obeys_reaches_it(trained: Path, run: Path, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    (tmp_path / "t.csv").write_text(f"te{evil}xt,label\na,0\n")
    (tmp_path / "t.yaml").write_text(
        "name: t\nfiles: {train: t.csv}\nfields: text\nlabels: [a, b]\nmetrics: accuracy\n"
    )
    folder = tmp_path / f"run{evil}"
    shutil.copytree(run, folder)
    outcomes = [
        hyperadapt("train", tmp_path / f"{evil}.yaml"),
        hyperadapt("evaluate", folder, "--unseen", tmp_path / "t.yaml", "--split", "train"),
        hyperadapt("evaluate", folder),
        hyperadapt("report", folder),
        hyperadapt("evaluate", trained, "--task", evil),
        hyperadapt("predict", trained, "--task", "colour", stdin=json.dumps({f"te{evil}": 1})),
        hyperadapt(evil),
        hyperadapt("train", "x.yaml", f"{evil}=1"),
    ]
    for outcome in outcomes:
        assert not re.search(
            r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", outcome.out + outcome.err.replace("\r", "")
        ), outcome
    assert outcomes[2].code == outcomes[3].code == 0


def test_names_of_weights_reach_the_terminal_without_what_it_obeys(trained: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(trained / "base", tmp_path / "base"))
    weights = load_file(base / "model.safetensors")
    save_file(
        {**weights, "\x1b[2J\x1b]0;owned\x07evil": torch.zeros(1)},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    written = io.StringIO()
    handler = logging.StreamHandler(written)  # beside transformers' own, which writes where it was made
    logging.getLogger("transformers").addHandler(handler)
    try:
        outcome = hyperadapt(
            *("predict", trained, "--task", "colour", "--base-model", base), stdin='{"text": "red"}\n'
        )
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert outcome.code == 0, outcome.err
    [said] = [line for line in outcome.err.splitlines() if "are left out" in line]
    assert r"\x1b[2J\x1b]0;owned\x07evil" in said
    assert "LOAD REPORT" not in written.getvalue()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|x1b\[\d*m", written.getvalue() + said)


@pytest.mark.parametrize("hub", ["json", "csv", "text", "pandas", "parquet", "imagefolder", "rows"])
def test_a_hub_that_is_files_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path, hub: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "t.yaml").write_text(f"{TASK}hub: {hub}\nsplits: as_given\n")
    outcome = hyperadapt("evaluate", trained, "--unseen", "t.yaml", "--split", "train")
    assert_one_line(
        outcome, f"task 't': hub '{hub}' is no data set on the hub; for files write files: {{train: …}}"
    )


@pytest.mark.parametrize("hub", ["./rows", "/etc", "../x/y", "a/b/c", "a b", ".", "a/.."])
def test_a_hub_that_is_a_path_is_refused_as_it_is_read(tmp_path: Path, hub: str) -> None:
    (tmp_path / "t.yaml").write_text(f"{TASK}hub: {hub}\nsplits: as_given\n")
    with pytest.raises(UserError, match="is no name on the hub, as OWNER/NAME"):
        get_task(tmp_path / "t.yaml")


def test_every_hub_of_ours_is_a_name_on_the_hub() -> None:
    from hyperadapt.tasks import TASKS

    for task in TASKS.values():
        again = type(task)(**task.model_dump(exclude_none=True))
        assert again.hub == task.hub


def test_a_saved_model_names_a_model_of_transformers_and_nothing_else(run: Path) -> None:
    as_of_an_earlier_version(run)
    rewrite_header(run / "model", base_class="pipeline", base_model="x")
    assert_one_line(hyperadapt("evaluate", run), "needs a base model of class pipeline")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("method", []), ("tasks", 5), ("tasks", [1, 2]), ("base_model", None), ("base_class", ["T5"])),
        *(("base_dtype", 32), ("base_config", "x"), ("base_fingerprint", 1), ("format_version", "1")),
    ],
)
def test_a_header_with_a_field_of_a_wrong_type_is_named(run: Path, field: str, value: object) -> None:
    as_of_an_earlier_version(run)  # or its manifest would tell that the file is another
    rewrite_header(run / "model", **{field: value})
    with pytest.raises(CheckpointError, match=rf"is corrupted: its header.*{field}"):
        read(run / "model")


def rewrite_header(directory: Path, **changes: object) -> None:
    """Change a saved model's header, with the digest that belongs to it."""
    from safetensors import safe_open

    from hyperadapt.model.file import digest

    file = directory / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        config = json.loads(opened.metadata()["hyperadapt"]) | changes
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    config["digest"] = digest(config, tensors)
    save_file(tensors, file, metadata={"format": "pt", "hyperadapt": json.dumps(config)})


def test_the_paths_of_a_saved_configuration_are_kept_as_they_are(run: Path) -> None:
    assert RunConfig.load_saved(run / "config.yaml").output_dir != str(run)
