"""What people do with a transformers model: pickles, replicas, tracing, quantisation, generation, many tasks."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle
from transformers import ByT5Tokenizer, DataCollatorForSeq2Seq, GenerationConfig

import hyperadapt as ha
from hyperadapt.architectures import Answering, EncoderDecoder, Request
from hyperadapt.architectures.base import padded
from hyperadapt.architectures.encoder_decoder import log_likelihoods
from hyperadapt.architectures.generation import notice_once
from hyperadapt.conditioning import Inputs
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from hyperadapt.model.stack import AdaptedStack
from hyperadapt.training.mixing import MixtureBatchSampler, sampling_rates
from tiny import (
    METHODS,
    NARROW,
    PLUS_PLUS,
    TASKS,
    every_method,
    gradients,
    name_of,
    relative_error,
    row,
    tiny_adapted,
    tiny_batch,
    tiny_t5,
)

BATCH = tiny_batch()
GIVEN = {name: value for name, value in BATCH.items() if name != "labels"}
# Of each kind: per task, per row, and gated; conditioned or not.
KINDS = (PLUS_PLUS, METHODS[5], METHODS[9], METHODS[14])
every_kind = pytest.mark.parametrize("method", KINDS, ids=name_of)


@torch.no_grad()
def logits(model: Any, batch: dict[str, Tensor] = BATCH) -> Tensor:
    return model(**batch, use_cache=False).logits


# --- copies and pickles ----------------------------------------------------------------------------------------------


def through_torch(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "oldest pickle": lambda model: pickle.loads(pickle.dumps(model, protocol=0)),
    "torch.save": through_torch,
    "to another process": lambda model: pickle.loads(bytes(ForkingPickler.dumps(copy.deepcopy(model)))),
}


@pytest.mark.parametrize(
    ("way", "method"),
    [(way, method) for way in COPIES for method in (METHODS if way in ("deepcopy", "pickle") else KINDS)],
    ids=lambda of: of if isinstance(of, str) else name_of(of),
)
def test_a_model_that_is_pickled_is_the_same_and_its_own(way: str, method: Method) -> None:
    model = tiny_adapted(method)
    copied, expected = COPIES[way](model), logits(model)
    assert torch.equal(logits(copied), expected)
    assert type(copied) is type(model)
    mine = {id(module) for module in copied.modules()}
    for module in copied.modules():
        for value in vars(module).values():  # what points up the tree, or across it, points into the copy
            if isinstance(value, tuple):
                assert all(id(of) in mine for of in value if isinstance(of, nn.Module))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), expected)
    copied.add_task("delta")
    assert len(model.tasks) == len(TASKS)


def test_a_norm_that_is_copied_alone_brings_no_second_model_along() -> None:
    model = tiny_adapted()
    copied = copy.deepcopy(model.encoder.final_layer_norm)
    assert copied.model[0] is model
    assert copied.weight is not model.encoder.final_layer_norm.weight


class Holder(nn.Module):
    """Holds a part of a model before the model itself, so that a copy reaches the part first."""

    def __init__(self, model: Any, part: Any) -> None:
        super().__init__()
        self.part, self.whole = part, model


@pytest.mark.parametrize("part", ["encoder", "encoder.final_layer_norm"])
def test_a_copy_that_reaches_a_part_first_shares_nothing_with_the_model(part: str) -> None:
    model = tiny_adapted()
    copied = copy.deepcopy(Holder(model, model.get_submodule(part)))
    pair = copy.deepcopy((model.get_submodule(part), model))
    for one, whole in ((copied.part, copied.whole), pair):
        assert whole is not model
        assert whole.get_submodule(part) is one
        assert {id(parameter) for parameter in whole.parameters()}.isdisjoint(map(id, model.parameters()))
    alone = copy.deepcopy(model.encoder)  # whose forward needs a model's weights: its own
    assert alone.model[0] is not model
    assert alone.model[0].encoder is alone


def test_hooks_of_a_new_process_do_not_take_the_place_of_what_a_site_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_adapted(METHODS[14])
    copied = pickle.loads(pickle.dumps(model))
    calls = []
    for first in range(8):  # a new process counts its hooks from 0 again
        monkeypatch.setattr(RemovableHandle, "next_id", first)
        for module in copied.modules():
            RemovableHandle.next_id = first
            module.register_forward_hook(lambda module, args, output: calls.append(module))
    assert torch.equal(logits(copied), logits(model))
    assert calls


@pytest.mark.skipif(sys.platform == "win32", reason="there is no forkserver")
@pytest.mark.usefixtures("forkserver")
def test_workers_of_a_data_loader_are_given_the_model_with_the_collator() -> None:
    collator = DataCollatorForSeq2Seq(ByT5Tokenizer(), model=tiny_adapted(num_layers=1))
    rows = [{"input_ids": [5, 6, 1], "labels": [7, 1], "task_ids": task_id} for task_id in range(3)]
    loader = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=3,
        collate_fn=collator,
        num_workers=1,
        multiprocessing_context="forkserver",
    )
    [batch] = list(loader)
    assert batch["task_ids"].tolist() == [0, 1, 2]
    assert batch["decoder_input_ids"].tolist() == [[0, 7]] * 3


# --- replicas, tracing, quantisation ---------------------------------------------------------------------------------


def replicas(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two replicas as nn.DataParallel makes them, on the CPU, which it does not know: only the copying is ours."""
    replicate = sys.modules["torch.nn.parallel.replicate"]
    monkeypatch.setattr(replicate, "_get_device_index", lambda device, optional: device)
    monkeypatch.setattr(
        replicate,
        "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach=False: [[tensor.clone() for tensor in tensors] for _ in devices],
    )
    return torch.nn.parallel.replicate(model, [0, 1])


@every_method
def test_replicas_of_data_parallel_side_by_side_are_the_model(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shares = tiny_adapted(method).train(), [range(3), range(3, 6)]
    model(**BATCH, use_cache=False).logits.square().sum().backward()
    expected, whole = gradients(model), logits(model)
    model.zero_grad()
    found: list[Any] = [None, None]

    def run(place: int, replica: Any) -> None:
        share = {name: value[list(shares[place])] for name, value in BATCH.items()}
        found[place] = replica(**share, use_cache=False).logits

    copies = replicas(model, monkeypatch)
    threads = [threading.Thread(target=run, args=given) for given in enumerate(copies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(torch.cat(found), whole, rtol=0, atol=1e-5)
    torch.cat(found).square().sum().backward()
    for name, value in gradients(model).items():
        assert relative_error(value, expected[name]) < 1e-4, name
    for replica in copies:
        stacks = [module for module in replica.modules() if isinstance(module, AdaptedStack)]
        assert all(stack.model[0] is replica for stack in stacks), "a replica reads another device's weights"


@pytest.mark.parametrize("way", ["frozen", "replica"])
def test_norms_that_were_trained_keep_the_models_type_when_no_gradient_is_wanted_of_them(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ha.adapt(tiny_t5().to(torch.bfloat16), ha.AdaptersDagger(reduction_factor=8), TASKS)
    expected = logits(model)
    with torch.no_grad():
        other = model.requires_grad_(False) if way == "frozen" else replicas(model, monkeypatch)[1]
        assert torch.equal(logits(other), expected)


@pytest.mark.filterwarnings("ignore")
def test_tracing_is_refused_as_it_would_keep_one_batchs_tasks() -> None:
    model = tiny_adapted(num_layers=1)
    with pytest.raises(UserError, match=r"torch\.jit\.trace would keep the tasks of one batch"):
        torch.jit.trace(model.encoder, (GIVEN["input_ids"],), strict=False)


def test_an_exported_model_holds_for_other_tasks() -> None:
    model = tiny_adapted(num_layers=1)
    given = {**GIVEN, "decoder_input_ids": BATCH["labels"].clamp_min(0), "use_cache": False}
    exported = torch.export.export(model, (), given, strict=False).module()
    others = {**given, "task_ids": torch.tensor([1, 1, 1, 2, 2, 2])}
    with torch.no_grad():
        torch.testing.assert_close(exported(**others)["logits"], model(**others).logits, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "method", [PLUS_PLUS, ha.Hyperdecoder(**NARROW), ha.TaskHypernet(**NARROW)], ids=name_of
)
def test_dynamic_quantisation_takes_the_base_models_maps_and_leaves_the_methods(method: Method) -> None:
    model = tiny_adapted(method)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    inputs = Inputs("encoder", BATCH["input_ids"], BATCH["task_ids"])
    if method.name == "hyperdecoder":
        inputs = inputs._replace(stack="decoder", encoded=torch.randn(6, 9, 32))
    generated = [of.hyperadapt.generate(inputs).weights for of in (model, quantised)]
    for ours, found in zip(*generated, strict=True):
        assert all(torch.equal(ours[name], found[name]) for name in ours)
    assert 0 < (logits(quantised) - logits(model)).abs().max() < 2
    # With nothing added the rest is what the base model alone becomes.
    with torch.no_grad():
        for of in (model, quantised):
            for parameter in of.hyperadapt.parameters():
                parameter.zero_()
        base = torch.ao.quantization.quantize_dynamic(tiny_t5(), {nn.Linear}, dtype=torch.qint8)
        expected = base.encoder(input_ids=BATCH["input_ids"]).last_hidden_state
        known = {"task_ids": BATCH["task_ids"]} if method.task_conditioned else {}
        found = quantised.encoder(input_ids=BATCH["input_ids"], **known).last_hidden_state
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model_is_to_be_saved_before(tmp_path: Path) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(tiny_adapted(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UserError, match="quantised after `adapt`, and cannot be saved: save it before"):
        quantised.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# --- generation ------------------------------------------------------------------------------------------------------


@every_kind
def test_assisted_generation_is_the_greedy_one(method: Method) -> None:
    model = tiny_adapted(method, num_layers=1)
    helpers = {
        "another": {"assistant_model": tiny_adapted(method, seed=5, num_layers=1)},
        "base": {"assistant_model": ha.adapt(tiny_t5(7, num_layers=1), ha.FullFineTuning(), TASKS)},
        "lookup": {"prompt_lookup_num_tokens": 3},
    }
    for index in range(2):
        one = row(GIVEN, index)
        varied = {"max_new_tokens": 6, "min_new_tokens": 6, "no_repeat_ngram_size": 1}
        greedy = model.generate(**one, **varied)
        assert len(set(greedy[0].tolist())) > 4
        for name, options in helpers.items():
            found = model.generate(**one, **varied, **options)
            assert torch.equal(found, greedy), name


def test_an_assistant_that_knows_no_tasks_is_refused_and_told_how_to() -> None:
    with pytest.raises(UserError, match=r"assistant_model does not know task_ids.*FullFineTuning"):
        tiny_adapted().generate(**row(GIVEN, 0), assistant_model=tiny_t5(), max_new_tokens=3)


def test_an_assistant_that_is_given_by_position_is_refused_too() -> None:
    given = row(GIVEN, 0)
    with pytest.raises(UserError, match="assistant_model does not know task_ids"):
        tiny_adapted().generate(
            given["input_ids"], *[None] * 5, tiny_t5(), task_ids=given["task_ids"], max_new_tokens=3
        )


BROUGHT: dict[str, dict[str, Any]] = {
    "penalties": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.3},
    "forced tokens": {"forced_bos_token_id": 9, "forced_eos_token_id": 1, "suppress_tokens": [5, 6]},
    "several": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0},
    "records": {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True},
    "lengths": {"max_length": 3, "min_length": 3},
}


def with_config(model: Any, **brought: Any) -> Any:
    config = {**model.generation_config.to_dict(), "max_length": 7, "min_length": 7, **brought}
    model.generation_config = GenerationConfig.from_dict(config)
    return model


@every_kind
@pytest.mark.parametrize("kind", BROUGHT)
def test_what_a_base_brings_along_holds_for_each_row_as_alone(method: Method, kind: str) -> None:
    model = with_config(tiny_adapted(method, num_layers=1), **BROUGHT[kind])
    mixed, alone = model.generate(**GIVEN), [model.generate(**row(GIVEN, index)) for index in range(6)]
    if kind == "records":
        scores = [torch.stack(of.scores) for of in (mixed, *alone)]
        torch.testing.assert_close(scores[0], torch.cat(scores[1:], 1), rtol=0, atol=1e-4)
        mixed, alone = mixed.sequences, [of.sequences for of in alone]
    assert torch.equal(mixed, torch.cat(alone))
    assert len(mixed) == 6 * BROUGHT[kind].get("num_return_sequences", 1)


def test_a_repetition_penalty_and_a_forced_token_are_what_they_say() -> None:
    model = with_config(tiny_adapted(), repetition_penalty=1.7, forced_bos_token_id=9, min_length=0)
    tokens = torch.zeros(6, 1, dtype=torch.long)
    for step in range(6):
        with torch.no_grad():
            scores = model(**GIVEN, decoder_input_ids=tokens).logits[:, -1]
        seen = scores.gather(1, tokens)
        scores = scores.scatter(1, tokens, torch.where(seen < 0, seen * 1.7, seen / 1.7))
        chosen = torch.full((6,), 9) if step == 0 else scores.argmax(-1)
        ended = (tokens == 1).any(1)
        tokens = torch.cat([tokens, torch.where(ended, 0, chosen)[:, None]], 1)
    found = model.generate(**GIVEN)
    assert torch.equal(found, tokens[:, : found.shape[1]])


@pytest.fixture
def said_anew() -> Iterator[None]:
    """Nothing has been said yet."""
    notice_once.cache_clear()
    yield
    notice_once.cache_clear()


def predictions(model: Any, **options: Any) -> list[tuple[str, float]]:
    sources = [[token for token in source if token] for source in BATCH["input_ids"].tolist()]
    requests = [
        Request(task_id, ids, (2, 6), likelihood)
        for task_id, ids, likelihood in zip(
            BATCH["task_ids"].tolist(), sources, [True, False] * 3, strict=True
        )
    ]
    return EncoderDecoder().answer(model, ByT5Tokenizer(), requests, Answering(**options))


@pytest.mark.usefixtures("said_anew")
@pytest.mark.parametrize("kind", BROUGHT)
def test_predictions_are_the_same_whatever_a_base_brings_along_and_that_is_said_once(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_adapted()
    expected = predictions(model)
    assert capsys.readouterr().err == ""
    model.generation_config = GenerationConfig.from_dict(
        {**model.generation_config.to_dict(), **BROUGHT[kind]}
    )
    for _ in range(2):
        assert predictions(model) == expected
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert "what the base model's generation_config asks for" in line
    assert all(f"{name}={value!r}" in line for name, value in BROUGHT[kind].items())


def test_the_tokens_that_end_and_fill_a_text_are_the_bases_own() -> None:
    model = tiny_adapted()
    end = int(model.generate(**GIVEN, max_new_tokens=1)[0, 1])  # with which the base may have all texts end
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = [1, end], 3
    batch = padded(
        model, ByT5Tokenizer(), [Request(task, GIVEN["input_ids"][0].tolist(), (0, 6)) for task in (0, 2)]
    )
    found = model.generate(**batch, max_new_tokens=6)
    assert found[0].tolist() == [0, end, 3, 3, 3, 3, 3]
    [first, _] = log_likelihoods(model, batch, found)
    with torch.no_grad():
        scores = model(**batch, decoder_input_ids=found[:, :-1]).logits.log_softmax(-1)[0]
    assert first == pytest.approx(float(scores[0, end]))


def test_a_filling_token_within_a_text_counts_as_any_other() -> None:
    model = tiny_adapted()
    tokens = torch.tensor([[0, 7, 0, 8, 1, 0]])
    batch = {name: value[:1] for name, value in GIVEN.items()}
    with torch.no_grad():
        scores = model(**batch, decoder_input_ids=tokens[:, :-1]).logits.log_softmax(-1)[0]
    expected = float(sum(scores[place, tokens[0, place + 1]] for place in range(4)))
    assert log_likelihoods(model, batch, tokens) == pytest.approx([expected])


def test_a_generation_config_is_saved_and_loaded_with_the_model(tmp_path: Path) -> None:
    model = with_config(tiny_adapted(), repetition_penalty=1.7, num_beams=2)
    model.save_pretrained(str(tmp_path))
    loaded = ha.load(tmp_path, base_model=tiny_t5())
    assert loaded.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()
    assert torch.equal(loaded.generate(**GIVEN), model.generate(**GIVEN))


# --- many tasks ------------------------------------------------------------------------------------------------------


class Counted(str):
    """A name that counts how often names are compared."""

    comparisons: ClassVar[int] = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str.__eq__(self, other)  # type: ignore[no-any-return]


class ReadOften(list[int]):
    """Sizes that count how often they are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        return super().__iter__()


def test_as_many_tasks_as_one_likes_are_told_apart_in_one_pass() -> None:
    many = 2000
    names = [Counted(f"task{number}") for number in range(many)]
    Counted.comparisons = 0
    model = ha.adapt(tiny_t5(num_layers=1), PLUS_PLUS, names)
    assert [model.task_id(name) for name in map(Counted, names)] == list(range(many))
    model.add_task("mean", init_from=list(map(Counted, names)))
    model.keep_tasks([Counted(name) for name in reversed(model.tasks)])
    assert Counted.comparisons < 20 * many
    assert model.task_id("mean") == 0
    assert model.task_id("task0") == many


def test_of_many_repeated_tasks_a_few_are_named() -> None:
    names = [f"task{number:04}" for number in range(1000)]
    with pytest.raises(UserError, match=r"tasks are repeated: task0000, .*task0007 and 992 more$"):
        ha.adapt(tiny_t5(num_layers=1), PLUS_PLUS, names * 2)


def test_the_rates_of_many_tasks_are_made_in_a_few_passes() -> None:
    sizes = ReadOften(range(1, 501))
    rates = sampling_rates(sizes, temperature=2.0)
    assert sizes.passes < 10
    total = sum(size**0.5 for size in range(1, 501))
    assert rates == pytest.approx([size**0.5 / total for size in range(1, 501)])


def test_a_window_of_the_mixture_looks_at_the_tasks_it_draws_and_not_at_all() -> None:
    asked: list[int] = []

    class Watched(MixtureBatchSampler):
        def _rows(self, task: int, first: int, count: int) -> Any:
            asked.append(task)
            return super()._rows(task, first, count)

    lengths: Sequence[Sequence[int]] = [[5, 7]] * 5000
    batches = list(Watched(lengths, batch_size=4, num_batches=10, window=5))
    assert len(batches) == 10
    assert len(asked) <= 40
