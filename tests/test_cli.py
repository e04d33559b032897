"""The command line: what its commands print, and that bad input is one line, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from hyperadapt.cli import app
from hyperadapt.config.sections import EvaluationConfig
from hyperadapt.config.written import CompareConfig, PretrainConfig, RunConfig
from hyperadapt.errors import section_of
from hyperadapt.files import manifest
from hyperadapt.methods import METHODS
from hyperadapt.runs import results_file
from hyperadapt.runs.run import load_run
from hyperadapt.tasks import TASKS, Task
from tiny_run import (
    COLOURS,
    SPLITS,
    Outcome,
    assert_one_line,
    contents,
    hyperadapt,
    write_config,
    write_tasks,
)

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in COLOURS)
FEW_STEPS = ("training.max_steps=2", "training.eval_steps=2")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> Path:
    """A tiny run's configuration, in the working directory; the run would be in `run`."""
    monkeypatch.chdir(tmp_path)
    return write_config(tmp_path, write_tasks(tmp_path / "tasks"))


def in_a_process(*arguments: object, stdin: str = "") -> Outcome:
    """Run a command as a user does."""
    command = [sys.executable, "-m", "hyperadapt.cli", *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, input=stdin, capture_output=True, text=True, timeout=120)
    return Outcome(done.returncode, done.stdout, done.stderr)


# ------------------------------------------------------------------------------------------------ the front page


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['hyperadapt', '--help']\n"
        "from hyperadapt.cli import main\n"
        "try: main()\n"
        "except SystemExit as exit: print('exit code', exit.code)\n"
        "print('heavy', sorted({name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'transformers', 'datasets', 'numpy', 'pydantic', 'sklearn', 'scipy'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert "exit code 0" in done.stdout
    assert "heavy []" in done.stdout
    for command in ("train", "evaluate", "predict", "params", "tasks", "methods"):
        assert f"│ {command} " in done.stdout


def test_every_option_and_argument_says_what_it_is() -> None:
    for name, command in typer.main.get_command(app.app).commands.items():
        for parameter in command.params:
            assert len(parameter.help or "") > 4, (name, parameter.name)


def test_no_arguments_is_a_call_for_help() -> None:
    assert hyperadapt() == hyperadapt("--help")
    assert hyperadapt().code == 0


def test_tasks_and_methods_list_all_that_there_are() -> None:
    tasks = hyperadapt("tasks")
    assert tasks.code == 0
    rows = {cells[0]: cells for cells in table_rows(tasks.out)}
    assert set(rows) == {"task", *TASKS}
    for name, task in TASKS.items():
        assert rows[name][5:] == [task.splits.get("validation", ""), task.splits["test"]]
        assert rows[name][4] == ", ".join(task.metrics)
    methods = hyperadapt("methods")
    assert methods.code == 0
    for name, method in METHODS.items():
        listed = methods.out.split(f"{name}: ")[1].split("\n\n")[0]
        for option, field in method.model_fields.items():
            assert f"    {option} = {json.dumps(field.default)}" in listed  # as YAML has it


def test_fields_lists_every_field_of_every_configuration_with_its_default_and_its_meaning() -> None:
    outcome = hyperadapt("fields")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    for line in ("seed = 42  of the adaptation", "data.tasks, required  names of tasks or suites, or paths"):
        assert any(printed.startswith(f"    {line}") for printed in lines), line
    dtype = next(line for line in lines if line.startswith("    model.dtype"))
    assert dtype == '    model.dtype = "float32" (float32 or bfloat16)  of the base model\'s weights.'
    for kind in (RunConfig, PretrainConfig, CompareConfig):
        for place in all_fields(kind):
            printed = [line for line in lines if re.match(rf"    {re.escape(place)}( =|,)", line)]
            assert printed, place
            assert all(re.search(r"  \S.{5,}$", line) for line in printed), printed  # what it means
    one = hyperadapt("fields", "evaluation").out.splitlines()
    assert [line.split()[0].rpartition(".")[2] for line in one[1:]] == list(EvaluationConfig.model_fields)
    assert_one_line(hyperadapt("fields", "trainin"), "section 'trainin' is unknown; did you mean 'training'?")


def fields_listed(*arguments: str) -> dict[str, str]:
    """Each field that `hyperadapt fields` or `methods` lists, and what it says of it."""
    outcome = hyperadapt(*arguments)
    assert outcome.code == 0, outcome.err
    lines = [line.strip() for line in outcome.out.splitlines() if line.startswith("    ")]
    return {re.split(r" =|,|  ", line)[0]: line.partition("  ")[2] for line in lines}


def test_every_field_of_a_task_file_and_every_option_of_a_method_is_listed_with_a_meaning_of_its_own() -> (
    None
):
    assert list(fields_listed("fields", "task")) == list(Task.model_fields)
    for name, method in METHODS.items():
        options = fields_listed("fields", f"method.{name}")
        assert list(options) == [f"method.{option}" for option in method.model_fields]
        assert list(fields_listed("methods", name)) == list(method.model_fields)
    sections = ("train", "data", "evaluation", "pretrain", "objective", "multitask", "task")
    for section in (*sections, *(f"method.{name}" for name in METHODS)):
        meanings = list(fields_listed("fields", section).values())
        assert all(len(meaning) > 5 for meaning in meanings), section
        assert len(set(meanings)) == len(meanings), section


def test_a_section_that_two_commands_have_is_listed_once_and_of_another_only_what_is_different() -> None:
    headings = [line for line in hyperadapt("fields", "training").out.splitlines() if line[0] != " "]
    assert [heading.partition(":")[0] for heading in headings] == [
        "training, of hyperadapt train",
        "training, of hyperadapt pretrain, as the one above but for these",
    ]
    listed = re.findall(r"^    (training\.\w+)", hyperadapt("fields", "training").out, re.MULTILINE)
    assert listed.count("training.max_steps") == 1
    assert listed.count("training.learning_rate") == 2
    assert hyperadapt("fields", "model").out.startswith(
        "model, of hyperadapt train and pretrain: The base model."
    )


def test_one_task_and_one_method_are_told_in_full() -> None:
    facts = dict(cells for cells in table_rows(hyperadapt("tasks", "inference").out) if cells[0])
    assert facts["labels"] == "entailment, neutral, contradiction"
    assert facts["columns"].startswith("premise (text), hypothesis (text), label (0 entailment, 1 neutral, ")
    assert set(json.loads(facts["a row to predict"])) == {"premise", "hypothesis"}
    assert re.fullmatch(r"premise: .+ hypothesis: .+", facts["such an input"])
    assert re.fullmatch(r"[012] \((entailment|neutral|contradiction)\)", facts["and its answer"])
    assert_one_line(
        hyperadapt("tasks", "inferense"), "task 'inferense' is unknown; did you mean 'inference'?"
    )
    assert "from: HyperGrid and the gate it is compared with (Tay et al., ICLR 2021" in (
        hyperadapt("methods", "output_gate").out
    )
    assert_one_line(hyperadapt("methods", "adapter"), "method 'adapter' is unknown; did you mean 'adapters'?")


def on_a_terminal(width: int, *arguments: object) -> list[str]:
    """The lines that a command draws on a terminal of so many columns."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hyperadapt.cli", *map(str, arguments)],
        env={**ENVIRONMENT, "COLUMNS": str(width), "TERM": "xterm"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    drawn = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # as Linux says that the other end is closed
            break
        if not piece:
            break
        drawn += piece
    os.close(leader)
    assert process.wait() == 0, drawn.decode()
    return re.sub(r"\x1b\[[0-9;]*m", "", drawn.decode()).replace("\r", "").splitlines()


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize(
    "command",
    [
        ("tasks",),
        ("methods",),
        ("fields",),
        ("params", "--model", "t5-small"),
        ("configs",),
        ("tasks", "mnli"),
    ],
)
def test_no_word_is_broken_and_no_line_is_too_long_for_a_narrow_terminal(
    command: tuple[str, ...], width: int
) -> None:
    def words(lines: list[str]) -> set[str]:
        return {word for line in lines for word in re.sub("[│┃]", " ", line).split() if word.isalnum()}

    lines = on_a_terminal(width, *command)
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines), max(lines, key=len)
    whole = words(hyperadapt(*command).out.splitlines())
    assert words(lines) <= whole, words(lines) - whole
    assert len(words(lines)) > 5


def all_fields(kind: Any, section: str = "") -> list[str]:
    """Every field of a configuration that is no section, as "training.max_steps"."""
    found = []
    for name, info in kind.model_fields.items():
        inner = section_of(info)
        found += [f"{section}{name}"] if inner is None else all_fields(inner, f"{section}{name}.")
    return found


def table_rows(drawn: str) -> list[list[str]]:
    """The cells of a drawn table."""
    lines = [line for line in drawn.splitlines() if line[:1] in ("┃", "│")]
    return [[cell.strip() for cell in line.strip("┃│").split(line[0])] for line in lines]


# -------------------------------------------------------------------------------------------------------- params


def params(*arguments: object) -> dict[str, Any]:
    outcome = hyperadapt("params", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


# transformers ties the output head in every model that it builds from a T5Config, but not in a checkpoint that has one
# of its own, as all since v1.1 have.


@pytest.mark.parametrize(
    ("model", "base"),
    # As the published checkpoints have it.
    [
        ("google-t5/t5-small", 60_506_624),
        ("google-t5/t5-base", 222_903_552),
        ("google/flan-t5-base", 247_577_856),
        ("google/mt5-small", 300_176_768),
        ("google/byt5-small", 299_637_760),
    ],
)
@pytest.mark.usefixtures("offline")
def test_published_models_are_counted_without_weights_or_network(model: str, base: int) -> None:
    counted = params("--model", model)
    assert counted["base"] == base
    assert counted["base"] < counted["total"] < 1.07 * base


@pytest.mark.parametrize(("factor", "tasks"), [(32, 8), (16, 3)])
def test_adapters_dagger_count_as_their_formula(factor: int, tasks: int) -> None:
    counted = params("--method", "adapters_dagger", "--tasks", tasks, f"reduction_factor={factor}")
    d_model, width, sites, norms = 768, 768 // factor, 2 * 24, 2 * 12 + 1 + 3 * 12 + 1
    own = sites * (2 * d_model * width + width + d_model)
    added = tasks * own + sites * 2 * d_model
    assert counted["total"] == counted["base"] + added
    assert counted["trained"] == added + norms * d_model
    assert counted["trained_per_task"] * tasks == counted["trained"]
    assert counted["total_ratio"] == pytest.approx(counted["total"] / counted["base"])


def test_options_change_the_count_and_full_fine_tuning_trains_all() -> None:
    assert (
        params("reduction_factor=8")["trained"]
        > params()["trained"]
        > params("task_embedding_dim=8")["trained"]
    )
    full = params("--method", "full_fine_tuning", "--model", "t5-small")
    assert full["trained"] == full["total"] == full["base"]
    drawn = hyperadapt("params", "--model", "google-t5/t5-small").out
    assert "60,506,624" in drawn
    for arguments in (("--model", "google-t5/t5-small", "--tasks", "7"), ("--paper",)):
        assert not re.search(r"\de\+", hyperadapt("params", *arguments).out)


def test_the_papers_tables_are_counted_all_or_by_name() -> None:
    tables = json.loads(hyperadapt("params", "--paper", "--json").out)
    assert [len(rows) for rows in tables.values()] == [16, 12, 44, 14, 20, 7]
    first = next(iter(tables.values()))
    assert [row["#trained per task (%), paper"] for row in first] == [
        *("100", "0.74", "100", "0.87", "12.5", "0.68", "5.80", "0.50", "12.5", "0.82", "6.86", "0.29"),
        *("10.44", "5.80", "12.73", "6.86"),
    ]
    for row in first:
        paper, ours = (float(row[f"#trained per task (%), {whose}"]) for whose in ("paper", "ours"))
        assert paper == ours
    named = json.loads(hyperadapt("params", "--paper", "hypergrid", "--json").out)
    assert list(named) == list(tables)[3:5]
    assert "│ 11.31" in hyperadapt("params", "--paper", "hypergrid").out


def test_a_model_in_a_local_directory_is_counted_and_brackets_in_its_name_are_no_markup(
    trained: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "my[/b]"
    shutil.copytree(trained / "base", directory)
    outcome = hyperadapt("params", "--model", directory, "--tasks", "2", "reduction_factor=4")
    assert outcome.code == 0, outcome.err
    assert "my[/b]" in outcome.out
    numbers = {cells[0]: cells[1] for cells in table_rows(outcome.out)}
    assert int(numbers["base"].replace(",", "")) == load_run(trained).model.num_parameters() - sum(
        parameter.numel() for parameter in load_run(trained).model.hyperadapt.parameters()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "hyprformer"), "method 'hyprformer' is unknown; did you mean 'hyperformer'?"),
        (("reduction_facto=3",), "field 'reduction_facto' is unknown; did you mean 'reduction_factor'?"),
        (("reduction_factor=x",), "field 'reduction_factor'"),
        (("reduction_factor=1000",), "reduction_factor 1000 leaves no bottleneck in a model of width 768"),
        (("reduction_factor",), "override 'reduction_factor' is not of the form key=value"),
        (("name=adapters",), "choose the method with --method"),
        (("--model", "no/such-model"), "model 'no/such-model' is not a published model known here"),
        (("--paper", "hypergird"), "paper 'hypergird' is unknown; did you mean 'hypergrid'?"),
        (("--tasks", "0"), "'--tasks'"),
        (("--tasks", "many"), "'--tasks'"),
        (("--mdoel", "x"), "--mdoel"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_bad_input_to_params_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    assert_one_line(hyperadapt("params", *arguments), message)


# --------------------------------------------------------------------------------------------------------- train


def test_train_prints_the_scores_of_each_split_and_where_the_run_lies(config: Path) -> None:
    # Brackets are no markup.
    outcome = hyperadapt("train", config, "output_dir=new[/run]", *FEW_STEPS)
    assert outcome.code == 0, outcome.err
    assert f"The run is in {Path('new[/run]').absolute()}" in outcome.out
    results = json.loads(Path("new[/run]/results.json").read_text())
    last = f"validation average {results['validation']['average']:.2f} ("
    assert last in outcome.out
    assert "{'" not in outcome.out, "Trainer's dictionaries are not for people"
    scores = re.split(r"(?:validation|test) rows", outcome.out)[1:]
    for split, drawn in zip(("validation", "test"), scores, strict=True):
        rows = {cells[0]: cells for cells in table_rows(drawn)}
        for name, of in results[split]["tasks"].items():
            beside = f"{results['majority'][split]['tasks'][name]['score']:.2f}"
            assert rows[name][2:] == [
                f"{of['score']:.2f}",
                str(SPLITS[split]),
                str(of["invalid"]),
                beside,
            ]
        assert rows["average"][2] == f"{results[split]['average']:.2f}"
        assert rows["average"][-1] == f"{results['majority'][split]['average']:.2f}"


BAD_OVERRIDES = {
    # unknown names
    "data.tasks=[colr]": "task 'colr' is unknown and no .yaml file; did you mean 'cola'?",
    "data.tasks=[tasks/color.yaml]": "did you mean 'colour.yaml'?",
    "data.tasks=[tasks/colour.yaml, tasks/colour.yaml]": "task 'colour' comes twice",
    "method.name=hyperformr": "method 'hyperformr' is unknown; did you mean 'hyperformer'?",
    "method.reduction_facto=2": "field 'reduction_facto' is unknown; did you mean 'reduction_factor'?",
    "method.activation=rel": "activation 'rel' is unknown; did you mean 'relu'?",
    "trainin.max_steps=2": "field 'trainin' is unknown; did you mean 'training'?",
    "training.max_step=2": "field 'training.max_step' is unknown; did you mean 'max_steps'?",
    "model.config.d_modl=16": "model.config: field 'd_modl' is unknown; did you mean 'd_model'?",
    "training.arguments={learning_rte: 1}": "'learning_rte' is unknown; did you mean 'training.learning_rate'?",
    "training.lr_scheduler_type=constnt": "constnt",
    # wrong values
    "training.max_steps=many": "field 'training.max_steps'",
    "seed=-1": "field 'seed'",
    "model.config.d_model=wide": "model.config: ",
    "model.config.feed_forward_proj=gated-foo": "model.config: ",
    "model.config.d_model=-1": "model.config: ",
    "model.attn_implementation=egar": "model.attn_implementation: ",
    "model.config.vocab_size=100": "the tokenizer's ids go up to 383, but the model's vocabulary has only 100",
    "method.reduction_factor=17": "reduction_factor 17 leaves no bottleneck in a model of width 16; the largest is 16",
    "training.arguments={seed: 1}": "training.arguments: 'seed' is decided by the run's configuration; set seed",
    "training.arguments={per_device_train_batch_size: 4}": "'per_device_train_batch_size' is decided by the run's "
    "configuration; set training.batch_size",
    "training.arguments={save_only_model: true}": "'save_only_model' is decided by the run's configuration",
    "training.arguments={max_grad_norm: x}": "field 'training.arguments.max_grad_norm' is 'x': it must be a number",
    "training.arguments={adam_beta1: 3}": "field 'training.arguments.adam_beta1' is 3: it must be less than 1",
    "training.arguments={dataloader_num_workers: -1}": "dataloader_num_workers' is -1: it must be at least 0",
    "training.arguments={gradient_checkpointing_kwargs: {use_reentrant: true}}": "use_reentrant must be false",
    "training.arguments={optim: adamv}": "optim 'adamv' is unknown; did you mean",
    "training={t5_adafactor: true, arguments: {optim: sgd}}": "t5_adafactor takes the place of arguments.optim 'sgd'",
    "training.arguments={report_to: nothing}": "training.arguments: report_to: nothing is not supported",
    "training.arguments={report_to: [comet_ml]}": "training.arguments: report_to: CometCallback requires",
    "training.gradient_accumulation_steps=3": "training.batch_size 16 does not divide",
    "max_steps": "override 'max_steps' is not of the form key=value",
    # missing and impossible places
    "data={tasks: [cola], data_dir: nowhere}": "nowhere/glue/cola/train.parquet does not exist",
    "data={tasks: [rte, cola], data_dir: tasks}": "the hub is nyu-mll/glue, config rte; 1 more task lacks its",
    "data={tasks: [cola]}": "cannot be had from the hub",
    "data={tasks: [glue]}": "config cola; 7 more tasks lack their rows: sst2, stsb, mrpc, qqp, mnli, qnli, rte",
    "model={name: no/such-model, config: null}": "'no/such-model' is neither a local directory",
    "model={name: tasks, config: null}": "model.name: 'tasks' is neither a local directory with the right files",
    "model.tokenizer=nowhere": "model.tokenizer: 'nowhere' is neither a local directory",
    "method={name: hyperformer, task_features: no.json}": "/no.json",
    "output_dir=config.yaml": "/config.yaml cannot be made",
    "output_dir=config.yaml/run": "/config.yaml/run cannot be made",
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_a_bad_value_is_one_line_and_nothing_is_written(config: Path, override: str) -> None:
    before = contents(config.parent)
    assert_one_line(hyperadapt("train", config, override), BAD_OVERRIDES[override])
    assert contents(config.parent) == before
    assert not (config.parent / "run").exists()


ROWS = {
    # file, its text, the message
    "no JSON": (
        "train.jsonl",
        '{"text": "red", "label": 0}\n{"text": \n',
        "train.jsonl, line 2: no readable JSON",
    ),
    "no object": ("train.jsonl", "[1]\n", "train.jsonl, line 1: expected a JSON object"),
    "not UTF-8": ("train.jsonl", b'{"text": "\xff\xfe\xfd", "label": 0}\n', "train.jsonl, line 1"),
    "no column": (
        "train.jsonl",
        '{"txt": "red", "label": 0}\n',
        "there is no column 'text'; did you mean 'txt'?",
    ),
    "no text": (
        "train.jsonl",
        '{"text": [3], "label": 0}\n',
        "line 1: column 'text' holds [3], which is no text",
    ),
    "no label": ("train.jsonl", '{"text": "red"}\n', "there is no column 'label'"),
    "other label": (
        "train.jsonl",
        '{"text": "red", "label": "wrm"}\n',
        "which is no label; did you mean 'warm'?",
    ),
    "empty": ("train.jsonl", "", "split 'train' (train) is empty"),
    "empty validation": ("validation.jsonl", "", "split 'validation' (validation) is empty"),
    "gone": ("train.jsonl", None, "does not exist"),
    "csv columns": (
        "train.csv",
        "text,label\nred,0\nblue,1,2\n",
        "train.csv, line 3: 3 columns, but the header has 2",
    ),
    "csv header": (
        "train.csv",
        "txt,label\nred,0\n",
        "line 2: there is no column 'text'; did you mean 'txt'?",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_bad_rows_are_one_line_that_says_which_and_nothing_is_written(config: Path, case: str) -> None:
    name, text, message = ROWS[case]
    good = '{"text": "red", "label": 0}\n{"text": "blue", "label": 1}\n'
    files = {"train": "train.jsonl", "validation": "validation.jsonl", name.split(".")[0]: name}
    for file in files.values():
        Path(file).write_text(good)
    if text is None:
        Path(name).unlink()
    else:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    spec = {
        "name": "mine",
        "files": files,
        "fields": ["text"],
        "labels": ["warm", "cold"],
        "metrics": ["accuracy"],
    }
    Path("mine.yaml").write_text(json.dumps(spec))  # JSON is YAML
    before = contents(config.parent)
    assert_one_line(hyperadapt("train", config, "data.tasks=[mine.yaml]"), message)
    assert contents(config.parent) == before


def test_a_task_without_validation_rows_cannot_be_trained(config: Path) -> None:
    spec = {"name": "mine", "files": {"train": "tasks/colour-train.jsonl"}, "fields": ["text"]}
    Path("mine.yaml").write_text(json.dumps({**spec, "labels": ["warm", "cold"], "metrics": ["accuracy"]}))
    message = "task 'mine' has no split 'validation'"
    assert_one_line(hyperadapt("train", config, "data.tasks=[mine.yaml]"), message)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("extends: none.yaml", "there is no configuration file none.yaml (extended by"),
        ("extends: wrong.yaml", "wrong.yaml extends itself"),
        ("extends: [config.yaml]", "extends must be the path of one file"),
        ("{}", "field 'output_dir' is missing"),
        ("outptu_dir: x", "field 'outptu_dir' is unknown; did you mean 'output_dir'?"),
        (None, "there is no configuration file wrong.yaml"),
    ],
)
def test_a_bad_config_file_is_one_line(config: Path, text: str | None, message: str) -> None:
    if text is not None:
        Path("wrong.yaml").write_text(text)
    before = contents(config.parent)
    assert_one_line(hyperadapt("train", "wrong.yaml"), message)
    assert contents(config.parent) == before


def test_a_run_is_not_written_over_and_one_that_is_not_there_not_resumed(config: Path, run: Path) -> None:
    before = contents(run)
    message = "already holds a run; go on with --resume, or choose another output_dir"
    assert_one_line(hyperadapt("train", config, f"output_dir={run}"), message)
    assert_one_line(hyperadapt("train", config, "--resume"), "run holds no run to resume")
    other = hyperadapt("train", config, "--resume", f"output_dir={run}", "method={name: hyperformer++}")
    assert_one_line(other, "cannot go on with")
    assert contents(run) == before
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "No such command 'trian'. Did you mean 'train'"),
        (("train",), "Missing argument 'CONFIG'"),
        (("train", "config.yaml", "--resme"), "No such option: --resme"),
        (("predict", "run"), "name a task of run by --task, or say what is to be done by --describe"),
        (("evaluate",), "Missing argument 'RUN'"),
        (("train", "config.yaml", "--lr", "3"), "No such option: --lr; write training.learning_rate=…"),
        (("evaluate", "run", "--batch-size", "0"), "'--batch-size'"),
        (("evaluate", "run", "--num-beams", "two"), "'--num-beams'"),
    ],
)
def test_a_misspelt_command_line_is_one_line_too(arguments: tuple[str, ...], message: str) -> None:
    assert_one_line(hyperadapt(*arguments), message)


# ------------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_adds_its_scores_to_the_results_and_keeps_the_rest(run: Path) -> None:
    before = results_file.read(run)
    results_file.add(run, {"note": "mine", "test": None})
    outcome = hyperadapt("evaluate", run)
    assert outcome.code == 0, outcome.err
    assert results_file.read(run) == {"note": "mine", **before}
    rows = {cells[0]: cells for cells in table_rows(outcome.out)}
    assert rows["colour"][3] == str(SPLITS["test"])
    assert rows["average"][2] == f"{before['test']['average']:.2f}"


def test_evaluate_takes_split_task_batch_size_and_beams(run: Path) -> None:
    before = json.loads((run / "results.json").read_text())
    rows = {cells[0]: cells for cells in table_rows(hyperadapt("evaluate", run, "--task", "warmth").out)}
    assert set(rows) == {"task", "warmth", "average"}
    assert rows["warmth"][2] == f"{before['test']['tasks']['warmth']['score']:.2f}"
    assert (
        json.loads((run / "results.json").read_text()) == before
    )  # part of the tasks is no result of the run
    drawn = hyperadapt("evaluate", run, "--split", "validation", "--batch-size", "3").out
    assert {cells[0]: cells for cells in table_rows(drawn)}["colour"][3] == str(SPLITS["validation"])
    assert json.loads((run / "results.json").read_text()) == before
    assert hyperadapt("evaluate", run, "--num-beams", "3").code == 0
    assert (
        json.loads((run / "results.json").read_text())["test"]
        == load_run(run).evaluate(num_beams=3).as_dict()
    )


def test_bad_input_to_evaluate_is_one_line_and_changes_nothing(run: Path, trained: Path) -> None:
    before = contents(run)
    assert_one_line(
        hyperadapt("evaluate", run, "--split", "tset"), "split 'tset' is unknown; did you mean 'test'?"
    )
    assert_one_line(hyperadapt("evaluate", run, "--task", "color"), "no task 'color'; did you mean 'colour'?")
    assert_one_line(hyperadapt("evaluate", run / "nowhere"), f"there is no run {run / 'nowhere'}")
    assert_one_line(hyperadapt("evaluate", run / "model"), "is not a run")
    assert contents(run) == before
    (run / "results.json").write_text('{"a": ')
    assert_one_line(hyperadapt("evaluate", run), "results.json is missing or damaged")
    shutil.copyfile(trained / "results.json", run / "results.json")
    tasks = (run / "tasks.yaml").read_text()
    (run / "tasks.yaml").write_text(re.sub(r"    test: test\n", "", tasks))
    manifest.add(run, ["tasks.yaml"])
    assert_one_line(
        hyperadapt("evaluate", run),
        f"the run {run} has no test rows of colour, warmth, but train and validation rows",
    )


# ------------------------------------------------------------------------------------------------------- predict


def test_predict_gives_one_json_object_a_line_with_the_label_that_the_written_text_names(
    trained: Path,
) -> None:
    for task in ("colour", "warmth"):
        outcome = hyperadapt("predict", trained, "--task", task, stdin=LINES)
        assert outcome.code == 0, outcome.err
        rows = [json.loads(line) for line in outcome.out.splitlines()]
        run = load_run(trained)
        predicted = run.predict(task, [{"text": text} for text in COLOURS])
        assert [(row["written"], row["prediction"]) for row in rows] == [answer[:2] for answer in predicted]
        names = {"0": "warm", "1": "cold"}
        for row in rows:
            assert list(row) == ["text", "prediction", "written"]
            text = row["written"]
            assert row["prediction"] == (names.get(text) if task == "colour" else number_or_none(text))
    beams = hyperadapt("predict", trained, "--task", "warmth", "--num-beams", "3", stdin=LINES)
    predicted = run.predict("warmth", [{"text": text} for text in COLOURS], num_beams=3)
    assert [json.loads(line)["written"] for line in beams.out.splitlines()] == [
        prediction.text for prediction in predicted
    ]


def number_or_none(text: str) -> str | None:
    return text if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", text) else None


def test_a_file_and_standard_input_give_the_same_whatever_ends_their_lines(
    trained: Path, tmp_path: Path
) -> None:
    expected = hyperadapt("predict", trained, "--task", "warmth", stdin=LINES).out
    assert len(expected.splitlines()) == len(COLOURS)
    for text in (LINES, LINES.removesuffix("\n"), LINES.replace("\n", "\r\n"), "\ufeff" + LINES):
        (tmp_path / "rows.jsonl").write_bytes(text.encode())
        from_file = hyperadapt("predict", trained, "--task", "warmth", "--input", tmp_path / "rows.jsonl")
        assert from_file == Outcome(0, expected, from_file.err)
        assert hyperadapt("predict", trained, "--task", "warmth", stdin=text).out == expected


def test_a_row_ends_at_the_end_of_its_line_and_nowhere_within_its_text(trained: Path) -> None:
    texts = ["red\u2028rose", "blue\u0085whale", "azur\x0b", "日本 🌹"]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    escaped = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    outcome = hyperadapt("predict", trained, "--task", "colour", stdin=escaped)
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == len(texts)
    # A raw vertical tab is no JSON: that row is left out.
    raw = "\n".join(line for line in lines.split("\n") if "azur" not in line)
    outcome = hyperadapt("predict", trained, "--task", "colour", stdin=raw)
    assert (outcome.code, len(outcome.out.splitlines())) == (0, 3)


def test_through_a_pipe_predict_is_silent_but_for_its_lines(trained: Path) -> None:
    piped = in_a_process("predict", trained, "--task", "warmth", stdin=LINES)
    assert (piped.code, piped.out) == (0, hyperadapt("predict", trained, "--task", "warmth", stdin=LINES).out)
    assert piped.err == ""


def test_in_a_process_of_its_own_bad_input_is_exactly_one_line(config: Path) -> None:
    outcome = in_a_process("train", config, "training.max_step=3")
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith(
        f"error: {config}: field 'training.max_step' is unknown; did you mean 'max_steps'?"
    )
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "standard input: there are no rows"),
        ("\n", "standard input: there are no rows"),
        (LINES + "\n" + LINES, f"standard input, line {len(COLOURS) + 1}: the line is blank"),
        (LINES + '{"text": \n', f"standard input, line {len(COLOURS) + 1}: no readable JSON"),
        ("red\n", "standard input, line 1: no readable JSON"),
        ("red\n", '; a row is written as {"text": "…"}'),
        ('["red"]\n', "standard input, line 1: expected a JSON object"),
        ('{"txt": "red"}\n', "standard input, line 1: there is no column 'text'; did you mean 'txt'?"),
        ('{"text": ["red"]}\n', "standard input, line 1: column 'text' holds ['red'], which is no text"),
    ],
)
def test_bad_rows_to_predict_are_one_line_that_says_which(trained: Path, lines: str, message: str) -> None:
    assert_one_line(hyperadapt("predict", trained, "--task", "colour", stdin=lines), message)


def test_bad_arguments_to_predict_are_one_line(trained: Path, tmp_path: Path) -> None:
    unknown = hyperadapt("predict", trained, "--task", "color", stdin=LINES)
    assert_one_line(unknown, "has no task 'color'; did you mean 'colour'?")
    missing = hyperadapt("predict", trained, "--task", "colour", "--input", tmp_path / "rows.jsonl")
    assert_one_line(missing, "--input: there is no file")
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}'.encode("latin-1"))
    latin = hyperadapt("predict", trained, "--task", "colour", "--input", tmp_path / "latin.jsonl")
    assert_one_line(latin, "latin.jsonl, line 1: no readable JSON: 'utf-8' codec can't decode byte 0xe9")
    assert_one_line(hyperadapt("predict", tmp_path, "--task", "colour", stdin=LINES), "is not a run")


def test_a_broken_run_is_one_line_and_is_left_as_it_is(run: Path) -> None:
    weights = run / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    before = contents(run)
    for command in (("evaluate", run), ("predict", run, "--task", "colour")):
        assert_one_line(hyperadapt(*command, stdin=LINES), "model.safetensors is truncated or corrupted")
    assert contents(run) == before


# ----------------------------------------------------------------------------------------------- what is no run

COMMANDS_OF_RUNS = (
    ("evaluate",),
    ("report",),
    ("embed",),
    ("encoder-only",),
    ("predict", "--task", "colour"),
    ("fewshot", "--task", "rte"),
)


@pytest.mark.parametrize("command", COMMANDS_OF_RUNS, ids=lambda command: command[0])
def test_a_configuration_is_no_run_and_where_its_run_is_is_said(
    config: Path, run: Path, command: tuple[str, ...]
) -> None:
    mine = config.parent / "mine"
    mine.mkdir()
    config.rename(mine / "config.yaml")
    name, *options = command
    train = "holds a configuration, no run; train it with: hyperadapt train mine/config.yaml"
    for given in ("mine", "mine/config.yaml"):
        assert_one_line(hyperadapt(name, given, *options, stdin=LINES), f"{given} {train}")
    run.rename("run")  # the output_dir
    for given in ("mine", "mine/config.yaml"):
        outcome = hyperadapt(name, given, *options, stdin=LINES)
        assert_one_line(outcome, f"{given} holds a configuration, no run; its run is run")
    assert_one_line(
        hyperadapt(name, "run/model", *options, stdin=LINES),
        "run/model is not a run, but a part of run, which is one",
    )


@pytest.mark.parametrize("command", COMMANDS_OF_RUNS, ids=lambda command: command[0])
def test_a_run_that_is_not_there_is_answered_with_runs_alone_the_likeliest_first(
    config: Path, run: Path, command: tuple[str, ...]
) -> None:
    name, *options = command
    first = run.rename("first")
    for other in ("runs/second", "frist-notes", "init"):
        Path(other).mkdir(parents=True)
        shutil.copy(config, Path(other, "config.yaml"))
    message = f"there is no run frist; did you mean '{first}'? (runs: {first})"
    assert_one_line(hyperadapt(name, "frist", *options, stdin=LINES), message)
    (first / "results.json").rename("runs/second/results.json")  # its manifest is there still
    message = "there is no run secnd; did you mean 'runs/second'? (runs: runs/second, first)"
    assert_one_line(hyperadapt(name, "secnd", *options, stdin=LINES), message)
    assert_one_line(hyperadapt(name, ".", *options, stdin=LINES), ". holds a configuration, no run")
    config.unlink()
    message = ". is not a run: there is no config.yaml; runs in it: first, runs/second"
    assert_one_line(hyperadapt(name, ".", *options, stdin=LINES), message)


def test_comparisons_and_pretrainings_are_no_runs_of_tasks(config: Path, run: Path) -> None:
    Path("many.yaml").write_text(
        json.dumps({"output_dir": "all", "base": {}, "variants": {"a": {"method": "adapters"}}})
    )
    Path("all/a").mkdir(parents=True)
    run.rename("all/a/seed-0")
    message = "many.yaml holds a comparison, no run; its runs are all/a/seed-0"
    assert_one_line(hyperadapt("evaluate", "many.yaml"), message)
    file = Path("all/a/seed-0/config.yaml")
    file.write_text(json.dumps({"output_dir": "p", "model": {"name": "tiny-t5"}, "text": {"files": "a.txt"}}))
    manifest.add(file.parent, [file.name])
    message = (
        "is of `hyperadapt pretrain`: its model is a base model, to be trained on tasks with model.name=all/a"
    )
    assert_one_line(hyperadapt("evaluate", "all/a/seed-0"), message)


# ---------------------------------------------------------------------------------------- what is said first, and last


def test_a_wrong_run_task_or_split_is_said_before_rows_are_read_or_a_model_is_loaded(run: Path) -> None:
    (run / "model/model.safetensors").write_bytes(b"")  # which would be the error else
    unreadable = "no JSON\n"
    for arguments, message in (
        (("predict", run / "no", "--task", "colour"), f"there is no run {run / 'no'}"),
        (("predict", run, "--task", "color"), "has no task 'color'; did you mean 'colour'?"),
        (("evaluate", run, "--task", "color"), "has no task 'color'; did you mean 'colour'?"),
        (("evaluate", run, "--split", "tset"), "split 'tset' is unknown; did you mean 'test'?"),
        (("embed", run, "--split", "tset"), "split 'tset' is unknown; did you mean 'test'?"),
    ):
        assert_one_line(hyperadapt(*arguments, stdin=unreadable), message)


def test_a_split_is_asked_of_the_task_that_is_named(run: Path) -> None:
    file = run / "tasks.yaml"
    specs = yaml.safe_load(file.read_text())
    del specs[0]["splits"]["test"]
    file.write_text(yaml.safe_dump(specs))
    (run / "model/model.safetensors").write_bytes(b"")  # which would be the error else
    manifest.add(run, ["tasks.yaml", "model"])
    message = (
        f"the run {run} has no test rows of colour, but train and validation rows, as of --split validation;"
    )
    for others in ((), ("--task", "warmth")):
        assert_one_line(hyperadapt("evaluate", run, "--task", "colour", *others), message)


def test_mistakes_in_tasks_are_told_before_a_run_that_is_there_and_before_rows_are_read(
    config: Path, run: Path, trained: Path
) -> None:
    spec = yaml.safe_load((trained.parent / "tasks/colour.yaml").read_text())
    Path("rows.jsonl").write_text("no row at all\n")  # which would be the error else
    there = {"train": "rows.jsonl", "validation": "rows.jsonl"}
    for changes, message in (
        ({"metrics": ["acuracy"]}, "metric 'acuracy' is unknown; did you mean 'accuracy'?"),
        ({"files": {**there, "validation": "row.jsonl"}}, "validation file: "),
        ({"files": {"train": "rows.jsonl"}}, "task 'colour' has no split 'validation'; name a file for it"),
        ({"files": {**there, "test": "gone.jsonl"}}, "task 'colour', test file: "),
    ):
        Path("mine.yaml").write_text(yaml.safe_dump({**spec, "files": there, **changes}))
        assert_one_line(hyperadapt("train", config, "data.tasks=[mine.yaml]", f"output_dir={run}"), message)


def test_a_folder_that_is_not_there_is_not_made_for_an_output(config: Path, trained: Path) -> None:
    before = contents(config.parent)
    for arguments in (
        ("predict", trained, "--task", "colour", "--output", "nowhere/p.csv"),
        ("features", config, "--output", "nowhere/z.json"),
    ):
        assert_one_line(hyperadapt(*arguments, stdin=LINES), "--output: there is no folder nowhere")
    assert_one_line(
        hyperadapt("bench", "step", "--page", "nowhere/b.md"), "--page: there is no folder nowhere"
    )
    assert contents(config.parent) == before
    assert not Path("nowhere").exists()


def test_predict_says_where_its_predictions_are_and_a_training_what_comes_next(config: Path) -> None:
    outcome = hyperadapt("train", config, "output_dir=my run", *FEW_STEPS)
    assert outcome.code == 0, outcome.err
    said = outcome.out.splitlines()[-1]
    assert said == (
        "next: hyperadapt report 'my run', or: hyperadapt predict 'my run' --task colour --input …"
    )
    report, _, predict = said.removeprefix("next: ").partition(", or: ")
    Path("rows.jsonl").write_text(LINES)
    assert hyperadapt(*shlex.split(report)[1:]).code == 0
    predicted = hyperadapt(
        *shlex.split(predict.replace("…", "rows.jsonl"))[1:], "--output", "predictions.csv"
    )
    assert predicted == Outcome(0, "The predictions are in predictions.csv: 4 rows\n", predicted.err)
    assert Path("predictions.csv").is_file()


def test_evaluate_says_of_all_tasks_whose_rows_are_missing_what_they_must_be(
    config: Path, trained: Path
) -> None:
    arguments = ("evaluate", trained, "--unseen", "rte", "--unseen", "squad", "--data-dir", config.parent)
    outcome = hyperadapt(*arguments)
    assert_one_line(outcome, "glue/rte/validation.parquet does not exist")
    assert_one_line(
        outcome, "; its name on the hub is nyu-mll/glue, config rte; 1 more task lacks its rows: squad"
    )


def test_a_configuration_given_as_a_task_is_told_so(config: Path, trained: Path) -> None:
    message = "config.yaml is a configuration, no task; its tasks: "
    assert_one_line(hyperadapt("fewshot", trained, "--task", "config.yaml"), message)
    assert_one_line(hyperadapt("evaluate", trained, "--unseen", "config.yaml"), message)
    assert_one_line(hyperadapt("train", config, "data.tasks=[config.yaml]"), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "folder"), "there is no configuration file folder, which is a directory"),
        (("train", "."), "there is no configuration file ., which is a directory; did you mean config.yaml?"),
        (("train", "rows.csv"), "rows.csv is a file of rows, and a configuration is a YAML file;"),
        (("train", "config.yaml", "--output-dir", "x"), "No such option: --output-dir; write output_dir=…"),
        (
            ("train", "config.yaml", "--max-steps=3"),
            "No such option: --max-steps; write training.max_steps=…",
        ),
        (("train", "config.yaml", "--lr", "3"), "No such option: --lr; write training.learning_rate=…"),
        (("evaluate", "run", "--batch-size", "0"), "'--batch-size': it must be greater than or equal to 1"),
        (("train", "config.yaml", "--resme"), "No such option: --resme (Possible options: --resume)"),
    ],
)
def test_what_newcomers_write_is_answered_with_what_they_meant(
    config: Path, arguments: tuple[str, ...], message: str
) -> None:
    Path("folder").mkdir()
    Path("rows.csv").write_text("text,label\nred,0\n")
    assert_one_line(hyperadapt(*arguments), message)
