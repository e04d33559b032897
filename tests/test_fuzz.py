"""Whatever a file holds, what comes of it is a result or one line: never another exception, and nothing is written."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from hyperadapt.config.written import CompareConfig, PretrainConfig, RunConfig
from hyperadapt.errors import UserError
from hyperadapt.model.file import digest, read
from hyperadapt.runs.run import load_run_config, load_tasks
from hyperadapt.tasks import get_task, load_split
from hyperadapt.tasks.kinds.texts import longest_common, rouge_l
from hyperadapt.tasks.loading import input_texts
from hyperadapt.tasks.sources import json_rows
from tiny_run import assert_one_line, contents, hyperadapt, write_config, write_tasks

fuzzed = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(
    f"m{level}: &m{level} {{<<: [*m{level - 1}, *m{level - 1}]}}\n" for level in range(1, 40)
)
SCALARS = [
    *(
        "2020-13-45",
        "!!timestamp 2020-99-99",
        "!!python/object/apply:os.getcwd []",
        "!!int x",
        "!!binary =",
        "!!set {}",
    ),
    *(
        "\x00",
        '"\\0"',
        '"\\ud800"',
        '"\\U00110000"',
        "9" * 5000,
        "-" + "9" * 30,
        "1e308",
        "1e999",
        ".nan",
        "-.inf",
    ),
    *(
        "[" * 2000,
        "{a: " * 2000,
        "- " * 2000,
        "&a [*a]",
        "*none",
        "<<",
        "{<<: 1}",
        "? [a]",
        "%YAML 9",
        "'",
        "|",
        "\t",
    ),
    *(
        "~",
        "true",
        "no",
        "''",
        "' '",
        "[]",
        "{}",
        "[[]]",
        "[~]",
        "{a: ~}",
        "3",
        "-1",
        "0.5",
        "x" * 5000,
        "..",
        "/",
    ),
]
scalars = st.one_of(
    st.sampled_from(SCALARS),
    st.text(max_size=8),
    st.integers().map(str),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ).map(json.dumps),
)

CONFIGS: dict[type[Any], dict[str, Any]] = {
    RunConfig: {
        **{"output_dir": "run", "seed": 1, "extends": None, "start": {"run": "x", "init_from": "y"}},
        "model": {
            "name": "tiny-t5",
            "tokenizer": "bytes",
            "config": None,
            "dtype": "float32",
            "quantization": None,
        },
        "method": {"name": "hyperformer", "reduction_factor": 4, "task_features": "z", "positions": []},
        "data": {"tasks": ["rte"], "data_dir": "d", "chunk_overlap": 3, "size_limit": 1, "temperature": 2},
        "training": {
            "max_steps": 3,
            "learning_rate": 0.1,
            "batch_size": 2,
            "arguments": {},
            "cuda_graphs": False,
        },
    },
    CompareConfig: {
        **{
            "output_dir": "run",
            "seeds": [1],
            "base": {"model": {"name": "tiny-t5"}, "data": {"tasks": "rte"}},
        },
        "variants": {"a": {"method": "adapters"}},
    },
    PretrainConfig: {
        **{
            "output_dir": "run",
            "model": {"name": "tiny-t5"},
            "text": {"files": ["a.txt"], "held_out_tokens": 3},
        },
        **{
            "multitask": {"share": 0.5, "tasks": "rte"},
            "distillation": {"directory": "d"},
            "tokenizer": None,
        },
    },
}
TASK = {
    **{
        "name": "t",
        "files": {"train": "rows.jsonl", "test": "rows.csv"},
        "fields": {"a": "text"},
        "label": "label",
    },
    **{
        "labels": ["x", "y"],
        "metrics": ["accuracy"],
        "splits": {"train": "train"},
        "kind": "class",
        "hub": None,
    },
    **{"where": {"text": "b"}, "writes": "name", "group": ["text"], "max_target_length": 4, "prefix": "p"},
}


def places_of(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """List the paths of all fields."""
    found = []
    for name, value in values.items():
        found.append((*path, name))
        found += places_of(value, (*path, name)) if isinstance(value, dict) else []
    return found


def written(values: dict[str, Any], place: tuple[str, ...], text: str) -> str:
    """Write YAML fields, flow style but for the first level, with a raw text at one place."""
    marked = json.loads(json.dumps(values))
    inner = marked
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = "@@"
    lines = (f"{name}: {json.dumps(value)}\n" for name, value in marked.items() if value is not None)
    return "".join(lines).replace('"@@"', text)


def answered(attempt: Callable[[], object], folder: Path) -> None:
    """Check that what comes of an attempt is a result or a UserError of one line, and that nothing is written."""
    before, message = contents(folder), ""
    try:
        attempt()
    except UserError as error:
        message = str(error)
    assert "\n" not in message.strip()
    assert len(message) < 3000
    assert contents(folder) == before


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_any_configuration(kind: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = places_of(CONFIGS[kind])

    @fuzzed
    @given(st.sampled_from(places), scalars, st.one_of(st.just(""), st.text(max_size=20)))
    def check(place: tuple[str, ...], scalar: str, rest: str) -> None:
        Path("c.yaml").write_bytes((written(CONFIGS[kind], place, scalar) + rest).encode("utf-8", "replace"))
        answered(lambda: kind.load("c.yaml"), tmp_path)

    check()


def test_any_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(written(CONFIGS[RunConfig], ("seed",), "1"))
    fields = [".".join(place) for place in places_of(CONFIGS[RunConfig])]

    @fuzzed
    @given(
        st.lists(st.tuples(st.sampled_from(fields) | st.text(max_size=5), scalars), min_size=1, max_size=2)
    )
    def check(given: list[tuple[str, str]]) -> None:
        answered(lambda: RunConfig.load("c.yaml", [f"{field}={scalar}" for field, scalar in given]), tmp_path)

    check()


def test_any_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    @fuzzed
    @given(st.sampled_from(places_of(TASK)), scalars, st.one_of(st.just(""), st.text(max_size=20)))
    def check(place: tuple[str, ...], scalar: str, rest: str) -> None:
        Path("t.yaml").write_bytes((written(TASK, place, scalar) + rest).encode("utf-8", "replace"))
        answered(lambda: get_task("t.yaml"), tmp_path)

    check()


CELLS = [
    "a",
    "",
    "0",
    "1",
    "1e308",
    "-1e308",
    "NaN",
    '"',
    "\x00",
    "\ud800",
    "\u2028",
    "é",
    "\r",
    ",",
    "x" * 200_000,
]
values = st.one_of(
    st.sampled_from(CELLS),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.lists(st.integers(), max_size=2),
)
KINDS = {
    "class": "labels: [a, b]\nmetrics: accuracy\n",
    "score": "metrics: pearson\n",
    "text": "metrics: rougeL\n",
    "question_answering": "metrics: answer_f1\n",
}


def test_any_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, fields in KINDS.items():
        files = "files: {train: rows.jsonl, test: rows.csv}\n"
        Path(f"{kind}.yaml").write_text(f"name: t\n{files}fields: text\nlabel: label\nkind: {kind}\n{fields}")

    @fuzzed
    @given(
        st.sampled_from(list(KINDS)),
        st.lists(st.tuples(values, values), min_size=1, max_size=2),
        st.sampled_from(
            [b"", b"\xff", b"[" * 5000, b"9" * 5000, b"\x00", b"\n\n", b'{"text": "a", "text": "b"}', b'"a']
        ),
        st.binary(max_size=6),
    )
    def check(kind: str, rows: list[tuple[Any, Any]], rest: bytes, noise: bytes) -> None:
        lines = [json.dumps({"text": text, "label": label}).encode() for text, label in rows]
        cells = [f"{text},{label}".encode("utf-8", "replace") for text, label in rows]
        Path("rows.jsonl").write_bytes(b"\n".join([*lines, *filter(None, [rest])]))
        Path("rows.csv").write_bytes(b"\n".join([b"text,label" + noise, *cells, *filter(None, [rest])]))
        task = get_task(f"{kind}.yaml")
        for split in ("train", "test"):
            answered(lambda split=split: load_split(task, split), tmp_path)
        answered(lambda: input_texts(task, list(json_rows(lines, "rows")), False), tmp_path)

    check()


@pytest.fixture(scope="module")
def saved(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small files of a run, to be damaged."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    (folder / "model").mkdir(parents=True)
    for name in ("config.yaml", "tasks.yaml", "model/model.safetensors"):
        shutil.copy(trained / name, folder / name)
    return folder


def test_any_change_of_a_runs_files(saved: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    whole = contents(saved)
    with safe_open(saved / "model/model.safetensors", framework="pt") as opened:
        header = json.loads(opened.metadata()["hyperadapt"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict

    def restored() -> None:
        for name, content in whole.items():
            (saved / name).write_bytes(content)

    def read_all() -> None:
        load_run_config(saved)
        load_tasks(saved / "tasks.yaml")
        read(saved / "model")

    @fuzzed
    @given(st.sampled_from(sorted(whole)), st.floats(0, 1), st.binary(max_size=4), st.booleans())
    def check_bytes(name: str, share: float, noise: bytes, cut: bool) -> None:
        content = whole[name]
        place = int(share * len(content))
        rest = b"" if cut else content[place + len(noise) :]
        (saved / name).write_bytes(content[:place] + noise + rest)
        answered(read_all, saved)
        restored()

    @fuzzed
    @given(st.sampled_from([*header]), values | st.dictionaries(st.text(max_size=3), values, max_size=2))
    def check_header(field: str, value: Any) -> None:
        changed = {**header, field: value}
        if field != "digest":
            changed["digest"] = digest(changed, tensors)
        text = json.dumps(changed)
        save_file(tensors, saved / "model/model.safetensors", metadata={"format": "pt", "hyperadapt": text})
        answered(lambda: read(saved / "model"), saved)
        restored()

    check_bytes()
    check_header()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 2020-13-45\n", "field 'seed' is '2020-13-45': it must be a whole number"),
        ("seed: !!timestamp 2020-99-99\n", "line 1: the tag tag:yaml.org,2002:timestamp is not known here"),
        ("seed: !!python/object/apply:os.getcwd []\n", "line 1: the tag"),
        ("seed: \x00\n", "is not valid YAML: the character #x0"),
        (f"data: {'[' * 2000}\n", "nested more than 50 deep"),
        (f"data: {'{a: ' * 2000}\n", "nested more than 50 deep"),
        (
            f"data:\n{''.join(' ' * level + 'a:' + chr(10) for level in range(1, 400))}\n",
            "nested more than 50 deep",
        ),
        (f"seed: {'9' * 5000}\n", "line 1: the number 99999999999999999999… of 5000 digits is too large"),
        (ALIASES, "aliases make this more than 100,000 values"),
        (MERGES, "aliases make this more than 100,000 values"),
        ("data: &a [*a]\n", "nested more than 50 deep"),
    ],
    ids=range(11),
)
def test_what_would_end_in_a_traceback_or_never_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "t.yaml").write_text(text)
    config = write_config(tmp_path, write_tasks(tmp_path / "tasks"))
    if message.startswith("field"):
        (tmp_path / "c.yaml").write_text(f"extends: {config.name}\n{text}")
    assert_one_line(hyperadapt("train", tmp_path / "c.yaml"), message)
    if not message.startswith("field"):
        assert_one_line(hyperadapt("train", config, f"data.tasks={tmp_path / 't.yaml'}"), message)
    assert os.listdir() == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            "class",
            '{"text": "a\\ud800", "label": 0}',
            r"rows.jsonl, line 1: column 'text' holds 'a\ud800', which has half a character",
        ),
        ("class", "[" * 5000, "rows.jsonl, line 1: no readable JSON: its values are nested too deeply"),
        ("class", f'{{"text": {"9" * 5000}}}', "rows.jsonl, line 1: no readable JSON"),
        ("class", '{"text": "a", "label": 0, "label": 1}', "rows.jsonl, line 1: 'label' stands twice"),
        ("score", '{"text": "a", "label": 1e308}', "rows.jsonl, line 1: column 'label' holds 1e+308"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, kind: str, row: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{row}\n")
    files = "{train: rows.jsonl, validation: rows.jsonl}"
    (tmp_path / "t.yaml").write_text(f"name: t\nfiles: {files}\nfields: text\nkind: {kind}\n{KINDS[kind]}")
    config = write_config(tmp_path, [str(tmp_path / "t.yaml")])
    before = contents(tmp_path)
    assert_one_line(hyperadapt("train", config), message)
    assert contents(tmp_path) == before


def test_rouge_l_is_rouge_scores_and_takes_long_texts() -> None:
    draw = random.Random(0)
    words = ["running", "run", "cat", "cats", "the", "a", "Dog", "dog's", "3.5"]
    texts = [" ".join(draw.choices(words, k=length)) for length in range(40)]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for prediction, target in zip(texts, reversed(texts), strict=True):
        expected = 100 * scorer.score(target, prediction)["rougeL"].fmeasure
        assert rouge_l([prediction], [target]) == pytest.approx(expected, abs=1e-9)
    long = [str(draw.randrange(1000)) for _ in range(20_000)]
    assert len(" ".join(long)) > 75_000
    assert longest_common(long, long[::2]) == 10_000
    assert rouge_l([" ".join(long)], [" ".join(long[:10_000])]) == pytest.approx(100 * 2 / 3)
