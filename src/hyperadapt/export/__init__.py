"""What leaves an adapted model for one task: its LoRA in a format that others read, or the base model with it merged.

An exporter is a file here, with an entry in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hyperadapt.errors import UserError, nearest
from hyperadapt.export import peft
from hyperadapt.export.merge import merged
from hyperadapt.export.task_lora import as_lora, check_has_lora, task_loras
from hyperadapt.files.writing import write_atomically, writing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.export.task_lora import TaskLoRA
    from hyperadapt.model.adapted import AdaptedModel


# name -> model -> what writes one task's LoRA into a directory
FORMATS: dict[str, Callable[[AdaptedModel], Callable[[TaskLoRA, Path], None]]] = {"peft": peft.writer}
MERGED = "merged"  # no LoRA, but the whole model


def export(model: AdaptedModel, task: str, directory: str | Path, format: str = "peft") -> Path:
    """Write one task's LoRA into a new or empty directory.

    Args:
        model: of a method that is a LoRA.
        task: a name.
        directory: made where needed.
        format: of `FORMATS`.

    Returns:
        The directory.

    Raises:
        UserError: if the format, the task or a LoRA is not there, or the directory is not empty; nothing is written.
    """
    return export_all(model, {task: Path(directory)}, format)[0]


def export_all(model: AdaptedModel, directories: dict[str, Path], format: str = "peft") -> list[Path]:
    """Write several tasks' LoRAs, each into a directory of its own; all else as `export`.

    Args:
        directories: task -> where it goes.
    """
    check_format(format)
    for task in directories:
        model.task_id(task)
    check_has_lora(model)
    for directory in directories.values():
        check_empty(directory)
    write = FORMATS[format](model)
    for lora in task_loras(model, tuple(directories)):
        write(lora, directories[lora.task])
    return list(directories.values())


def check_format(format: str) -> None:
    """Check that a format is known.

    Raises:
        UserError: if not, with the nearest.
    """
    if format not in FORMATS and format != MERGED:
        raise UserError(f"format '{format}' is unknown; {nearest(format, [*FORMATS, MERGED])}")


def write_merged(model: AdaptedModel, task: str, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the plain base model with a task's LoRA in its weights, and its tokenizer, as transformers reads them."""
    plain = merged(model, task)
    with writing(directory):
        plain.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def check_empty(directory: Path) -> None:
    """Check that a directory may be written into: that it is none yet, or an empty one.

    Raises:
        UserError: if not.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty; name a new directory")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; name a new directory")


def serving_commands(
    model: AdaptedModel, directories: dict[str, Path], folder: Path | None = None
) -> list[str]:
    """Return the commands by which servers take what was exported, a comment before each; they run decoders alone.

    Args:
        model: whose tasks they are.
        directories: task -> its folder.
        folder: where they are written too, as serve.sh.
    """
    rank = as_lora(model.method).r
    base = model.config._name_or_path or "BASE_MODEL"
    if not model.can_write_alone:
        return [
            f"# vLLM, SGLang and LoRAX serve LoRAs of decoder-only models; load these with PEFT onto {base}"
        ]
    named = [f"{task}={directory}" for task, directory in directories.items()]
    largest = next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)
    task, directory = next(iter(directories.items()))
    body = f'{{"inputs": "…", "parameters": {{"adapter_id": "{directory}", "adapter_source": "local"}}}}'
    lines = [
        "# vLLM: a request's model is the task's name",
        f"vllm serve {base} --enable-lora --max-lora-rank {largest} --lora-modules {' '.join(named)}",
        "# SGLang: a request's lora_path is the task's name",
        f"python -m sglang.launch_server --model-path {base} --enable-lora --lora-paths {' '.join(named)}",
        f"# LoRAX: a request names its adapter, as of {task}",
        f"lorax-launcher --model-id {base}",
        f"curl localhost:8080/generate -H 'Content-Type: application/json' -d '{body}'",
        "# llama.cpp: each is converted, beside the base model as GGUF",
        f"python convert_lora_to_gguf.py {directory} --outfile {task}.gguf",
        f"llama-server -m BASE.gguf --lora {task}.gguf",
    ]
    if folder is not None:
        write_atomically(folder / "serve.sh", "\n".join([*lines, ""]).encode())
    return lines
