"""What a user is told in words of the task at hand: no field, of whatever wrong type, is answered with pydantic's."""

from __future__ import annotations

import logging
import os
import re
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, get_args

import huggingface_hub
import pytest
from pydantic import BaseModel, ValidationError

import hyperadapt as ha
from hyperadapt import bundled, hub
from hyperadapt.config.aliases import ALIASES
from hyperadapt.config.sections import ModelConfig, TrainingConfig
from hyperadapt.config.written import CompareConfig, PretrainConfig, RunConfig, places_of
from hyperadapt.errors import UserError, as_written, nearest, reason_of, validation_message
from hyperadapt.files.yaml_and_json import parse_json
from hyperadapt.methods import METHODS, FullFineTuning
from hyperadapt.runs.base_model import build_base, load_tokenizer
from hyperadapt.tasks import Task, get_task
from hyperadapt.training.arguments import training_arguments
from tiny_run import hyperadapt

ROOT = Path(__file__).resolve().parents[1]
TASK = {
    "name": "t",
    "files": {"train": "t.jsonl"},
    "fields": ["text"],
    "labels": ["a", "b"],
    "metrics": ["accuracy"],
}
RUN = {
    "output_dir": "run",
    "model": {"name": "tiny-t5"},
    "method": "adapters",
    "data": {"tasks": ["cola"]},
    "training": {},
    "evaluation": {},
    "start": {"run": "x"},
}
PRETRAINING = {
    **{
        "output_dir": "run",
        "model": {"name": "tiny-t5"},
        "text": {"files": "a.txt"},
        "objective": {},
        "training": {},
    },
    **{"multitask": {"share": 0.5, "tasks": "rte"}, "distillation": {"directory": "d"}},
}
COMPARISON = {
    "output_dir": "run",
    "base": {name: RUN[name] for name in ("model", "data")},
    "variants": {"a": {"method": "adapters"}},
}
WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    2.5,
    float("nan"),
    float("inf"),
    10**25,
    "",
    "nothing",
    [],
    [1],
    [None],
    {},
    {"a": 1},
]
PYDANTIC = re.compile(r"[Ii]nput|valid\b|pydantic|choices: none(?!,)|instance of|[Dd]ictionary|None")


def fields_of(
    model: type[BaseModel], values: dict[str, Any], path: tuple[str, ...] = ()
) -> list[tuple[str, ...]]:
    """List the fields of a model, and of those of its sections that are given."""
    found = []
    for name, field in model.model_fields.items():
        found.append((*path, name))
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next(
            (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None
        )
        if section is not None and isinstance(values.get(name), dict):
            found += fields_of(section, values[name], (*path, name))
    return found


def replaced(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return the values with another at a path."""
    first, *rest = path
    return {**values, first: replaced(values.get(first) or {}, tuple(rest), value) if rest else value}


def message_of(kind: type[Any], values: dict[str, Any]) -> str:
    try:
        if kind is Task:
            from pydantic import ValidationError

            from hyperadapt.errors import validation_message

            try:
                Task(**values)
            except ValidationError as error:
                return validation_message(error, Task)
        elif issubclass(kind, RunConfig | PretrainConfig | CompareConfig):
            kind.from_values(values, "config.yaml")
        else:
            kind(**values)
    except UserError as error:
        return str(error)
    return ""


KINDS = pytest.mark.parametrize(
    ("kind", "values"),
    [(Task, TASK), (RunConfig, RUN), (PretrainConfig, PRETRAINING), (CompareConfig, COMPARISON)]
    + [(method, {}) for method in METHODS.values()],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)


@KINDS
def test_no_field_of_a_wrong_type_is_answered_in_pydantics_words(
    kind: type[BaseModel], values: dict[str, Any]
) -> None:
    refused = 0
    for path in fields_of(kind, values):
        for wrong in WRONG:
            message = message_of(kind, replaced(values, path, wrong))
            assert not PYDANTIC.search(message), (path, wrong, message)
            assert "\n" not in message
            refused += bool(message)
    assert refused > len(fields_of(kind, values)) or kind is FullFineTuning


def takes_numbers(annotation: Any) -> bool:
    """Whether a type, or one of those that it is made of, is that of numbers; Literal[False] is made of a value."""
    return annotation in (int, float) or any(map(takes_numbers, get_args(annotation)))


@KINDS
def test_neither_a_truth_value_nor_a_text_is_a_number(kind: type[BaseModel], values: dict[str, Any]) -> None:
    numeric = 0
    for path in fields_of(kind, values):
        holder = kind
        for section in path[:-1]:
            annotation = holder.model_fields[section].annotation
            parts = (annotation, *get_args(annotation))
            holder = next(part for part in parts if isinstance(part, type) and issubclass(part, BaseModel))
        if not takes_numbers(holder.model_fields[path[-1]].annotation):
            continue
        numeric += 1
        of_scores = {"kind": "score", "labels": None, "metrics": ["pearson"]} if path == ("step",) else {}
        for wrong in (True, False, "1", "0.5"):
            for given in (wrong, [wrong]):
                message = message_of(kind, replaced({**values, **of_scores}, path, given))
                assert f"field '{'.'.join(path)}' is" in message or "of the list is" in message, (path, given)
                assert re.search("number|must be|write", message), message
    assert numeric or kind is FullFineTuning, kind


def test_a_truth_value_is_no_number_among_trainers_arguments() -> None:
    for wrong in (True, "1"):
        with pytest.raises(ValidationError) as raised:
            TrainingConfig(arguments={"max_grad_norm": wrong})
        message = validation_message(raised.value, TrainingConfig)
        assert message == f"field 'arguments.max_grad_norm' is {as_written(wrong)}: it must be a number"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "labels: [true, false]",
            'labels: a label must be a text; write ["false", "true"], with the quotes',
        ),
        ("labels: good", "labels: 'good' is no list of the answers; write [bad, good]"),
        ("labels: 2", "labels: 2 is no list of the answers; write [bad, good]"),
        ("labels: no, yes", "labels: 'no, yes' is no list of the answers; write [no, yes]"),
        (
            "labels: {good: 1, bad: 0}",
            "labels: write a list, [bad, good]: a label's number is its place there",
        ),
        (
            "labels: {0: bad, 1: good}",
            "labels: write a list, [bad, good]: a label's number is its place there",
        ),
        (
            "labels: {1: good, 0: bad}",
            "labels: write a list, [bad, good]: a label's number is its place there",
        ),
        (
            "labels: {1: bad, 2: fair, 4: good}",
            "labels: write a list, as the column has them: [1, 2, 4] or [bad, fair, good]",
        ),
        ("labels: [.nan, 1]", "field 'labels': number 1 of the list is nan: it must be a text"),
        ("files: rows.csv", "files: write {train: rows.csv}"),
        (
            "splits: {validation: 0.2}",
            'splits: 0.2 for validation is neither SOURCE nor SOURCE[from:to]; write splits: {train: "train[20%:]", ',
        ),
        (
            "splits: 0.2",
            'splits: 0.2 names no parts; write splits: {train: "train[20%:]", validation: "train[:20',
        ),
        (
            "splits: {validation: 20%}",
            "'20%' for validation is neither SOURCE nor SOURCE[from:to]; write splits: {train: ",
        ),
        ("splits: {train: train[20%:]}", "is not valid YAML: line"),
        ("labels: ' '", "labels: ' ' is no list of the answers; write [bad, good]"),
        ("metrics: {}", "field 'metrics' is {}: it must be a list; write [first, second]"),
        ("metrics: []", "field 'metrics' is empty: it needs at least 1 entry"),
        ("fields: []", "field 'fields' is empty: it needs at least 1 entry"),
        ("metrics: 3", "field 'metrics' is 3: it must be a list; write [3]"),
        ("fields: [1]", 'a column\'s name must be a text, not 1; write "1", with the quotes'),
        ("where: {kept: true}", 'where: write kept: "True", with the quotes; or "true", where the column'),
        ("kind: clas", "field 'kind' is 'clas': did you mean 'class'? (choices: class, score, text,"),
        ("every_answer: maybe", "field 'every_answer' is 'maybe': write true or false"),
        ("max_target_length: 0", "field 'max_target_length' is 0: it must be at least 1"),
        ("max_target_length: many", "field 'max_target_length' is 'many': it must be a whole number"),
        ("name: my task", "name: 'my task' must be of letters, digits, - and _ alone"),
        ("name:", "field 'name' is empty: it must be a text"),
    ],
)
def test_a_task_file_is_told_what_to_write(tmp_path: Path, line: str, message: str) -> None:
    fields = {
        "name": "t",
        "files": "{train: t.jsonl}",
        "fields": "[text]",
        "labels": "[a, b]",
        "metrics": "[accuracy]",
    }
    fields[line.partition(":")[0]] = line.partition(":")[2]
    (tmp_path / "t.yaml").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    with pytest.raises(UserError) as error:
        get_task(tmp_path / "t.yaml")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("lr", "'training.learning_rate'?"),
        ("training.lr", "'training.learning_rate'?"),
        ("training.num_epochs", "'training.epochs'?"),
        ("num_train_epochs", "'training.epochs'?"),
        ("load_best_model_at_end", "'training.keep'?"),
        ("early_stopping_patience", "'training.patience'?"),
        ("per_device_train_batch_size", "'training.batch_size'? (all rows of a step, over all processes)"),
        ("per_device_eval_batch_size", "'evaluation.batch_size'?"),  # which Trainer's arguments would refuse
        ("bf16", "'training.arguments.bf16'?"),
        ("training.gradient_checkpointing", "'training.arguments.gradient_checkpointing'?"),
        ("lora_r", "'method.r' or 'method.reduction_factor'? (a reduction_factor is the model's width over"),
        ("method.lora_r", "'method.reduction_factor'?"),  # of adapters, which have no rank
        ("alpha", "'method.lora_alpha'?"),
        ("training.evaluation_strategy", "'training.eval_steps'? (a number of steps, after which"),
        ("model.model_name_or_path", "'model.name'?"),
    ],
)
def test_what_other_libraries_call_a_field_is_answered_with_what_it_is_called_here(
    field: str, message: str
) -> None:
    values = {**RUN, "method": {"name": "adapters"}, "start": None}
    with pytest.raises(UserError) as told:
        RunConfig.from_values(replaced(values, tuple(field.split(".")), 1), "mine.yaml")
    assert str(told.value).startswith(f"mine.yaml: field '{field}' is unknown; did you mean {message}")


def test_what_there_is_nothing_like_is_said_to_be_so() -> None:
    values = {**RUN, "method": {"name": "adapters"}, "start": None}
    for field, message in (
        ("remove_unused_columns", "transformers' remove_unused_columns is not open to choice"),
        ("data.max_target_length", "a task file says its own max_target_length"),
    ):
        with pytest.raises(UserError) as told:
            RunConfig.from_values(replaced(values, tuple(field.split(".")), 1), "mine.yaml")
        assert str(told.value).startswith(f"mine.yaml: field '{field}' is unknown; {message}")


def test_every_name_of_other_libraries_stands_for_a_field_that_there_is_and_is_none_itself() -> None:
    assert len(ALIASES) > 80
    for name, alias in ALIASES.items():
        assert not list(places_of(name, RunConfig)), name
        for place in alias.places:
            assert place in list(places_of(place.rpartition(".")[2], RunConfig)), (name, place)
        assert alias.places or alias.remark, name


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("stars", "no task has the name 'stars', but {folder}/stars.yaml is there; write stars.yaml"),
        ("./stars", "no task has the name './stars', but {folder}/stars.yaml is there; write ./stars.yaml"),
        ("rating", "task 'rating' is described in {folder}/stars.yaml; write stars.yaml, the file's name"),
    ],
)
def test_a_task_file_that_is_named_without_its_suffix_is_found_where_the_configuration_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, message: str
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.yaml").write_text("a: [")
    (folder / "stars.yaml").write_text(
        "name: rating\nfiles: {train: t.csv}\nfields: text\nlabels: [bad, good]\nmetrics: accuracy\n"
    )
    (folder / "mine.yaml").write_text(
        f"output_dir: r\nmodel: {{name: tiny-t5}}\nmethod: adapters\ndata: {{tasks: [{written}]}}\n"
    )
    message = message.format(folder=folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as of_file:
        RunConfig.load("mine/mine.yaml")
    assert str(of_file.value) == f"mine/mine.yaml: data.tasks: {message}"
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as of_override:
        RunConfig.load("quickstart", [f"data.tasks=[{written}]"])
    assert str(of_override.value).endswith(f": data.tasks: {message}")
    with pytest.raises(UserError) as of_name:  # as of evaluate --unseen, and fewshot --task
        get_task(written)
    assert str(of_name.value) == message


def test_a_name_that_no_file_can_have_is_only_unknown() -> None:
    for name in ("x" * 5000, "a\0b", " "):
        with pytest.raises(UserError, match="is unknown and no"):
            get_task(name)


def test_one_name_is_a_list_of_it_and_no_is_a_label(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "name: t\nfiles: {train: t.jsonl}\nfields: body\nlabels: [no, yes]\nmetrics: accuracy\ngroup: question\n"
    )
    task = get_task(tmp_path / "t.yaml")
    assert (task.fields, task.labels) == ({"body": "body"}, ("no", "yes"))
    assert (task.metrics, task.group) == (("accuracy",), ("question",))


def test_where_there_is_no_choice_it_is_said_in_words(tmp_path: Path) -> None:
    assert nearest("a", []) == "there are no others"
    with pytest.raises(UserError, match="field 'rank' is unknown; choices: train_embeddings"):
        FullFineTuning(rank=3)


@pytest.mark.parametrize("command", ["train", "pretrain", "compare"])
def test_a_configuration_of_another_command_is_told_which(command: str) -> None:
    kinds = {"train": RunConfig, "pretrain": PretrainConfig, "compare": CompareConfig}
    others = [row for row in bundled.overview() if row["for"] != command]
    assert len({row["for"] for row in others}) == 2
    for row in others:
        with pytest.raises(UserError) as error:
            kinds[command].load(row["name"])
        assert str(error.value) == (
            f"{row['name']} is a configuration of `hyperadapt {row['for']}`, not of `hyperadapt {command}`"
        )


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (
            RunConfig,
            {"output_dir": "r", "base": {}, "variants": {}},
            "is a configuration of `hyperadapt compare`",
        ),
        (
            RunConfig,
            {"output_dir": "r", "model": {"name": "tiny-t5"}, "text": {"files": "a.txt"}},
            "is a configuration of `hyperadapt pretrain`",
        ),
        (CompareConfig, RUN, "is a configuration of `hyperadapt train`"),
        (PretrainConfig, RUN, "is a configuration of `hyperadapt train`"),
        # A field that is misspelt or in a wrong place makes it no other's.
        (RunConfig, {**RUN, "tokenizer": "bytes"}, "field 'tokenizer' is unknown"),
        (RunConfig, {**RUN, "seeds": [1, 2]}, "field 'seeds' is unknown; did you mean 'seed'?"),
        (CompareConfig, {**COMPARISON, "model": {"name": "tiny-t5"}}, "field 'model' is unknown"),
    ],
)
def test_a_configuration_is_of_the_command_whose_fields_it_has(
    kind: type[Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        kind.from_values(fields, "mine.yaml")
    assert str(error.value).startswith(f"mine.yaml {message}".replace("yaml field", "yaml: field"))


def test_a_number_that_is_too_long_is_told_in_words_of_the_file() -> None:
    with pytest.raises(UserError, match=r"^no readable JSON: it holds a number of more than 4,300 digits$"):
        parse_json(f'{{"text": {"9" * 5000}}}')


def test_an_endless_name_is_neither_compared_nor_shown_whole() -> None:
    message = nearest("x" * 100_000, ["x" * 100_000, "b"])
    assert message.startswith("did you mean 'xxx")
    assert len(message) < 300


def test_yes_and_no_are_answers_to_a_field_that_is_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "output_dir: r\nmodel: {name: tiny-t5}\nmethod: adapters\n"
        "data: {tasks: cola, balanced: yes, mixed_batches: off}\n"
    )
    config = RunConfig.load(tmp_path / "c.yaml", ["training.arguments={bf16: no, tf32: yes}"])
    assert (config.data.balanced, config.data.mixed_batches) == (True, False)
    assert (config.training.arguments.bf16, config.training.arguments.tf32) == (False, True)


def test_version() -> None:
    outcome = hyperadapt("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"hyperadapt {ha.__version__}\n", "")


def test_paths_in_a_configuration_are_relative_to_the_file_in_which_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep/models/mine").mkdir(parents=True)
    (tmp_path / "deep/models/mine/config.json").write_text("{}")
    (tmp_path / "work").mkdir()
    (tmp_path / "base.yaml").write_text(
        "output_dir: out\nmodel: {name: models/mine, tokenizer: ./tok}\nstart: {run: old}\n"
        "method: {name: hyperformer, task_features: z.json}\ndata: {tasks: [cola, t.yaml], data_dir: data}\n"
    )
    (tmp_path / "deep/leaf.yaml").write_text(
        "extends: ../base.yaml\nmodel: {name: models/mine}\ndata: {data_dir: ../rows}\n"
    )
    monkeypatch.chdir(tmp_path / "work")
    config = RunConfig.load("../deep/leaf.yaml", ["start.run=here", "model.tokenizer=google-t5/t5-small"])
    assert config.output_dir == str(tmp_path / "out")
    assert config.model.name == str(tmp_path / "deep/models/mine")
    assert config.model.tokenizer == "google-t5/t5-small"
    assert config.start is not None
    assert config.start.run == str(tmp_path / "work/here")
    assert config.data.tasks == ("cola", str(tmp_path / "t.yaml"))
    assert config.data.data_dir == str(tmp_path / "rows")
    assert config.resolved()["method"]["task_features"] == str(tmp_path / "z.json")
    config.save(tmp_path / "deep/saved.yaml")
    monkeypatch.chdir(tmp_path)
    assert RunConfig.load("deep/saved.yaml").resolved() == config.resolved()
    assert RunConfig.load_saved(Path("deep/saved.yaml")).resolved() == config.resolved()


def test_paths_of_a_comparison_and_of_pretraining_are_too(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "output_dir: out\nbase: {model: {name: tiny-t5}, data: {tasks: [cola], data_dir: rows}}\n"
        "variants: {a: {method: adapters}, b: {method: adapters, start: {run: old}, data: {tasks: ./t.yaml}}}\n"
        "seeds: [1]\n"
    )
    runs = CompareConfig.load(tmp_path / "c.yaml").runs()
    assert {run.data.data_dir for run in runs.values()} == {str(tmp_path / "rows")}
    second = runs["b", 1]
    assert second.start is not None
    assert (second.start.run, second.data.tasks) == (str(tmp_path / "old"), (str(tmp_path / "t.yaml"),))
    assert second.output_dir == str(tmp_path / "out/b/seed-1")
    (tmp_path / "p.yaml").write_text(
        "output_dir: out\nmodel: {name: tiny-t5}\ntext: {files: [a.txt]}\n"
        "multitask: {share: 0.5, tasks: [t.yaml], data_dir: rows}\ndistillation: {directory: teacher}\n"
    )
    pretraining = PretrainConfig.load(tmp_path / "p.yaml")
    assert pretraining.multitask is not None
    assert pretraining.distillation is not None
    places = [
        *(pretraining.output_dir, *pretraining.text.files, *pretraining.multitask.tasks),
        *(pretraining.multitask.data_dir, pretraining.distillation.directory),
    ]
    assert places == [str(tmp_path / name) for name in ("out", "a.txt", "t.yaml", "rows", "teacher")]


def test_paths_among_trainers_arguments_are_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("accelerator_config", "fsdp_config", "deepspeed")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/c.yaml").write_text(
        "output_dir: out\nmodel: {name: tiny-t5}\nmethod: adapters\ndata: {tasks: cola}\n"
        f"training: {{arguments: {{{', '.join(f'{name}: a.json' for name in names)}, run_name: a.json}}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = RunConfig.load("deep/c.yaml", ["training.arguments.deepspeed=b.json"]).training.arguments
    beside = str(tmp_path / "deep/a.json")
    assert [getattr(arguments, name) for name in names] == [beside, beside, str(tmp_path / "b.json")]
    assert arguments.run_name == "a.json"
    of_python = TrainingConfig(arguments={"fsdp_config": "a.json", "deepspeed": {"stage": 2}}).arguments
    assert of_python.chosen() == {"fsdp_config": str(tmp_path / "a.json"), "deepspeed": {"stage": 2}}


def test_a_configuration_that_trainer_is_to_read_is_read_beside_the_runs_or_missed_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for content, split in ((None, None), ('{"even_batches": false}', False)):
        if content is not None:
            (tmp_path / "acc.json").write_text(content)
        training = TrainingConfig(arguments={"accelerator_config": "acc.json"})
        if split is None:
            with pytest.raises(UserError, match=r"^training: .*No such file.*acc\.json"):
                training_arguments(training, 0, tmp_path, "loss")
        else:
            args: Any = training_arguments(training, 0, tmp_path, "loss")
            assert args.accelerator_config.even_batches is split


def test_a_folder_in_the_working_directory_is_no_model_of_a_configuration_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for field in ("name", "tokenizer"):
        folder = tmp_path / "work/google-t5" / field
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (tmp_path / "c.yaml").write_text(
        "output_dir: out\nmodel: {name: google-t5/name, tokenizer: google-t5/tokenizer}\n"
        "method: adapters\ndata: {tasks: cola}\n"
    )
    (tmp_path / "many.yaml").write_text(
        "output_dir: out\nbase: {model: {name: google-t5/name}, data: {tasks: cola}}\n"
        "variants: {a: {method: adapters}}\nseeds: [1]\n"
    )
    monkeypatch.chdir(tmp_path / "work")
    config = RunConfig.load("../c.yaml")
    assert (config.model.name, config.model.tokenizer) == ("google-t5/name", "google-t5/tokenizer")
    config.save(tmp_path / "saved.yaml")
    assert RunConfig.load_saved(tmp_path / "saved.yaml").model == config.model
    (run,) = CompareConfig.load("../many.yaml").runs().values()
    assert run.model.name == "google-t5/name"
    # transformers would look in the working directory after all.
    with pytest.raises(
        UserError, match=r"^model\.name: 'google-t5/name' is no folder beside its configuration"
    ):
        build_base(config.model, 0)
    with pytest.raises(UserError, match=r"^model\.tokenizer: 'google-t5/tokenizer' is no folder beside"):
        load_tokenizer(config.model)
    # In an override and in Python it is the one of the working directory.
    here = str(tmp_path / "work/google-t5/name")
    assert RunConfig.load("../c.yaml", ["model.name=google-t5/name"]).model.name == here
    assert ModelConfig(name="google-t5/name").name == here
    values = {"output_dir": "out", "base": {"model": {"name": "google-t5/name"}, "data": {"tasks": "cola"}}}
    comparison = CompareConfig(**values, variants={"a": {"method": "adapters"}}, seeds=(1,))
    assert comparison.runs()["a", 1].model.name == here


def test_our_own_configurations_end_where_they_always_did() -> None:
    config = RunConfig.load("glue-offline")
    assert config.output_dir == os.path.abspath("runs/glue-offline")
    assert config.data.data_dir == os.path.abspath("../shared/data")


def test_bitsandbytes_says_nothing_of_kernels_that_it_has_not() -> None:
    import hyperadapt.runs  # noqa: F401 - before anything that imports bitsandbytes

    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)


def test_the_troubleshooting_table_has_a_row_for_each_way_to_be_stopped() -> None:
    section = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .partition("## When something goes wrong")[2]
        .partition("\n## ")[0]
    )
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert all(line.count(" | ") == 2 for line in rows)
    for word in (
        "SIGTERM",
        "143",
        "130",
        "--resume",
        "--allow-changed-data",
        "output_dir",
        "longest_first",
        "corrupted",
    ):
        assert word in section
    for word in ("manifest", "OMP_NUM_THREADS", "tokenizer", "step"):
        assert word in section


# ------------------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A hub to which there is no way; what its libraries wait before they ask again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=waits.append))
    return waits


def test_a_hub_that_cannot_be_reached_is_asked_once_and_said_before(
    no_hub: list[float], capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    from hyperadapt.counting import model_config
    from hyperadapt.model.file import read
    from hyperadapt.model.load import load_base

    there_is_none = rf"\({huggingface_hub.constants.ENDPOINT} cannot be reached: .+\)"
    missing = ModelConfig.model_construct(name="no/such-model", tokenizer=None, dtype="float32")
    config, _ = read(trained / "model")
    for field, load in (
        ("model.name", lambda: load_tokenizer(missing)),
        ("model.name", lambda: build_base(missing, 0)),
        ("--model", lambda: model_config("no/such-model")),
        (
            str(tmp_path / "model"),
            lambda: load_base({**config, "base_model": "no/such-model"}, tmp_path / "model"),
        ),
    ):
        with pytest.raises(UserError, match=there_is_none):
            load()
        said = f"note: {field}: 'no/such-model' is no directory here; the hub is asked for it\n"
        assert capsys.readouterr().err == said
        assert not huggingface_hub.constants.HF_HUB_OFFLINE, "it may come back"
    assert no_hub == []


@pytest.mark.usefixtures("no_hub")
def test_what_was_downloaded_before_is_said_to_be_that_where_the_hub_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--some--model").mkdir()
    for _ in range(2):
        with hub.asking("some/model", "model.name") as unreachable:
            assert unreachable is not None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: model.name: 'some/model' is as it was downloaded before: http")
    assert "cannot be reached" in line


@pytest.mark.usefixtures("no_hub")
def test_threads_that_ask_at_once_leave_no_process_offline() -> None:
    first_is_in, first_is_out, second_is_in = Event(), Event(), Event()
    said: list[str | None] = []

    def first() -> None:
        with hub.asking("some/model", "model.name") as unreachable:
            said.append(unreachable)
            first_is_in.set()
            second_is_in.wait(0.5)  # in vain, if it has to wait for this one
        first_is_out.set()

    def second() -> None:
        first_is_in.wait()
        with hub.asking("other/model", "model.name") as unreachable:
            said.append(unreachable)
            second_is_in.set()
            first_is_out.wait()

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert all("cannot be reached" in str(reason) for reason in said)


def test_a_hub_that_answers_whatever_it_says_is_there_and_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # which answers that it cannot
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, daemon=True).start()
        for _ in ("train", "validation"):
            with hub.asking("some/rows", "hub") as unreachable:
                assert unreachable is None
                assert not huggingface_hub.constants.HF_HUB_OFFLINE
        server.shutdown()
    assert capsys.readouterr().err.count("the hub is asked for it") == 1


def test_what_a_library_said_is_cut_between_words_or_sentences_and_shown_to_be() -> None:
    assert reason_of(OSError("one\n two")) == "one two"
    sentence = "It was not found there, " + "far and wide, " * 8 + "at all"
    assert reason_of(f"{sentence}. {'More of it ' * 20}") == f"{sentence} …"
    words = reason_of("word " * 100)
    assert words == "word " * 40 + "…"
    assert reason_of("x" * 300) == "x" * 200 + " …"
