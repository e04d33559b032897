"""The package as others meet it: its metadata, README and wheel, and what it does with no checkout beside it."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import warnings
from collections import Counter
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import hyperadapt as package
from families import tiny_base
from hyperadapt import bundled, threads
from hyperadapt.cli.quickstart import ROWS
from hyperadapt.config.written import CompareConfig, PretrainConfig, RunConfig
from hyperadapt.training import callbacks
from tiny_run import assert_one_line, contents, hyperadapt, write_config, write_tasks

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FEW_STEPS = (
    "training.max_steps=2",
    "training.eval_steps=2",
    "training.warmup_steps=0",
    "training.batch_size=4",
    "data.max_train_rows=16",
    "data.max_eval_rows=4",
    "data.max_test_rows=4",
)


def requirement(line: str) -> str:
    """The distribution that a requirement names, normalised."""
    name = re.match(r"[\w.-]+", line)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


# --------------------------------------------------------------------------------------------------- what it needs

# What is declared and never imported by us.
FOR_OTHERS = {
    "bitsandbytes": "transformers quantises with it",
    "gguf": "transformers reads GGUF files with it",
    "protobuf": "transformers reads T5's own tokenizer files with it",
    "sentencepiece": "and with this",
}
OF_ANOTHER_ENVIRONMENT = {"adapters"}  # bench's worker, which is run there by its path


def imported_distributions() -> set[str]:
    """The distributions whose modules the package's own files import, wherever in them."""
    modules = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules.add(node.module.partition(".")[0])
    known = packages_distributions()
    others = modules - set(sys.stdlib_module_names) - {"hyperadapt"} - OF_ANOTHER_ENVIRONMENT
    return {requirement(known.get(module, [module])[0]) for module in others}


def declared() -> set[str]:
    extras = PROJECT["optional-dependencies"]
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in extras if extra != "dev" for line in extras[extra]),
    ]
    return {requirement(line) for line in lines}


def test_what_is_imported_is_declared_and_what_is_declared_is_needed() -> None:
    assert imported_distributions() - declared() == set()
    assert declared() - imported_distributions() == set(FOR_OTHERS)


def test_what_is_declared_is_pinned_as_tested() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {requirement(line) for line in lines if not line.startswith("#")}
    development = {requirement(line) for line in PROJECT["optional-dependencies"]["dev"]} - {"hyperadapt"}
    assert declared() | development <= pinned


# ------------------------------------------------------------------------------------------------------ what it says


def test_the_readme_has_no_link_that_breaks_on_a_package_page() -> None:
    targets = re.findall(r"\]\(([^)\s]+)", README) + re.findall(r"""(?:src|href)=["']([^"']+)""", README)
    targets += re.findall(r"^\[[^\]]+\]:\s*(\S+)", README, re.MULTILINE)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []


def test_the_files_and_commands_that_the_readme_names_are_there() -> None:
    for path in re.findall(r"`((?:src|docs|tests)/[\w./-]+|[A-Z]+\.(?:md|cff))`", README):
        assert (ROOT / path).exists(), path
    listed = hyperadapt("--help").out
    for command in set(re.findall(r"(?:`|^ {4}|\| )hyperadapt ([\w-]+)", README, re.MULTILINE)):
        assert f"│ {command} " in listed, command
    for name in re.findall(r"hyperadapt (?:train|compare|pretrain|features) ([\w/+-]+)(?= )", README):
        assert name in bundled.names(), name


@pytest.mark.parametrize(("number", "tiny"), [(1, "qwen3"), (2, "modernbert")])
def test_the_readmes_python_runs_on_tiny_models_of_the_families_that_it_names(
    number: int, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no hub, its models' names are those of directories."""
    monkeypatch.chdir(tmp_path)
    example = re.findall(r"```python\n(.+?)```", README, re.DOTALL)[number]
    named = re.search(r'name = "(.+?)"', example)
    assert named is not None
    base, (_, tokenizer) = tiny_base(tiny), package.load_tiny_t5()
    base.resize_token_embeddings(len(tokenizer) + 200)
    base.save_pretrained(named[1])
    tokenizer.save_pretrained(named[1])
    values: dict[str, Any] = {"ha": package, "torch": torch}
    exec(compile(example, "README.md", "exec"), values)
    if "answers" in values:
        assert len(values["answers"]) == 2
    else:
        values["outputs"].loss.backward()
        assert values["outputs"].logits.shape == (2, 2)


def test_every_name_that_the_readmes_python_imports_is_there() -> None:
    for example in re.findall(r"```python\n(.+?)```", README, re.DOTALL):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ha":
                assert getattr(package, node.attr) is not None


def test_the_metadata_is_complete_and_says_the_same_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == package.__version__
    assert cited["license"] == PROJECT["license"] == "Apache-2.0"
    assert [author["name"] for author in cited["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    assert {reference["url"] for reference in cited["references"]} == set(PROJECT["urls"].values())
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changes, re.MULTILINE) == ["Unreleased", package.__version__]
    license_text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in license_text
    assert "END OF TERMS AND CONDITIONS" in license_text
    assert "all-MiniLM-L6-v2" in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_the_python_in_the_readme_runs_as_it_stands_and_shows_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = re.findall(r"```python\n(.+?)```", README, re.DOTALL)[0]
    values: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        exec(compile(example, "README.md", "exec"), values)
    assert [str(warning.message) for warning in warned if issubclass(warning.category, UserWarning)] == []
    assert values["model"].tasks == ("cola", "rte", "mnli", "cb")
    answers, counts = map(ast.literal_eval, capsys.readouterr().out.splitlines())
    assert [type(answer) for answer in answers] == [str, str]
    assert counts["tasks"] == 4


def test_the_configuration_in_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, config = re.findall(r"```yaml\n(.+?)```", README.partition("## Your own task")[2], re.DOTALL)
    assert hyperadapt("init", tmp_path).code == 0
    (tmp_path / "reviews.yaml").write_text(task)
    (tmp_path / "config.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    outcome = hyperadapt("train", "config.yaml", *FEW_STEPS)
    assert outcome.code == 0, outcome.err
    assert "reviews" in json.loads((tmp_path / "run/results.json").read_text())["test"]["tasks"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")
def test_make_quickstart_installs_no_development_tools_and_shows_what_it_installs(tmp_path: Path) -> None:
    command = ["make", "--dry-run", "--directory", str(ROOT), f"VENV={tmp_path}/new", "quickstart"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    install = next(line for line in printed.splitlines() if "pip install" in line)
    assert "dev" not in install.split()[-1]
    assert "--quiet" not in install
    assert f"{tmp_path}/new/bin/hyperadapt quickstart" in printed


# ----------------------------------------------------------------------------------------- bundled configurations


def test_the_bundled_configurations_are_listed_with_what_takes_them(tmp_path: Path) -> None:
    listed = hyperadapt("configs").out
    kinds = {"train": RunConfig, "compare": CompareConfig, "pretrain": PretrainConfig}
    rows = bundled.overview()
    assert len(rows) == len(list((ROOT / "src/hyperadapt/configs").rglob("*.yaml"))) > 30
    for row in rows:
        assert f"│ {row['name']} " in listed
        assert len(row["what it is"]) > 10, row
        kinds[row["for"]].load(row["name"])


def test_a_printed_configuration_is_the_same_in_a_file_of_ones_own(tmp_path: Path) -> None:
    printed = hyperadapt("configs", "t5-base/hyperformer++")
    assert printed.code == 0
    (tmp_path / "mine.yaml").write_text(printed.out)
    mine, theirs = (RunConfig.load(name) for name in (tmp_path / "mine.yaml", "t5-base/hyperformer++"))
    assert mine.data == theirs.data
    assert mine.method == theirs.method


def test_a_file_comes_before_a_bundled_configuration_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(write_config(tmp_path, write_tasks(tmp_path / "tasks")), tmp_path / "quickstart")
    assert RunConfig.load("quickstart").method["name"] == "adapters"


def test_a_wrong_name_of_a_configuration_is_answered_with_the_right_one() -> None:
    assert_one_line(hyperadapt("configs", "quickstrat"), "did you mean 'quickstart'?")
    assert_one_line(hyperadapt("train", "quickstrat"), "did you mean 'quickstart'?")


# ------------------------------------------------------------------------------------------------ init, quickstart


def test_init_writes_200_different_rows_and_refuses_to_write_over_anything(tmp_path: Path) -> None:
    outcome = hyperadapt("init", tmp_path / "mine")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == f"now: cd {tmp_path}/mine && hyperadapt train config.yaml"
    rows = [
        json.loads(line)
        for split in ("train", "validation", "test")
        for line in (tmp_path / f"mine/{split}.jsonl").read_text().splitlines()
    ]
    assert len({row["title"] + row["body"] for row in rows}) == len(rows) == 200
    assert Counter(row["verdict"] for row in rows) == {"good": 100, "bad": 100}
    before = contents(tmp_path)
    assert_one_line(hyperadapt("init", tmp_path / "mine"), "is not empty")
    assert_one_line(hyperadapt("init", tmp_path / "mine/config.yaml"), "is a file")
    assert contents(tmp_path) == before


def test_quickstart_trains_predicts_and_reports(tmp_path: Path) -> None:
    run = tmp_path / "run"
    few = (f"output_dir={run}", "data.tasks=[paraphrase,entailment]", *FEW_STEPS)
    outcome = hyperadapt("quickstart", *few)
    assert outcome.code == 0, outcome.err
    commands = re.findall(r"^\$ hyperadapt (\w+)", outcome.out, re.MULTILINE)
    assert commands == ["train", "predict", "report"]
    assert outcome.out.count('"written"') == len(ROWS)
    assert (run / "report.html").is_file()
    assert_one_line(hyperadapt("train", "quickstart", *few), "already holds a run")


# ---------------------------------------------------------------------------------------------------------- threads


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch takes two threads, as it does on two cores, and no variable decides it."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("free", "taken"), [(0.1, 1), (1.2, 1), (1.7, None), (2.0, None)])
@pytest.mark.usefixtures("two_threads")
def test_as_many_threads_are_taken_as_cores_are_free_and_fewer_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free: float, taken: int | None
) -> None:
    monkeypatch.setattr(
        threads, "free_cores", lambda: free
    )  # what else the machine does is not for a test to decide
    assert threads.fewer_threads() == taken
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (taken is not None)
    assert all("training.threads or OMP_NUM_THREADS" in line for line in said)


@pytest.mark.usefixtures("two_threads")
def test_a_given_number_of_threads_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "free_cores", lambda: 0.0)
    file = write_config(tmp_path, write_tasks(tmp_path / "tasks"))
    assert threads.with_threads(RunConfig.load(file), resume=False).training.threads == 1
    given = RunConfig.load(file, ["training.threads=2"])
    assert threads.with_threads(given, resume=False) is given
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.with_threads(RunConfig.load(file), resume=False).training.threads is None


@pytest.mark.usefixtures("two_threads")
def test_a_run_is_trained_and_resumed_with_the_threads_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(threads, "free_cores", lambda: 1.0)
    file = write_config(tmp_path, write_tasks(tmp_path / "tasks"))
    few = ("training.max_steps=2", "training.eval_steps=1")
    assert hyperadapt("train", file, *few).code == 0
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "free_cores", lambda: 2.0)
    shutil.rmtree(tmp_path / "run/checkpoints/checkpoint-2")
    assert hyperadapt("train", file, *few, "--resume").code == 0
    assert torch.get_num_threads() == 1
    assert RunConfig.load_saved(tmp_path / "run/config.yaml").training.threads == 1


def test_the_cores_that_are_looked_at_are_those_that_the_process_may_use() -> None:
    core = threads.own_cores()[0]
    code = (
        f"import os; os.sched_setaffinity(0, {{{core}}})\n"
        "from hyperadapt import threads; print(threads.own_cores(), threads.free_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cores, free = done.stdout.rsplit(maxsplit=1)
    assert cores == f"[{core}]"
    assert 0 <= float(free) <= 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_no_more_cores_are_free_than_a_container_may_use(
    files: dict[str, str], cores: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.quota(tmp_path) == cores
    monkeypatch.setattr(threads, "quota", lambda: 0.25)
    assert threads.free_cores() <= 0.25


@pytest.mark.usefixtures("two_threads")
def test_steps_that_other_work_slows_down_are_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock goes on by 10 s; of two cores others take 0.2, 1.4 and 1.5, and this process 0.6."""
    readings = iter([(0, 0, 0), (10, 8, 6), (20, 28, 12), (30, 49, 18)])
    monkeypatch.setattr(threads.Crowding, "now", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(callbacks, "own_cores", lambda: [0, 1])
    said, args = callbacks.SayCrowded(), SimpleNamespace(device=torch.device("cpu"))
    said.on_train_begin(args, None, None)  # type: ignore[arg-type]
    lines = []
    for _ in range(3):
        said.on_log(args, None, None)  # type: ignore[arg-type]
        lines.append(capsys.readouterr().err)
    assert [bool(line) for line in lines] == [False, True, False]
    assert "other work takes 1.4 of the 2 cores" in lines[1]
    assert "OMP_NUM_THREADS=1 is faster" in lines[1]


# ------------------------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment's programs, into which the wheel is installed, and which sees our dependencies."""
    directory = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    python = directory / "bin/python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True, timeout=300)
    (packages,) = directory.glob("lib/python*/site-packages")
    # Its .pth files are not read, so that an editable install there is not seen.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return directory / "bin"


@pytest.mark.xdist_group("wheel")
def test_the_wheel_alone_lists_begins_and_trains(installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def done(*command: str, folder: Path = tmp_path) -> str:
        outcome = subprocess.run(
            [str(installed / command[0]), *command[1:]],
            cwd=folder,
            env={**environment, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    where = done("python", "-c", "import hyperadapt; print(hyperadapt.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    listed = done("hyperadapt", "configs")
    assert all(f"│ {name} " in listed for name in ("quickstart", "compare/builtin"))
    assert "hyperadapt train config.yaml" in done("hyperadapt", "init", "mine")
    # Without the second task, whose thousands of rows take longer to make up than the two steps.
    few = ("data.tasks=[reviews.yaml]", *FEW_STEPS)
    done("hyperadapt", "train", "config.yaml", *few, folder=tmp_path / "mine")
    assert (tmp_path / "mine/run/results.json").is_file()


@pytest.mark.xdist_group("wheel")
def test_the_wheel_has_the_license_and_what_it_needs_to_say(installed: Path) -> None:
    (information,) = installed.parent.glob("lib/python*/site-packages/hyperadapt-*.dist-info")
    assert {file.name for file in (information / "licenses").iterdir()} == {"LICENSE", "NOTICE"}
    metadata = (information / "METADATA").read_text(encoding="utf-8")
    assert "License-Expression: Apache-2.0" in metadata
    assert "Description-Content-Type: text/markdown" in metadata
    assert README.partition("\n")[0] in metadata
