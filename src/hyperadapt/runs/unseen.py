"""Tasks that a run was not trained on: with parameters between its tasks', or those that a description gives.

Beside what a description scores stand its controls: that of a random description, of the mean of all tasks, and of the
nearest task. A description that is not ahead of them has said nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperadapt.conditioning import TaskEmbedding
from hyperadapt.descriptions import encode, texts_of
from hyperadapt.errors import UserError

if TYPE_CHECKING:
    from hyperadapt.tasks import Task


class Control(NamedTuple):
    """What stands beside a description.

    Attributes:
        name: of the control.
        features: of each unseen task, (t',).
        of: each unseen task's nearest, where that is the control.
    """

    name: str
    features: list[Tensor]
    of: tuple[str, ...] = ()


def task_embedding_of(model: Any) -> TaskEmbedding | None:
    """Return what embeds the tasks of a model by their descriptions, None where nothing does."""
    found = [module for module in model.hyperadapt.modules() if isinstance(module, TaskEmbedding)]
    return found[0] if found and found[0].is_described else None


def add_unseen(model: Any, known: Sequence[Task], tasks: Sequence[Task]) -> None:
    """Add tasks to a model that are not trained.

    Args:
        model: adapted; where its task embeddings come from descriptions, so do these tasks', and else they are the mean
            of its tasks' parameters.
        known: the run's tasks.
        tasks: that it has not.

    Raises:
        UserError: if a description is missing; before anything is added.
    """
    trained = model.tasks
    if task_embedding_of(model) is None:
        for task in tasks:
            model.add_task(task.name, init_from=trained)
        return
    descriptions = [texts_of(task.name, task.description) for task in tasks]
    check_same_encoder(model, known)
    for task, description in zip(tasks, descriptions, strict=True):
        model.add_task(task.name, description=description)


def controls(model: Any, trained: Sequence[Task], unseen: Sequence[Task]) -> list[Control]:
    """Make the controls of described tasks.

    Args:
        model: that has both.
        trained: the run's own tasks.
        unseen: those that were added by their descriptions.
    """
    embedding = task_embedding_of(model)
    assert embedding is not None
    means = embedding.mean_features()
    ids = [model.task_id(task.name) for task in trained]
    own = means[ids]
    centred = F.normalize(own - own.mean(0), dim=1)
    words = sorted({word for task in trained for text in task.description for word in text.split()})
    random = [
        " ".join(Random(task.name).choices(words, k=len(texts_of(task.name, task.description)[0].split())))
        for task in unseen
    ]
    asked = means[[model.task_id(task.name) for task in unseen]]
    closest = (F.normalize(asked - own.mean(0), dim=1) @ centred.T).argmax(1).tolist()
    return [
        Control("random description", list(encode(random, model.method.description_encoder).to(means))),
        Control("mean of all tasks", [own.mean(0)] * len(unseen)),
        Control(
            "nearest task", [own[place] for place in closest], tuple(trained[place].name for place in closest)
        ),
    ]


def set_features(model: Any, features: Mapping[str, Tensor]) -> None:
    """Give described tasks other features.

    Args:
        model: that has them.
        features: task -> (t',) or (n, t').
    """
    embedding = task_embedding_of(model)
    assert embedding is not None
    for task, of_task in features.items():
        embedding.describe(model.task_id(task), of_task)


def check_same_encoder(model: Any, trained: Sequence[Task]) -> None:
    """Check that the text encoder reads as it did in training, by a task that was trained.

    Raises:
        UserError: if it does not, as one of another revision or folder.
    """
    embedding, task = task_embedding_of(model), trained[0]
    if embedding is None or not task.description:
        return
    encoder = model.method.description_encoder
    found, kept = encode(task.description, encoder), embedding.z[model.task_id(task.name)].cpu()
    if found.shape[1] != kept.shape[1] or not torch.allclose(found, kept[: len(found)], rtol=1e-3, atol=1e-3):
        raise UserError(
            f"text_encoder '{encoder}' reads the description of '{task.name}' otherwise than in training: it is "
            "another model, or another version of it"
        )
