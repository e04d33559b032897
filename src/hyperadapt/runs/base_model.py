"""The base model and the tokenizer of a run: loaded from the hub or a directory, or built from a configuration."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperadapt import hub
from hyperadapt.backbones import backbone_of_type
from hyperadapt.backbones.base import Backbone
from hyperadapt.config.sections import ModelConfig
from hyperadapt.errors import UserError, nearest, nothing_at, notice, reason_of
from hyperadapt.files import manifest
from hyperadapt.files.paths import check_hub_name
from hyperadapt.tiny_t5 import NAME as TINY_T5
from hyperadapt.tiny_t5 import place_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SECONDS_OF_PATIENCE = 20.0


def save_base(base: PreTrainedModel, names: Sequence[str], config: PretrainedConfig, directory: Path) -> None:
    """Save a base model that exists nowhere else, as transformers would."""
    from safetensors.torch import save_file

    directory.mkdir(exist_ok=True)
    tied = set(getattr(base, "all_tied_weights_keys", {}))
    state = base.state_dict()
    tensors = {name: state[name].contiguous() for name in names if name not in tied}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(directory))


def load_tokenizer(model: ModelConfig, saved: Path | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model configuration, or the one that a run has kept."""
    from transformers import AutoTokenizer, ByT5Tokenizer

    if saved is not None:
        return quietly(AutoTokenizer.from_pretrained, str(saved), "the run's tokenizer")
    if model.tokenizer == "bytes":
        return ByT5Tokenizer()
    if model.gguf is not None and model.tokenizer is None:
        file = Path(model.gguf)
        check_gguf(file)
        return quietly(AutoTokenizer.from_pretrained, str(file.parent), "model.gguf", gguf_file=file.name)
    field, name = ("model.tokenizer" if model.tokenizer else "model.name"), str(model.tokenizer or model.name)
    check_hub_name(name, field)
    return quietly(AutoTokenizer.from_pretrained, place_of(name), field)


def build_base(model: ModelConfig, seed: int, saved: Path | None = None) -> PreTrainedModel:
    """Load the base model, or build it from a config with random weights.

    Args:
        model: its configuration.
        seed: of random weights, unless the configuration has its own.
        saved: where the run has saved the model that it built before.

    Raises:
        UserError: if it cannot be loaded, the config has an unknown field, or attention cannot be computed that way.
    """
    base = load_or_build(model, seed, saved)
    choose_attention(base, model)
    return base


def choose_attention(base: PreTrainedModel, model: ModelConfig) -> None:
    """Let the base model compute its attention as configured, or leave it as it is."""
    if model.attn_implementation is not None:
        try:
            base.set_attn_implementation(model.attn_implementation)
        except Exception as error:  # transformers' own, or that of a package which the attention needs
            raise UserError(f"model.attn_implementation: {' '.join(str(error).split())}") from None


def load_base(model: ModelConfig, name: str, field: str, **place: Any) -> PreTrainedModel:
    """Load a base model from the hub or a directory, as configured, by the class of its architecture.

    Args:
        model: its configuration.
        name: on the hub, or a directory.
        field: that names it, for errors.
        place: in that, where it is one of its files.
    """
    import torch
    import transformers

    config = quietly(transformers.AutoConfig.from_pretrained, place_of(name), field, **place)
    backbone = backbone_named(config, field)
    options = {"dtype": getattr(torch, model.dtype), "quantization_config": model.quantization, **place}
    return quietly(partial(backbone.load, backbone.auto_class), place_of(name), field, **options)


def backbone_named(config: PretrainedConfig, field: str) -> Backbone:
    """Return the backbone of a configuration's family.

    Raises:
        UserError: if it has none.
    """
    try:
        return backbone_of_type(config.model_type)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None


def load_or_build(model: ModelConfig, seed: int, saved: Path | None) -> PreTrainedModel:
    """Load the base model, or build it, with transformers' choice of an attention."""
    import torch
    import transformers

    if model.name is not None:
        check_hub_name(model.name, "model.name")
        base = load_base(model, model.name, "model.name")
        is_here = Path(model.name).is_dir()
        base.config._name_or_path = str(Path(model.name).resolve()) if is_here else model.name
        return base
    if model.gguf is not None:
        return load_gguf(model, Path(model.gguf))
    if saved is not None and (manifest.check(saved) or saved.is_dir()):
        return load_base(model, str(saved), "the run's base model")
    config = built_config(model.config or {})
    backbone = backbone_named(config, "model.config")
    try:
        transformers.set_seed(seed if model.seed is None else model.seed)
        return backbone.build(config).to(getattr(torch, model.dtype))
    except Exception as error:  # whatever transformers and torch make of a wrong value
        raise UserError(f"model.config: {' '.join(str(error).split())}") from None


def load_gguf(model: ModelConfig, file: Path) -> PreTrainedModel:
    """Load a base model of a GGUF file, whose weights are what its quantised ones stand for.

    Raises:
        UserError: if the file is not there, or the package that reads it.
    """
    from transformers import GgufConfig

    check_gguf(file)
    whole, begin = model.model_copy(update={"quantization": GgufConfig(dequantize=True)}), time.monotonic()
    base = load_base(whole, str(file.parent), "model.gguf", gguf_file=file.name)
    base.config._name_or_path = str(file)
    if (seconds := time.monotonic() - begin) > SECONDS_OF_PATIENCE:
        notice(
            f"model.gguf: to read {file.name} took {seconds:.0f} s, as it will for each command; save it once in "
            "Python, from_pretrained(FOLDER, gguf_file=FILE).save_pretrained(OTHER), its tokenizer too, and give "
            "model.name=OTHER"
        )
    return base


def check_gguf(file: Path) -> None:
    """Check that a GGUF file is there, and the package that reads it.

    Raises:
        UserError: if not.
    """
    if not file.is_file():
        raise UserError(f"model.gguf: there is no file {file}: {nothing_at(file)}")
    if find_spec("gguf") is None:
        raise UserError("model.gguf: the package gguf is missing; pip install 'hyperadapt[gguf]'")


def built_config(fields: Mapping[str, Any]) -> PretrainedConfig:
    """Make a configuration of its fields, of which `model_type` names the family, T5 by default.

    Raises:
        UserError: if a field is unknown or wrong, or the family has no backbone.
    """
    from transformers import AutoConfig

    family = str(fields.get("model_type", "t5"))
    backbone = backbone_of_type(family)  # known before transformers is asked
    own = {name: value for name, value in fields.items() if name != "model_type"}
    known = AutoConfig.for_model(family)
    names = [*{**known.to_dict(), **known.attribute_map}, *backbone.fields]
    for name in own:
        if name not in names:
            raise UserError(f"model.config: field '{name}' is unknown; {nearest(name, names)}")
    start = {"decoder_start_token_id": 0} if family == "t5" else {}
    try:
        return AutoConfig.for_model(family, **{**start, **own})
    except Exception as error:  # whatever transformers makes of a wrong value
        raise UserError(f"model.config: {' '.join(str(error).split())}") from None


def quietly(load: Any, name: str, field: str, **options: Any) -> Any:
    """Load from the hub or a directory; say in one line what is wrong."""
    if not Path(name).is_dir() and not hub.may_be_there(name):
        raise UserError(f"{field}: there is no directory '{name}'")
    manifest.check(Path(name))
    if not Path(name).is_dir() and get_close_matches(name, [TINY_T5], cutoff=0.8):
        raise UserError(f"{field}: there is no model '{name}'; did you mean '{TINY_T5}'?")
    with hub.asking(name, field) as unreachable:
        try:
            # Else transformers asks on standard input whether it may run what came with a stranger's tokenizer.
            return load(name, trust_remote_code=False, **options)
        except Exception as error:  # tokenizers and safetensors raise errors of their own
            raise UserError(
                f"{field}: '{name}' is neither a local directory with the right files nor to be had from the hub "
                f"({unreachable or reason_of(error)}); '{TINY_T5}' comes with this package"
            ) from None
