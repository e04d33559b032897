"""Saved models: one safetensors file, complete in itself, written atomically.

`model.safetensors` holds the tensors that the method trains, and in its header, as JSON, everything else that loading
needs: method, tasks, base model, and a digest of all of it. `hyperadapt.json` beside it is a copy for people to
read. So a kill at any moment leaves either the old file or the new one, and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperadapt import manifest
from hyperadapt.errors import CheckpointError
from hyperadapt.files import write_atomically
from hyperadapt.methods import method_from
from hyperadapt.tiny_t5 import place_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hyperadapt.methods import Method
    from hyperadapt.model import AdaptedModel

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "hyperadapt.json"
OWN_BASE = "base"  # directory, beside the saved model, of a base model that a run built
FORMAT_VERSION = 1
SAMPLES_PER_TENSOR = 64


def saved_names(model: Any) -> list[str]:
    """Name the tensors that are saved: the method's own, and those of the base model that were or are trained."""
    own = [f"hyperadapt.{name}" for name in model.hyperadapt.state_dict()]
    # Not only what is trained now: who freezes the layer norms after training them still wants them saved.
    trained = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or name in model.trained_base
    ]
    return list(dict.fromkeys([*own, *trained]))


def save(model: AdaptedModel, directory: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Save an adapted model.

    Args:
        model: from `adapt` or `load`.
        directory: made where needed; a model saved there before is replaced in one step.
        state_dict: the gathered tensors, where the model itself holds only shards of them (FSDP).
    """
    from safetensors.torch import save as to_bytes

    state = model.state_dict() if state_dict is None else state_dict
    tensors = {name: state[name].detach().cpu().contiguous() for name in saved_names(model)}
    config = {
        "format_version": FORMAT_VERSION,
        "method": {"name": model.method.name, **model.method.model_dump(mode="json")},
        "tasks": list(model.tasks),
        "base_model": model.config._name_or_path,
        "base_class": type(model).__name__,
        "base_dtype": str(model.dtype).removeprefix("torch."),
        "base_config": base_config(model),
        "base_fingerprint": model.base_fingerprint,
        "generation_config": json.loads(model.generation_config.to_json_string()),
    }
    config = json.loads(json.dumps(config))  # as it will be read: the keys of a mapping become text
    config["digest"] = digest(config, tensors)
    directory = Path(directory)
    header = {"format": "pt", "hyperadapt": json.dumps(config)}
    write_atomically(directory / WEIGHTS_FILE, to_bytes(tensors, metadata=header))
    write_atomically(directory / CONFIG_FILE, json.dumps(config, indent=2).encode())


def load(path: str | Path, base_model: PreTrainedModel | None = None, method: Method | None = None) -> Any:
    """Load a model saved with `save_pretrained`, onto its base model.

    Args:
        path: the directory.
        base_model: the base model; by default it is loaded by the name it was loaded from when it was adapted.
        method: to train other parts of it than before; by default the method it was saved with.

    Returns:
        The adapted model, in evaluation mode.

    Raises:
        CheckpointError: if the file is missing, truncated, corrupted, of a newer format or of another base model.
    """
    from hyperadapt.model import adapt_with_features

    config, tensors = read(path)
    if base_model is None:
        base_model = load_base(config, Path(path))
    if (found := fingerprint(base_model)) != config["base_fingerprint"]:
        raise CheckpointError(
            f"{path} was trained on another base model: '{config['base_model']}' ({config['base_class']}, fingerprint "
            f"{config['base_fingerprint'][:12]}), not '{base_model.config._name_or_path}' ({found[:12]})"
            + (
                "; in float16 no base model is recognised, load it in float32 or bfloat16"
                if base_model.dtype == torch.float16
                else ""
            )
        )
    method = method_from(config["method"]) if method is None else method
    # Given z come from the checkpoint; the file that they were read from may be gone.
    given = getattr(method, "task_features", None)
    features = tensors["hyperadapt.conditioning.z"] if given else None
    model = adapt_with_features(base_model, method, config["tasks"], features)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if wrong := [*(set(saved_names(model)) - set(tensors)), *(set(tensors) - set(shapes))]:
        raise CheckpointError(f"{path} does not hold the tensors of its method, as '{sorted(wrong)[0]}'")
    if wrong := [name for name, value in tensors.items() if value.shape != shapes[name]]:
        raise CheckpointError(
            f"{path}: '{wrong[0]}' has shape {tuple(tensors[wrong[0]].shape)}, not {tuple(shapes[wrong[0]])}"
        )
    model.load_state_dict(tensors, strict=False)
    if "generation_config" in config:
        model.generation_config = type(model.generation_config).from_dict(config["generation_config"])
    model.trained_base = tuple(name for name in tensors if not name.startswith("hyperadapt."))
    return model.eval()


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a saved model's configuration and tensors, and check that they are whole.

    Raises:
        CheckpointError: as in `load`.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path) / WEIGHTS_FILE
    checked = manifest.check(Path(path))
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
    if config.get("format_version", 0) > FORMAT_VERSION:
        raise CheckpointError(
            f"{file} is of format {config['format_version']}, newer than the {FORMAT_VERSION} that this version of "
            "hyperadapt reads; upgrade hyperadapt"
        )
    if not checked and config.get("digest") != digest(config, tensors):
        raise CheckpointError(f"{file} is corrupted: its contents do not match their digest")
    return config, tensors


def load_base(config: dict[str, Any], path: Path) -> PreTrainedModel:
    """Load the base model that a saved model names."""
    import transformers

    name = config["base_model"]
    if not name:
        raise CheckpointError(
            f"{path} was trained on a base model built in memory; pass it: ha.load(path, base_model=…)"
        )
    base_class = getattr(transformers, config["base_class"], None)
    if base_class is None:
        raise CheckpointError(
            f"{path} needs a base model of class {config['base_class']}, which transformers {transformers.__version__} "
            "does not have"
        )
    # A run that built its base model keeps it beside the saved model, wherever both are moved.
    beside = path.parent / OWN_BASE
    if beside.is_dir():
        manifest.check(beside)
    kept = Path(name).name == OWN_BASE and (beside / "config.json").is_file()
    try:
        place = str(beside) if kept else place_of(name)
        quantised = config["base_config"].get("quantization_config")
        base = base_class.from_pretrained(
            place, dtype=getattr(torch, config["base_dtype"]), quantization_config=quantised
        )
        base.config._name_or_path = str(beside) if kept else name
        return base
    except Exception as error:  # besides OSError whatever safetensors and torch make of a damaged file
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"the base model '{beside if kept else name}' of {path} cannot be loaded ({reason}); "
            "pass it: ha.load(path, base_model=…)"
        ) from None


def base_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return what is particular about the base model's configuration, for people to read."""
    config = model.config.to_diff_dict()
    return {
        key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")
    }


def fingerprint(base: PreTrainedModel) -> str:
    """Identify a model's weights by a digest of samples of every tensor.

    Sampled, as reading all of T5-base takes seconds; rounded to bfloat16, so that a base model that is loaded in
    bfloat16 is the same as in float32.
    """
    sha = hashlib.sha256()
    for name, parameter in base.named_parameters():
        sha.update(f"{name}{tuple(parameter.shape)}".encode())
        if parameter.is_meta:
            continue
        values = parameter.detach()
        if type(values) is not Tensor:  # quantised, as by torchao
            values = values.dequantize()
        flat = values.flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)][:SAMPLES_PER_TENSOR]
        sha.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return sha.hexdigest()


def digest(config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Compute the SHA-256 of a configuration, but for its digest, and of tensors, their names, types and shapes."""
    rest = {name: value for name, value in config.items() if name != "digest"}
    sha = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
