"""The base model with one task's LoRA in its weights, W + s B A: a plain model of transformers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hyperadapt.backbones import backbone_of
from hyperadapt.backbones.base import is_transposed
from hyperadapt.errors import UserError, notice
from hyperadapt.export.task_lora import as_lora, task_loras
from hyperadapt.model.mixed import original_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hyperadapt.model.adapted import AdaptedModel


def merged(model: AdaptedModel, task: str) -> PreTrainedModel:
    """Make a plain model of the base model's class, with a task's LoRA in its weights; the adapted one stays as it is.

    Args:
        model: of a LoRA method, or fully fine-tuned.
        task: a name.

    Raises:
        UserError: if there is no such task, the method makes no LoRA, or the weights are quantised.
    """
    model.task_id(task)
    if model.method.name != "full_fine_tuning":
        as_lora(model.method)
    if getattr(model, "is_quantized", False):
        raise UserError(
            "weights that are quantised hold no sum with a LoRA; export it, and merge it by PEFT into the base model "
            "in full precision"
        )
    state: dict[str, Tensor] = {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if not name.startswith("hyperadapt.")
    }
    if model.method.name != "full_fine_tuning":
        (lora,) = task_loras(model, [task])
        for path, (a, b) in lora.maps.items():
            weight, change = state[f"{path}.weight"], lora.scaling * b @ a
            change = (change.mT if is_transposed(model.get_submodule(path)) else change).to(weight.device)
            state[f"{path}.weight"] = (weight.to(change.dtype) + change).to(weight.dtype)
    backbone = backbone_of(model)
    kind: Any = original_class(type(model))
    config = copy.deepcopy(model.config)
    options = {"state_dict": state, "dtype": model.dtype, **backbone.loading}
    plain = kind.from_pretrained(None, trust_remote_code=False, config=config, **options)
    if getattr(model, "generation_config", None) is not None:
        plain.generation_config = copy.deepcopy(model.generation_config)
    if model.hyperadapt.heads is not None:
        notice(
            f"the head of '{task}' is no part of a {kind.__name__}, and is left out as the pooler is, whose place it "
            "took: load the model with add_pooling_layer=False; export writes the head"
        )
    return plain.to(model.device).train(model.training)
