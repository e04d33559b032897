"""Configurations: what extends, overrides and defaults give, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from transformers import TrainingArguments

from hyperadapt.config.reading import merged, parse_override
from hyperadapt.config.sections import TrainingConfig
from hyperadapt.config.trainer import CLOSED, INSTEAD, TrainerConfig
from hyperadapt.config.written import CompareConfig, PretrainConfig, RunConfig
from hyperadapt.errors import UserError
from hyperadapt.methods import METHODS, Adapters, HyperFormerPlusPlus
from hyperadapt.tasks import load_task_file
from hyperadapt.training.arguments import training_arguments
from tiny_run import BASE

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "src/hyperadapt/configs"
RUNS = Path("runs").absolute()
MINIMAL = {
    "output_dir": "runs/x",
    "model": {"config": BASE, "tokenizer": "bytes"},
    "method": {"name": "hyperformer++"},
    "data": {"tasks": ["glue"]},
}


def write(path: Path, **values: Any) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(tmp_path / "config.yaml", **MINIMAL)


COMPARISONS, PRETRAININGS = (sorted((CONFIGS / kind).iterdir()) for kind in ("compare", "pretrain"))


@pytest.mark.parametrize(
    "path",
    sorted({*CONFIGS.rglob("*.yaml")} - {*COMPARISONS, *PRETRAININGS}),
    ids=lambda path: str(path.relative_to(CONFIGS)),
)
def test_every_config_of_ours_loads_and_its_method_builds(path: Path) -> None:
    config = RunConfig.load(path)
    assert type(config.build_method()) is METHODS[config.method["name"]]


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.name)
def test_every_comparison_of_ours_is_of_runs_that_build(path: Path) -> None:
    comparison = CompareConfig.load(path)
    assert comparison.output_dir == str(RUNS / "compare" / path.stem)
    for config in comparison.runs().values():
        assert type(config.build_method()) is METHODS[config.method["name"]]


@pytest.mark.parametrize("path", PRETRAININGS, ids=lambda path: path.name)
def test_every_pretraining_of_ours_loads(path: Path) -> None:
    assert PretrainConfig.load(path).output_dir == str(RUNS / path.stem)


def test_hyperformers_configs_are_every_method_on_both_models_each_with_an_output_dir_of_its_own() -> None:
    methods = ("full_fine_tuning", "adapters", "adapters_dagger", "hyperformer", "hyperformer++")
    configs = {
        path: RunConfig.load(path)
        for size in ("small", "base")
        for path in (CONFIGS / f"t5-{size}").iterdir()
    }
    assert {(path.parent.name, path.stem) for path in configs} == {
        (f"t5-{size}", method) for size in ("small", "base") for method in methods
    }
    for path, config in configs.items():
        assert config.model.name == f"google-t5/{path.parent.name}"
        assert config.method["name"] == path.stem
        assert config.output_dir == str(RUNS / path.parent.name / path.stem)


def test_the_defaults_are_the_papers(config: Path) -> None:
    defaults = RunConfig.load(config)
    assert defaults.data.temperature == 10
    assert defaults.training.learning_rate == 3e-4
    assert defaults.training.lr_scheduler_type == "constant"
    assert defaults.training.max_steps == 2**18
    assert defaults.training.eval_steps == 1000
    assert defaults.build_method() == HyperFormerPlusPlus(reduction_factor=32)


@pytest.mark.parametrize("path", ["glue-offline.yaml", "quickstart.yaml", "t5-base/full_fine_tuning.yaml"])
def test_a_saved_config_is_complete_and_loads_as_the_same(path: str, tmp_path: Path) -> None:
    overrides = ["data.max_train_rows=7", "output_dir=runs/übung", "training.arguments={bf16: true}"]
    config = RunConfig.load(CONFIGS / path, overrides)
    config.save(tmp_path / "saved.yaml")
    again = RunConfig.load(tmp_path / "saved.yaml")
    assert again.model_copy(update={"method": config.method}) == config
    assert again.build_method() == config.build_method()
    written = yaml.safe_load((tmp_path / "saved.yaml").read_text(encoding="utf-8"))
    assert set(written) == set(RunConfig.model_fields)
    assert set(written["training"]) == set(type(config.training).model_fields)
    assert set(written["method"]) == {"name", *type(config.build_method()).model_fields}
    again.save(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "saved.yaml").read_bytes()


def test_a_config_is_frozen(config: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig.load(config).training.max_steps = 3  # type: ignore[misc]


def test_extends_merges_section_by_section_and_relative_to_the_file(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", **MINIMAL, training={"max_steps": 5, "batch_size": 4})
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep/middle.yaml", extends="../base.yaml", training={"batch_size": 6}, seed=3)
    leaf = write(
        tmp_path / "deep/leaf.yaml", extends="middle.yaml", output_dir="runs/leaf", data={"temperature": 2}
    )
    config = RunConfig.load(leaf, ["training.eval_steps=2"])
    training = config.training
    assert (training.max_steps, training.batch_size, training.eval_steps) == (5, 6, 2)
    assert (config.seed, config.output_dir) == (3, str(tmp_path / "deep/runs/leaf"))
    assert (config.data.tasks, config.data.temperature) == (("glue",), 2)


def test_a_method_of_another_name_starts_anew_and_one_of_the_same_name_is_changed(tmp_path: Path) -> None:
    method = {"name": "hyperformer++", "reduction_factor": 8, "task_feature_dim": 16}
    write(tmp_path / "base.yaml", **{**MINIMAL, "method": method})

    def extended(*overrides: str, **changes: Any) -> Any:
        return RunConfig.load(
            write(tmp_path / "leaf.yaml", extends="base.yaml", **changes), overrides
        ).build_method()

    same = HyperFormerPlusPlus(reduction_factor=4, task_feature_dim=16)
    assert extended(method={"name": "hyperformer++", "reduction_factor": 4}) == same
    assert extended(method={"reduction_factor": 4}) == same
    assert extended("method.reduction_factor=4") == same
    assert extended(method={"name": "adapters"}) == Adapters()
    assert extended("method={name: adapters, reduction_factor: 2}") == Adapters(reduction_factor=2)


def test_overrides_mean_the_same_in_any_order(config: Path) -> None:
    overrides = ["method.reduction_factor=2", "method.name=adapters"]
    assert RunConfig.load(config, overrides).build_method() == Adapters(reduction_factor=2)
    assert RunConfig.load(config, overrides[::-1]).build_method() == Adapters(reduction_factor=2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("1e3", 1000.0),
        ("0.1", 0.1),
        ("true", True),
        ("null", None),
        ("", None),
        ("cola", "cola"),
        ("[cola, rte]", ["cola", "rte"]),
        ("{bf16: true}", {"bf16": True}),
        ("a=b", "a=b"),
        ("'3e-4 of it'", "3e-4 of it"),
    ],
)
def test_an_override_is_yaml_but_3e4_is_a_number(text: str, value: object) -> None:
    assert parse_override(f"a.b={text}") == {"a": {"b": value}}


def test_numbers_of_either_writing_reach_the_config(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(MINIMAL) + "training: {learning_rate: 3e-3}\n")
    assert RunConfig.load(tmp_path / "c.yaml").training.learning_rate == 3e-3
    assert RunConfig.load(tmp_path / "c.yaml", ["training.learning_rate=1e-2"]).training.learning_rate == 1e-2
    assert RunConfig.load(tmp_path / "c.yaml", ["training.max_steps=1e3"]).training.max_steps == 1000


def test_merging_changes_neither_side() -> None:
    base, changes = {"a": {"b": 1}, "c": 2}, {"a": {"d": 3}}
    assert merged(base, changes) == {"a": {"b": 1, "d": 3}, "c": 2}
    assert (base, changes) == ({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("outptu_dir=x", "field 'outptu_dir' is unknown; did you mean 'output_dir'?"),
        ("trainin.max_steps=3", "field 'trainin' is unknown; did you mean 'training'?"),
        ("training.max_step=3", "field 'training.max_step' is unknown; did you mean 'max_steps'?"),
        ("model.nam=x", "field 'model.nam' is unknown; did you mean 'name'?"),
        ("data={taks: [glue]}", "field 'data.taks' is unknown; did you mean 'tasks'?"),
        (
            "method.reduction_facto=3",
            "method hyperformer++: field 'reduction_facto' is unknown; did you mean",
        ),
        ("method.name=hyperformr", "method 'hyperformr' is unknown; did you mean 'hyperformer'?"),
        ("method={reduction_factor: 3, name: null}", "method: the field 'name' is missing"),
        ("method=adaptors", "method 'adaptors' is unknown; did you mean 'adapters'?"),
        ("method=3", "field 'method'"),
        ("method.reduction_factor=x", "field 'reduction_factor'"),
        ("method.reduction_factor=0", "field 'reduction_factor'"),
        ("method.reduction_factor=true", "field 'reduction_factor'"),
        ("training.max_steps=many", "field 'training.max_steps'"),
        ("training.max_steps=1.5", "field 'training.max_steps'"),
        ("training.max_steps=0", "field 'training.max_steps'"),
        ("training.learning_rate=", "field 'training.learning_rate'"),
        ("training=null", "field 'training'"),
        ("data.tasks=3", "field 'data.tasks'"),
        ("data.tasks=[]", "field 'data.tasks'"),
        ("data.tasks=[1]", "field 'data.tasks': number 1 of the list is 1"),
        ("data.temperature=0", "field 'data.temperature'"),
        ("data.temperature=nan", "field 'data.temperature'"),
        ("seed=-1", "field 'seed'"),
        ("seed=4294967296", "field 'seed'"),
        ("model.seed=-1", "field 'model.seed'"),
        ("model.dtype=float16", "field 'model.dtype'"),
        ("model.name=google-t5/t5-base", "give either a name or a config"),
        ("model.config=null", "give either a name or a config"),
        ("model.tokenizer=null", "a model built from a config needs a tokenizer"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(config: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        RunConfig.load(config, [override])
    assert str(error.value).startswith(f"{config}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_name_stands_for_a_list_of_it_and_a_method_for_its_defaults(config: Path) -> None:
    short = RunConfig.load(config, ["data.tasks=glue", "method=adapters"])
    assert short.data.tasks == ("glue",)
    assert short.build_method() == Adapters()


def test_a_data_dir_is_found_from_another_working_directory(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunConfig.load(config, ["data.data_dir=rows/here"]).data.data_dir == str(tmp_path / "rows/here")


def test_a_misspelt_configuration_file_is_told_its_neighbours(config: Path) -> None:
    with pytest.raises(UserError, match=f"did you mean '{re.escape(str(config))}'"):
        RunConfig.load(config.with_name("x" + config.name))


@pytest.mark.parametrize("override", ["foo", "=3", "", "training.max_steps=[", "--max-steps"])
def test_an_override_of_no_known_form_is_refused(config: Path, override: str) -> None:
    with pytest.raises(UserError, match=f"override '{override.replace('[', chr(92) + '[')}'"):
        RunConfig.load(config, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("\tx: 1", "is not valid YAML"),
        ("a: \x00", "is not valid YAML"),
        ("- a", "must be a YAML mapping of fields, not list"),
        ("", "must be a YAML mapping of fields"),
        ("1: x", "field '1' is unknown"),
        ("extends: [a, b]", "extends must be the path of one file, not ['a', 'b']"),
        ("extends: 3", "extends must be the path of one file, not 3"),
        ("extends: none.yaml", "none.yaml"),
        ("extends: wrong.yaml", "wrong.yaml extends itself"),
        ("extends: round.yaml", "wrong.yaml extends itself"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    (tmp_path / "round.yaml").write_text("extends: wrong.yaml")
    with pytest.raises(UserError) as error:
        RunConfig.load(tmp_path / "wrong.yaml")
    assert message in str(error.value)
    assert "wrong.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no configuration file .*nowhere\.yaml"):
        RunConfig.load(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="there is no configuration file"):
        RunConfig.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("output_dir: übung".encode("latin-1"))
    with pytest.raises(UserError, match="is not valid YAML"):
        RunConfig.load(tmp_path / "latin.yaml")


# ------------------------------------------------------------------------------------- fields of another section, tasks


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("max_steps", "'training.max_steps'"),
        ("learning_rate", "'training.learning_rate'"),
        ("batch_size", "'training.batch_size' or 'evaluation.batch_size'"),
        ("max_source_length", "'data.max_source_length'"),
        ("data_dir", "'data.data_dir'"),
        ("task_features", "'method.task_features'"),
        ("run", "'start.run'"),
        ("training.max_source_length", "'data.max_source_length'"),
        ("training.output_dir", "'output_dir'"),
        ("data.reduction_factor", "'method.reduction_factor'"),
        ("method.max_steps", "'training.max_steps'"),
        ("bf16", "'training.arguments.bf16'"),
        ("training.bf16", "'training.arguments.bf16'"),
    ],
)
def test_a_field_of_another_section_is_named_with_it_in_overrides_and_files(
    config: Path, field: str, meant: str
) -> None:
    message = re.escape(f"field '{field}' is unknown; did you mean {meant}?") + "$"
    with pytest.raises(UserError, match=message):
        RunConfig.load(config, [f"{field}=1"])
    extending = write(config.with_name("mine.yaml"), extends=config.name, **parse_override(f"{field}=1"))
    with pytest.raises(UserError, match=message):
        RunConfig.load(extending)


@pytest.mark.parametrize(
    ("kind", "name", "field", "meant"),
    [
        (CompareConfig, "compare/builtin", "max_steps", "'base.training.max_steps'"),
        (CompareConfig, "compare/builtin", "training.max_steps", "'base.training'"),
        (CompareConfig, "compare/builtin", "base.max_steps", "'training.max_steps'"),
        (PretrainConfig, "pretrain/domain", "source_length", "'objective.source_length'"),
        (PretrainConfig, "pretrain/domain", "text.data_dir", "'multitask.data_dir'"),
    ],
)
def test_so_it_is_in_comparisons_and_pretrainings(kind: Any, name: str, field: str, meant: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"is unknown; did you mean {meant}?") + "$"):
        kind.load(name, [f"{field}=1"])


@pytest.mark.parametrize("kind", [RunConfig, PretrainConfig, CompareConfig])
def test_a_task_is_no_configuration_and_a_configuration_no_task(
    kind: Any, config: Path, tmp_path: Path
) -> None:
    stars = write(tmp_path / "stars.yaml", name="stars", files={"train": "a.csv"}, fields="text", kind="text")
    with pytest.raises(UserError) as error:
        kind.load(stars)
    assert str(error.value) == (
        f"{stars} is a task, no configuration; one names it so: data: {{tasks: [stars.yaml]}} "
        "(`hyperadapt init DIR` writes both)"
    )
    with pytest.raises(UserError, match=r"config\.yaml is a configuration, no task; its tasks: glue; "):
        load_task_file(config)
    extending = write(tmp_path / "leaf.yaml", extends=config.name)
    with pytest.raises(UserError, match=r"leaf\.yaml is a configuration, no task; `hyperadapt init"):
        load_task_file(extending)


def test_what_may_be_set_of_trainer_has_its_defaults_and_all_else_is_accounted_for() -> None:
    fields = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    ours, names = TrainerConfig().model_dump(), TrainerConfig.model_fields.keys()
    assert not fields.keys() - names - INSTEAD.keys() - CLOSED, "transformers has fields that nothing says of"
    assert not names - fields.keys()
    assert not names & (INSTEAD.keys() | CLOSED)
    decided = {"report_to": "none", "use_cpu": None}  # by hyperadapt
    for name in names - decided.keys():
        field = fields[name]
        default = field.default_factory() if callable(field.default_factory) else field.default
        assert ours[name] == getattr(default, "value", default), name
    assert {name: ours[name] for name in decided} == decided


def test_every_argument_of_trainer_that_may_be_set_reaches_it(tmp_path: Path) -> None:
    given = {
        "adam_beta2": 0.9,
        "lr_scheduler_kwargs": {"num_decay_steps": 3},
        "log_level": "error",
        "optim": "sgd",
    }
    args = training_arguments(TrainingConfig(arguments=given), 0, tmp_path, None)
    assert {name: getattr(args, name) for name in given} == given
