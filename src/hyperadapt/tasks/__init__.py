"""The tasks that are known by name, suites of them, and a user's own from YAML files."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from hyperadapt.errors import UserError, nearest
from hyperadapt.files.yaml_and_json import read_yaml
from hyperadapt.tasks.loading import (
    check_there,
    check_trainable,
    input_texts,
    load_split,
    load_task_file,
    read_split,
)
from hyperadapt.tasks.sources import SUFFIXES, suffix_of
from hyperadapt.tasks.splits import SPLITS
from hyperadapt.tasks.suites import many
from hyperadapt.tasks.suites.builtin import BUILTIN
from hyperadapt.tasks.suites.glue import GLUE
from hyperadapt.tasks.suites.hyperdecoders import HYPERDECODERS, MRQA_IN_DOMAIN, MRQA_OUT_OF_DOMAIN
from hyperadapt.tasks.suites.superglue import SUPER_GLUE
from hyperadapt.tasks.suites.transfer import TRANSFER
from hyperadapt.tasks.task import Task

__all__ = [
    "DEV",
    "SPLITS",
    "SUITES",
    "TASKS",
    "TASK_FILES",
    "Task",
    "check_no_file_is_meant",
    "check_there",
    "check_trainable",
    "get_task",
    "input_texts",
    "load_split",
    "load_task_file",
    "members_of",
    "read_split",
    "resolve_tasks",
    "spelt_out",
    "suite_averages",
    "suites_among",
]

TASK_FILES = (".yaml", ".yml")
# Behind a task's or a suite's name: scored on the published development rows, whole, as HyperGrid's authors do.
DEV = ":dev"
# But for the hundreds of builtin-many, which `get_task` makes by their names.
TASKS: dict[str, Task] = {**GLUE, **SUPER_GLUE, **TRANSFER, **HYPERDECODERS, **BUILTIN}
SUITES: dict[str, tuple[str, ...]] = {
    "glue": tuple(GLUE),
    "super_glue": tuple(SUPER_GLUE),
    # RTE twice, as T5's mixture has it: its rows are the same in both; scored on the whole development sets
    # (HyperGrid, sections 4 and 4.2.1).
    "en_mix": tuple(f"{name}{DEV}" for name in (*GLUE, *SUPER_GLUE)),
    "transfer": ("scitail", "transfer-cb", "transfer-boolq", "imdb", "yelp_polarity", "paws", "trec"),
    "mrqa": tuple(MRQA_IN_DOMAIN),
    "mrqa_out_of_domain": tuple(MRQA_OUT_OF_DOMAIN),
    "builtin": tuple(BUILTIN),
    **many.suites(),
}


def get_task(name: str | Path) -> Task:
    """The task of this name, or the one that a YAML file describes (a path that ends in .yaml or .yml).

    Behind a name, ":dev" scores the task on its whole development set (`Task.on_development_set`).

    Raises:
        UserError: no task has this name, or as `load_task_file` or `on_development_set`.
    """
    if (plain := str(name).removesuffix(DEV)) != str(name):
        return get_task(plain).on_development_set()
    if Path(name).suffix in TASK_FILES:
        return load_task_file(name)
    if (generated := many.task(str(name))) is not None:
        return generated
    if name not in TASKS:
        check_no_file_is_meant(str(name), Path.cwd())
        if suffix_of(Path(name)) in SUFFIXES:
            raise UserError(
                f"{name} is a file of rows, and a task is a YAML file that names it; `hyperadapt init DIR` "
                "writes an example"
            )
        raise UserError(f"task '{name}' is unknown and no .yaml file; {nearest(name, [*TASKS, *SUITES])}")
    return TASKS[str(name)]


def check_no_file_is_meant(name: str, directory: Path) -> None:
    """Check that a name of no task is not that of a task file which lies there, or of the task in one.

    Args:
        name: as it was written.
        directory: to which paths are relative where it was written.

    Raises:
        UserError: if it is: which file, and how to write it.
    """
    if name in TASKS or name in SUITES or not name.strip():
        return
    for suffix in TASK_FILES:
        if os.path.isfile(
            directory / f"{name}{suffix}"
        ):  # which has no error for a name that no file can have
            raise UserError(
                f"no task has the name '{name}', but {directory / name}{suffix} is there; write {name}{suffix}"
            )
    for file in sorted(file for suffix in TASK_FILES for file in directory.glob(f"*{suffix}")):
        if _name_in(file) == name:
            raise UserError(f"task '{name}' is described in {file}; write {file.name}, the file's name")


def _name_in(file: Path) -> object:
    """What a YAML file gives as its name, None where it gives none."""
    try:
        fields = read_yaml(file)
    except UserError:
        return None
    return fields.get("name") if isinstance(fields, dict) else None


def spelt_out(names: Sequence[str]) -> list[str]:
    """Put the names of its tasks in place of each suite's."""
    return [
        f"{member.removesuffix(DEV)}{DEV}" if name.endswith(DEV) else member
        for name in names
        for member in SUITES.get(name.removesuffix(DEV), (name.removesuffix(DEV),))
    ]


def members_of(suite: str) -> tuple[str, ...]:
    """The names of a suite's tasks, as their scores have them."""
    return tuple(name.removesuffix(DEV) for name in SUITES[suite])


def suites_among(tasks: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The suites that tasks hold whole and beside others, which have an average of their own then."""
    members = {suite: members_of(suite) for suite in SUITES}
    return {suite: names for suite, names in members.items() if set(names) < set(tasks)}


def suite_averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Average the scores of tasks over each of `suites_among` them."""
    return {suite: fmean(scores[name] for name in names) for suite, names in suites_among(scores).items()}


def resolve_tasks(names: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of these names, suites ("glue") spelt out, in the order given: that of the task ids.

    Raises:
        UserError: no names, a task that comes twice, or as `get_task`.
    """
    if not names:
        raise UserError(f"no task is named; {nearest('', [*TASKS, *SUITES])}")
    tasks: dict[str, Task] = {}
    for name in names:
        for member in spelt_out([name]):
            task = get_task(member)
            if task.name in tasks:
                raise UserError(f"task '{task.name}' comes twice in: {', '.join(map(str, names))}")
            tasks[task.name] = task
    return tuple(tasks.values())
