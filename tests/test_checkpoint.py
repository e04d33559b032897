"""Saved models: what is saved, that it comes back exactly, and that nothing damaged or foreign is loaded."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5ForConditionalGeneration

import hyperadapt as ha
from hyperadapt import CheckpointError
from hyperadapt.counting import model_config
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from hyperadapt.model import file
from tiny import (
    METHODS,
    PLUS_PLUS,
    SMALL,
    TASKS,
    every_method,
    of_task,
    redraw,
    tiny_adapted,
    tiny_batch,
    tiny_t5,
)

BATCH = tiny_batch()
WEIGHTS = "model.safetensors"


@torch.no_grad()
def logits(model: Any, batch: dict[str, Tensor] = BATCH) -> Tensor:
    return model(**batch).logits


@torch.no_grad()
def as_if_trained(model: Any) -> Any:
    """Move all that is trained, the base model's layer norms or weights too."""
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.1, generator=generator))
    return model


def tensors_in(directory: Path) -> dict[str, Tensor]:
    with safe_open(directory / WEIGHTS, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def header_of(directory: Path) -> dict[str, str]:
    with safe_open(directory / WEIGHTS, "pt") as file:
        return dict(file.metadata())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved HyperFormer++, to be damaged."""
    as_if_trained(tiny_adapted()).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


# --- what is saved, and comes back -----------------------------------------------------------------------------------


@every_method
def test_a_saved_model_comes_back_bit_for_bit(method: Method, tmp_path: Path) -> None:
    model = as_if_trained(tiny_adapted(method))
    model.save_pretrained(tmp_path / "saved")
    loaded = ha.load(tmp_path / "saved", base_model=tiny_t5().train())
    assert not loaded.training
    assert (loaded.method, loaded.tasks) == (method, TASKS)
    assert loaded.base_fingerprint == model.base_fingerprint
    state = loaded.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name
    for name, parameter in loaded.named_parameters():
        assert parameter.requires_grad == model.get_parameter(name).requires_grad, name
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "again")
    assert header_of(tmp_path / "again") == header_of(tmp_path / "saved")


@every_method
def test_only_what_was_trained_is_saved(method: Method, tmp_path: Path) -> None:
    model = tiny_adapted(method)
    model.save_pretrained(tmp_path)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert tensors_in(tmp_path).keys() == trained
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hyperadapt.json", WEIGHTS]


@pytest.mark.parametrize(
    "options",
    [{"conditional_layer_norm": False}, {"task_projector": False}, {"train_task_embeddings_only": True}],
)
def test_options_come_back_with_the_model(options: dict[str, Any], tmp_path: Path) -> None:
    model = as_if_trained(tiny_adapted(ha.HyperFormerPlusPlus(reduction_factor=8, **SMALL, **options)))
    model.save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=tiny_t5())
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.method == model.method
    # Where z alone is trained, the hypernetwork that it feeds is saved with it.
    assert {name for name in tensors_in(tmp_path) if name.startswith("hyperadapt.")} == {
        f"hyperadapt.{name}" for name, _ in model.hyperadapt.named_parameters()
    }


def test_what_was_trained_is_saved_after_it_is_frozen(tmp_path: Path) -> None:
    """Transfer to a new task (HyperFormer, section 3.2): all but z frozen, the layer norms trained before are kept."""
    model = as_if_trained(tiny_adapted())
    model.save_pretrained(tmp_path / "first")
    model = ha.load(tmp_path / "first", base_model=tiny_t5())
    model.add_task("delta", init_from="beta")
    model.requires_grad_(False)
    model.hyperadapt.conditioning.z.requires_grad_(True)
    as_if_trained(model).save_pretrained(tmp_path / "second")
    loaded = ha.load(tmp_path / "second", base_model=tiny_t5())
    for task_id in range(4):
        assert torch.equal(logits(loaded, of_task(BATCH, task_id)), logits(model, of_task(BATCH, task_id)))


def test_what_the_user_trains_beside_the_methods_own_is_saved_again_and_again(tmp_path: Path) -> None:
    model = tiny_adapted()
    model.shared.requires_grad_(True)
    as_if_trained(model)
    assert not torch.equal(model.shared.weight, tiny_t5().shared.weight)
    for directory in (tmp_path / "first", tmp_path / "second"):
        model.save_pretrained(directory)
        model = ha.load(directory, base_model=tiny_t5())
    assert torch.equal(model.shared.weight, as_if_trained_shared())


def as_if_trained_shared() -> Tensor:
    model = tiny_adapted()
    model.shared.requires_grad_(True)
    return as_if_trained(model).shared.weight


@every_method
def test_a_model_with_a_task_added_comes_back(method: Method, tmp_path: Path) -> None:
    model = tiny_adapted(method)
    model.add_task("delta", init_from="beta")
    as_if_trained(model).save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=tiny_t5())
    assert loaded.tasks == (*TASKS, "delta")
    for task_id in range(4):
        assert torch.equal(logits(loaded, of_task(BATCH, task_id)), logits(model, of_task(BATCH, task_id)))


def test_given_features_come_back_without_their_file(tmp_path: Path) -> None:
    file = tmp_path / "features.json"
    file.write_text(json.dumps({"alpha": [1, 2], "beta": [3, 4], "gamma": [5, 6]}))
    model = redraw(ha.adapt(tiny_t5(), ha.HyperFormer(reduction_factor=8, task_features=str(file)), TASKS))
    model.add_task("delta", features=[7.0, 8.0])
    file.unlink()
    model.save_pretrained(tmp_path / "saved")
    loaded = ha.load(tmp_path / "saved", base_model=tiny_t5())
    assert loaded.hyperadapt.conditioning.z.shape == (4, 2)
    assert torch.equal(loaded.hyperadapt.conditioning.z, model.hyperadapt.conditioning.z)
    assert not loaded.hyperadapt.conditioning.z.requires_grad
    assert torch.equal(logits(loaded), logits(model))


def test_gathered_tensors_may_be_given_in_place_of_the_models(tmp_path: Path) -> None:
    model = tiny_adapted()
    gathered = {name: value + 1 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=gathered)
    for name, value in tensors_in(tmp_path).items():
        assert torch.equal(value, gathered[name])
    assert len(tensors_in(tmp_path)) < len(gathered)


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    tiny_adapted().save_pretrained(tmp_path / "saved", is_main_process=False)
    assert not (tmp_path / "saved").exists()


def test_the_copy_for_people_says_what_the_file_says(saved: Path) -> None:
    config = json.loads((saved / "hyperadapt.json").read_text())
    assert config == json.loads(header_of(saved)["hyperadapt"])
    assert config["method"] == {"name": "hyperformer++", **PLUS_PLUS.model_dump(mode="json")}
    assert config["tasks"] == list(TASKS)
    assert config["base_class"] == "T5ForConditionalGeneration"
    (saved / "hyperadapt.json").unlink()
    assert ha.load(saved, base_model=tiny_t5()).tasks == TASKS


def test_the_base_model_is_found_by_the_name_it_was_loaded_by(tmp_path: Path) -> None:
    tiny_t5().save_pretrained(tmp_path / "base")
    base = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    model = as_if_trained(redraw(ha.adapt(base, PLUS_PLUS, TASKS)))
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(ha.load(tmp_path / "saved")), logits(model.eval()))
    assert torch.equal(logits(ha.load(str(tmp_path / "saved"))), logits(model))


def test_a_model_of_v1_1_with_a_head_of_its_own_comes_back(tmp_path: Path) -> None:
    base = tiny_t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    base.lm_head.weight = torch.nn.Parameter(torch.randn(96, 32, generator=torch.Generator().manual_seed(0)))
    base.save_pretrained(tmp_path / "base")
    base = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    assert not torch.equal(base.lm_head.weight, base.shared.weight)
    for method in (ha.FullFineTuning(), PLUS_PLUS):
        base = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
        model = as_if_trained(ha.adapt(base, method, TASKS)).eval()
        model.save_pretrained(tmp_path / method.name)
        assert torch.equal(logits(ha.load(tmp_path / method.name)), logits(model))


def test_a_base_model_in_bfloat16_is_the_same_base_model(saved: Path) -> None:
    expected = logits(ha.load(saved, base_model=tiny_t5()))
    loaded = ha.load(saved, base_model=tiny_t5().to(torch.bfloat16))
    assert loaded.shared.weight.dtype == torch.bfloat16
    assert loaded.hyperadapt.conditioning.z.dtype == torch.float32
    assert torch.equal(loaded.hyperadapt.conditioning.z, tensors_in(saved)["hyperadapt.conditioning.z"])
    assert (logits(loaded).float() - expected).abs().max() < 0.06 * expected.abs().max()


def test_a_model_in_bfloat16_is_saved_in_bfloat16(tmp_path: Path) -> None:
    model = tiny_adapted().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    saved = tensors_in(tmp_path)
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    loaded = ha.load(tmp_path, base_model=tiny_t5()).state_dict()
    assert all(torch.equal(loaded[name], value.to(loaded[name].dtype)) for name, value in saved.items())


def test_hyperformer_plus_plus_on_t5_base_is_saved_in_under_25_mb() -> None:
    with torch.device("meta"):
        base = T5ForConditionalGeneration(model_config("google-t5/t5-base"))
        model = ha.adapt(base, ha.HyperFormerPlusPlus(reduction_factor=32), [f"task{n}" for n in range(8)])
    state = model.state_dict()
    size = sum(state[name].nbytes for name in file.saved_names(model))
    assert 4 * 1_000_000 < size < 25_000_000


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_t5().save_pretrained(tmp_path / "base")
    base = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    ha.adapt(base, PLUS_PLUS, TASKS).save_pretrained(tmp_path / "saved")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is unpickled")

    for owner, name in ((pickle, "Unpickler"), (pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    assert ha.load(tmp_path / "saved").tasks == TASKS


# --- a kill or a failure at any moment -------------------------------------------------------------------------------


def test_a_failure_while_saving_leaves_the_last_good_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (saved / WEIGHTS).read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=f"cannot write .*{WEIGHTS}: No space left on device"):
        tiny_adapted(METHODS[1]).save_pretrained(saved)
    monkeypatch.undo()
    assert (saved / WEIGHTS).read_bytes() == before
    assert sorted(path.name for path in saved.iterdir()) == ["hyperadapt.json", WEIGHTS]
    assert ha.load(saved, base_model=tiny_t5()).method == PLUS_PLUS


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match=f"cannot write {place}/{WEIGHTS}: "):
            tiny_adapted().save_pretrained(place)
    assert (tmp_path / "file").read_text() == ""


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from hyperadapt.model import file
from tiny import tiny_adapted

# Enough to write that a kill often falls within a save.
model, directory = tiny_adapted(d_model=64, num_layers=4), Path(sys.argv[1])
random.seed(0)
attempts = partly = 0
while attempts < 12 or partly < 2:  # how many of the kills fall within a save is the disk's to say
    attempts += 1
    child = os.fork()
    if child == 0:
        while True:
            for value in range(100):
                with torch.no_grad():
                    for parameter in model.hyperadapt.parameters():
                        parameter.fill_(value)
                file.save(model, directory)
                (directory / "begun").touch()
    while not (directory / "begun").exists():
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (directory / "begun").unlink(missing_ok=True)
    for unfinished in directory.glob(".*.tmp"):
        unfinished.unlink()
        partly += 1
    config, tensors = file.read(directory)
    own = [tensor for name, tensor in tensors.items() if name.startswith("hyperadapt.")]
    assert len({tensor.unique().item() for tensor in own}) == 1, "of two saves"
"""


def test_a_kill_at_any_moment_leaves_a_whole_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert ha.load(tmp_path, base_model=tiny_t5(d_model=64, num_layers=4)).tasks == TASKS


# --- what is not loaded ----------------------------------------------------------------------------------------------


def refused(directory: Path, message: str, base: Any = None) -> str:
    with pytest.raises(CheckpointError, match=message) as error:
        ha.load(directory, base_model=tiny_t5() if base is None else base)
    assert str(directory) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("part", [0.0, 1e-4, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(saved: Path, part: float) -> None:
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[: int(part * len(content))])
    refused(saved, "is truncated or corrupted")


def test_a_file_that_lacks_its_last_byte_or_has_one_more_is_refused(saved: Path) -> None:
    content = (saved / WEIGHTS).read_bytes()
    for damaged in (content[:-1], content + b"\0"):
        (saved / WEIGHTS).write_bytes(damaged)
        refused(saved, "is truncated or corrupted")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 1.0])
def test_a_flipped_bit_of_a_tensor_is_found(saved: Path, part: float) -> None:
    content = bytearray((saved / WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + int(part * (len(content) - start - 1))] ^= 1
    (saved / WEIGHTS).write_bytes(content)
    refused(saved, "is corrupted: its contents do not match their digest")


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [
        ('"beta"', '"bata"'),
        ('"activation": "gelu_new"', '"activation": "gelu_nuw"'),
        ('"activation": "gelu_new"', '"activation": "gelu"'),
        ('"reduction_factor": 8', '"reduction_factor": 5'),
        ('"train_layer_norms": true', '"train_layer_norms": trve'),
    ],
)
def test_a_damaged_header_is_refused(saved: Path, whole: str, damaged: str) -> None:
    content = (saved / WEIGHTS).read_bytes()
    whole, damaged = (json.dumps(part)[1:-1] for part in (whole, damaged))
    assert content.count(whole.encode()) == 1
    damaged = damaged.ljust(len(whole))  # the header keeps its length
    (saved / WEIGHTS).write_bytes(content.replace(whole.encode(), damaged.encode()))
    refused(saved, "corrupted|has shape")


def rewrite(saved: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Save the file anew, whole, with another content."""
    tensors, header = tensors_in(saved), header_of(saved)
    config = json.loads(header["hyperadapt"])
    change(config, tensors)
    config["digest"] = file.digest(config, tensors)
    save_file(tensors, saved / WEIGHTS, {**header, "hyperadapt": json.dumps(config)})


def test_a_newer_format_is_refused_with_both_numbers(saved: Path) -> None:
    newer = file.FORMAT_VERSION + 1
    rewrite(saved, lambda config, _: config.update(format_version=newer))
    refused(saved, f"of format {newer}, newer than the {file.FORMAT_VERSION} .* upgrade hyperadapt")


def test_another_base_model_of_the_same_shape_is_refused_by_name(saved: Path) -> None:
    message = refused(saved, "was trained on another base model", tiny_t5(seed=1))
    assert "T5ForConditionalGeneration" in message
    refused(saved, "was trained on another base model", tiny_t5(num_layers=1))
    model = ha.load(saved, base_model=tiny_t5())
    assert torch.equal(logits(model), logits(as_if_trained(tiny_adapted())))


@pytest.mark.parametrize("name", ["shared.weight", "encoder.block.1.layer.0.SelfAttention.k.weight"])
def test_a_base_model_that_differs_in_one_tensor_is_another(saved: Path, name: str) -> None:
    base = tiny_t5()
    with torch.no_grad():
        base.get_parameter(name).mul_(1.05)
    refused(saved, "was trained on another base model", base)


def test_a_folder_without_a_saved_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    there_is = f"holds no saved model, as it does not exist: {tmp_path} holds no"
    refused(
        tmp_path / "nowhere/my/model", f"nowhere/my/model {there_is} 'nowhere'; choices: mine; a path is that"
    )
    refused(
        tmp_path / "min", re.escape(f"{there_is} 'min'; did you mean 'mine'? (choices: mine); a path is that")
    )
    refused(tmp_path, f"holds no saved model: there is no file {WEIGHTS}")


def test_a_plain_transformers_model_is_refused(tmp_path: Path) -> None:
    tiny_t5().save_pretrained(tmp_path)
    refused(tmp_path, "was not saved by hyperadapt; load it with transformers")


def test_a_pickle_in_the_files_place_is_refused(tmp_path: Path) -> None:
    torch.save(tiny_t5().state_dict(), tmp_path / WEIGHTS)
    refused(tmp_path, "is truncated or corrupted")


def test_a_model_whose_tensors_are_not_its_methods_is_refused(saved: Path) -> None:
    def drop(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        del tensors["hyperadapt.conditioning.z"]

    def add(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors["hyperadapt.conditioning.z"] = torch.zeros(3, 12)
        tensors["stranger"] = torch.zeros(1)

    def reshape(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        del tensors["stranger"]
        tensors["hyperadapt.conditioning.z"] = torch.zeros(4, 12)

    rewrite(saved, drop)
    refused(saved, "does not hold the tensors of its method, as 'hyperadapt.conditioning.z'")
    rewrite(saved, add)
    refused(saved, "does not hold the tensors of its method, as 'stranger'")
    rewrite(saved, reshape)
    refused(saved, r"'hyperadapt.conditioning.z' has shape \(4, 12\), not \(3, 12\)")


def test_a_base_model_built_in_memory_must_be_passed(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"built in memory; pass it: ha.load\(path, base_model=…\)"):
        ha.load(saved)
