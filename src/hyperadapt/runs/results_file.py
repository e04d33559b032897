"""results.json: what a run scored and cost. It is written last, so that a run is finished once it is there.

It has a digest of its own, of the results and of the model that they are of, rather than an entry in the manifest:
`evaluate` and `encoder-only` add to it, and one file can be replaced in one step, two never.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperadapt.errors import CheckpointError
from hyperadapt.files import manifest
from hyperadapt.files.locks import locked
from hyperadapt.files.writing import write_atomically

FILE = "results.json"
Entries = dict[str, manifest.Entry]  # of a model's files, by name


def write(directory: Path, results: Mapping[str, Any]) -> None:
    """Write a run's results, in place of those that are there."""
    values = json.loads(json.dumps({name: value for name, value in results.items() if name != "digest"}))
    if (model := model_entries(directory)) is not None:
        values["digest"] = manifest.digest([values, model])
    write_atomically(directory / FILE, json.dumps(values, indent=2).encode())


def add(directory: Path, results: Mapping[str, Any]) -> None:
    """Add results to those of a finished run, which is held by `adding`."""
    write(directory, {**read(directory), **results})


@contextmanager
def adding(directory: Path, model: Entries | None) -> Iterator[None]:
    """Hold a finished run while scores of its model are added.

    Args:
        directory: the run's.
        model: what `model_entries` returned before the model was loaded.

    Raises:
        CheckpointError: if the run has another model by now, as after a resumed training.
    """
    check_same_model(directory, model)  # before waiting too, which would be for the end of a training
    with locked(directory, wait=True):
        check_same_model(directory, model)
        yield


def check_same_model(directory: Path, model: Entries | None) -> None:
    """Check that a run has the model that it had.

    Raises:
        CheckpointError: if it has another, or is being trained.
    """
    if model_entries(directory) != model:
        raise CheckpointError(
            f"{directory} was trained on while its model was scored: the scores are of the model before, and are not "
            f"written to its {FILE}; evaluate it again"
        )


def read(directory: Path) -> dict[str, Any]:
    """Read a finished run's results.

    Raises:
        CheckpointError: if the run is not finished, or they are damaged or another run's.
    """
    check_finished(directory)
    values, model = read_unchecked(directory), model_entries(directory)
    found = values.pop("digest", None)
    if model is not None and found != manifest.digest([values, model]):
        raise CheckpointError(
            f"{directory / FILE} is damaged, was edited, or is another run's: it does not match its digest; "
            "train … --resume makes it anew"
        )
    return values


def check_finished(directory: Path) -> None:
    """Check that a run was trained to its end.

    Raises:
        CheckpointError: if it was not.
    """
    file, model = directory / FILE, model_entries(directory)
    if model is not None:
        finished = bool(model) and file.is_file()
    else:
        # Before there were manifests, a training's results alone had its seconds.
        values = read_unchecked(directory) if file.is_file() else {}
        if "digest" in values:
            raise CheckpointError(
                f"{directory / manifest.FILE} is missing: nothing of the run can be checked"
            )
        finished = "train_seconds" in values
    if not finished:
        missing = "" if file.is_file() else f" (it has no {FILE})"
        raise CheckpointError(
            f"the run {directory} is not finished{missing}; go on with: hyperadapt train … --resume"
        )


def model_entries(directory: Path) -> Entries | None:
    """Return what the run's manifest lists of its best model; None where there is no manifest."""
    listed = manifest.listed(directory)
    return listed and {name: entry for name, entry in listed.items() if name.startswith("model/")}


def read_unchecked(directory: Path) -> dict[str, Any]:
    """Read what the file holds.

    Raises:
        CheckpointError: if that is no mapping.
    """
    file = directory / FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no mapping of results")
        return values
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is missing or damaged ({error})") from None
