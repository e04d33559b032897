"""Checkpoints in a run's folder: which are whole, from which one goes on, which are deleted.

A checkpoint is whole if its manifest holds, which is written when every process has written its part, and before older
ones are deleted; so are the best ones that it names, of all tasks and of each.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.trainer import TRAINER_STATE_NAME

from hyperadapt.errors import CheckpointError, UserError, notice, reason_of
from hyperadapt.files import manifest
from hyperadapt.training.callbacks import Totals

_CHECKPOINT = re.compile(r"checkpoint-[0-9]+")


@contextmanager
def loading(checkpoint: str | None, what: str) -> Iterator[None]:
    """Say in one line which part of a checkpoint cannot be loaded: damage, a misfit, a pickle that would run code."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch, pickle and zipfile each have errors of their own
        raise CheckpointError(
            f"{checkpoint}: {what} cannot be loaded ({reason_of(error) or type(error).__name__})"
        ) from error


def last_checkpoint(directory: Path) -> Path | None:
    """Find the checkpoint to go on from: the last that is whole, and whose best ones so far are whole too.

    Returns:
        None if there is none, or none that was written to its end.

    Raises:
        CheckpointError: if there are some, but all are damaged.
    """
    faults: list[CheckpointError] = []
    said: list[str] = []
    for checkpoint in reversed(checkpoints_in(directory)):
        try:
            if not is_whole(checkpoint):
                said.append(f"{checkpoint} was cut short")
                continue
        except CheckpointError as error:
            faults.append(error)
            said.append(str(error))
            continue
        if said:
            notice(f"{said[0]}; going on from {checkpoint.name}")
        return checkpoint
    if faults:
        raise CheckpointError(
            f"{faults[0]}; no checkpoint before it is whole: begin again, in another output_dir"
        )
    return None


def checkpoints_in(directory: Path) -> list[Path]:
    """List the checkpoints that were begun, in the order of their steps."""
    named = [folder for folder in directory.glob("checkpoint-*") if _CHECKPOINT.fullmatch(folder.name)]
    return sorted(filter(Path.is_dir, named), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Read from a checkpoint's name after which step it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def was_finished(checkpoint: Path) -> bool:
    """Tell whether a checkpoint was written to its end, though it may have been damaged since."""
    if (checkpoint / manifest.FILE).is_file():
        return True
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        # Before there were manifests, and our totals, Trainer wrote its state last.
        return Totals.__name__ not in (state.get("stateful_callbacks") or {})
    except (OSError, ValueError, AttributeError):
        return False


def best_so_far(checkpoint: Path) -> set[Path]:
    """Read which checkpoints were the best as one was written, of all tasks and of each, without which none goes on."""
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    totals = (state.get("stateful_callbacks") or {}).get(Totals.__name__, {})
    of_task = totals.get("attributes", {}).get("best_of_task", {})
    steps = {state["best_global_step"] or state["global_step"], *(step for step, _ in of_task.values())}
    return {checkpoint.with_name(f"checkpoint-{step}") for step in steps}


def delete_older(last: Path, limit: int) -> None:
    """Delete checkpoints, the oldest first, until so many are left, but neither the last nor a best one."""
    needed = {last, *best_so_far(last)}
    others = [checkpoint for checkpoint in checkpoints_in(last.parent) if checkpoint not in needed]
    for checkpoint in others[: max(0, len(others) + len(needed) - limit)]:
        shutil.rmtree(checkpoint, ignore_errors=True)


def is_whole(checkpoint: Path) -> bool:
    """Check a checkpoint and the best ones that it names; whether it was written to its end.

    Raises:
        CheckpointError: if a file of theirs is missing, or is not what was written.
    """
    if not was_finished(checkpoint):
        return False
    if manifest.check(checkpoint):
        for best in best_so_far(checkpoint) - {checkpoint}:
            if not was_finished(best):
                raise CheckpointError(
                    f"{checkpoint} needs {best.name}, the best so far, which is missing or cut short"
                )
            manifest.check(best)  # without those that were the best as it was written
    return True
