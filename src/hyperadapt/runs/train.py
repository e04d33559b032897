"""Training a run, in four steps that a pretraining goes too.

`prepare` reads, checks and tries out all that is needed, a batch forward and two generated tokens, and writes nothing;
`begin` writes what the run is made of; then it trains; `finish` writes what it has come to. Its directory is locked
from before the first to after the last by a lock of the operating system, which ends with its process. A run that came
to no checkpoint is begun anew.
"""

from __future__ import annotations

import copy
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperadapt import __version__, threads
from hyperadapt.architectures import architecture_of
from hyperadapt.config.written import RunConfig
from hyperadapt.errors import UserError, nearest, notice
from hyperadapt.evaluation import EvaluationSet, Results, majority
from hyperadapt.files import manifest
from hyperadapt.files.locks import locked
from hyperadapt.files.writing import write_atomically, writing
from hyperadapt.methods import Method
from hyperadapt.runs import results_file, same_data
from hyperadapt.runs.base_model import build_base, load_tokenizer, save_base
from hyperadapt.runs.predictions import write_predictions
from hyperadapt.runs.remarks import remark_on_rows
from hyperadapt.runs.resume import (
    check_same_base,
    check_same_rows,
    check_same_tasks,
    check_start,
    checkpoint_to_start_from,
    clear,
    marked,
    start_from,
)
from hyperadapt.runs.rows import load_evaluation_set, load_rows, with_saved_steps
from hyperadapt.runs.run import MADE_OF, TRAINED, load_tasks, write_tasks
from hyperadapt.signals import before_the_end
from hyperadapt.tasks import DEV, Task, check_trainable, resolve_tasks, spelt_out
from hyperadapt.training.arguments import kept_by, training_arguments
from hyperadapt.training.process import held_memory, peak_memory
from hyperadapt.training.stopping import train_until_stopped
from hyperadapt.training.trainer import MixtureTrainer
from hyperadapt.training.trial import making_trainer, try_out, try_to_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Seq2SeqTrainingArguments, TrainingArguments

EVALUATED = ("validation", "test")  # by a training


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
    threads.use(config.training.threads)
    directory = Path(config.output_dir)
    args = training_arguments(
        config.training, config.seed, directory / "checkpoints", best=kept_by(config.training)
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
        outcome = train_until_stopped(prepared.trainer, last)
        results = prepared.trainer.score_kept(prepared.evaluation_sets)
        with writing(directory):
            finish(directory, prepared, outcome.metrics, results)
    return results


def descriptions_of(method: Method, tasks: Sequence[Task]) -> dict[str, tuple[str, ...]] | None:
    """Return what is said of each task, None where the method does not read it."""
    if method.description_encoder is None:
        return None
    return {task.name: task.description for task in tasks}


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
    from hyperadapt.training.checkpoints import checkpoints_in, was_finished

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

    from hyperadapt.model.adapt import adapt

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
    architecture = architecture_of(base)
    architecture.check_config(config)
    architecture.check(base, tokenizer)
    for task in tasks:
        architecture.check_task(base, task, tokenizer, config.data.input_format)
    set_seed(config.seed)
    # Before the rows are read, which takes longer: a method that does not fit the model is found at once.
    num_labels = architecture.num_labels(tasks)
    rate = config.training.head_learning_rate
    model = (
        adapt(base, method, names, num_labels, config.model.pooling, rate, descriptions_of(method, tasks))
        if config.start is None
        else start_from(config.start, base, method, tasks, num_labels)
    )
    if last is not None:
        check_same_base(last, model)
    train_texts, train_rows, n_rows, most_frequent = [], [], {}, {}
    with_steps = []
    for index, task in enumerate(tasks):
        texts = load_rows(task, "train", config)
        train_texts.append(texts)
        with_steps.append(task := task.with_step(texts["target"]))
        n_rows[task.name] = len(texts)
        most_frequent[task.name] = Counter(map(task.written, texts["target"])).most_common(1)[0][0]
        train_rows.append(architecture.training_rows(texts, task, index, tokenizer, data.input_format))
    tasks = tuple(with_steps)
    evaluation_sets = {
        split: load_evaluation_set(with_split, split, config, tokenizer, architecture)
        for split in EVALUATED
        if (
            with_split := tasks if split == "validation" else [task for task in tasks if split in task.splits]
        )
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
    with making_trainer(args, directory, config.training.arguments.chosen()):
        trainer = MixtureTrainer(model, config, args, train_rows, evaluation_sets["validation"], tokenizer)
    trainer.rows_since = same_data.last_step(digests, "validation")
    loaded_memory = held_memory()
    try_out(trainer)
    try_to_answer(trainer)
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


def check_best_by(scored: Sequence[str], tasks: Sequence[str]) -> None:
    """Check that a run has the tasks by whose scores its best checkpoint is told.

    Raises:
        UserError: naming the first that it has not.
    """
    for name in spelt_out(scored):
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
        "peak_memory_mb": round(peak_memory() / 1e6),
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


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's numbers."""
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers", "datasets", "numpy")}
    return {"hyperadapt": __version__, "Python": platform.python_version(), **libraries}


def check_trackers(names: str | list[str] | None) -> None:
    """Check that the trackers of `report_to` are known and installed, which is seen when one is made."""
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for tracker in get_reporting_integration_callbacks(names):
            tracker()
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(f"training.arguments: report_to: {' '.join(str(error).split())}") from None
