"""Going on: with a run from its last checkpoint, or with a new run from the model of another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperadapt.config.sections import StartConfig
from hyperadapt.config.written import RunConfig, WrittenConfig
from hyperadapt.descriptions import texts_of
from hyperadapt.errors import UserError, nearest, notice
from hyperadapt.methods import Method, method_from
from hyperadapt.methods.task_embedding import read_task_features
from hyperadapt.model import file, load
from hyperadapt.runs import same_data
from hyperadapt.runs.rows import rows_drawn
from hyperadapt.runs.run import MADE_OF, TRAINED, load_run_config, load_tasks, note_unlisted
from hyperadapt.runs.unseen import set_features
from hyperadapt.tasks import SPLITS, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAY_CHANGE_ON_RESUME = (
    "output_dir",
    # Data are moved. That tasks and rows are those that they were is checked by what they are, wherever they lie.
    "data.data_dir",
    "data.tasks",
    "multitask.data_dir",
    "evaluation",
    "training.max_steps",
    "training.epochs",
    "training.patience",
    "training.logging_steps",
    "training.save_total_limit",
    "training.threads",
    "training.arguments",
)
MOST_NAMED = 5  # of the fields that have changed


def checkpoint_to_start_from(directory: Path, config: WrittenConfig, resume: bool) -> Path | None:
    """Find the checkpoint from which a run goes on; None where it begins, as a run does that came to none before.

    Args:
        directory: the run's.
        config: the run's.
        resume: whether it is to go on.

    Raises:
        UserError: if it is not to go on and there is something to lose, or it is and there is no such run.
    """
    if resume and not (directory / "config.yaml").is_file():
        raise UserError(f"{directory} holds no run to resume")
    if holds_work(directory):
        if resume:
            return checkpoint_to_resume(directory, config)
        raise UserError(f"{directory} already holds a run; go on with --resume, or choose another output_dir")
    check_place(directory, config, (*MADE_OF, *TRAINED, "checkpoints", "tokens.npy"))
    if resume:
        notice(f"{directory} has no checkpoint yet; it is begun anew")
    return None


def holds_work(directory: Path) -> bool:
    """Tell whether a directory holds what a training has come to: a model, scores, or as much as a checkpoint.

    A checkpoint counts that is damaged, as it may be mended, but not one that was cut short.
    """
    from hyperadapt.training.checkpoints import checkpoints_in, was_finished

    outcomes = [directory / name for name in ("model", "results.json", "history.json")]
    return any(outcome.exists() for outcome in outcomes) or any(
        was_finished(begun) for begun in checkpoints_in(directory / "checkpoints")
    )


def check_place(directory: Path, config: WrittenConfig, names: Sequence[str]) -> None:
    """Check that a run or comparison may be begun in a directory: what it would write over is of one that was before.

    Args:
        directory: its output_dir.
        config: of the run or comparison.
        names: what it writes.

    Raises:
        UserError: if something of these names is the user's own.
    """
    file = directory / "config.yaml"
    if file.is_file():
        if not type(config).wrote(file):
            raise UserError(
                f"{file} is not of a run that was begun here, and would be written over: choose another output_dir"
            )
        return
    for name in names:
        if (directory / name).exists():
            raise UserError(
                f"{directory} holds '{name}', of no run, which would be written over: choose another output_dir"
            )


def clear(directory: Path) -> None:
    """Remove what is left of a run that came to no checkpoint."""
    from hyperadapt.training.checkpoints import checkpoints_in

    if cut_short := checkpoints_in(directory / "checkpoints"):
        names = ", ".join(folder.name for folder in cut_short)
        notice(f"{directory}: {names} was cut short before its end, and is removed")
    for folder in (*cut_short, directory / "base"):
        shutil.rmtree(folder, ignore_errors=True)


def checkpoint_to_resume(directory: Path, config: WrittenConfig) -> Path:
    """Find the checkpoint from which a run goes on, and check that it is the same run.

    Raises:
        UserError: if there is none, or the configuration differs in more than what may change.
    """
    from hyperadapt.training.checkpoints import last_checkpoint

    check_same_run(directory, config)
    note_unlisted(directory)
    last = last_checkpoint(directory / "checkpoints")
    if last is None:
        raise UserError(f"{directory} has no whole checkpoint to resume from; remove it to start anew")
    return last


def check_same_run(
    directory: Path, config: WrittenConfig, may_change: Sequence[str] = MAY_CHANGE_ON_RESUME
) -> None:
    """Check that a directory holds the run that a configuration describes.

    Raises:
        UserError: if fields are others that may not change, naming them all.
    """
    before = flat(type(config).load_saved(directory / "config.yaml").resolved())
    now = flat(config.resolved())
    of_before, of_now = (from_its_directory(values) for values in (before, now))
    changed = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in {**now, **before}
        if not any(name == field or name.startswith(field + ".") for field in may_change)
        and before.get(name) != now.get(name)
        and of_before.get(name) != of_now.get(name)
    ]
    if changed:
        them = "it" if len(changed) == 1 else "them"
        shown_first = "; ".join(changed[:MOST_NAMED]) + (
            f"; and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        )
        raise UserError(
            f"cannot go on with {directory}: {shown_first}; restore {them}, or {same_data.OTHER_RUN}"
        )


def from_its_directory(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's fields with paths relative to its own directory, which stay the same where a project moves."""

    def relative(value: Any) -> Any:
        if isinstance(value, list):
            return [relative(item) for item in value]
        is_path = isinstance(value, str) and os.path.isabs(value)
        return os.path.relpath(value, values["output_dir"]) if is_path else value

    return {name: relative(value) for name, value in values.items()}


def check_same_tasks(directory: Path, tasks: Sequence[Task], where: str) -> None:
    """Check that tasks are those of the run in a directory, in the same order.

    Raises:
        UserError: if they are others, or one means something else now, naming it and the field.
    """
    before = load_tasks(directory / "tasks.yaml")
    same_data.check_names(before, tasks, where)
    same_data.check_tasks(before, tasks, where)


def marked(
    directory: Path, digests: same_data.Digests, last: Path | None
) -> dict[str, dict[str, same_data.SplitDigest]]:
    """Mark the rows that are others than when the run in a directory began, if it goes on from a checkpoint."""
    from hyperadapt.training.checkpoints import step_of

    kept = None if last is None else same_data.read(directory)
    if last is None or kept is None:
        return {task: dict(splits) for task, splits in digests.items()}
    return same_data.with_since_steps(kept, digests, step_of(last))


def check_same_rows(
    directory: Path, config: RunConfig, digests: same_data.Digests, resume: bool, allowed: bool
) -> None:
    """Check that rows are those of the run that is resumed, and of the run that another starts from.

    Args:
        directory: of the run.
        config: its configuration.
        digests: of all its rows.
        resume: whether it is resumed.
        allowed: only say so where they are others.

    Raises:
        UserError: if they are others, naming the task and the split.
    """
    if resume and (kept := same_data.read(directory)) is not None:
        same_data.check_rows(kept, digests, f"cannot go on with {directory}", allowed)
    if config.start is None or (kept := same_data.read(Path(config.start.run))) is None:
        return
    before = load_run_config(config.start.run)
    alike = [split for split in SPLITS if rows_drawn(before, split) == rows_drawn(config, split)]
    same_data.check_rows(
        same_data.part_of(kept, digests, alike),
        same_data.part_of(digests, kept, alike),
        f"cannot start from {config.start.run}",
        allowed,
    )


def check_same_base(last: Path, model: Any) -> None:
    """Check that a checkpoint was trained on the base model that is to go on with it.

    Raises:
        CheckpointError: if it was another.
    """
    if not (last / file.WEIGHTS_FILE).is_file():
        return  # in shards, without a header
    saved, _ = file.read(last)
    load.check_fingerprint(saved, model, model.base_digests, last)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted names."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def check_start(start: StartConfig, method: Method, tasks: Sequence[Task]) -> None:
    """Check that a run can go on from another.

    Raises:
        UserError: if that is no finished run, `init_from` is none of its tasks or has no new task to start, or its
            method is another, or what one of its tasks means.
    """
    load_run_config(start.run)
    same_data.check_tasks(
        load_tasks(Path(start.run) / "tasks.yaml"),
        tasks,
        f"cannot start from {start.run}",
        "give the task another name",
    )
    names = [task.name for task in tasks]
    saved, _ = file.read(Path(start.run) / "model")
    before, now = (
        {"name": either.name, **either.model_dump(exclude=set(either.trainability_options))}
        for either in (method_from(saved["method"]), method)
    )
    if other := [name for name in before if before[name] != now.get(name)]:
        raise UserError(
            f"start.run: {start.run} has method.{other[0]} {before[other[0]]!r}, not {now.get(other[0])!r}; "
            "give this run the same, or leave start out"
        )
    if start.init_from and set(names) <= set(saved["tasks"]):
        raise UserError(
            f"start.init_from (--init-from): the run {start.run} has the task '{names[0]}' itself, which goes on with "
            "what it has; leave init_from out, or give the task another name"
        )
    known = set(saved["tasks"])
    if unknown := [name for name in start.init_from if name not in known]:
        raise UserError(
            f"start.init_from (--init-from): the run {start.run} has no task '{unknown[0]}'; "
            f"{nearest(unknown[0], saved['tasks'])}"
        )


def start_from(
    start: StartConfig,
    base: PreTrainedModel,
    method: Method,
    tasks: Sequence[Task],
    num_labels: Mapping[str, int] | None = None,
) -> Any:
    """Take up a trained run's model with these tasks alone; those that it has not start from `init_from`.

    Args:
        start: the run.
        base: its base model.
        method: of the new run.
        tasks: those of the new run.
        num_labels: of each, where there are heads.
    """
    names = [task.name for task in tasks]
    model = load.load(Path(start.run) / "model", base, method)
    known = set(model.tasks)
    new = tuple(name for name in names if name not in known)
    going_on = [name for name in names if name in known]
    if going_on:
        go, they = ("goes", "it has") if len(going_on) == 1 else ("go", "they have")
        notice(
            f"{start.run} was trained on {', '.join(going_on)} itself: {go} on with what {they} learnt there; under "
            "another name a task starts anew"
        )
    file = getattr(method, "task_features", None)
    vectors = read_task_features(Path(file), new).tolist() if file and new else [None] * len(new)
    is_described = method.description_encoder is not None
    said = {task.name: texts_of(task.name, task.description) for task in tasks if is_described}
    if said:  # a task may be described otherwise now
        set_features(model, {name: model.features_of(name, said[name]) for name in going_on})
    for task, features in zip(new, vectors, strict=True):
        model.add_task(task, start.init_from, features, num_labels and num_labels[task], said.get(task))
    model.keep_tasks(names)
    return model
