"""The LoRA of one task, as a method makes it: A and B of every map that it changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hyperadapt.conditioning import Inputs
from hyperadapt.errors import UserError
from hyperadapt.methods import METHODS, Method
from hyperadapt.methods.lora import LowRankMethod

if TYPE_CHECKING:
    from hyperadapt.model.adapted import AdaptedModel

AT_ONCE = 16  # tasks whose LoRAs are made in one pass; of a T5-base's 768-wide maps each takes some megabytes


class TaskLoRA(NamedTuple):
    """A task's LoRA, in float32 on the CPU.

    Attributes:
        task: its name.
        maps: path of a linear map -> A (r, d_in) and B (d_out, r).
        scaling: the map's change is scaling B A.
    """

    task: str
    maps: dict[str, tuple[Tensor, Tensor]]
    scaling: float


def as_lora(method: Method) -> LowRankMethod:
    """Return a method that is a LoRA.

    Raises:
        UserError: if it is none; it names those that are, and what else there is.
    """
    if isinstance(method, LowRankMethod):
        return method
    able = ", ".join(name for name, kind in METHODS.items() if issubclass(kind, LowRankMethod))
    instead = (
        "merge_and_unload (--format merged) gives the trained model itself"
        if method.name == "full_fine_tuning"
        else "keep_tasks([task]) and save_pretrained keep one task of it in hyperadapt's own format"
    )
    raise UserError(f"{method.name} makes no LoRA, as {able} do; {instead}")


def check_has_lora(model: AdaptedModel) -> None:
    """Check that a task's LoRA is all that an adapted model adds to its base model.

    Raises:
        UserError: if its method makes none, or tensors of the base model are trained or changed too.
    """
    from hyperadapt.model.file import changed_names, saved_names, state_of

    as_lora(model.method)
    own = [name for name in saved_names(model) if not name.startswith("hyperadapt.")]
    changed = [*own, *changed_names(model, state_of(model))]
    if changed:
        raise UserError(
            f"{len(changed)} of the base model's own tensors are no longer what they were, which a LoRA cannot hold: "
            f"{', '.join(changed[:3])}{', …' if len(changed) > 3 else ''}; merge_and_unload keeps them"
        )


@torch.no_grad()
def task_loras(model: AdaptedModel, tasks: Sequence[str]) -> Iterator[TaskLoRA]:
    """Make the LoRAs of tasks, as many at once as fit.

    Args:
        model: of a LoRA method.
        tasks: names.
    """
    method, adaptation = as_lora(model.method), model.hyperadapt
    trained = adaptation.training
    for start in range(0, len(tasks), AT_ONCE):
        chosen = tasks[start : start + AT_ONCE]
        ids = torch.tensor([model.task_id(task) for task in chosen], device=model.device)
        adaptation.eval()  # skills are drawn, and descriptions, in training alone
        try:
            made = [adaptation.generate(Inputs(stack, ids, ids)) for stack in adaptation.groups]
        finally:
            adaptation.train(trained)
        for number, task in enumerate(chosen):
            maps = {}
            for generated in made:
                row = number if generated.rows is None else int(generated.rows[number])
                for group, weights in zip(adaptation.groups[generated.stack], generated.weights, strict=True):
                    a, b = (of_task(weights[name], row).float().cpu() for name in ("down", "up"))
                    for place, site in enumerate(group.sites):
                        maps[site.path] = a[place], b[place]
            yield TaskLoRA(task, maps, method.scaling)


def of_task(weights: Tensor, row: int) -> Tensor:
    """Return one task's of the weights of all sites, (U, n_sites, ...); those of U = 1 are everybody's."""
    return weights[row if len(weights) > 1 else 0]
