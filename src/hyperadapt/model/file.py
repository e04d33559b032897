"""Saved models: one safetensors file, complete in itself, written atomically.

`model.safetensors` holds the tensors that the method trains, and in its header, as JSON, everything else that loading
needs: method, tasks, base model, and a digest of all of it. `hyperadapt.json` beside it is a copy for people to
read. So a kill at any moment leaves either the old file or the new one, and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyperadapt.errors import CheckpointError, UserError, notice
from hyperadapt.files import manifest
from hyperadapt.files.writing import write_atomically
from hyperadapt.model.fingerprint import digest_tensor
from hyperadapt.model.verbs import check_without_peft

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hyperadapt.model.adapted import AdaptedModel


WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "hyperadapt.json"
FORMAT_VERSION = 2  # 1: the base model's fingerprint is one of samples, and its types are not there
HEADER: dict[str, type | tuple[type, ...]] = {
    "method": dict,
    "tasks": list,
    "base_model": str,
    "base_class": str,
    "base_dtype": str,
    "base_config": dict,
    "base_fingerprint": (str, dict),  # one text in version 1
}


def saved_names(model: Any) -> list[str]:
    """Name the tensors that are saved: the method's own, and those of the base model that were or are trained."""
    own = [f"hyperadapt.{name}" for name in model.hyperadapt.state_dict()]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    # Not only what is trained now: who freezes the layer norms after training them still wants them saved. A tensor
    # that was tied to another since has still the place that it had.
    places = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return list(dict.fromkeys([*own, *trained, *(name for name in model.saved_base if name in places)]))


def changed_names(model: AdaptedModel, state: Mapping[str, Tensor]) -> list[str]:
    """Name the base model's tensors that are not saved, and yet no longer what they were when it was adapted.

    As resized embeddings, rows that were set by hand, or what was cast to a narrower type and back.
    """
    before, saved, ties = model.base_digests, saved_names(model), model.all_tied_weights_keys

    def changed(name: str) -> bool:
        if name in before:
            return not digest_tensor(state[name]).is_of(before[name])
        if name not in ties:
            return True
        # Of an offloaded model all that were tied have a place of their own now, and are still equal.
        value, source = state[name], state[ties[name]]
        return value.data_ptr() != source.data_ptr() and not digest_tensor(value).is_of(digest_tensor(source))

    names = dict.fromkeys([*(name for name, _ in model.named_parameters()), *before, *ties])
    # Where a strategy gathers what is trained alone, the rest is not looked at.
    return [name for name in names if name in state and name not in saved and changed(name)]


def save(model: AdaptedModel, directory: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Save an adapted model.

    Args:
        model: from `adapt` or `load`.
        directory: made where needed; a model saved there before is replaced in one step.
        state_dict: the gathered tensors, where the model itself holds only shards of them (FSDP).

    Raises:
        UserError: if it cannot be written, the model has no numbers, or `load` could not build it from its base model.
    """
    from safetensors.torch import save as to_bytes

    check_without_peft(model)
    state = state_of(model) if state_dict is None else state_dict
    changed = changed_names(model, state)
    check_loadable(model, state, [*saved_names(model), *changed])
    if changed:
        model.saved_base = (*model.saved_base, *changed)
        notice(
            f"{len(changed)} of the base model's own tensors are saved too, as they are not what they were when it was "
            f"adapted: {', '.join(changed[:4])}{', …' if len(changed) > 4 else ''}"
        )
    tensors: dict[str, Tensor] = {}
    places = set()
    for name in saved_names(model):
        value = state[name].detach().cpu().contiguous()
        if value.data_ptr() in places and value.numel():
            source = model.all_tied_weights_keys.get(name)
            if (
                source and state[source].data_ptr() == state[name].data_ptr()
            ):  # offloaded, each is a parameter
                continue
            value = value.clone()
        places.add(value.data_ptr())
        tensors[name] = value
    dtype, other_dtypes = base_dtypes(model)
    config = {
        "format_version": FORMAT_VERSION,
        "method": {"name": model.method.name, **model.method.model_dump(mode="json")},
        "tasks": list(model.tasks),
        "base_model": model.config._name_or_path,
        "base_class": type(model).__name__,
        "base_dtype": dtype,
        "base_dtypes": {name: other for name, other in other_dtypes.items() if name not in tensors},
        "base_config": base_config(model),
        "base_fingerprint": model.base_fingerprint,
        "base_vocabulary": model.base_vocabulary,
    }
    if getattr(model, "generation_config", None) is not None:
        config["generation_config"] = json.loads(model.generation_config.to_json_string())
    if (heads := model.hyperadapt.heads) is not None:
        numbers = dict(zip(model.tasks, heads.labels, strict=True))
        config["heads"] = {**asdict(heads.options), "num_labels": numbers}
    config = json.loads(json.dumps(config))  # as it will be read: the keys of a mapping become text
    config["digest"] = digest(config, tensors)
    directory = Path(directory)
    header = {"format": "pt", "hyperadapt": json.dumps(config)}
    write_atomically(directory / WEIGHTS_FILE, to_bytes(tensors, metadata=header))
    write_atomically(directory / CONFIG_FILE, json.dumps(config, indent=2).encode())


def check_loadable(model: AdaptedModel, state: Mapping[str, Tensor], saved: Iterable[str]) -> None:
    """Check that a model differs from its base model only in what `load` can bring back: numbers, rows and ties.

    Args:
        model: to be saved.
        state: its tensors.
        saved: names of those that are to be saved.

    Raises:
        UserError: if a module of the base model was put in, taken out or replaced by one of another shape.
    """
    known, ties = model.base_digests, model.all_tied_weights_keys
    remedy = "make the change in the base model, and adapt that"
    places = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if gone := [name for name in known if name not in places]:
        raise UserError(
            f"the model cannot be saved: its base model's '{gone[0]}' is gone since `adapt`; {remedy}"
        )
    layers: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    with_rows = {id(layer.weight) for layer in layers if layer is not None}
    of_base = [name for name in saved if not name.startswith("hyperadapt.")]
    for name in of_base:
        if name not in known and name not in ties:
            raise UserError(f"the model cannot be saved: its base model had no '{name}' at `adapt`; {remedy}")
        before = known[name].shape if name in known else None
        found = tuple(state[name].shape)
        if before in (None, found):
            continue
        if id(model.get_parameter(name)) not in with_rows or found[1:] != before[1:]:
            raise UserError(
                f"the model cannot be saved: its base model's '{name}' had shape {before} at `adapt`, and now has "
                f"{found}; {remedy}"
            )


def state_of(model: AdaptedModel) -> dict[str, Tensor]:
    """Return a model's tensors, those that a device map keeps elsewhere brought here.

    Raises:
        UserError: if they are nowhere.
    """
    state = model.state_dict()
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            "the model's modules were quantised after `adapt`, and cannot be saved: save it before that"
        )
    if any(tensor.is_meta for tensor in state.values()):
        if not any(hasattr(module, "_hf_hook") for module in model.modules()):
            raise UserError("the model lies on the meta device, and has no numbers to be saved")
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = get_state_dict_offloaded_model(model)
    return state


def base_dtypes(model: nn.Module) -> tuple[str, dict[str, str]]:
    """Return the floating-point type of most of a base model's own numbers, and name -> type of its other tensors."""
    types, counts = {}, Counter[str]()
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not name.startswith("hyperadapt."):
            types[name] = str(parameter.dtype).removeprefix("torch.")
            counts[types[name]] += parameter.numel()
    most = max(counts, key=counts.__getitem__)
    return most, {name: dtype for name, dtype in types.items() if dtype != most}


def vocabulary(model: PreTrainedModel) -> int:
    """Return the rows of a model's token embeddings."""
    embeddings: Any = model.get_input_embeddings()
    return len(embeddings.weight)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a saved model's configuration and tensors, and check that they are whole.

    Raises:
        CheckpointError: as in `load`.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path) / WEIGHTS_FILE
    # Of a checkpoint, which has more than a model, this file alone.
    checked = manifest.check(file if (Path(path) / manifest.FILE).is_file() else Path(path))
    if not file.is_file():
        raise CheckpointError(f"{path} holds no saved model: there is no file {WEIGHTS_FILE}")
    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{file} is truncated or corrupted ({error})") from None
    if "hyperadapt" not in header:
        raise CheckpointError(f"{file} was not saved by hyperadapt; load it with transformers")
    try:
        config = json.loads(header["hyperadapt"])
    except ValueError:
        raise CheckpointError(f"{file} is corrupted: its header is not JSON") from None
    if not isinstance(config, dict) or not isinstance(config.get("format_version", 0), int):
        raise CheckpointError(f"{file} is corrupted: its header is no JSON object with a format_version")
    if config.get("format_version", 0) > FORMAT_VERSION:
        raise CheckpointError(
            f"{file} is of format {config['format_version']}, newer than the {FORMAT_VERSION} that this version of "
            "hyperadapt reads; upgrade hyperadapt"
        )
    if not checked and config.get("digest") != digest(config, tensors):
        raise CheckpointError(f"{file} is corrupted: its contents do not match their digest")
    for field, kind in HEADER.items():
        if not isinstance(config.get(field), kind):
            raise CheckpointError(
                f"{file} is corrupted: its header's {field} is {reprlib.repr(config.get(field))}"
            )
    if not all(isinstance(task, str) for task in config["tasks"]):
        raise CheckpointError(f"{file} is corrupted: its header's tasks are {reprlib.repr(config['tasks'])}")
    return config, tensors


def base_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return what is particular about the base model's configuration, for people to read."""
    config = model.config.to_diff_dict()
    return {
        key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")
    }


def digest(config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Compute the SHA-256 of a configuration, but for its digest, and of tensors, their names, types and shapes."""
    rest = {name: value for name, value in config.items() if name != "digest"}
    sha = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
