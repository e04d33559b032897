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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from hyperadapt.architectures import Answering, architecture_of
from hyperadapt.architectures.choices import Choices
from hyperadapt.config.reading import read_fields, read_mapping
from hyperadapt.config.written import PretrainConfig, RunConfig, command_of
from hyperadapt.errors import CheckpointError, UserError, nearest, notice, validation_message
from hyperadapt.evaluation import (
    EvaluationSet,
    Results,
    evaluate,
    requests_of,
)
from hyperadapt.files import manifest
from hyperadapt.files.locks import holder
from hyperadapt.files.paths import shown
from hyperadapt.files.writing import write_atomically
from hyperadapt.files.yaml_and_json import dump_yaml, read_yaml
from hyperadapt.model import load
from hyperadapt.model.adapt import check_takes_descriptions
from hyperadapt.runs import results_file, same_data
from hyperadapt.runs.base_model import choose_attention, load_base, quietly
from hyperadapt.runs.rows import choices_of, load_evaluation_set, load_rows
from hyperadapt.runs.unseen import add_unseen
from hyperadapt.tasks import SPLITS, Task, input_texts, resolve_tasks
from hyperadapt.tasks.sources import PlacedRow, given_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MADE_OF = ("config.yaml", "tasks.yaml", same_data.FILE, "tokenizer", "base")  # before the first step
TRAINED = ("model", "history.json")
DESCRIBED = "described"  # a task of `predict --describe`


def note_unlisted(directory: Path) -> None:
    """Say that a run is of a version without manifests."""
    if manifest.listed(directory) is None:
        notice(
            f"{directory} has no {manifest.FILE}, as runs of earlier versions: whether its files and its data are what "
            "they were cannot be checked"
        )


class Prediction(NamedTuple):
    """What a run predicts for a row.

    Attributes:
        text: as the model writes it: a label's number or name, a score, an answer.
        label: what the text stands for, a label's name, say; None where it is no answer.
        probabilities: of each label by name, where one of them was chosen (evaluation.answers: rate).
    """

    text: str
    label: str | None
    probabilities: Mapping[str, float] | None = None


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
        rows = load_evaluation_set(
            tasks, split, config, self.tokenizer, architecture_of(self.model), max_rows
        )
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
            Answering(
                batch_size or evaluation.batch_size,
                num_beams or evaluation.num_beams,
                progress="evaluating",
            ),
            evaluation.rule,
        )

    def choices(self, task: Task) -> Choices | None:
        """Return what may be answered to a task, where one of a few texts is chosen; None where it is generated."""
        return choices_of(task, self.config, self.tokenizer, architecture_of(self.model))

    def with_unseen(self, names: Sequence[str]) -> Run:
        """Return the run with tasks that it was not trained on, whose parameters are the mean of its tasks'.

        Of a hypernetwork that is the mean of the task embeddings, as the Hyperdecoders paper evaluates out of domain
        (Table 5); methods without task conditioning need no more than the name. Of a run whose tasks are described
        (method.task_descriptions) it is what their own descriptions give. The model is changed in place.

        Args:
            names: of tasks or suites, or paths of task files.

        Raises:
            UserError: if a task is unknown, its labels cannot be written, or the run has it already.
        """
        return self.with_tasks(resolve_tasks(names))

    def with_description(self, description: str, columns: Sequence[str], like: str | None = None) -> Run:
        """Return the run with a task "described" that a description gives, beside its own.

        Args:
            description: what is to be done.
            columns: of its rows, which it reads.
            like: a task of the run, as whose rows are read and answered; by default answers are free texts.

        Raises:
            UserError: if the run's method reads no descriptions, or there is no such task.
        """
        if like is not None:
            task = self.task(like).model_copy(update={"name": DESCRIBED, "description": (description,)})
        else:
            if len(columns) != 1:
                raise UserError(
                    f"rows of a task that is only described have one column, not {', '.join(columns) or 'none'}; name "
                    "a task of the run by --task, as whose rows they are read"
                )
            task = Task(
                name=DESCRIBED,
                local=DESCRIBED,
                fields={"": columns[0]},
                kind="text",
                metrics=("exact_match",),
                description=(description,),
            )
        check_takes_descriptions(self.model.method)
        return self.with_tasks((task,))

    def with_tasks(self, unseen: Sequence[Task]) -> Run:
        """Return the run with tasks that it was not trained on, as `with_unseen`."""
        if self.model.hyperadapt.heads is not None:
            raise UserError(
                f"{self.directory} is of an encoder alone, which has no head for tasks that it was not trained on"
            )
        for task in unseen:
            architecture_of(self.model).check_task(
                self.model, task, self.tokenizer, self.config.data.input_format
            )
        add_unseen(self.model, self.tasks, unseen)
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
        architecture = architecture_of(self.model)
        sources, owners = architecture.inputs(texts, self.tokenizer, data.input_format, task)
        choices = self.choices(task)
        requests = requests_of(task, self.model.task_id(name), sources, choices, evaluation.rule)
        how = Answering(
            batch_size or evaluation.batch_size,
            num_beams or evaluation.num_beams,
            per_token=evaluation.rank_chunks == "mean",
        )
        answers = architecture.answer(self.model, self.tokenizer, requests, how)
        predicted = task.kind_of_task.combine(task, answers, owners, len(rows))
        if choices is None:
            return [Prediction(text, task.label_name(text)) for text in predicted]
        labels = [str(task.label_name(text)) for text in choices.texts]
        return [
            Prediction(
                answer.text,
                task.label_name(answer.text),
                dict(zip(labels, answer.probabilities, strict=True)),
            )
            for answer in answers
        ]


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
    with_split = [task for task in tasks if split in task.splits]
    if not with_split:
        names = ", ".join(task.name for task in tasks)
        there = [other for other in SPLITS if any(other in task.splits for task in tasks)]
        raise UserError(
            f"the run {directory} has no {split} rows of {names}, but {' and '.join(there)} rows, as of "
            f"--split {there[-1]}; train with a task file that names some, for a run that has them"
        )
    return with_split


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
        for asked in [[task] for task in chosen] or [list(tasks)]:
            tasks_with_split(directory, asked, split)
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
    model = load.load(directory / "model", base)
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
