"""Whether tasks and their rows are those that a run was trained with: what has changed since is named, and refused.

A run keeps its tasks (tasks.yaml) and of each split of theirs the number of rows and a digest (data.json): of the texts
and targets that the model was given, in their order, wherever they lie and whatever format they are in. Of rows that
were taken all the same after they had changed it keeps since which step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hyperadapt.errors import CheckpointError, UserError, notice
from hyperadapt.files import manifest

if TYPE_CHECKING:
    from datasets import Dataset

    from hyperadapt.tasks import Task

FILE = "data.json"
ROWS_AT_ONCE = 10_000
# Where a task's rows come from may change as long as the rows are the same: data are moved, and converted.
WHERE_ROWS_LIE = {"hub", "hub_config", "local", "files", "generated", "where", "splits"}
OTHER_RUN = "choose another output_dir"  # what helps a run that cannot go on with what has changed
CHOSEN_IN_TRAINING = {"step"}  # where a task does not say them

# rows, sha256; of rows that have changed since the run began also the first ones, and the steps at which they changed
# first (since_step) and last (last_step)
SplitDigest = dict[str, Any]
Digests = Mapping[str, Mapping[str, SplitDigest]]  # of each task, of each split


def digest_of(rows: Dataset) -> SplitDigest:
    """Count rows and digest all that they hold, in their order.

    Args:
        rows: from `load_split`.
    """
    sha = hashlib.sha256()
    for start in range(0, len(rows), ROWS_AT_ONCE):
        sha.update(json.dumps(rows[start : start + ROWS_AT_ONCE], sort_keys=True).encode())
    return {"rows": len(rows), "sha256": sha.hexdigest()}


def read(directory: Path) -> Digests | None:
    """Read the digests that a run keeps; None if it is of a version that kept none.

    Raises:
        CheckpointError: if they are damaged.
    """
    file = directory / FILE
    if not manifest.check(file) and not file.is_file():
        return None
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error})") from None


def part_of(digests: Digests, tasks: Iterable[str], splits: Sequence[str]) -> Digests:
    """Return the digests of some tasks and splits, of those that there are."""
    return {
        task: {split: digest for split, digest in digests[task].items() if split in splits}
        for task in tasks
        if task in digests
    }


def check_tasks(before: Sequence[Task], now: Sequence[Task], where: str, otherwise: str = OTHER_RUN) -> None:
    """Check that tasks mean what they meant: what the numbers of labels stand for, what texts are made of rows.

    Args:
        before: of the run.
        now: as they are given; of those that the run does not have nothing is asked.
        where: what errors begin with.
        otherwise: what can be done instead of restoring them.

    Raises:
        UserError: naming the task, the field, and both values.
    """
    by_name = {task.name: task for task in before}
    for task in now:
        if task.name not in by_name:
            continue
        was, is_now = (version.model_dump(mode="json") for version in (by_name[task.name], task))
        for field in (name for name in was if name not in WHERE_ROWS_LIE):
            unsaid = field in CHOSEN_IN_TRAINING and is_now[field] is None
            if was[field] != is_now[field] and not unsaid:
                was_before, is_today, them = (
                    ("were", "are", "them") if isinstance(was[field], list | dict) else ("was", "is", "it")
                )
                raise UserError(
                    f"{where}: task '{task.name}': {field} {was_before} {in_yaml(was[field])} and {is_today} now "
                    f"{in_yaml(is_now[field])}; restore {them}, or {otherwise}"
                )


def check_names(before: Sequence[Task], now: Sequence[Task], where: str) -> None:
    """Check that tasks have the names that they had, in the same order, from which their ids follow.

    Args:
        before: of the run.
        now: as they are given.
        where: what errors begin with.

    Raises:
        UserError: naming both.
    """
    were, are = ([task.name for task in tasks] for tasks in (before, now))
    if were != are:
        raise UserError(
            f"{where}: data.tasks were {in_yaml(were)} and are now {in_yaml(are)}; restore them, or {OTHER_RUN}"
        )


def since_steps(digests: Digests) -> dict[str, dict[str, int]]:
    """Return, by task and split, since which step rows are others than when the run began; only of those that are."""
    found = {
        task: {split: digest["since_step"] for split, digest in splits.items() if "since_step" in digest}
        for task, splits in digests.items()
    }
    return {task: splits for task, splits in found.items() if splits}


def last_step(digests: Digests, split: str) -> int:
    """Return the last step at which rows of a split changed, of any task; 0 if none did."""
    return max((splits.get(split, {}).get("last_step", 0) for splits in digests.values()), default=0)


def with_since_steps(before: Digests, now: Digests, step: int) -> dict[str, dict[str, SplitDigest]]:
    """Mark the rows that have changed.

    Args:
        before: of the run, marked as it is.
        now: of the rows with which it goes on.
        step: from which it does; it may be an earlier one than that of a mark.
    """

    def marked(was: SplitDigest, digest: SplitDigest) -> SplitDigest:
        first = was.get("first", {"rows": was.get("rows"), "sha256": was.get("sha256")})
        since = min(step, was.get("since_step", step))
        if is_same(first, digest) and ("since_step" not in was or since == step):
            return digest  # nothing was trained on others
        last = min(step, was.get("last_step", step)) if is_same(was, digest) else step
        return {**digest, "since_step": since, "last_step": last, "first": first}

    return {
        task: {split: marked(before.get(task, {}).get(split, {}), digest) for split, digest in splits.items()}
        for task, splits in now.items()
    }


def is_same(was: SplitDigest, now: SplitDigest) -> bool:
    """Tell whether two digests are of the same rows."""
    return was.get("rows") == now.get("rows") and was.get("sha256") == now.get("sha256")


def check_rows(before: Digests, now: Digests, where: str, allowed: bool) -> bool:
    """Check that the rows of each split are those that they were.

    Args:
        before: of the run.
        now: of the rows that were read.
        where: what errors begin with.
        allowed: only say so where they are others.

    Returns:
        Whether they are others.

    Raises:
        UserError: naming the task, the split and how many rows there were and are.
    """
    found = changes(before, now)
    for what in found:
        if not allowed:
            raise UserError(f"{where}: {what}; --allow-changed-data takes them all the same")
        notice(f"{what}; they are taken all the same")
    return bool(found)


def changes(before: Digests, now: Digests) -> list[str]:
    """Say of each split whose rows are not those that they were how many there were and are.

    Args:
        before, now: as of `check_rows`.
    """
    found = []
    for task, splits in now.items():
        kept = before.get(task, {})
        for split in {**kept, **splits}:
            was, is_now = kept.get(split, {"rows": "none"}), splits.get(split, {"rows": "none"})
            if is_same(was, is_now):
                continue
            counts = (
                f"{was['rows']} rows as then, but others"
                if was["rows"] == is_now["rows"]
                else f"{was['rows']} rows then, {is_now['rows']} now"
            )
            found.append(
                f"task '{task}': the {split} rows are not those that the run was trained with: {counts}"
            )
    return found


def in_yaml(value: Any) -> str:
    """Write a field's value as a task file has it, on one line."""
    if not isinstance(value, list | dict):
        return str(value)
    return yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False
    ).strip()
