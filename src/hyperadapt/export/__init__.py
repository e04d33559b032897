"""What leaves an adapted model for one task: its LoRA in a format that others read, or the base model with it merged.

An exporter is a file here, with an entry in `FORMATS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from hyperadapt.errors import UserError, nearest
from hyperadapt.export import peft
from hyperadapt.export.merge import merged
from hyperadapt.export.task_lora import as_lora, check_has_lora, task_loras
from hyperadapt.files.writing import appearing, check_empty, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.export.task_lora import TaskLoRA
    from hyperadapt.model.adapted import AdaptedModel


# name -> model -> what writes one task's LoRA into a directory
FORMATS: dict[str, Callable[[AdaptedModel], Callable[[TaskLoRA, Path], None]]] = {"peft": peft.writer}
MERGED = "merged"  # no LoRA, but the whole model
SERVING = "serving.txt"  # the commands of servers
MAX_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be set to


def export(model: AdaptedModel, task: str, directory: str | Path, format: str = "peft") -> Path:
    """Write one task's LoRA into a new or empty directory; of many `export_all` checks the base model once.

    Args:
        model: of a method that is a LoRA.
        task: a name.
        directory: where to; it appears when all is written.
        format: of `FORMATS`.

    Returns:
        The directory.

    Raises:
        UserError: if the format, the task or a LoRA is not there, or the directory is not empty; nothing is written.
    """
    place = Path(directory)
    write = writer_of(model, [task], place, format)
    with appearing(place) as temporary:
        for lora in task_loras(model, [task]):
            write(lora, temporary)
    return place


def export_all(
    model: AdaptedModel, directory: str | Path, tasks: Sequence[str] = (), format: str = "peft"
) -> dict[str, Path]:
    """Write several tasks' LoRAs, each into a folder of its name, and the commands that serve them; else as `export`.

    Args:
        tasks: names; by default all.

    Returns:
        task -> its folder.

    Raises:
        UserError: as `export`, or if a task's name is no folder's.
    """
    place, names = Path(directory), tuple(tasks or model.tasks)
    for name in names:
        if Path(name).name != name:  # a model may be a stranger's
            raise UserError(f"task '{name}' cannot name a folder; export it alone: export(task, directory)")
    write = writer_of(model, names, place, format)
    folders = {task: place / task for task in names}
    with appearing(place) as temporary:
        for lora in task_loras(model, names):
            write(lora, temporary / lora.task)
        if commands := serving_commands(model, folders):
            write_atomically(temporary / SERVING, "\n".join([*commands, ""]).encode())
    return folders


def writer_of(
    model: AdaptedModel, tasks: Sequence[str], directory: Path, format: str
) -> Callable[[TaskLoRA, Path], None]:
    """Return what writes LoRAs in a format, after all that is asked was checked."""
    check_format(format, FORMATS)
    for task in tasks:
        model.task_id(task)
    check_empty(directory)
    check_has_lora(model)
    return FORMATS[format](model)


def check_format(format: str, known: Iterable[str]) -> None:
    """Check that a format is known.

    Raises:
        UserError: if not, with the nearest.
    """
    if format == MERGED and MERGED not in known:
        raise UserError(f"format '{MERGED}' is no LoRA: merge_and_unload(task) gives that model")
    if format not in known:
        raise UserError(f"format '{format}' is unknown; {nearest(format, known)}")


def write_merged(model: AdaptedModel, task: str, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the plain base model with a task's LoRA in its weights, and its tokenizer, as transformers reads them."""
    plain = merged(model, task)
    check_empty(directory)
    with appearing(directory) as temporary:
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def serving_commands(model: AdaptedModel, folders: Mapping[str, Path]) -> list[str]:
    """Return the commands by which servers take what was exported, each under its server's name.

    They run decoders alone.

    Args:
        model: whose tasks they are.
        folders: task -> its folder.

    Returns:
        None of a model that no server runs with a LoRA.
    """
    if not model.can_write_alone:
        return []
    rank, base = as_lora(model.method).r, quote(model.config._name_or_path or "BASE_MODEL")
    named = " ".join(quote(f"{task}={folder.absolute()}") for task, folder in folders.items())
    largest = next((size for size in MAX_RANKS if size >= rank), rank)
    task, folder = next(iter(folders.items()))
    place, file = str(folder.absolute()), quote(f"{task}.gguf")
    parameters = {"adapter_id": place, "adapter_source": "local"}
    body = json.dumps({"inputs": "…", "parameters": parameters}, ensure_ascii=False)
    return [
        "vLLM, where a request's model is the task's name:",
        f"vllm serve {base} --enable-lora --max-lora-rank {largest} --lora-modules {named}",
        "SGLang, where its lora_path is:",
        f"python -m sglang.launch_server --model-path {base} --enable-lora --lora-paths {named}",
        f"LoRAX, where a request names the adapter's folder, as of {task}:",
        f"lorax-launcher --model-id {base}",
        f"curl localhost:8080/generate -H 'Content-Type: application/json' -d {quote(body)}",
        "llama.cpp, for which each is converted, beside the base model as GGUF:",
        f"python convert_lora_to_gguf.py {quote(place)} --outfile {file}",
        f"llama-server -m BASE.gguf --lora {file}",
    ]
