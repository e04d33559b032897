"""What is written twice is refused with both places, and what YAML 1.1 silently reads as something else is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hyperadapt.config.written import CompareConfig, PretrainConfig, RunConfig
from hyperadapt.errors import UserError
from hyperadapt.files.yaml_and_json import dump_yaml, parse_json, parse_yaml, read_yaml
from hyperadapt.methods import Adapters
from hyperadapt.methods.task_embedding import read_task_features
from hyperadapt.tasks import get_task
from hyperadapt.tasks.sources import json_line
from tiny_run import assert_one_line, contents, hyperadapt, write_config, write_tasks

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CONFIG = """\
output_dir: run
model: {name: tiny-t5}
method: adapters
data: {tasks: [builtin]}
training:
  max_steps: 400
"""
TASK = """\
name: reviews
files: {train: train.jsonl}
fields: [text]
labels: [bad, good]
metrics: [accuracy]
"""


@pytest.mark.parametrize(
    ("kind", "again", "line", "first", "key"),
    [
        (RunConfig, "training: {batch_size: 4}\n", 7, 5, "training"),
        (RunConfig, "evaluation:\n  num_beams: 2\n  batch_size: 3\n  num_beams: 4\n", 10, 8, "num_beams"),
        (RunConfig, "'seed': 3\nseed: 4\n", 8, 7, "seed"),
        (PretrainConfig, "text: {files: a.txt, files: b.txt}\n", 7, 7, "files"),
        (CompareConfig, "variants: {a: {}, b: {}, a: {seed: 1}}\n", 7, 7, "a"),
        (CompareConfig, "base: {training: {max_steps: 1}}\nbase: {}\n", 8, 7, "base"),
    ],
)
def test_a_key_that_a_configuration_has_twice_is_named_with_both_lines(
    tmp_path: Path, kind: type[RunConfig], again: str, line: int, first: int, key: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG + again)
    (tmp_path / "leaf.yaml").write_text("extends: config.yaml\n")
    for path in (file, tmp_path / "leaf.yaml"):
        with pytest.raises(UserError) as error:
            kind.load(path)
        assert (
            str(error.value)
            == f"{file}, line {line}: '{key}' stands on line {first} already; keep one of them"
        )


def test_a_task_file_and_a_saved_run_are_read_as_strictly(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "reviews.yaml").write_text(f"{TASK}labels: [good, bad]\n")
    with pytest.raises(UserError, match="line 6: 'labels' stands on line 4 already"):
        get_task(tmp_path / "reviews.yaml")
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    written = (trained / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"seed: 1\n{written}")
    with pytest.raises(UserError, match=r"config\.yaml, line 3: 'seed' stands on line 1 already"):
        RunConfig.load_saved(run / "config.yaml")


@pytest.mark.parametrize(
    ("overrides", "both"),
    [
        (("seed=1", "seed=2"), "'seed=1' and 'seed=2'"),
        (("training=1", "training.max_steps=2"), "'training=1' and 'training.max_steps=2'"),
        (("data.tasks=[rte]", "data={tasks: cola}"), "'data.tasks=[rte]' and 'data={tasks: cola}'"),
        (
            ("method=adapters", "method={name: hyperformer}"),
            "'method=adapters' and 'method={name: hyperformer}'",
        ),
        (("training={batch_size: 1, batch_size: 2}",), "'batch_size' stands on line 1 already"),
    ],
)
def test_a_field_that_overrides_set_twice_is_refused_with_both_by_every_command(
    trained: Path, tmp_path: Path, overrides: tuple[str, ...], both: str
) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    config = write_config(tmp_path, tasks)
    before = contents(tmp_path)
    assert_one_line(hyperadapt("train", config, *overrides), both)
    assert_one_line(hyperadapt("fewshot", trained, "--task", tasks[0], *overrides), both)
    assert_one_line(hyperadapt("reproduce", "table-1", "--output-dir", tmp_path / "x", *overrides), both)
    assert contents(tmp_path) == before


def test_overrides_of_one_section_or_of_a_methods_name_and_options_go_together(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    config = RunConfig.load(
        tmp_path / "config.yaml",
        ["training={batch_size: 4}", "training.eval_steps=2", "method=adapters", "method.reduction_factor=8"],
    )
    assert (config.training.batch_size, config.training.eval_steps, config.training.max_steps) == (4, 2, 400)
    assert config.build_method() == Adapters(reduction_factor=8)


def test_merge_keys_work_as_yaml_has_them() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\n"
    text += "one: {<<: *a, y: 5}\nboth: {<<: [*a, *b], w: 6}\nafter: {z: 0, <<: *b}\n"
    assert parse_yaml(text, "text") == yaml.safe_load(text)


def test_plain_texts_are_texts_and_numbers_are_numbers() -> None:
    texts = "no, Yes, on, off, y, 2020-01-01, 2020-13-45, 1:30, ="
    others = "3e-4, 1E5, .5, 0o17, 0x1f, 010, 100_000, true, ~, null, '1'"
    assert parse_yaml(f"[{texts}, {others}]", "text") == [
        *("no", "Yes", "on", "off", "y", "2020-01-01", "2020-13-45", "1:30", "="),
        *(3e-4, 1e5, 0.5, 15, 31, 10, 100_000, True, None, None, "1"),
    ]
    assert parse_yaml("{1: a, no: b, 2020-01-01: c, null: d}", "text") == {
        "1": "a",
        "no": "b",
        "2020-01-01": "c",
        "null": "d",
    }


@pytest.mark.parametrize(
    "value",
    [
        *("no", "3e-4", "0o17", "1:30", "2020-01-01", "<<", "=", "~", "", "1_000", " x ", "a\nb", "é\u2028"),
        *(1e-5, 1e17, float("inf"), 2**62, None, True, {"no": ["on"], "1": "2"}),
    ],
)
def test_what_is_written_is_read_as_the_same_by_us_and_by_any_other_reader(value: object) -> None:
    assert parse_yaml(dump_yaml({"value": value}), "text") == {"value": value}
    assert yaml.safe_load(dump_yaml({"value": value})) == {"value": value}


def test_every_configuration_of_ours_is_read_as_other_readers_do() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_name_that_a_json_object_has_twice_is_refused_in_rows_and_in_task_features(tmp_path: Path) -> None:
    features = tmp_path / "z.json"
    features.write_text('{"rte": [1, 2], "cola": [3, 4], "rte": [5, 6]}')
    with pytest.raises(UserError, match=r"z\.json: 'rte' stands twice"):
        read_task_features(features, ("rte", "cola"))
    with pytest.raises(UserError, match="'text' stands twice"):
        parse_json('{"text": "a", "label": 1, "text": "b"}')


def test_a_line_of_json_is_safe_to_print_and_holds_the_same() -> None:
    value = {"prediction": "\x1b[31m \x9b1m \u202e \ud800 é 漢 \\ \n"}
    line = json_line(value)
    assert line == r'{"prediction": "\u001b[31m \u009b1m \u202e \ud800 é 漢 \\ \n"}'
    assert json.loads(line) == value
