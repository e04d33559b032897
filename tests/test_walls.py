"""The walls between the parts of the library, and what importing it costs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hyperadapt

PACKAGE = Path(hyperadapt.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(module: Path, late: bool = True) -> set[str]:
    """The full names of all that a module imports, wherever in it, relative names resolved.

    Args:
        module: its file.
        late: with what is imported within functions, and for type checkers alone.
    """
    found = set()
    package = [PACKAGE.name, *module.relative_to(PACKAGE).parent.parts]
    tree = ast.parse(module.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


def reaches(module: Path, wall: str) -> list[str]:
    return sorted(name for name in imports(module) if name == wall or name.startswith(f"{wall}."))


def in_folder(folder: str) -> list[Path]:
    found = [module for module in MODULES if module.is_relative_to(PACKAGE / folder)]
    assert found, folder
    return found


def test_the_imports_of_a_module_are_found_wherever_they_stand() -> None:
    assert reaches(PACKAGE / "model/file.py", "transformers") == [
        "transformers",
        "transformers.PreTrainedModel",
    ]
    assert "hyperadapt.sites.split" in imports(PACKAGE / "adaptation.py")


def test_forms_and_generators_do_not_know_transformers() -> None:
    for module in (
        *in_folder("forms"),
        PACKAGE / "generators.py",
        PACKAGE / "sites.py",
        PACKAGE / "conditioning.py",
    ):
        assert not reaches(module, "transformers"), module
        assert not reaches(module, "hyperadapt.backbones"), module
        assert not reaches(module, "hyperadapt.model"), module
        assert not reaches(module, "hyperadapt.fast"), module


def test_backbones_know_neither_tasks_nor_methods() -> None:
    for module in in_folder("backbones"):
        for wall in ("tasks", "methods", "conditioning", "generators", "adaptation", "model"):
            assert not reaches(module, f"hyperadapt.{wall}"), module


def test_architectures_know_no_methods() -> None:
    for module in in_folder("architectures"):
        for wall in ("methods", "conditioning", "generators", "adaptation", "training", "runs", "config"):
            assert not reaches(module, f"hyperadapt.{wall}"), module


def test_kinds_of_tasks_know_no_models() -> None:
    for module in in_folder("tasks"):
        for wall in ("model", "methods", "backbones", "training", "runs", "config", "evaluation", "metrics"):
            assert not reaches(module, f"hyperadapt.{wall}"), module


def test_nothing_but_the_kinds_asks_of_which_kind_a_task_is() -> None:
    for module in MODULES:
        if not module.is_relative_to(PACKAGE / "tasks/kinds"):
            assert not re.findall(r"task\.kind (?:==|!=|in|not in) .*", module.read_text(encoding="utf-8")), (
                module
            )


def test_the_model_core_does_not_know_tasks_as_data_or_training() -> None:
    core = [module for folder in ("methods", "interop", "model", "fast") for module in in_folder(folder)]
    for module in (*core, PACKAGE / "adaptation.py", PACKAGE / "counting.py"):
        for wall in ("architectures", "tasks", "training", "evaluation", "runs", "config"):
            assert not reaches(module, f"hyperadapt.{wall}"), module


def test_nothing_needs_what_is_fast_but_what_asks_for_it_by_name() -> None:
    """One module asks whether it is there; CUDA graphs are an option, and benchmarks measure it."""
    asking = {"model/optional.py", "training/trainer.py", "studies/bench/worker.py"}
    for module in MODULES:
        if not module.is_relative_to(PACKAGE / "fast") and str(module.relative_to(PACKAGE)) not in asking:
            assert not reaches(module, "hyperadapt.fast"), module


def test_modules_import_each_other_in_no_circle() -> None:
    """Imports at the top alone: those within functions are there to be late."""
    names = {
        ".".join((PACKAGE.name, *module.relative_to(PACKAGE).with_suffix("").parts)) for module in MODULES
    }
    packages = {name.removesuffix(".__init__") for name in names if name.endswith(".__init__")}

    def needed(module: Path, name: str) -> set[str]:
        found = imports(module, late=False)
        # `from package import module` names the package too, whose own file runs before those outside of it.
        found -= {of for of in found if of in packages and any(f"{of}." in other for other in found)}
        found |= {
            of for other in found for of in packages if other.startswith(f"{of}.") and not name.startswith(of)
        }
        return {f"{of}.__init__" if of in packages else of for of in found} & names - {name}

    places = {PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py"): name for name in names}
    left = {name: needed(module, name) for module, name in places.items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, {name: sorted(others & left.keys()) for name, others in left.items()}


def test_what_stands_beside_the_library_imports_what_is_there() -> None:
    """Scripts and benchmarks, which no test runs."""
    names = {
        ".".join((PACKAGE.name, *module.relative_to(PACKAGE).with_suffix("").parts)) for module in MODULES
    }
    names |= {name.removesuffix(".__init__") for name in names}
    root = Path(__file__).parents[1]
    files = [*root.glob("scripts/*.py"), *root.glob("benchmarks/*.py"), *root.glob("tests/*.py")]
    assert len(files) > 70
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
                assert node.module in names, (file.name, node.module)
                found = importlib.import_module(node.module or "")
                for alias in node.names:
                    here = f"{node.module}.{alias.name}"
                    assert hasattr(found, alias.name) or here in names, (file.name, here)


def test_no_module_of_the_library_imports_the_command_line() -> None:
    for module in MODULES:
        if not module.is_relative_to(PACKAGE / "cli"):
            assert not reaches(module, "hyperadapt.cli"), module


@pytest.mark.parametrize("statement", ["import hyperadapt", "from hyperadapt import errors, UserError"])
def test_importing_the_library_does_not_import_torch_or_transformers(statement: str) -> None:
    heavy = ("torch", "transformers", "datasets", "numpy", "scipy", "sklearn")
    code = f"import sys; {statement}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_no_other() -> None:
    for name in hyperadapt.__all__:
        assert getattr(hyperadapt, name) is not None
    assert dir(hyperadapt) == sorted(hyperadapt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'adpat'"):
        hyperadapt.adpat  # noqa: B018 - the look-up is the test
