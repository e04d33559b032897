"""The base model and the tokenizer of a run: loaded from the hub or a directory, or built from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperadapt import hub
from hyperadapt.config.sections import ModelConfig
from hyperadapt.errors import UserError, nearest, reason_of
from hyperadapt.files import manifest
from hyperadapt.files.paths import check_hub_name
from hyperadapt.tiny_t5 import NAME as TINY_T5
from hyperadapt.tiny_t5 import place_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


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


def load_base(model: ModelConfig, name: str, field: str) -> PreTrainedModel:
    """Load a base model from the hub or a directory, as configured."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    options = {"dtype": getattr(torch, model.dtype), "quantization_config": model.quantization}
    return quietly(AutoModelForSeq2SeqLM.from_pretrained, place_of(name), field, **options)


def load_or_build(model: ModelConfig, seed: int, saved: Path | None) -> PreTrainedModel:
    """Load the base model, or build it, with transformers' choice of an attention."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration, set_seed

    dtype = getattr(torch, model.dtype)
    if model.name is not None:
        check_hub_name(model.name, "model.name")
        base = load_base(model, model.name, "model.name")
        is_here = Path(model.name).is_dir()
        base.config._name_or_path = str(Path(model.name).resolve()) if is_here else model.name
        return base
    if saved is not None and (manifest.check(saved) or saved.is_dir()):
        return quietly(AutoModelForSeq2SeqLM.from_pretrained, str(saved), "the run's base model", dtype=dtype)
    given = model.config or {}
    known = T5Config().to_dict()
    for name in given:
        if name not in known:
            raise UserError(f"model.config: field '{name}' is unknown; {nearest(name, known)}")
    try:
        set_seed(seed if model.seed is None else model.seed)
        config = T5Config(**{"decoder_start_token_id": 0, **given})
        return T5ForConditionalGeneration(config).to(dtype)
    except Exception as error:  # whatever transformers and torch make of a wrong value
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
