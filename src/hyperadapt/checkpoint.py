"""Saved models: one safetensors file, complete in itself, written atomically.

`model.safetensors` holds the tensors that the method trains, and in its header, as JSON, everything else that loading
needs: method, tasks, base model, and a digest of all of it. `hyperadapt.json` beside it is a copy for people to
read. So a kill at any moment leaves either the old file or the new one, and nothing is ever unpickled.
"""

from __future__ import annotations

import copy
import hashlib
import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyperadapt import hub, manifest
from hyperadapt.errors import CheckpointError, UserError, nothing_at, notice, reason_of
from hyperadapt.files import write_atomically
from hyperadapt.fingerprint import (
    ROUNDINGS,
    TensorDigest,
    digest_tensor,
    digest_tensors,
    fingerprint,
    sampled_fingerprint,
)
from hyperadapt.methods import as_method, method_from
from hyperadapt.rollback import unchanged_on_failure
from hyperadapt.tiny_t5 import place_of
from hyperadapt.verbs import check_without_peft

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hyperadapt.methods import Method
    from hyperadapt.model import AdaptedModel

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "hyperadapt.json"
RUN_MODEL = "model"  # directory, in that of a run, of its saved model
OWN_BASE = "base"  # directory, beside the saved model, of a base model that a run built
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
        "generation_config": json.loads(model.generation_config.to_json_string()),
        "base_vocabulary": model.base_vocabulary,
    }
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


def load(
    path: str | Path,
    base_model: PreTrainedModel | None = None,
    method: Method | type[Method] | Mapping[str, Any] | str | None = None,
) -> Any:
    """Load a model saved with `save_pretrained`, onto its base model.

    Args:
        path: its directory, or that of a run.
        base_model: the base model; by default it is loaded by the name it was loaded from when it was adapted. As any
            that `adapt` is given it is changed in place, unless loading fails.
        method: to train other parts of it than before; by default the method it was saved with.

    Returns:
        The adapted model, in evaluation mode.

    Raises:
        CheckpointError: if the file is missing, truncated, corrupted, of a newer format or of another base model.
        UserError: if the base model cannot be adapted.
    """
    from hyperadapt.model import adapt_with_features, check_base

    directory = place_of_model(Path(path))
    config, tensors = read(directory)
    if base_model is None:
        base_model = load_base(config, directory)
    check_base(base_model)
    digests = digest_tensors(base_model.named_parameters())
    check_fingerprint(config, base_model, digests, directory)
    method = method_from(config["method"]) if method is None else as_method(method)
    # Given z come from the checkpoint; the file that they were read from may be gone.
    given = getattr(method, "task_features", None)
    features = tensors["hyperadapt.conditioning.z"] if given else None
    same_dtype = base_dtypes(base_model)[0] == config["base_dtype"]
    with unchanged_on_failure(base_model):
        model = adapt_with_features(base_model, method, config["tasks"], features, digests)
        if isinstance(config["base_fingerprint"], dict):  # which may know it in more types than it has here
            model.base_fingerprint = config["base_fingerprint"]
        resize(model, tensors)
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        if wrong := [*(set(saved_names(model)) - set(tensors)), *(set(tensors) - set(shapes))]:
            raise CheckpointError(
                f"{directory} does not hold the tensors of its method, as '{sorted(wrong)[0]}'"
            )
        if wrong := [name for name, value in tensors.items() if value.shape != shapes[name]]:
            raise CheckpointError(
                f"{directory}: '{wrong[0]}' has shape {tuple(tensors[wrong[0]].shape)}, not {tuple(shapes[wrong[0]])}"
            )
        take_dtypes(model, tensors, same_dtype)
    model.load_state_dict(tensors, strict=False)
    if "generation_config" in config:
        model.generation_config = type(model.generation_config).from_dict(config["generation_config"])
    model.saved_base = tuple(name for name in tensors if not name.startswith("hyperadapt."))
    return model.eval()


def place_of_model(path: Path) -> Path:
    """Find the saved model that a path means: a directory with one, a run's, or the file itself.

    Raises:
        CheckpointError: if there is none; it says what is there instead.
    """
    if path.name == WEIGHTS_FILE and path.is_file():
        return path.parent
    if not path.exists():
        raise CheckpointError(
            f"{path} holds no saved model, as it does not exist: {nothing_at(path.absolute())}; a path is that of a "
            "run, or of the folder that save_pretrained has written"
        )
    if (path / WEIGHTS_FILE).is_file() or not path.is_dir():
        return path
    if (path / RUN_MODEL / WEIGHTS_FILE).is_file():
        return path / RUN_MODEL
    checkpoints = [place for place in path.glob("checkpoint-*") if (place / WEIGHTS_FILE).is_file()]
    if checkpoints:
        newest = max(checkpoints, key=lambda place: (len(place.name), place.name))
        raise CheckpointError(
            f"{path} holds no saved model but the checkpoints of a training that is not finished; load one of them, as "
            f"{newest}"
        )
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(f"{path} holds an adapter of PEFT: peft.PeftModel.from_pretrained loads it")
    return path


def check_fingerprint(
    config: Mapping[str, Any],
    base: PreTrainedModel,
    digests: Mapping[str, TensorDigest],
    directory: Path,
) -> None:
    """Check that a base model is the one that a saved model was trained on.

    Raises:
        CheckpointError: if it is not.
    """
    expected = config["base_fingerprint"]
    if isinstance(expected, str):
        found = sampled_fingerprint(base)
        if found == expected:
            notice(
                f"{directory} was saved by an older version, which knows its base model by 64 samples of every tensor: "
                "whether all others are the same cannot be checked; save it anew to have them checked from then on"
            )
            return
    else:
        in_roundings = fingerprint(digests)
        agreed = [rounding for rounding, name in expected.items() if in_roundings.get(rounding) == name]
        if agreed:
            # What was adapted in a 16-bit type has one name in all roundings.
            wide = len(set(expected.values())) > 1 and config["base_dtype"] not in ROUNDINGS
            if wide and len(agreed) < len(expected) and base_dtypes(base)[0] not in ROUNDINGS:
                notice(
                    f"the base model is the one on which {directory} was trained only as rounded to {agreed[0]}; that "
                    "one had more digits, or this one has: what is computed differs a little"
                )
            return
        expected, found = (next(iter(names.values())) for names in (expected, in_roundings))
    if any(parameter.is_meta for parameter in base.parameters()):
        raise CheckpointError(f"the base model for {directory} has no numbers: it lies on the meta device")
    hint, rows = "", vocabulary(base)
    if (before := config.get("base_vocabulary", rows)) != rows:
        hint = f"; its vocabulary has {rows} tokens, and had {before} when it was adapted: resized embeddings are saved"
    elif base_dtypes(base)[0] in ("float16", "bfloat16"):
        hint = "; if it is, load it in the type in which it was adapted, or in float32"
    raise CheckpointError(
        f"{directory} was trained on another base model: '{config['base_model']}' ({config['base_class']}, fingerprint "
        f"{expected[:12]}), not '{base.config._name_or_path}' ({found[:12]}){hint}"
    )


def vocabulary(model: PreTrainedModel) -> int:
    """Return the rows of a model's token embeddings."""
    embeddings: Any = model.get_input_embeddings()
    return len(embeddings.weight)


def resize(model: AdaptedModel, tensors: Mapping[str, Tensor]) -> None:
    """Give embeddings and output layer the rows that the saved ones have, and a place to what was saved untied."""
    tied = model.state_dict().keys() - dict(model.named_parameters()).keys()
    untied = tied & {name for name in tensors if not name.startswith("hyperadapt.")}
    # Like all that has a place of its own they are compared with the base model's when the model is saved again.
    model.base_digests.update({name: digest_tensor(model.get_parameter(name)) for name in untied})
    name, embeddings = named_weight(model, model.get_input_embeddings())
    head: Any = model.get_output_embeddings()
    head_name = None if head is None else named_weight(model, head)[0]
    if name in tensors and tensors[name].ndim == 2 and len(tensors[name]) != len(embeddings):
        model.resize_token_embeddings(len(tensors[name]), mean_resizing=False)
        if head is not None and head_name not in tensors:
            model.set_output_embeddings(head)  # which had kept its rows
    for name in untied:
        # The whole layer, which may be one with that of the embeddings.
        place = name.rpartition(".")[0]
        parent, _, leaf = place.rpartition(".")
        setattr(model.get_submodule(parent), leaf, copy.deepcopy(model.get_submodule(place)))
        model.all_tied_weights_keys.pop(name, None)
    layer: Any = model.get_output_embeddings()  # another module where it was resized
    if layer is not None:
        name, weight = named_weight(model, layer)
        if name in tensors and tensors[name].ndim == 2 and len(tensors[name]) != len(weight):
            rows = weight.new_zeros(len(tensors[name]), *weight.shape[1:])
            layer.weight = nn.Parameter(rows, weight.requires_grad)
            layer.out_features = len(rows)


def named_weight(model: AdaptedModel, layer: Any) -> tuple[str, Tensor]:
    """Return a layer's weight, with the name that it has among a model's parameters."""
    (name,) = (name for name, parameter in model.named_parameters() if parameter is layer.weight)
    return name, layer.weight


def take_dtypes(model: AdaptedModel, tensors: Mapping[str, Tensor], same_dtype: bool) -> None:
    """Give a model's tensors the types in which they were saved.

    Args:
        model: whose tensors of these names are about to be loaded.
        tensors: the saved ones.
        same_dtype: whether the base model has the type that it had; if not, its own tensors take the one it has.
    """
    rounded = 0
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in tensors or tensor.dtype == tensors[name].dtype:
            continue
        if same_dtype or name.startswith("hyperadapt."):
            tensor.data = tensor.data.to(tensors[name].dtype)
        else:
            rounded += torch.promote_types(tensor.dtype, tensors[name].dtype) != tensor.dtype
    if rounded:
        notice(f"{rounded} trained tensors of the base model are rounded to the type in which it is loaded")


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


def load_base(config: dict[str, Any], path: Path) -> PreTrainedModel:
    """Load the base model that a saved model names."""
    import transformers

    name = config["base_model"]
    if not name:
        raise CheckpointError(
            f"{path} was trained on a base model built in memory; pass it: ha.load(path, base_model=…)"
        )
    base_class = getattr(transformers, config["base_class"], None)
    if not (isinstance(base_class, type) and issubclass(base_class, transformers.PreTrainedModel)):
        raise CheckpointError(
            f"{path} needs a base model of class {config['base_class']}, which transformers {transformers.__version__} "
            "does not have"
        )
    # A run that built its base model keeps it beside the saved model, wherever both are moved.
    beside = path.parent / OWN_BASE
    if beside.is_dir():
        manifest.check(beside)
    kept = Path(name).name == OWN_BASE and (beside / "config.json").is_file()
    place = str(beside) if kept else place_of(name)
    with hub.asking(place, str(path)) as unreachable:
        try:
            quantised = config["base_config"].get("quantization_config")
            base = base_class.from_pretrained(
                place,
                trust_remote_code=False,
                dtype=getattr(torch, config["base_dtype"]),
                quantization_config=quantised,
            )
            base.config._name_or_path = str(beside) if kept else name
            others: Any = config.get("base_dtypes")
            for parameter_name, parameter in base.named_parameters() if others is not None else ():
                # transformers keeps some of T5's matrices in float32 where float16 is asked for.
                dtype = others.get(parameter_name, None if quantised else config["base_dtype"])
                if dtype is not None and parameter.is_floating_point():
                    parameter.data = parameter.data.to(getattr(torch, dtype))
            return base
        except Exception as error:  # besides OSError whatever safetensors and torch make of a damaged file
            raise CheckpointError(
                f"the base model '{beside if kept else name}' of {path} cannot be loaded "
                f"({unreachable or reason_of(error)}); pass it: ha.load(path, base_model=…)"
            ) from None


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
