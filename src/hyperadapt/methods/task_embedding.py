"""What methods have in common that generate from an embedding of the task: where its features z come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, model_validator

from hyperadapt import tiny_t5
from hyperadapt.errors import UserError
from hyperadapt.files.paths import absolute, model_or_directory
from hyperadapt.files.yaml_and_json import parse_json
from hyperadapt.methods.base import Host, Method

if TYPE_CHECKING:
    from torch import Tensor

    from hyperadapt.adaptation import Adaptation


class TaskEmbeddingMethod(Method):
    """Options of methods that generate from an embedding of the task, whose features z are learnt unless given.

    Attributes:
        task_features: a JSON file {task: [numbers]} of given z, which are then not trained (HyperFormer, section 2.3).
        task_descriptions: take for z what a frozen text encoder makes of each task's descriptions; of several one is
            drawn in each step of training (Text-to-LoRA, Charakorn et al. 2025), and elsewhere their mean is taken. A
            task that is described needs no training.
        text_encoder: that encoder, a hub name or a local directory of any encoder of transformers, or of a model that
            has one; the mean of its last states is read. By default the one that comes with the package.
        train_task_embeddings_only: freeze all but z, for transfer to a new task (HyperFormer, section 3.2, footnote 4).
    """

    trainability_options = ("train_task_embeddings_only",)

    task_features: Annotated[str, AfterValidator(absolute)] | None = None
    task_descriptions: bool = False
    text_encoder: Annotated[str, AfterValidator(model_or_directory)] = tiny_t5.NAME
    train_task_embeddings_only: bool = False

    @model_validator(mode="after")
    def _one_source_of_features(self) -> TaskEmbeddingMethod:
        if self.task_descriptions and self.task_features:
            raise ValueError("task_descriptions and task_features both give z; leave one of them out")
        given = (
            "task_descriptions" if self.task_descriptions else "task_features" if self.task_features else None
        )
        if self.train_task_embeddings_only and given:
            raise ValueError(f"train_task_embeddings_only leaves nothing to train where {given} give z")
        return self

    @property
    def description_encoder(self) -> str | None:
        return self.text_encoder if self.task_descriptions else None

    def features(self, host: Host) -> Tensor | None:
        """Return given features z, None where they are learnt.

        Raises:
            UserError: if they are to be those of descriptions, and there are none; or as `read_task_features`.
        """
        if host.features is not None:
            return host.features
        if self.task_descriptions:
            raise UserError(
                f"{self.name}: task_descriptions: no task is described; pass descriptions={{task: text}}, or write "
                "description: in the task's file"
            )
        return read_task_features(Path(self.task_features), host.tasks) if self.task_features else None

    def trained(self, adaptation: Adaptation) -> Adaptation:
        """Freeze all but z, if nothing else is to be trained."""
        from hyperadapt.conditioning import TaskEmbedding

        if self.train_task_embeddings_only:
            adaptation.requires_grad_(False)
            for module in adaptation.modules():
                if isinstance(module, TaskEmbedding):
                    module.z.requires_grad_(True)
        return adaptation


def read_task_features(path: Path, tasks: tuple[str, ...]) -> Tensor:
    """Read given task features z from a JSON file {task: [numbers]}, (n_tasks, t').

    Raises:
        UserError: if the file or a task's vector is missing, or the vectors are not finite or not of one length.
    """
    import torch

    if not path.is_file():
        raise UserError(f"task_features: there is no file {path}")
    try:
        vectors = parse_json(path.read_bytes())
    except UserError as error:
        raise UserError(f"task_features: {path}: {error}") from None
    try:
        # On the CPU, as parameters are counted on no device at all.
        rows = [torch.tensor(vectors[task], dtype=torch.float32, device="cpu") for task in tasks]
    except KeyError as missing:
        raise UserError(
            f"task_features: {path} has no vector for task {missing}; it has {', '.join(vectors)}"
        ) from None
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"task_features: {path} is not a JSON object of task -> list of numbers ({error})"
        ) from None
    shapes = sorted({tuple(row.shape) for row in rows})
    if len(shapes) > 1 or len(shapes[0]) != 1 or 0 in shapes[0]:
        raise UserError(f"task_features: {path} must hold vectors of one length, not of shapes {shapes}")
    if wrong := [task for task, row in zip(tasks, rows, strict=True) if not row.isfinite().all()]:
        raise UserError(f"task_features: {path} holds NaN or infinity for task '{wrong[0]}'")
    return torch.stack(rows)
