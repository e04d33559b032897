"""A run: what `train` writes into a directory, and what evaluating and predicting read from it.

config.yaml     the resolved configuration          model/         the best model
tasks.yaml      the tasks, resolved                 checkpoints/   Trainer's, to resume from
data.json       digests of their rows               history.json   losses and validation scores over the steps
tokenizer/      the tokenizer                       manifest.json  digests of all these files
base/           the base model, where the run       results.json   scores on validation and test rows, cost; the last
                built it from a config                             to be written: with it a run is finished
predictions-SPLIT.jsonl.gz                          every row's input, target and prediction, with its own checksum
"""

from __future__ import annotations

import copy
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from difflib import SequenceMatcher, get_close_matches
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from hyperadapt import __version__, checkpoint, hub, manifest, results_file, same_data, threads
from hyperadapt.config import (
    ModelConfig,
    PretrainConfig,
    RunConfig,
    StartConfig,
    WrittenConfig,
    command_of,
    read_fields,
    read_mapping,
)
from hyperadapt.errors import CheckpointError, UserError, nearest, notice, reason_of, validation_message
from hyperadapt.evaluation import (
    EvaluationSet,
    Results,
    evaluate,
    generate_answers,
    majority,
    predicted_texts,
    tokenize_inputs,
)
from hyperadapt.files import write_atomically, writing
from hyperadapt.locks import holder, locked
from hyperadapt.methods import Method, method_from
from hyperadapt.methods.hyperformer import read_task_features
from hyperadapt.metrics import Target
from hyperadapt.paths import check_hub_name, shown
from hyperadapt.predictions import write_predictions
from hyperadapt.signals import before_the_end
from hyperadapt.tasks import (
    DEV,
    SPLITS,
    Task,
    check_there,
    check_trainable,
    input_texts,
    load_split,
    resolve_tasks,
    spelt_out,
)
from hyperadapt.tasks.remarks import remark_on_rows
from hyperadapt.tasks.sources import PlacedRow, given_rows
from hyperadapt.tiny_t5 import NAME as TINY_T5
from hyperadapt.tiny_t5 import place_of
from hyperadapt.tokenizing import check_labels
from hyperadapt.yaml_and_json import dump_yaml, read_yaml

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import (
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Seq2SeqTrainingArguments,
        TrainingArguments,
    )

    from hyperadapt.training import MixtureTrainer

EVALUATED = ("validation", "test")  # by a training
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
MADE_OF = ("config.yaml", "tasks.yaml", same_data.FILE, "tokenizer", "base")  # before the first step
TRAINED = ("model", "history.json")


def train(config: RunConfig, resume: bool = False, allow_changed_data: bool = False) -> dict[str, Results]:
    """Train a run, and evaluate what it has kept on the validation and test rows.

    Everything is read, checked and tried out before anything is written, and no other process may write into the run
    from the first check to the end.

    Args:
        config: what to run.
        resume: go on from the run's last checkpoint.
        allow_changed_data: go on, or start from another run, though rows have changed since; what tasks mean may not.

    Returns:
        "validation" and, where tasks have test rows, "test" results.

    Raises:
        UserError: for anything wrong with what was given, or a loss that is not finite.
        Interrupted: after SIGTERM or Ctrl-C.
    """
    from hyperadapt import training

    threads.use(config.training.threads)
    directory = Path(config.output_dir)
    args = training.training_arguments(
        config.training, config.seed, directory / "checkpoints", best=training.kept_by(config.training)
    )
    check_trackers(args.report_to)
    # Before it is said that there is a run already.
    check_trainable(resolve_tasks(config.data.tasks), config.data.data_dir)
    with held(directory, args):
        last = checkpoint_to_start_from(directory, config, resume)
        prepared = prepare(config, args, last, allow_changed_data)
        args.distributed_state.wait_for_everyone()  # or a process would find the run that another has begun
        if args.process_index == 0:
            with writing(directory):
                begin(directory, config, prepared, resumed=last is not None)
        if config.model.config is not None:
            prepared.model.config._name_or_path = str((directory / "base").resolve())
        outcome = training.train_until_stopped(prepared.trainer, last)
        results = prepared.trainer.score_kept(prepared.evaluation_sets)
        with writing(directory):
            finish(directory, prepared, outcome.metrics, results)
    return results


@contextmanager
def held(directory: Path, args: TrainingArguments) -> Iterator[None]:
    """Lock a run's directory in the first of its processes, and say what is left if a signal ends it meanwhile.

    Where the lock fails, it fails in all.

    Raises:
        UserError: if another process writes to it, or nobody can.
    """
    from accelerate.utils import broadcast_object_list

    with ExitStack() as stack:
        refusal = None
        if args.process_index == 0:
            try:
                stack.enter_context(locked(directory))
            except UserError as error:
                refusal = str(error)
        if (refusal := broadcast_object_list([refusal])[0]) is not None:
            raise UserError(refusal)
        stack.enter_context(before_the_end(partial(what_is_left, directory)))
        yield


def what_is_left(directory: Path) -> str:
    """Say what a training has left that is ended at once: before its steps, among them, or after."""
    from hyperadapt.training import checkpoints_in, was_finished

    written = [place for place in checkpoints_in(directory / "checkpoints") if was_finished(place)]
    if written:
        return f"its last checkpoint is {written[-1]}; go on with --resume"
    if (directory / "config.yaml").is_file():
        return "it has no checkpoint yet; the same command begins it anew"
    return "nothing was written"


@dataclass(frozen=True)
class Prepared:
    """All that a training needs, read, checked and tried out; nothing of it has been written yet.

    Attributes:
        tasks: resolved, in the order of their ids.
        tokenizer: the base model's.
        model: the adapted model.
        base_config: the base model's, as it was before Trainer changed it.
        trainer: with its optimizer.
        n_rows: of training, of each task.
        digests: of the rows of every split, of each task.
        most_frequent: training target, of each task.
        evaluation_sets: "validation" and, where tasks have test rows, "test".
        loaded_memory: bytes held before the first step.
    """

    tasks: tuple[Task, ...]
    tokenizer: PreTrainedTokenizerBase
    model: Any
    base_config: Any
    trainer: MixtureTrainer
    n_rows: dict[str, int]
    digests: same_data.Digests
    most_frequent: dict[str, str]
    evaluation_sets: dict[str, EvaluationSet]
    loaded_memory: int


def prepare(
    config: RunConfig, args: Seq2SeqTrainingArguments, last: Path | None, allow_changed_data: bool = False
) -> Prepared:
    """Read, check and try out all that a training needs, and write nothing.

    Args:
        config: the run's.
        args: Trainer's, made of it.
        last: the checkpoint that it goes on from.
        allow_changed_data: as of `train`.

    Raises:
        UserError: for anything wrong with what was given.
    """
    from transformers import set_seed

    from hyperadapt import training
    from hyperadapt.model import adapt

    directory = Path(config.output_dir)
    method, data = config.build_method(), config.data
    tasks = resolve_tasks(data.tasks)
    names = [task.name for task in tasks]
    check_best_by(config.training.best_by, names)
    if last is not None:
        check_same_tasks(directory, tasks, f"cannot go on with {directory}")
    if config.start is not None:
        check_start(config.start, method, tasks)
    before = [directory] if last is not None else [] if config.start is None else [Path(config.start.run)]
    for run in before:
        tasks = with_saved_steps(tasks, load_tasks(run / "tasks.yaml"))
    tokenizer = load_tokenizer(config.model, saved=directory / "tokenizer" if last is not None else None)
    base = build_base(config.model, config.seed, saved=directory / "base" if last is not None else None)
    check_vocabulary(base, tokenizer)
    for task in tasks:
        check_labels(task, tokenizer)
    set_seed(config.seed)
    # Before the rows are read, which takes longer: a method that does not fit the model is found at once.
    model = (
        adapt(base, method, names) if config.start is None else start_from(config.start, base, method, names)
    )
    if last is not None:
        check_same_base(last, model)
    train_texts, train_rows, n_rows, most_frequent = [], [], {}, {}
    with_steps = []
    for index, given in enumerate(tasks):
        texts = load_rows(given, "train", config)
        train_texts.append(texts)
        with_steps.append(task := given.with_step(texts["target"]))
        n_rows[task.name] = len(texts)
        most_frequent[task.name] = Counter(map(task.written, texts["target"])).most_common(1)[0][0]
        train_rows.append(
            training.tokenize_rows(
                texts, task, index, tokenizer, data.max_source_length, data.overlap, data.truncation
            )
        )
    tasks = tuple(with_steps)
    evaluation_sets = {
        split: load_evaluation_set(having, split, config, tokenizer)
        for split in EVALUATED
        if (having := tasks if split == "validation" else [task for task in tasks if split in task.splits])
    }
    digests = {
        task.name: {"train": same_data.digest_of(texts)}
        for task, texts in zip(tasks, train_texts, strict=True)
    }
    for split, rows in evaluation_sets.items():
        for task, texts in zip(rows.tasks, rows.texts, strict=True):
            digests[task.name][split] = same_data.digest_of(texts)
    check_same_rows(directory, config, digests, last is not None, allow_changed_data)
    digests = marked(directory, digests, last)
    remark_on_rows(tasks, train_texts, evaluation_sets)
    config = config.model_copy(update={"training": config.training.with_steps(sum(map(len, train_rows)))})
    args.max_steps = config.training.max_steps
    if config.training.epochs is not None:
        notice(f"training.epochs: {config.training.epochs:g} take {args.max_steps:,} steps")
    base_config = copy.deepcopy(base.config)
    with training.making_trainer(args, directory, config.training.arguments):
        trainer = training.MixtureTrainer(
            model, config, args, train_rows, evaluation_sets["validation"], tokenizer
        )
    trainer.rows_since = same_data.last_step(digests, "validation")
    loaded_memory = training.held_memory()
    training.try_out(trainer)
    training.try_to_generate(trainer)
    return Prepared(
        tuple(tasks),
        tokenizer,
        model,
        base_config,
        trainer,
        n_rows,
        digests,
        most_frequent,
        evaluation_sets,
        loaded_memory,
    )


def check_best_by(given: Sequence[str], tasks: Sequence[str]) -> None:
    """Check that a run has the tasks by whose scores its best checkpoint is told.

    Raises:
        UserError: naming the first that it has not.
    """
    for name in spelt_out(given):
        if name.removesuffix(DEV) not in tasks:
            raise UserError(f"training.best_by: '{name}' is no task of the run; {nearest(name, tasks)}")


def begin(directory: Path, config: RunConfig, prepared: Prepared, resumed: bool) -> None:
    """Write what a run is made of: config.yaml first, which marks it as one, and last the manifest, which lists all."""
    manifest.remove(directory)
    config.save(directory / "config.yaml")
    if not resumed:
        clear(directory)
    write_tasks(directory / "tasks.yaml", prepared.tasks)
    write_atomically(directory / same_data.FILE, json.dumps(prepared.digests, indent=1).encode())
    # Not on resume, when they were read from there: the base model's tensors may still be mapped to this very file.
    if not resumed:
        prepared.tokenizer.save_pretrained(str(directory / "tokenizer"))
        if config.model.config is not None:
            own = [name for name in prepared.model.state_dict() if not name.startswith("hyperadapt.")]
            save_base(prepared.model, own, prepared.base_config, directory / "base")
    manifest.add(directory, MADE_OF)


def finish(
    directory: Path, prepared: Prepared, totals: Mapping[str, float], results: Mapping[str, Results]
) -> None:
    """Write what a run has come to: model, history and results. All processes call it, the first one writes.

    Args:
        directory: the run's.
        prepared: what it was made of.
        totals: Trainer's `train_loss` and `train_runtime`, of the whole run.
        results: its scores, by split.
    """
    from hyperadapt import training
    from hyperadapt.counting import count_parameters

    model, trainer = prepared.model, prepared.trainer
    state = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if trainer.args.process_index != 0:
        return
    model.save_pretrained(str(directory / "model"), state_dict=state)
    facts: dict[str, Any] = {
        "method": model.method.name,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        "steps": trainer.state.global_step,
        "train_loss": totals["train_loss"],
        "train_seconds": round(totals["train_runtime"], 1),
        "step_seconds": trainer.clock.seconds_per_step(),
        "loaded_memory_mb": round(prepared.loaded_memory / 1e6),
        "peak_memory_mb": round(training.peak_memory() / 1e6),
        "training_rows": prepared.n_rows,
        "parameters": count_parameters(model).as_dict(),
        "versions": versions(),
    }
    scores = {split: result.as_dict() for split, result in results.items()}
    facts["majority"] = {
        split: majority(rows, [prepared.most_frequent[task.name] for task in rows.tasks]).as_dict()
        for split, rows in prepared.evaluation_sets.items()
    }
    if changed := same_data.since_steps(prepared.digests):
        facts["changed_data"] = changed
    history = json.dumps(trainer.state.log_history, indent=1).encode()
    write_atomically(directory / "history.json", history)
    manifest.add(directory, TRAINED)
    for split, result in results.items():
        write_predictions(directory, split, result)
    results_file.write(directory, {**facts, **scores})


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
    from hyperadapt.training import checkpoints_in, was_finished

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
    from hyperadapt.training import checkpoints_in

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
    from hyperadapt.training import last_checkpoint

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
    from hyperadapt.training import step_of

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


def rows_drawn(config: RunConfig, split: str) -> tuple[Any, ...]:
    """Return what decides which of a split's rows a run takes, and how they read: their draw, and their prefix."""
    drawn = draw_of(config, split)
    return (None if drawn[0] is None else drawn, config.prefix)


def draw_of(config: RunConfig, split: str) -> tuple[int | None, int, bool]:
    """Return how a split's rows are drawn: the most of each task, the seed, whether balanced."""
    data = config.data
    if split == "train":
        return data.max_train_rows, config.training_rows_seed, data.balanced
    most = data.max_eval_rows if split == "validation" else data.max_test_rows
    return most, 42 if data.subsample_seed is None else data.subsample_seed, False


def check_same_base(last: Path, model: Any) -> None:
    """Check that a checkpoint was trained on the base model that is to go on with it.

    Raises:
        CheckpointError: if it was another.
    """
    if not (last / checkpoint.WEIGHTS_FILE).is_file():
        return  # in shards, without a header
    saved, _ = checkpoint.read(last)
    checkpoint.check_fingerprint(saved, model, model.base_digests, last)


def note_unlisted(directory: Path) -> None:
    """Say that a run is of a version without manifests."""
    if manifest.listed(directory) is None:
        notice(
            f"{directory} has no {manifest.FILE}, as runs of earlier versions: whether its files and its data are what "
            "they were cannot be checked"
        )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted names."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def save_base(base: PreTrainedModel, names: Sequence[str], config: PretrainedConfig, directory: Path) -> None:
    """Save a base model that exists nowhere else, as transformers would."""
    from safetensors.torch import save_file

    directory.mkdir(exist_ok=True)
    tied = set(getattr(base, "all_tied_weights_keys", {}))
    state = base.state_dict()
    tensors = {name: state[name].contiguous() for name in names if name not in tied}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(directory))


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's numbers."""
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers", "datasets", "numpy")}
    return {"hyperadapt": __version__, "Python": platform.python_version(), **libraries}


class Prediction(NamedTuple):
    """What a run predicts for a row.

    Attributes:
        text: as the model writes it: a label's number or name, a score, an answer.
        label: what the text stands for, a label's name, say; None where it is no answer.
    """

    text: str
    label: str | None


@dataclass(frozen=True)
class Run:
    """A trained run, loaded for evaluation and prediction.

    Attributes:
        directory: where it lies.
        config: as it was trained.
        tasks: in the order of their ids.
        model: the adapted model, on the accelerator if there is one.
        tokenizer: the base model's.
    """

    directory: Path
    config: RunConfig
    tasks: tuple[Task, ...]
    model: Any
    tokenizer: PreTrainedTokenizerBase

    def task(self, name: str) -> Task:
        """Return a task by name.

        Raises:
            UserError: if the run has no such task.
        """
        return task_of(self.directory, self.tasks, name)

    def tasks_with(self, split: str) -> list[Task]:
        """Return the tasks that have a split.

        Raises:
            UserError: if none has, or there is no such split.
        """
        return tasks_with_split(self.directory, self.tasks, split)

    def evaluate(
        self,
        split: str = "test",
        tasks: Sequence[str] = (),
        data_dir: str | None = None,
        batch_size: int | None = None,
        num_beams: int | None = None,
        allow_changed_data: bool = False,
    ) -> Results:
        """Evaluate the run's model on a split of its tasks.

        With `training.keep: best_per_task` results.json has the scores of each task's own best checkpoint instead.

        Args:
            split: "train", "validation" or "test".
            tasks: names of some of them; by default all that have the split.
            data_dir: where the data lie now; by default where they lay in training.
            batch_size, num_beams: as in training by default.
            allow_changed_data: score rows of its tasks though they are not those that it was trained with.

        Raises:
            UserError: if rows of its tasks have changed since, or cannot be had.
        """
        chosen = [self.task(name) for name in tasks]
        for task in chosen:
            tasks_with_split(self.directory, [task], split)
        chosen = chosen or self.tasks_with(split)
        rows = self.load_rows(chosen, split, "evaluate", data_dir, None, allow_changed_data)
        return self.score(rows, batch_size, num_beams)

    def load_rows(
        self,
        tasks: Sequence[Task],
        split: str,
        purpose: str,
        data_dir: str | None = None,
        max_rows: int | None = None,
        allow_changed_data: bool = False,
    ) -> EvaluationSet:
        """Load and tokenize a split of tasks, and check that its rows are those that the run was trained with.

        Args:
            tasks: some of them; of one that the run was never trained on nothing is asked.
            split: "train", "validation" or "test".
            purpose: a verb, for errors.
            data_dir, allow_changed_data: as of `evaluate`.
            max_rows: of each task; by default as many as in training, all of which are checked in any case.

        Raises:
            UserError: if rows have changed since, or cannot be had.
        """
        config = self.config
        if data_dir is not None:
            config = config.model_copy(update={"data": config.data.model_copy(update={"data_dir": data_dir})})
        rows = load_evaluation_set(tasks, split, config, self.tokenizer, max_rows)
        kept = same_data.read(self.directory) or {}
        digests = {
            task.name: {
                split: same_data.digest_of(texts if max_rows is None else load_rows(task, split, config))
            }
            for task, texts in zip(rows.tasks, rows.texts, strict=True)
            if task.name in kept
        }
        changed = same_data.check_rows(
            same_data.part_of(kept, digests, [split]),
            digests,
            f"cannot {purpose} {self.directory}",
            allow_changed_data,
        )
        return replace(rows, changed=changed)

    def score(
        self, rows: EvaluationSet, batch_size: int | None = None, num_beams: int | None = None
    ) -> Results:
        """Evaluate on loaded rows; batch size and beams as in training by default."""
        evaluation = self.config.evaluation
        return evaluate(
            self.model,
            self.tokenizer,
            rows,
            batch_size or evaluation.batch_size,
            num_beams or evaluation.num_beams,
            rule=evaluation.rule,
        )

    def with_unseen(self, names: Sequence[str]) -> Run:
        """Return the run with tasks that it was not trained on, whose parameters are the mean of its tasks'.

        Of a hypernetwork that is the mean of the task embeddings, as the Hyperdecoders paper evaluates out of domain
        (Table 5); methods without task conditioning need no more than the name. The model is changed in place.

        Args:
            names: of tasks or suites, or paths of task files.

        Raises:
            UserError: if a task is unknown, its labels cannot be written, or the run has it already.
        """
        unseen = resolve_tasks(names)
        for task in unseen:
            check_labels(task, self.tokenizer)
        for task in unseen:
            self.model.add_task(task.name, init_from=[trained.name for trained in self.tasks])
        return replace(self, tasks=(*self.tasks, *unseen))

    def predict(
        self,
        task: str,
        rows: Iterable[Mapping[str, Any] | str],
        num_beams: int | None = None,
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """Predict rows.

        Args:
            task: its name.
            rows: column -> value, or the same as JSON text: a list, an iterator, a datasets.Dataset, a pandas
                DataFrame. Columns that the task does not read may hold anything; labels are not needed.
            num_beams, batch_size: as in training by default.

        Returns:
            A prediction for each row, in their order.

        Raises:
            UserError: if the run has no such task, or a row has not a text in every column that the task reads.
        """
        return self.predict_placed(
            task, given_rows(rows, self.task(task).row_in_words), num_beams, batch_size
        )

    def predict_placed(
        self,
        name: str,
        rows: Sequence[PlacedRow],
        num_beams: int | None = None,
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """Predict rows that have places, as those of a file, which errors name; all else as `predict`."""
        task = self.task(name)
        if not rows:
            return []
        data, evaluation = self.config.data, self.config.evaluation
        texts = input_texts(task, rows, self.config.prefix)
        sources, owners = tokenize_inputs(
            texts, self.tokenizer, data.max_source_length, data.overlap, data.truncation, task
        )
        answers = generate_answers(
            self.model,
            self.tokenizer,
            sources,
            [self.model.task_id(name)] * len(sources),
            [evaluation.rule.lengths(task)] * len(sources),
            [task.kind == "question_answering"] * len(sources),
            batch_size or evaluation.batch_size,
            num_beams or evaluation.num_beams,
            per_token=evaluation.rank_chunks == "mean",
        )
        predicted = predicted_texts(task, answers, owners, len(rows))
        return [Prediction(text, task.label_name(text)) for text in predicted]


def is_run(directory: Path) -> bool:
    """Tell whether a directory holds a run, finished or not, beside whose config.yaml more was written."""
    marks = (manifest.FILE, results_file.FILE, "checkpoints")
    return (directory / "config.yaml").is_file() and any((directory / mark).exists() for mark in marks)


def check_is_run(directory: Path) -> None:
    """Check that a directory is a run's, and say where one is if it is not.

    Raises:
        CheckpointError: if it is not there, or another's, as one with the configuration from which a run is to be made.
    """
    if is_run(directory):
        return
    if not directory.exists():
        raise CheckpointError(f"there is no run {directory}; {nearest_run(directory)}")
    file = directory if directory.is_file() else directory / "config.yaml"
    for part_of in directory.absolute().parents[:2]:
        if is_run(part_of):
            raise CheckpointError(f"{directory} is not a run, but a part of {shown(part_of)}, which is one")
    if not file.is_file():
        inner = [shown(run) for run in runs_in(directory, "*", "*/*")]
        there = f"; runs in it: {', '.join(inner[:12])}" if inner else ""
        raise CheckpointError(f"{directory} is not a run: there is no config.yaml{there}")
    try:
        fields = read_fields(file)
    except UserError as error:
        raise CheckpointError(f"{directory} is not a run: {error}") from None
    of_fields = command_of(fields, RunConfig)
    output = Path(str(fields.get("output_dir", directory)))
    if is_run(output):
        raise CheckpointError(f"{directory} holds a configuration, no run; its run is {shown(output)}")
    if of_fields == "compare" and (runs := runs_in(output, "*/*")):
        its_own = ", ".join(map(shown, runs[:12]))
        raise CheckpointError(f"{directory} holds a comparison, no run; its runs are {its_own}")
    raise CheckpointError(
        f"{directory} holds a configuration, no run; train it with: hyperadapt {of_fields} {shown(file)}"
    )


def runs_in(directory: Path, *patterns: str) -> list[Path]:
    """List the runs in a directory, of those places in it that match a pattern."""
    files = (directory.absolute().glob(f"{pattern}/config.yaml") for pattern in patterns)
    found = (file.parent for of_pattern in files for file in of_pattern)
    return sorted(run for run in found if is_run(run))


def nearest_run(directory: Path) -> str:
    """Say which runs there are in place of one that is not, the likeliest first, for the end of an error message."""

    def likeness(run: Path) -> float:
        return SequenceMatcher(None, directory.name.lower(), run.name.lower()).ratio()

    found = dict.fromkeys((*runs_in(directory.parent, "*", "runs/*"), *runs_in(Path("runs"), "*")))
    if not found:
        return "`hyperadapt train` makes one"
    likeliest = sorted(found, key=likeness, reverse=True)
    listed = ", ".join(map(shown, likeliest[:12])) + (", …" if len(likeliest) > 12 else "")
    meant = f"did you mean '{shown(likeliest[0])}'? " if likeness(likeliest[0]) >= 0.5 else ""
    return f"{meant}(runs: {listed})" if meant else f"runs: {listed}"


def load_run_config(path: str | Path) -> RunConfig:
    """Read the configuration of a trained run.

    Raises:
        CheckpointError: if it is no run, or is not finished.
    """
    directory = Path(path)
    check_is_run(directory)
    if (writer := holder(directory)) is not None:
        raise CheckpointError(f"the run {directory} is in use by {writer}; wait until that has ended")
    results_file.check_finished(directory)
    file = directory / "config.yaml"
    manifest.check(file)
    if command_of(read_mapping(file), RunConfig) == PretrainConfig.command:
        raise CheckpointError(
            f"{directory} is of `hyperadapt pretrain`: its model is a base model, to be trained on tasks with "
            f"model.name={shown(directory)}/model"
        )
    return RunConfig.load_saved(file)


def task_of(directory: Path, tasks: Sequence[Task], name: str) -> Task:
    """Return a run's task by name.

    Raises:
        UserError: if it has no such task.
    """
    for task in tasks:
        if task.name == name:
            return task
    raise UserError(
        f"the run {directory} has no task '{name}'; {nearest(name, [task.name for task in tasks])}"
    )


def tasks_with_split(directory: Path, tasks: Sequence[Task], split: str) -> list[Task]:
    """Return those of a run's tasks that have a split.

    Raises:
        UserError: if none has, or there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"split '{split}' is unknown; {nearest(split, SPLITS)}")
    having = [task for task in tasks if split in task.splits]
    if not having:
        names = ", ".join(task.name for task in tasks)
        there = [other for other in SPLITS if any(other in task.splits for task in tasks)]
        raise UserError(
            f"the run {directory} has no {split} rows of {names}, but {' and '.join(there)} rows, as of "
            f"--split {there[-1]}; train with a task file that names some, for a run that has them"
        )
    return having


def check_asked(path: str | Path, names: Sequence[str] = (), split: str | None = None) -> list[Task]:
    """Check that a run is there and has what it is asked for, before its model is loaded or rows are read.

    Args:
        path: its directory.
        names: of tasks.
        split: of each of these tasks; where none is named, of any of its tasks.

    Returns:
        The tasks of these names.

    Raises:
        UserError: as `Run.task` and `Run.tasks_with`; or as `load_run_config`.
    """
    directory = Path(path)
    load_run_config(directory)
    tasks = load_tasks(directory / "tasks.yaml")
    chosen = [task_of(directory, tasks, name) for name in names]
    if split is not None:
        for of in [[task] for task in chosen] or [list(tasks)]:
            tasks_with_split(directory, of, split)
    return chosen


def load_run(path: str | Path, base_model: str | PreTrainedModel | None = None) -> Run:
    """Load a trained run.

    Args:
        path: its directory.
        base_model: the base model or where it lies now, if not where it lay in training.

    Raises:
        CheckpointError: if it is no run, is not finished, or its files are damaged.
    """
    import torch
    from transformers import AutoTokenizer

    directory, config = Path(path), load_run_config(path)
    note_unlisted(directory)
    tasks = load_tasks(directory / "tasks.yaml")
    base = base_model
    if isinstance(base, str):
        base = load_base(config.model, base, "the base model")
    model = checkpoint.load(directory / "model", base)
    choose_attention(model, config.model)
    if model.tasks != tuple(task.name for task in tasks):
        raise CheckpointError(
            f"{directory}: tasks.yaml does not name the tasks of its model, {', '.join(model.tasks)}"
        )
    tokenizer = quietly(AutoTokenizer.from_pretrained, str(directory / "tokenizer"), "the tokenizer")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return Run(directory, config, tasks, model.to(device) if device else model, tokenizer)


def write_tasks(file: Path, tasks: Sequence[Task]) -> None:
    """Write a run's resolved tasks."""
    specs = [task.model_dump(mode="json", exclude_none=True) for task in tasks]
    write_atomically(file, dump_yaml(specs).encode())


def load_tasks(file: Path) -> tuple[Task, ...]:
    """Read a run's resolved tasks."""
    manifest.check(file)
    try:
        specs = read_yaml(file)
        # A version before the step wrote all scores to the nearest 0.2.
        steps = [{"step": 0.2} if spec.get("kind") == "score" else {} for spec in specs]
        return tuple(Task(**{**step, **spec}) for step, spec in zip(steps, specs, strict=True))
    except ValidationError as error:
        raise CheckpointError(f"{file} is damaged: {validation_message(error, Task)}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is missing or damaged ({' '.join(str(error).split())})") from None


def with_saved_steps(tasks: Sequence[Task], saved: Sequence[Task]) -> tuple[Task, ...]:
    """Give score tasks the steps with which a run has them already, where they say none themselves."""
    steps = {task.name: task.step for task in saved}
    return tuple(
        task.model_copy(update={"step": steps[task.name]})
        if task.step is None and task.name in steps
        else task
        for task in tasks
    )


def load_evaluation_set(
    tasks: Sequence[Task],
    split: str,
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_rows: int | None = None,
) -> EvaluationSet:
    """Load and tokenize a split of several tasks, at most max_rows of each, else as many as in training."""
    data = config.data
    check_there(tasks, data.data_dir, [split])
    rows = [load_rows(task, split, config, max_rows) for task in tasks]
    tokenized = [
        tokenize_inputs(
            {name: of[name] for name in of.column_names},
            tokenizer,
            data.max_source_length,
            data.overlap,
            data.truncation,
            task,
            f"{split} rows",
        )
        for task, of in zip(tasks, rows, strict=True)
    ]
    targets: list[list[Target]] = [
        [tuple(references) for references in of["references"]]
        if "references" in of.column_names
        else list(of["target"])
        for of in rows
    ]
    return EvaluationSet(
        tuple(tasks), [ids for ids, _ in tokenized], targets, [of for _, of in tokenized], rows
    )


def load_rows(task: Task, split: str, config: RunConfig, max_rows: int | None = None) -> Dataset:
    """Load the rows of a task's split that a run takes, at most max_rows of them, else as many as in training."""
    most, seed, balanced = draw_of(config, split)
    most = most if max_rows is None else max_rows
    return load_split(task, split, config.data.data_dir, most, seed, config.prefix, balanced)


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
    saved, _ = checkpoint.read(Path(start.run) / "model")
    before, now = (
        {"name": of.name, **of.model_dump(exclude=set(of.says_what_is_trained))}
        for of in (method_from(saved["method"]), method)
    )
    if other := [name for name in before if before[name] != now.get(name)]:
        raise UserError(
            f"start.run: {start.run} has method.{other[0]} {before[other[0]]!r}, not {now.get(other[0])!r}; "
            "give this run the same, or leave start out"
        )
    if start.init_from and set(names) <= set(saved["tasks"]):
        raise UserError(
            f"start.init_from: the run {start.run} has the task '{names[0]}' itself, which goes on with what it has; "
            "leave init_from out, or give the task another name"
        )
    known = set(saved["tasks"])
    if unknown := [name for name in start.init_from if name not in known]:
        raise UserError(
            f"start.init_from: the run {start.run} has no task '{unknown[0]}'; {nearest(unknown[0], saved['tasks'])}"
        )


def start_from(start: StartConfig, base: PreTrainedModel, method: Method, tasks: Sequence[str]) -> Any:
    """Take up a trained run's model with these tasks alone; those that it has not start from `init_from`."""
    model = checkpoint.load(Path(start.run) / "model", base, method)
    known = set(model.tasks)
    new = tuple(task for task in tasks if task not in known)
    if going_on := [task for task in tasks if task in known]:
        go, they = ("goes", "it has") if len(going_on) == 1 else ("go", "they have")
        notice(
            f"{start.run} was trained on {', '.join(going_on)} itself: {go} on with what {they} learnt there; under "
            "another name a task starts anew"
        )
    file = getattr(method, "task_features", None)
    given = read_task_features(Path(file), new).tolist() if file and new else [None] * len(new)
    for task, features in zip(new, given, strict=True):
        model.add_task(task, start.init_from, features)
    model.keep_tasks(tasks)
    return model


def load_tokenizer(model: ModelConfig, saved: Path | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model configuration, or the one that a run has kept."""
    from transformers import AutoTokenizer, ByT5Tokenizer

    if saved is not None:
        return quietly(AutoTokenizer.from_pretrained, str(saved), "the run's tokenizer")
    if model.tokenizer == "bytes":
        return ByT5Tokenizer()
    field, name = ("model.tokenizer" if model.tokenizer else "model.name"), str(model.tokenizer or model.name)
    check_hub_name(name, field)
    return quietly(AutoTokenizer.from_pretrained, place_of(name), field)


def build_base(model: ModelConfig, seed: int, saved: Path | None = None) -> PreTrainedModel:
    """Load the base model, or build it from a config with random weights.

    Args:
        model: its configuration.
        seed: of random weights, unless the configuration has its own.
        saved: where the run has saved the model that it built before.

    Raises:
        UserError: if it cannot be loaded, the config has an unknown field, or attention cannot be computed that way.
    """
    base = load_or_build(model, seed, saved)
    choose_attention(base, model)
    return base


def choose_attention(base: PreTrainedModel, model: ModelConfig) -> None:
    """Let the base model compute its attention as configured, or leave it as it is."""
    if model.attn_implementation is not None:
        try:
            base.set_attn_implementation(model.attn_implementation)
        except Exception as error:  # transformers' own, or that of a package which the attention needs
            raise UserError(f"model.attn_implementation: {' '.join(str(error).split())}") from None


def load_base(model: ModelConfig, name: str, field: str) -> PreTrainedModel:
    """Load a base model from the hub or a directory, as configured."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    options = {"dtype": getattr(torch, model.dtype), "quantization_config": model.quantization}
    return quietly(AutoModelForSeq2SeqLM.from_pretrained, place_of(name), field, **options)


def load_or_build(model: ModelConfig, seed: int, saved: Path | None) -> PreTrainedModel:
    """Load the base model, or build it, with transformers' choice of an attention."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration, set_seed

    dtype = getattr(torch, model.dtype)
    if model.name is not None:
        check_hub_name(model.name, "model.name")
        base = load_base(model, model.name, "model.name")
        is_here = Path(model.name).is_dir()
        base.config._name_or_path = str(Path(model.name).resolve()) if is_here else model.name
        return base
    if saved is not None and (manifest.check(saved) or saved.is_dir()):
        return quietly(AutoModelForSeq2SeqLM.from_pretrained, str(saved), "the run's base model", dtype=dtype)
    given = model.config or {}
    known = T5Config().to_dict()
    for name in given:
        if name not in known:
            raise UserError(f"model.config: field '{name}' is unknown; {nearest(name, known)}")
    try:
        set_seed(seed if model.seed is None else model.seed)
        config = T5Config(**{"decoder_start_token_id": 0, **given})
        return T5ForConditionalGeneration(config).to(dtype)
    except Exception as error:  # whatever transformers and torch make of a wrong value
        raise UserError(f"model.config: {' '.join(str(error).split())}") from None


def check_vocabulary(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the tokenizer's ids are in the model's vocabulary, and that the decoder knows how to start."""
    if base.config.decoder_start_token_id is None:
        raise UserError(
            "the base model's config has no decoder_start_token_id, without which it cannot be trained"
        )
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise UserError(
            "the tokenizer has no end token (eos_token) or no padding (pad_token), which T5 needs"
        )
    for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        if (number := getattr(base.config, name)) is not None and not 0 <= number < base.config.vocab_size:
            raise UserError(
                f"the base model's config has {name} {number}, but its vocabulary has only "
                f"{base.config.vocab_size} tokens"
            )
    highest = max(tokenizer.get_vocab().values())  # not their number: a vocabulary may have gaps
    if highest >= base.config.vocab_size:
        raise UserError(
            f"the tokenizer's ids go up to {highest}, but the model's vocabulary has only "
            f"{base.config.vocab_size} tokens: they do not belong together"
        )
    if tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
        raise UserError(
            "the tokenizer does not end a text with its end token, as T5's do: give it such a post-processor"
        )


def check_trackers(names: str | list[str] | None) -> None:
    """Check that the trackers of `report_to` are known and installed, which is seen when one is made."""
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for tracker in get_reporting_integration_callbacks(names):
            tracker()
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(f"training.arguments: report_to: {' '.join(str(error).split())}") from None


def quietly(load: Any, name: str, field: str, **options: Any) -> Any:
    """Load from the hub or a directory; say in one line what is wrong."""
    if not Path(name).is_dir() and not hub.may_be_there(name):
        raise UserError(f"{field}: there is no directory '{name}'")
    manifest.check(Path(name))
    if not Path(name).is_dir() and get_close_matches(name, [TINY_T5], cutoff=0.8):
        raise UserError(f"{field}: there is no model '{name}'; did you mean '{TINY_T5}'?")
    with hub.asking(name, field) as unreachable:
        try:
            # Else transformers asks on standard input whether it may run what came with a stranger's tokenizer.
            return load(name, trust_remote_code=False, **options)
        except Exception as error:  # tokenizers and safetensors raise errors of their own
            raise UserError(
                f"{field}: '{name}' is neither a local directory with the right files nor to be had from the hub "
                f"({unreachable or reason_of(error)}); '{TINY_T5}' comes with this package"
            ) from None
