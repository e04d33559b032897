"""PEFT's format: adapter_config.json and adapter_model.safetensors, which PEFT, vLLM, SGLang and LoRAX load.

The head of a task, where the model is an encoder alone, is no part of a LoRA: it lies beside it in head.safetensors,
`weight` (num_labels, d_model) and `bias` (num_labels,), to be applied to the states pooled as its metadata say.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperadapt.backbones import backbone_of
from hyperadapt.backbones.base import is_transposed
from hyperadapt.backbones.targets import shortest_targets
from hyperadapt.export.task_lora import as_lora
from hyperadapt.files.writing import write_atomically

if TYPE_CHECKING:
    from hyperadapt.export.task_lora import TaskLoRA
    from hyperadapt.model.adapted import AdaptedModel

TASK_TYPES = {
    "encoder_decoder": "SEQ_2_SEQ_LM",
    "decoder_only": "CAUSAL_LM",
    "encoder_only": "FEATURE_EXTRACTION",
}
PREFIX = "base_model.model."  # of names in what PEFT saves


def writer(model: AdaptedModel) -> Callable[[TaskLoRA, Path], None]:
    """Return what writes a task's LoRA into a directory.

    Args:
        model: whose tasks they are.
    """
    from safetensors.torch import save

    paths = [site.path for group in model.hyperadapt.site_groups() for site in group.sites]
    config = json.dumps(configuration(model, paths), indent=2).encode()  # of every task the same
    heads = model.hyperadapt.heads

    def write(lora: TaskLoRA, directory: Path) -> None:
        tensors = {}
        for path, (a, b) in lora.maps.items():
            tensors[f"{PREFIX}{path}.lora_A.weight"] = a.contiguous()
            tensors[f"{PREFIX}{path}.lora_B.weight"] = b.contiguous()
        if heads is not None:
            number = model.task_id(lora.task)
            size = heads.labels[number]
            head = {"weight": heads.weight[number, :size], "bias": heads.bias[number, :size]}
            head = {name: tensor.detach().float().cpu().contiguous() for name, tensor in head.items()}
            write_atomically(directory / "head.safetensors", save(head, {"pooling": heads.options.pooling}))
        # The configuration last: without it there is no adapter.
        write_atomically(directory / "adapter_model.safetensors", save(tensors, {"format": "pt"}))
        write_atomically(directory / "adapter_config.json", config)

    return write


def configuration(model: AdaptedModel, paths: list[str]) -> dict[str, Any]:
    """Return PEFT's configuration of a LoRA.

    Args:
        model: whose method it is of.
        paths: of the maps that it changes.
    """
    method = as_lora(model.method)
    # Not by use_rslora, which some servers do not read: alpha / r is the scaling in all of them.
    alpha = round(method.scaling * method.r, 9)
    alpha = int(alpha) if alpha == int(alpha) else alpha
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[backbone_of(model).architecture],
        "base_model_name_or_path": model.config._name_or_path or None,
        "inference_mode": True,
        "r": method.r,
        "lora_alpha": alpha,
        "lora_dropout": method.lora_dropout,
        "use_rslora": False,
        "target_modules": shortest_targets(model, paths),
        "fan_in_fan_out": is_transposed(model.get_submodule(paths[0])),
        "bias": "none",
    }
