"""Encoder-only models: new classifiers on a run's frozen encoder, in its decoder's place (Hyperdecoders, Table 7).

    logits of task t = W_t MLP(mean(h)) + b_t

h are the states of the encoder as it was trained, adapters included; the MLP is built as that of eq. 8, and begins anew
whatever the method; W_t has a row for each label of the task. What such a model scores is in the encoder already.

Appendix C is read so: it speaks of a linear layer for each task, and of one MLP, in the place of that of eq. 8, which
all tasks share. So the tasks share this one too, and it is trained with all linear layers at once, on the rows of all
tasks mixed by their numbers (section 3.1). Of the batch size it says nothing, which is the run's, nor of dropout and
weight decay, of which there is none: a row's mean state never changes, and is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hyperadapt.architectures import check_encoder_decoder
from hyperadapt.conditioning import input_projector
from hyperadapt.errors import UserError, notice
from hyperadapt.metrics import average, score_task
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS
from hyperadapt.studies.embeddings import load_training_rows, mean_states
from hyperadapt.tasks.kinds import label_of

if TYPE_CHECKING:
    from hyperadapt.evaluation import EvaluationSet
    from hyperadapt.runs.run import Run
    from hyperadapt.tasks import Task

KEY = "encoder_only"  # of the scores, in results.json
PURPOSE = "score the encoder of"
MOST_EPOCHS = 1000


class Examples(NamedTuple):
    """Rows as a classifier reads them.

    Attributes:
        states: mean states of the encoder, (rows, d_model).
        tasks: the number of each row's task, (rows,).
        labels: the number of each row's label among those of all tasks, one task's after another's, (rows,).
    """

    states: Tensor
    tasks: Tensor
    labels: Tensor


class EncoderOnly(nn.Module):
    """An MLP that all tasks share, and a linear layer for each.

    Args:
        d_model: width of the states.
        n_labels: of each task.
    """

    owners: Tensor

    def __init__(self, d_model: int, n_labels: Sequence[int]) -> None:
        super().__init__()
        self.mlp = input_projector(d_model)
        self.classifiers = nn.Linear(
            d_model, sum(n_labels)
        )  # each task's own rows, one task's after another's
        owners = torch.arange(len(n_labels)).repeat_interleave(torch.tensor(n_labels))
        self.register_buffer("owners", owners)  # the number of each label's task

    def forward(self, states: Tensor, tasks: Tensor) -> Tensor:
        """Compute the logits of all labels, (batch, labels), -inf of those of other tasks than the row's.

        Args:
            states, tasks: as of `Examples`, of a batch.
        """
        logits = self.classifiers(self.mlp(states))
        return logits.masked_fill(self.owners != tasks[:, None], -math.inf)


def score_encoder_only(
    run: Run,
    epochs: float = 3,
    learning_rate: float = 2e-5,
    warmup_steps: int = 500,
    batch_size: int | None = None,
    max_rows: int | None = None,
    seed: int | None = None,
    allow_changed_data: bool = False,
) -> dict[str, Any]:
    """Train classifiers on a run's frozen encoder, and score them on the validation rows of its tasks of kind "class".

    Epochs, learning rate and warm-up are those of appendix C by default.

    Args:
        run: of any method.
        epochs: how often each training row is seen.
        learning_rate: of AdamW, the highest: linearly it grows from 0, then falls to 0.
        warmup_steps: in which it grows.
        batch_size: rows in a step; by default as in the run's training.
        max_rows: training rows of each task; by default as many as in the run's training. The validation rows are
            those of the run in any case, so that its own scores are of the same.
        seed: of the weights and the order of the rows; by default the run's.
        allow_changed_data: take rows though they are not those that the run was trained with.

    Returns:
        "average" and "tasks", as those of a split in results.json; "training", how the classifiers were trained;
        "changed_data", whether rows have changed since the run was trained.

    Raises:
        UserError: if a number is out of range, the run has no such task, rows have changed, those of a task have one
            label alone, or the encoder's states are not finite.
    """
    check_numbers(epochs, learning_rate, warmup_steps, batch_size)
    check_encoder_decoder(run.model, "hyperadapt encoder-only")
    batch_size = run.config.training.batch_size if batch_size is None else batch_size
    seed = run.config.seed if seed is None else seed
    tasks = classification_tasks(run)
    train = load_training_rows(run, tasks, max_rows, allow_changed_data, PURPOSE)
    validation = run.load_rows(tasks, "validation", PURPOSE, None, None, allow_changed_data)
    batches = batches_of(sum(map(len, train.targets)), epochs, batch_size, seed)
    if len(batches) <= warmup_steps:
        notice(
            f"all {len(batches):,} steps of the classifiers' training are within its {warmup_steps:,} steps of "
            f"warm-up: the learning rate never reaches {learning_rate:g}; take fewer of these, or more epochs"
        )
    model = new_model(run.model.config.d_model, [len(task.label_texts) for task in tasks], seed)
    model.to(run.model.device)
    fit(model, examples_of(run, train), batches, learning_rate, warmup_steps)
    predictions = predict(model, examples_of(run, validation), tasks)
    scores = [score_task(*columns) for columns in zip(tasks, predictions, validation.targets, strict=True)]
    return {
        "average": average(scores),
        "tasks": {score.task: score.as_dict() for score in scores},
        "training": {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "warmup_steps": warmup_steps,
            "batch_size": batch_size,
            "max_rows": max_rows,
            "seed": seed,
            "steps": len(batches),
        },
        "changed_data": train.changed or validation.changed,
    }


def check_numbers(epochs: float, learning_rate: float, warmup_steps: int, batch_size: int | None) -> None:
    """Check the numbers by which classifiers are trained, before a run is loaded.

    Raises:
        UserError: naming the first that is out of range.
    """
    # Adam moves a weight by about the learning rate at each step.
    for name, value, most in (("epochs", epochs, MOST_EPOCHS), ("learning_rate", learning_rate, 1)):
        if not 0 < value <= most:
            raise UserError(f"{name} is {value:g}: it must be more than 0, and at most {most:,}")
    for name, number, least in (("warmup_steps", warmup_steps, 0), ("batch_size", batch_size, 1)):
        if number is not None and number < least:
            raise UserError(f"{name} is {number}: it must be at least {least}")


def classification_tasks(run: Run) -> list[Task]:
    """Return a run's tasks of kind "class", and say which are left out.

    Raises:
        UserError: if it has none.
    """
    tasks = [task for task in run.tasks if task.label_texts]
    others = [task.name for task in run.tasks if not task.label_texts]
    if not tasks:
        raise UserError(
            f"the run {run.directory} has no task of kind 'class', whose labels a classifier could tell apart; its "
            f"tasks: {', '.join(others)}"
        )
    if others:
        notice(
            f"{len(others)} of {len(run.tasks)} tasks {'is' if len(others) == 1 else 'are'} not of kind 'class', and "
            f"left out: {', '.join(others)}"
        )
    return tasks


def examples_of(run: Run, rows: EvaluationSet) -> Examples:
    """Encode the rows of tasks of kind "class", one task's after another's.

    Raises:
        UserError: if states are not finite, as T5's may be in float16.
    """
    states = []
    for task, sources in zip(rows.tasks, rows.sources, strict=True):
        states.append(mean_states(run, sources, [run.model.task_id(task.name)] * len(sources)))
        if not np.isfinite(states[-1]).all():
            raise UserError(
                f"task '{task.name}': the encoder's states are not finite, and no classifier can read them; T5's may "
                "exceed what float16 holds, and model.dtype says another"
            )
    numbers = {label: number for number, label in enumerate(labels_of(rows.tasks))}
    of_each = [
        (task, numbers[task, label_of(target)])
        for task, targets in enumerate(rows.targets)
        for target in targets
    ]
    tasks, labels = torch.tensor(of_each, device=run.model.device).unbind(1)
    return Examples(torch.from_numpy(np.concatenate(states)).to(run.model.device), tasks, labels)


def labels_of(tasks: Sequence[Task]) -> list[tuple[int, str]]:
    """List the labels of all tasks in the order of their numbers: the number of the task, and what a model writes."""
    return [(number, text) for number, task in enumerate(tasks) for text in task.label_texts]


def batches_of(n_rows: int, epochs: float, batch_size: int, seed: int) -> list[Tensor]:
    """Draw the rows of each step, (batch,): each row once an epoch, and of a last, broken epoch only so many.

    The last step may have fewer rows.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(n_rows, generator=generator) for _ in range(math.ceil(epochs))]
    return list(torch.cat(drawn)[: max(1, round(epochs * n_rows))].split(batch_size))


def new_model(d_model: int, n_labels: Sequence[int], seed: int) -> EncoderOnly:
    """Make a model whose weights follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EncoderOnly(d_model, n_labels)


def fit(
    model: EncoderOnly,
    examples: Examples,
    batches: Sequence[Tensor],
    learning_rate: float,
    warmup_steps: int,
) -> None:
    """Train a model, in place, by softmax cross-entropy over each row's own labels.

    Args:
        model: to be trained.
        examples: on which.
        batches: the examples of each step.
        learning_rate, warmup_steps: as of `score_encoder_only`.
    """
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup_steps, len(batches))
    for batch in tqdm(batches, desc="classifiers", leave=False, delay=SECONDS_BEFORE_PROGRESS_SHOWS):
        states, tasks, labels = (column[batch.to(column.device)] for column in examples)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(states, tasks), labels).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def predict(model: EncoderOnly, examples: Examples, tasks: Sequence[Task]) -> list[list[str]]:
    """Return the likeliest labels of each task's rows, as the whole model would write them."""
    labels = labels_of(tasks)
    best = model(examples.states, examples.tasks).argmax(1)
    return [
        [labels[label][1] for label in best[examples.tasks == number].tolist()]
        for number in range(len(tasks))
    ]
