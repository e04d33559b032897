"""Fixtures that several test files need."""

from __future__ import annotations

import gc
import multiprocessing.forkserver
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported: models this small run slower on more threads, and the tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What one process has compiled of our libraries the others need not compile again: it would take each 15 seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest

# tiny_run is imported within fixtures: the process that hands the tests out to others needs nothing heavy.
if TYPE_CHECKING:
    from tiny_run import Forked

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_finish() -> None:
    """What has been imported by now stays: the garbage collector need not go through its millions of objects."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers, real data and the tokenizer that lies beside the checkout, where it does."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not there: golden numbers and real data cannot be checked")
    return SHARED


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the trained run, for reading only."""
    from tiny_run import hyperadapt, write_config, write_tasks

    directory = tmp_path_factory.mktemp("tiny")
    outcome = hyperadapt("train", write_config(directory, write_tasks(directory / "tasks")))
    assert outcome.code == 0, outcome.err
    return directory / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be damaged or written to."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as others install it: a wheel made of a source distribution, made of a copy of the sources."""
    root, copy = Path(__file__).resolve().parents[1], tmp_path_factory.mktemp("source")
    shutil.copytree(root / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy(root / file, copy)
    archive = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    subprocess.run([sys.executable, "-c", archive], cwd=copy, check=True, timeout=300, capture_output=True)
    (sources,) = (copy / "dist").glob("*.tar.gz")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(copy / "wheels"), str(sources)], check=True, timeout=300)
    (built,) = (copy / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def forkserver() -> None:
    """The process that all forked ones are copies of; it sees no GPU, which no copy could use."""
    import tiny_run  # noqa: F401 - it says what is imported before

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        multiprocessing.forkserver.ensure_running()


@pytest.fixture
def forked(forkserver: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Forked]]:
    """Calls a function in a process of its own, for the test: `forked(function, *arguments, **environment)`."""
    from tiny_run import Forked

    directory, made = tmp_path_factory.mktemp("forked"), list[Forked]()

    def fork(function: Callable[..., object], *arguments: object, **environment: str) -> Forked:
        made.append(Forked(directory, function, *arguments, CUDA_VISIBLE_DEVICES="", **environment))
        return made[-1]

    yield fork
    for one in made:
        one.process.kill()


@pytest.fixture
def started(forked: Callable[..., Forked]) -> Callable[..., Forked]:
    """Starts a command in a process of its own: `started(*arguments, **environment)`."""
    from tiny_run import command

    def start(*arguments: object, **environment: str) -> Forked:
        return forked(command, *map(str, arguments), **environment)

    return start


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a comparison are trained one after another in the tests' own process, which is far faster."""
    from tiny_run import one_after_another

    monkeypatch.setattr("hyperadapt.studies.comparison.spread_over_processes", one_after_another)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[str]:
    """What locks say from now on, whichever thread: captured output may lose lines of others."""
    lines: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr("hyperadapt.files.locks.notice", lines.put)
    return lines


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub can be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
