"""`load`: a saved model put onto its base model, of which it is checked that it is the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyperadapt import hub
from hyperadapt.backbones import backbone_of_type
from hyperadapt.errors import CheckpointError, nothing_at, notice, reason_of
from hyperadapt.files import manifest
from hyperadapt.methods import as_method, method_from
from hyperadapt.model.file import WEIGHTS_FILE, base_dtypes, read, saved_names, vocabulary
from hyperadapt.model.fingerprint import (
    ROUNDINGS,
    TensorDigest,
    digest_tensor,
    digest_tensors,
    fingerprint,
    sampled_fingerprint,
)
from hyperadapt.model.heads import HeadOptions, own_parameters
from hyperadapt.model.rollback import unchanged_on_failure
from hyperadapt.tiny_t5 import place_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hyperadapt.methods import Method
    from hyperadapt.model.adapted import AdaptedModel

RUN_MODEL = "model"  # directory, in that of a run, of its saved model
OWN_BASE = "base"  # directory, beside the saved model, of a base model that a run built


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
    from hyperadapt.model.adapt import adapt_with_features, check_base

    directory = place_of_model(Path(path))
    config, tensors = read(directory)
    if base_model is None:
        base_model = load_base(config, directory)
    check_base(base_model)
    heads = HeadOptions(**config["heads"]) if "heads" in config else None
    digests = digest_tensors(own_parameters(base_model, heads))
    check_fingerprint(config, base_model, digests, directory)
    method = method_from(config["method"]) if method is None else as_method(method)
    # Given z come from the checkpoint; the file that they were read from may be gone.
    has_features = getattr(method, "task_features", None) or method.description_encoder
    features = tensors["hyperadapt.conditioning.z"] if has_features else None
    same_dtype = base_dtypes(base_model)[0] == config["base_dtype"]
    with unchanged_on_failure(base_model):
        model = adapt_with_features(base_model, method, config["tasks"], features, digests, heads)
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
            backbone, own = backbone_of_type(config["base_config"]["model_type"]), dict[str, Any]()
            if place.endswith(".gguf"):
                file = Path(place)
                place, own = str(file.parent), {"gguf_file": file.name}
                quantised = transformers.GgufConfig(dequantize=True)
            base = backbone.load(
                base_class,
                place,
                dtype=getattr(torch, config["base_dtype"]),
                quantization_config=quantised,
                **own,
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
