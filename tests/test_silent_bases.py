"""Base models that changed: resized, their rows set by hand, cast or tied anew; none of it is lost or overlooked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import T5ForConditionalGeneration

import hyperadapt as ha
from hyperadapt import CheckpointError, UserError
from hyperadapt.fast.output_layer import OutputLayer
from hyperadapt.model import file
from hyperadapt.model.fingerprint import digest_tensor, digest_tensors, fingerprint, sampled_fingerprint
from test_checkpoint import as_if_trained, header_of, logits, tensors_in
from tiny import PLUS_PLUS, TASKS, redraw, tiny_adapted, tiny_batch, tiny_t5

OWN_HEAD = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
ROWS = 104
# Of the linear map below, by the version before.
SAMPLED = "e8b3f6226d2446210dca273f2f917693270ecc0abba8603850119ec5e88e9735"
BATCH = tiny_batch(vocab_size=ROWS)


def base_model(own_head: bool = False) -> T5ForConditionalGeneration:
    base = tiny_t5(**(OWN_HEAD if own_head else {}))
    if own_head:
        base.lm_head.weight = nn.Parameter(torch.randn(96, 32, generator=torch.Generator().manual_seed(5)))
    return base


def adapted(own_head: bool = False, method: Any = PLUS_PLUS) -> Any:
    return redraw(ha.adapt(base_model(own_head), method, TASKS))


def frozen(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def embeddings_moved(model: Any) -> Any:
    """Set the rows that are new, as those of an added token."""
    with torch.no_grad():
        model.shared.weight[96:] = torch.randn(len(model.shared.weight) - 96, 32)
        model.lm_head.weight[96:].mul_(2)
    return model


# --- resized after `adapt` -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_head", [False, True], ids=["tied", "own head"])
@pytest.mark.parametrize("method", [PLUS_PLUS, ha.Adapters(reduction_factor=8), ha.FullFineTuning()])
def test_resized_embeddings_come_back_on_the_base_model_as_it_was(
    own_head: bool, method: Any, tmp_path: Path
) -> None:
    model = adapted(own_head, method)
    before = frozen(model)
    model.resize_token_embeddings(ROWS)
    assert frozen(model) == before
    assert (model.lm_head.weight is model.shared.weight) is not own_head
    embeddings_moved(as_if_trained(model)).save_pretrained(tmp_path / "saved")
    loaded = ha.load(tmp_path / "saved", base_model=base_model(own_head))
    assert loaded.config.vocab_size == loaded.shared.num_embeddings == ROWS
    assert (loaded.lm_head.weight is loaded.shared.weight) is not own_head
    assert frozen(loaded) == before
    assert torch.equal(logits(loaded, BATCH), logits(model.eval(), BATCH))
    loaded.save_pretrained(tmp_path / "again")
    assert header_of(tmp_path / "again") == header_of(tmp_path / "saved")


def test_a_smaller_vocabulary_comes_back_too(tmp_path: Path) -> None:
    model = adapted()
    model.resize_token_embeddings(80)
    model.save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=base_model())
    small = tiny_batch(vocab_size=80)
    assert loaded.shared.weight.shape == (80, 32)
    assert torch.equal(logits(loaded, small), logits(model, small))


def test_that_embeddings_are_saved_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = adapted()
    model.save_pretrained(tmp_path / "first")
    assert capfd.readouterr().err == ""
    assert "shared.weight" not in tensors_in(tmp_path / "first")
    model.resize_token_embeddings(ROWS, mean_resizing=False)
    capfd.readouterr()
    for name in ("second", "third"):
        model.save_pretrained(tmp_path / name)
        assert tensors_in(tmp_path / name)["shared.weight"].shape == (ROWS, 32)
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("note: 1 of the base model's own tensors are saved too")
    assert "shared.weight" in line


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_that_was_moved_by_a_bit_is_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    model = ha.adapt(base_model().to(dtype), PLUS_PLUS, TASKS)
    weight = model.encoder.block[0].layer[-1].DenseReluDense.wo.weight
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0, dtype=dtype))
    model.save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=base_model().to(dtype))
    assert torch.equal(loaded.encoder.block[0].layer[-1].DenseReluDense.wo.weight, weight)


def test_the_output_layer_is_as_fast_after_it_was_resized() -> None:
    model = adapted()
    assert isinstance(model.lm_head, OutputLayer)
    model.resize_token_embeddings(ROWS)
    assert isinstance(model.lm_head, OutputLayer)
    full = adapted(method=ha.FullFineTuning())
    full.resize_token_embeddings(ROWS)
    assert not isinstance(full.lm_head, OutputLayer)
    assert full.shared.weight.requires_grad


def test_resized_embeddings_are_generated_from(tmp_path: Path) -> None:
    model = adapted()
    model.resize_token_embeddings(ROWS)
    with torch.no_grad():
        model.shared.weight[99] = 3 * model.shared.weight[70]  # chosen where token 70 was
    model.save_pretrained(tmp_path)
    inputs = {name: BATCH[name] for name in ("input_ids", "attention_mask", "task_ids")}
    expected = model.generate(**inputs, max_new_tokens=5)
    assert (expected >= 96).any()
    assert torch.equal(
        ha.load(tmp_path, base_model=base_model()).generate(**inputs, max_new_tokens=5), expected
    )


# --- other changes after `adapt` -------------------------------------------------------------------------------------


def row_set(model: Any) -> None:
    model.shared.weight[40] += 1


def one_number(model: Any) -> None:
    model.encoder.block[1].layer[0].SelfAttention.k.weight[3, 17] += 1


def through_data(model: Any) -> None:
    model.decoder.block[0].layer[2].DenseReluDense.wo.weight.data.mul_(1.5)


def head_of_its_own(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight * 2, requires_grad=False)


def another_embedding(model: Any) -> None:
    model.set_input_embeddings(nn.Embedding.from_pretrained(model.shared.weight.detach() * 2))


def embeddings_of_the_encoder(model: Any) -> None:
    model.encoder.embed_tokens = nn.Embedding(96, 32)


def embeddings_of_both_stacks(model: Any) -> None:
    model.encoder.embed_tokens = model.decoder.embed_tokens = nn.Embedding(96, 32)


@pytest.mark.parametrize(
    "change",
    [
        row_set,
        one_number,
        through_data,
        head_of_its_own,
        another_embedding,
        embeddings_of_the_encoder,
        embeddings_of_both_stacks,
    ],
)
def test_frozen_tensors_that_were_changed_by_hand_come_back(
    change: Callable[[Any], None], tmp_path: Path
) -> None:
    model = adapted()
    before = logits(model)
    with torch.no_grad():
        change(model)
    assert not torch.equal(logits(model), before)
    model.save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=base_model())
    assert torch.equal(logits(loaded), logits(model))


def more_embeddings(model: Any) -> None:
    model.set_input_embeddings(nn.Embedding(ROWS, 32))


def another_head_after_a_resize(model: Any) -> None:
    model.resize_token_embeddings(ROWS)
    model.set_output_embeddings(nn.Linear(32, 96, bias=False))


def a_wider_head(model: Any) -> None:
    model.set_output_embeddings(nn.Linear(32, ROWS, bias=False))


@pytest.mark.parametrize("own_head", [False, True], ids=["tied", "own head"])
@pytest.mark.parametrize("change", [more_embeddings, another_head_after_a_resize, a_wider_head])
def test_embeddings_and_output_layer_of_different_sizes_come_back(
    change: Callable[[Any], None], own_head: bool, tmp_path: Path
) -> None:
    model = adapted(own_head)
    change(model)
    model.save_pretrained(tmp_path / "saved")
    loaded = ha.load(tmp_path / "saved", base_model=base_model(own_head))
    assert (loaded.shared.weight.shape, loaded.lm_head.weight.shape) == (
        model.shared.weight.shape,
        model.lm_head.weight.shape,
    )
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "again")
    again = ha.load(tmp_path / "again", base_model=base_model(own_head))
    assert torch.equal(logits(again), logits(model))


def bias(model: Any) -> None:
    model.encoder.block[0].layer[0].SelfAttention.k = nn.Linear(32, 32)


def head_with_a_bias(model: Any) -> None:
    model.set_output_embeddings(nn.Linear(32, 96))


def one_more_module(model: Any) -> None:
    model.extra = nn.Linear(3, 3)


def taken_out(model: Any) -> None:
    model.encoder.block[0].layer[1].DenseReluDense.wo = nn.Identity()


def wider(model: Any) -> None:
    model.encoder.block[0].layer[1].DenseReluDense.wo = nn.Linear(50, 32, bias=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bias, r"its base model had no 'encoder\.block\.0\.layer\.0\.SelfAttention\.k\.bias' at `adapt`"),
        (head_with_a_bias, r"its base model had no 'lm_head\.bias'"),
        (one_more_module, r"its base model had no 'extra\.weight'"),
        (taken_out, r"'encoder\.block\.0\.layer\.1\.DenseReluDense\.wo\.weight' is gone"),
        (wider, r"wo\.weight' had shape \(32, 48\) at `adapt`, and now has \(32, 50\)"),
    ],
)
@pytest.mark.parametrize("trained", [False, True])
def test_what_could_not_be_loaded_is_not_saved(
    change: Callable[[Any], None], message: str, trained: bool, tmp_path: Path
) -> None:
    model = adapted(own_head=True)
    before = {id(parameter) for parameter in model.parameters()}
    change(model)
    for parameter in model.parameters():
        if id(parameter) not in before:
            parameter.requires_grad_(trained)
    with pytest.raises(UserError, match=message) as error:
        model.save_pretrained(tmp_path / "saved")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "saved").exists()


def test_a_head_that_was_tied_after_adapt_comes_back(tmp_path: Path) -> None:
    model = adapted(own_head=True)
    model.lm_head.weight = model.shared.weight
    model.save_pretrained(tmp_path)
    loaded = ha.load(tmp_path, base_model=base_model(own_head=True))
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("own_head", [False, True], ids=["tied", "own head"])
def test_tying_weights_anew_ties_what_was_tied(own_head: bool) -> None:
    """T5's configuration says of every model that its output layer is tied; Trainer ties when it resumes."""
    model = adapted(own_head)
    before = logits(model)
    model.tie_weights()
    assert (model.lm_head.weight is model.shared.weight) is not own_head
    assert torch.equal(logits(model), before)
    assert model.encoder.embed_tokens.weight is model.shared.weight


# --- another base model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 47, 95])
def test_one_changed_row_makes_another_base_model(row: int, tmp_path: Path) -> None:
    tiny_adapted().save_pretrained(tmp_path)
    base = tiny_t5()
    with torch.no_grad():
        base.shared.weight[row, 7] += 0.5
    with pytest.raises(CheckpointError, match="was trained on another base model"):
        ha.load(tmp_path, base_model=base)


def test_rows_that_were_swapped_make_another_base_model() -> None:
    base = tiny_t5()
    before = fingerprint(digest_tensors(base.named_parameters()))
    with torch.no_grad():
        base.shared.weight.copy_(base.shared.weight[torch.randperm(96)])
    assert not before.items() & fingerprint(digest_tensors(base.named_parameters())).items()


def test_a_base_model_that_was_resized_before_needs_to_be_the_same(tmp_path: Path) -> None:
    base = tiny_t5()
    base.resize_token_embeddings(ROWS)
    redraw(ha.adapt(base, PLUS_PLUS, TASKS)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=rf"has 96 tokens, and had {ROWS} when it was adapted") as error:
        ha.load(tmp_path, base_model=tiny_t5())
    assert "\n" not in str(error.value)


def test_every_number_of_a_tensor_counts() -> None:
    values = torch.randn(70_000)  # more than a piece
    digest = digest_tensor(values)
    for place in (0, 1, 65_535, 65_536, 69_999):
        changed = values.clone()
        changed[place] *= 1.02
        assert not digest_tensor(changed).is_of(digest)
        changed = values.clone()
        changed[place] = torch.nextafter(changed[place], torch.tensor(9.0))  # by a bit
        assert not digest_tensor(changed).is_of(digest)
    assert not digest_tensor(values.flip(0)).is_of(digest)
    assert not digest_tensor(values.view(7, 10_000)).is_of(digest)
    assert digest_tensor(values.double()).is_of(digest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_model_is_known_again_in_either_16_bit_type(dtype: torch.dtype, tmp_path: Path) -> None:
    tiny_adapted().save_pretrained(tmp_path / "wide")
    redraw(ha.adapt(tiny_t5().to(dtype), PLUS_PLUS, TASKS)).save_pretrained(tmp_path / "narrow")
    for name in ("wide", "narrow"):
        for base in (tiny_t5().to(dtype), tiny_t5()):
            assert ha.load(tmp_path / name, base_model=base).tasks == TASKS
        with pytest.raises(CheckpointError, match="another base model"):
            ha.load(tmp_path / name, base_model=tiny_t5(seed=1).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_base_model_that_was_rounded_is_said_to_be_so(
    dtype: torch.dtype, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def rounded() -> Any:
        return tiny_t5().to(dtype).float()

    tiny_adapted().save_pretrained(tmp_path / "wide")
    redraw(ha.adapt(rounded(), PLUS_PLUS, TASKS)).save_pretrained(tmp_path / "rounded")
    redraw(ha.adapt(tiny_t5().to(dtype), PLUS_PLUS, TASKS)).save_pretrained(tmp_path / "narrow")
    # Once more, from the wide type: the base model is known in one rounding alone, and in a wide type.
    ha.load(tmp_path / "narrow", base_model=rounded()).save_pretrained(tmp_path / "widened")
    capfd.readouterr()
    same = [("wide", tiny_t5()), ("wide", tiny_t5().to(dtype)), ("rounded", rounded())]
    for name, base in [*same, ("narrow", rounded()), ("widened", rounded())]:
        ha.load(tmp_path / name, base_model=base)
        assert "only as rounded" not in capfd.readouterr().err
    for name, base in (("wide", rounded()), ("rounded", tiny_t5())):
        ha.load(tmp_path / name, base_model=base)
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert f"{name} was trained only as rounded to {str(dtype).removeprefix('torch.')}" in line


def test_numbers_that_float16_cannot_hold_are_told_apart(tmp_path: Path) -> None:
    def with_large(number: float) -> Any:
        base = tiny_t5()
        with torch.no_grad():
            base.shared.weight[5, 3] = number
        return base

    redraw(ha.adapt(with_large(1e6), PLUS_PLUS, TASKS)).save_pretrained(tmp_path)
    assert ha.load(tmp_path, base_model=with_large(1e6)).tasks == TASKS
    assert ha.load(tmp_path, base_model=with_large(1e6).bfloat16()).tasks == TASKS
    for base in (with_large(2e6), with_large(-1e6), with_large(2e6).bfloat16(), with_large(2e6).half()):
        with pytest.raises(CheckpointError, match="another base model"):
            ha.load(tmp_path, base_model=base)


# --- what an older version saved -------------------------------------------------------------------------------------


def as_saved_before(directory: Path) -> None:
    """Turn a saved model into one of format 1."""
    tensors, header = tensors_in(directory), header_of(directory)
    config = json.loads(header["hyperadapt"])
    config.update(format_version=1, base_fingerprint=sampled_fingerprint(tiny_t5()))
    del config["base_dtypes"], config["base_vocabulary"]
    config["digest"] = file.digest(config, tensors)
    save_file(tensors, directory / "model.safetensors", {**header, "hyperadapt": json.dumps(config)})


def test_a_model_of_the_version_before_loads_and_what_is_not_checked_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_adapted()
    model.save_pretrained(tmp_path / "old")
    as_saved_before(tmp_path / "old")
    capfd.readouterr()
    loaded = ha.load(tmp_path / "old", base_model=tiny_t5())
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "knows its base model by 64 samples of every tensor" in line
    assert torch.equal(logits(loaded), logits(model))
    with pytest.raises(CheckpointError, match="another base model"):
        ha.load(tmp_path / "old", base_model=tiny_t5(seed=1))
    loaded.save_pretrained(tmp_path / "new")
    base = tiny_t5()
    with torch.no_grad():
        base.shared.weight[-1, -1] += 1
    with pytest.raises(CheckpointError, match="another base model"):
        ha.load(tmp_path / "new", base_model=base)
    assert capfd.readouterr().err == ""


def test_the_samples_of_the_version_before_are_the_same_as_ever() -> None:
    base = nn.Linear(3, 2)
    with torch.no_grad():
        base.weight.copy_(torch.arange(6.0).view(2, 3))
        base.bias.copy_(torch.tensor([0.5, 0.25]))
    assert sampled_fingerprint(base) == SAMPLED
