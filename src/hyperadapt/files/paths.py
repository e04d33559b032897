"""Paths in configurations: relative to the file where they stand, and on the command line to the working directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hyperadapt.errors import UserError
from hyperadapt.tasks import TASK_FILES, check_no_file_is_meant


def absolute(path: str, directory: str | Path = "") -> str:
    """Return a path that is found from any working directory.

    Args:
        path: relative to the directory, or absolute; "~" is the user's home.
        directory: by default the working directory.

    Raises:
        ValueError: if it is empty, which would be the directory itself.
    """
    if not path.strip():
        raise ValueError("the path is empty; the directory itself is '.'")
    return os.path.abspath(os.path.join(directory, os.path.expanduser(path)))


def shown(path: str | Path) -> str:
    """Return a path as people would write it: from the working directory, where it lies in that."""
    place = Path(path).absolute()
    return str(place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place)


def task_or_file(name: str, directory: str | Path = "") -> str:
    """Return a task's name, or the path of a task file as `absolute` does.

    Raises:
        ValueError: if it is neither, but nearly the name of a file that lies in the directory.
    """
    if name.endswith(TASK_FILES):
        return absolute(name, directory)
    check_no_file_is_meant(name, Path(directory).absolute())
    return name


def holds_model(place: str) -> bool:
    """Tell whether a folder holds what may be a model, as its config.json."""
    return os.path.isdir(place) and any(Path(place).glob("*.json"))


def model_or_directory(name: str, directory: str | Path = "") -> str:
    """Return a model's name, or its path as `absolute` does: where it begins as one, or the model is there."""
    there = bool(name.strip()) and holds_model(os.path.join(directory, name))
    return absolute(name, directory) if there or name.startswith((".", "/", "~")) else name


def check_hub_name(name: str, field: str) -> None:
    """Check that transformers will ask the hub for a model of a configuration that is no folder where that stands.

    Raises:
        UserError: if it would take a folder of the working directory instead.
    """
    if not os.path.isabs(name) and holds_model(name):
        raise UserError(
            f"{field}: '{name}' is no folder beside its configuration, and would be read from the one in the working "
            f"directory, not from the hub; write {os.path.abspath(name)} for that, or run elsewhere for the hub"
        )


# What is a path in a configuration, one or several; in a comparison they stand in `base` and `variants`.
PATHS: dict[str, Callable[..., str]] = {
    "output_dir": absolute,
    "start.run": absolute,
    "data.data_dir": absolute,
    "data.tasks": task_or_file,
    "method.task_features": absolute,
    "model.name": model_or_directory,
    "model.gguf": absolute,
    "model.tokenizer": model_or_directory,
    "text.files": absolute,
    "multitask.data_dir": absolute,
    "multitask.tasks": task_or_file,
    "distillation.directory": absolute,
    # Of transformers' Seq2SeqTrainingArguments; its other paths are decided by the run.
    "training.arguments.accelerator_config": absolute,
    "training.arguments.fsdp_config": absolute,
    "training.arguments.deepspeed": absolute,
}


def placed(fields: Mapping[str, Any], directory: str | Path, section: str = "") -> dict[str, Any]:
    """Return a configuration's fields with absolute paths.

    Args:
        fields: section by section, as they were written.
        directory: to which paths are relative.
        section: where the fields stand, as "data.".

    Raises:
        ValueError: as `absolute`.
    """
    result: dict[str, Any] = {}
    for name, value in fields.items():
        field = f"{section}{name}"
        if isinstance(value, Mapping):
            of_runs = field == "base" or section == "variants."  # of a comparison
            value = placed(value, directory, "" if of_runs else f"{field}.")
        elif field in PATHS:
            try:
                value = _each(value, partial(PATHS[field], directory=directory))
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
        result[name] = value
    return result


def _each(value: Any, resolve: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_each(item, resolve) for item in value]
    return resolve(value) if isinstance(value, str) else value  # what is no text is an error of its own
