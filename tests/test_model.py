"""The adapted model: mixed batches, generation, gradients, precision, compilation, signature, tasks added, errors."""

from __future__ import annotations

import copy
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from torch import Tensor
from transformers import (
    CompileConfig,
    DynamicCache,
    EncoderDecoderCache,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    StaticCache,
    T5EncoderModel,
    T5ForConditionalGeneration,
    default_data_collator,
)
from transformers.models.t5.modeling_t5 import T5Block, T5LayerNorm, T5Stack
from transformers.utils import find_labels

import hyperadapt as ha
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from hyperadapt.model.bind import INNERMOST
from tiny import (
    CONDITIONED,
    METHODS,
    PLUS_PLUS,
    SMALL,
    TASKS,
    every_conditioned_method,
    every_method,
    gradients,
    name_of,
    of_task,
    redraw,
    relative_error,
    row,
    tiny_adapted,
    tiny_batch,
    tiny_t5,
)

TOLERANCE = 1e-5


def by_input(method: Method) -> bool:
    return isinstance(method, ha.Hyperdecoder) and "generated" in (method.encoder, method.decoder)


BATCH = tiny_batch()


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: method.name)
def model(request: pytest.FixtureRequest) -> Any:
    """An adapted model of each method, for reading only."""
    return tiny_adapted(request.param)


@pytest.fixture(scope="module", params=CONDITIONED, ids=lambda method: method.name)
def conditioned(request: pytest.FixtureRequest) -> Any:
    """An adapted model of each method that knows tasks, for reading only."""
    return tiny_adapted(request.param)


def logits(model: Any, batch: dict[str, Tensor] = BATCH, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch, **options).logits


# --- a mixed batch equals its rows -----------------------------------------------------------------------------------


@torch.no_grad()
def test_a_mixed_batch_equals_each_row_alone(model: Any) -> None:
    mixed = model(**BATCH)
    for index in range(len(BATCH["task_ids"])):
        alone = model(**row(BATCH, index))
        real = BATCH["attention_mask"][index].bool()
        for name, rows in (("logits", slice(None)), ("encoder_last_hidden_state", real)):
            assert (mixed[name][index, rows] - alone[name][0, rows]).abs().max() < TOLERANCE


def test_every_task_has_outputs_of_its_own(conditioned: Any) -> None:
    by_task = [logits(conditioned, of_task(BATCH, task_id)) for task_id in range(3)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert ((by_task[first] - by_task[second]).abs().amax((1, 2)) > 0.1).all()


def test_full_fine_tuning_gives_a_row_the_same_output_whatever_its_task() -> None:
    model = tiny_adapted(METHODS[0])
    plain = logits(tiny_t5(), {name: value for name, value in BATCH.items() if name != "task_ids"})
    assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model, of_task(BATCH, 1)), plain)


GENERATION: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams, all returned": {"num_beams": 3, "num_return_sequences": 3},
    "static cache": {"cache_implementation": "static"},
    "beams, static cache": {"num_beams": 2, "cache_implementation": "static"},
    "no cache": {"use_cache": False},
}


def generate(model: Any, batch: dict[str, Tensor] = BATCH, **options: Any) -> Tensor:
    given = {name: value for name, value in batch.items() if name != "labels"}
    return model.generate(**{**given, "max_new_tokens": 5, "min_new_tokens": 5, **options})


@pytest.mark.parametrize("way", GENERATION)
def test_a_mixed_generation_equals_each_row_alone(model: Any, way: str) -> None:
    alone = [generate(model, row(BATCH, index), **GENERATION[way]) for index in range(len(BATCH["task_ids"]))]
    assert torch.equal(generate(model, **GENERATION[way]), torch.cat(alone))


def test_generations_of_two_tasks_differ(conditioned: Any) -> None:
    assert not torch.equal(generate(conditioned, of_task(BATCH, 0)), generate(conditioned, of_task(BATCH, 1)))


def test_greedy_generation_is_the_argmax_of_the_forwards_logits(model: Any) -> None:
    tokens = generate(model, min_new_tokens=None)
    batch = {name: BATCH[name] for name in ("input_ids", "attention_mask", "task_ids")}
    scores = logits(model, batch, decoder_input_ids=tokens)
    predicted = scores.argmax(-1)[:, :-1]
    ended = torch.cat([torch.zeros(6, 1, dtype=torch.bool), (tokens[:, 1:] == 1)[:, :-1]], 1).cumsum(1) > 0
    assert torch.equal(predicted[~ended], tokens[:, 1:][~ended])


def test_sampling_several_sequences_a_row_keeps_every_rows_task(conditioned: Any) -> None:
    torch.manual_seed(0)
    sampled = generate(conditioned, do_sample=True, num_return_sequences=2, min_new_tokens=None)
    batch = {
        name: BATCH[name].repeat_interleave(2, 0) for name in ("input_ids", "attention_mask", "task_ids")
    }
    torch.manual_seed(0)
    assert torch.equal(sampled, generate(conditioned, batch, do_sample=True, min_new_tokens=None))


@pytest.mark.parametrize("way", [way for way in GENERATION if way != "no cache"])
def test_a_generation_runs_the_hypernetworks_once_a_stack(conditioned: Any, way: str) -> None:
    calls: list[str] = []
    hook = conditioned.hyperadapt.register_forward_pre_hook(lambda module, args: calls.append(args[0].stack))
    with_id = generate(conditioned, **GENERATION[way])
    hook.remove()
    draft = ["encoder_draft"] if conditioned.hyperadapt.has_draft("encoder") else []
    assert calls == [*draft, "encoder", "decoder"]
    assert with_id.shape[1] == 6


def test_a_cache_that_is_used_again_with_other_tasks_gets_their_weights(conditioned: Any) -> None:
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    batch = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
    start = torch.zeros(6, 1, dtype=torch.long)
    logits(
        conditioned, {**batch, "task_ids": BATCH["task_ids"]}, decoder_input_ids=start, past_key_values=cache
    )
    crossed = {"self_attention_cache": copy.deepcopy(cache.self_attention_cache)}
    # The keys and values are of the first tasks; the weights must be of the second ones, as in a cache without weights.
    bare = EncoderDecoderCache(crossed["self_attention_cache"], copy.deepcopy(cache.cross_attention_cache))
    other = {**batch, "task_ids": (BATCH["task_ids"] + 1) % 3}
    again = logits(conditioned, other, decoder_input_ids=start + 5, past_key_values=cache)
    assert torch.equal(again, logits(conditioned, other, decoder_input_ids=start + 5, past_key_values=bare))


def test_a_cache_that_is_reset_forgets_the_weights_of_ids_that_change_in_place(conditioned: Any) -> None:
    caches = [StaticCache(conditioned.decoder.config, max_cache_len=size) for size in (8, 9)]
    cache = EncoderDecoderCache(*caches)
    batch = {**BATCH, "task_ids": BATCH["task_ids"].clone()}
    logits(conditioned, batch, past_key_values=cache, use_cache=True)
    cache.reset()
    batch["task_ids"].copy_(BATCH["task_ids"].flip(0))
    again = logits(conditioned, batch, past_key_values=cache, use_cache=True)
    assert (again - logits(conditioned, batch)).abs().max() < TOLERANCE


def test_a_generation_after_a_change_of_weights_or_of_the_ids_in_place_is_not_stale(conditioned: Any) -> None:
    model = copy.deepcopy(conditioned)
    task_ids = BATCH["task_ids"].clone()
    for cache in (None, "static"):
        options = {} if cache is None else {"cache_implementation": cache}
        generate(model, {**BATCH, "task_ids": task_ids}, **options)
        redraw(model, seed=3)
        task_ids.copy_(task_ids.flip(0))
        changed = generate(model, {**BATCH, "task_ids": task_ids}, **options)
        expected = generate(copy.deepcopy(model), {**BATCH, "task_ids": task_ids.clone()})
        assert torch.equal(changed, expected)


def test_encoder_outputs_and_input_embeddings_may_be_given(conditioned: Any) -> None:
    expected = logits(conditioned)
    with torch.no_grad():
        encoded = conditioned.encoder(
            input_ids=BATCH["input_ids"],
            attention_mask=BATCH["attention_mask"],
            task_ids=BATCH["task_ids"],
        )
        embedded = conditioned.shared(BATCH["input_ids"])
    rest = {name: value for name, value in BATCH.items() if name != "input_ids"}
    assert torch.equal(logits(conditioned, rest, encoder_outputs=encoded), expected)
    assert torch.equal(logits(conditioned, rest, inputs_embeds=embedded), expected)


# --- gradients -------------------------------------------------------------------------------------------------------


def backward(model: Any, *batches: dict[str, Tensor]) -> dict[str, Tensor]:
    """All forwards first, then one backward of their sum, each row weighing the same in it."""
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        scores = model(**batch, use_cache=False).logits.log_softmax(-1)
        total = total + scores.gather(-1, batch["labels"].clamp_min(0)[..., None]).sum()
    total.backward()
    return gradients(model)


def test_the_gradient_of_a_mixed_batch_is_the_sum_of_its_rows_gradients(model: Any) -> None:
    mixed = backward(model, BATCH)
    rows = backward(model, *(row(BATCH, index) for index in range(len(BATCH["task_ids"]))))
    for name, value in mixed.items():
        # By way of the encoded input it is a long sum in another order.
        assert relative_error(value, rows[name]) < (2 if by_input(model.method) else 1) * TOLERANCE, name


@every_method
@pytest.mark.parametrize("forwards", [1, 2])
def test_gradient_checkpointing_changes_no_gradient(method: Method, forwards: int) -> None:
    model = tiny_adapted(method).train()
    other = {**tiny_batch(seed=5), "task_ids": BATCH["task_ids"].flip(0)}
    batches = [BATCH, other][:forwards]
    expected = backward(model, *batches)
    blocks: list[int] = []
    model.gradient_checkpointing_enable()
    counted = model.encoder.block[0].layer[0].register_forward_hook(lambda *_: blocks.append(1))
    checkpointed = backward(model, *batches)
    counted.remove()
    runs = 1 + model.hyperadapt.has_draft("encoder")
    assert len(blocks) == 2 * forwards * runs, "the blocks were not recomputed"
    for name, value in checkpointed.items():
        assert relative_error(value, expected[name]) < TOLERANCE, name


def test_a_forward_of_another_batch_before_the_backward_changes_no_checkpointed_gradient(
    conditioned: Any,
) -> None:
    model = copy.deepcopy(conditioned).train()
    expected = backward(model, BATCH)
    model.gradient_checkpointing_enable()
    model.zero_grad()
    scores = model(**BATCH, use_cache=False).logits.log_softmax(-1)
    model(**of_task(BATCH, 2), use_cache=False)  # its recompute never runs
    scores.gather(-1, BATCH["labels"].clamp_min(0)[..., None]).sum().backward()
    for name, value in gradients(model).items():
        assert relative_error(value, expected[name]) < TOLERANCE, name


@every_method
def test_every_trained_parameter_has_a_gradient_on_a_batch_of_any_single_task(method: Method) -> None:
    model = ha.adapt(tiny_t5(), method, TASKS)
    for task_id in range(3):
        model.zero_grad()
        model(**of_task(BATCH, task_id)).loss.backward()
        assert gradients(model).keys()


def test_a_task_that_is_not_in_the_batch_has_gradients_of_zero(conditioned: Any) -> None:
    conditioned.zero_grad()
    conditioned(**of_task(BATCH, 1)).loss.backward()
    per_task = {
        name: gradient
        for name, gradient in gradients(conditioned).items()
        if name.endswith((".z", ".logits")) or (name.endswith(".table") and gradient.shape[0] == 3)
    }
    assert per_task
    for name, gradient in per_task.items():
        assert gradient[1].any(), name
        assert not gradient[[0, 2]].any(), name


@pytest.mark.parametrize("options", [{}, {"positions": ("self_attention",)}])
def test_adapters_trained_on_one_task_leave_the_others_as_they_are(options: dict[str, Any]) -> None:
    model = redraw(ha.adapt(tiny_t5(), ha.Adapters(reduction_factor=8, **options), TASKS))
    before = [logits(model, of_task(BATCH, task_id)) for task_id in range(3)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(**of_task(BATCH, 1)).loss.backward()
        optimizer.step()
    after = [logits(model, of_task(BATCH, task_id)) for task_id in range(3)]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert (before[1] - after[1]).abs().max() > 0.01


def test_adapters_trained_on_a_mixture_equal_those_of_a_task_trained_alone() -> None:
    def train(model: Any, batch: dict[str, Tensor]) -> None:
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(3):
            backward(model, batch)
            optimizer.step()

    together = tiny_adapted(ha.Adapters(reduction_factor=8))
    alone = copy.deepcopy(together)
    train(together, BATCH)
    beta = BATCH["task_ids"] == 1
    train(alone, {name: value[beta] for name, value in BATCH.items()})
    difference = logits(together, of_task(BATCH, 1)) - logits(alone, of_task(BATCH, 1))
    assert difference.abs().max() < 1e-4


# --- transformers' own machinery -------------------------------------------------------------------------------------


def test_dropout_acts_in_training_and_not_in_evaluation(model: Any) -> None:
    model = tiny_adapted(model.method, dropout_rate=0.3).train()
    torch.manual_seed(0)
    first = logits(model)
    torch.manual_seed(0)
    assert torch.equal(first, logits(model))
    assert (first - logits(model)).abs().max() > 0.1
    assert torch.equal(logits(model.eval()), logits(model))


def test_a_copy_is_equal_and_independent(model: Any) -> None:
    expected = logits(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), expected)
    redraw(twin, seed=7)
    with torch.no_grad():
        twin.shared.weight.mul_(1.1)
    assert (logits(twin) - expected).abs().max() > 0.1
    assert torch.equal(logits(model), expected)
    before = logits(twin)
    redraw(copy.deepcopy(twin), seed=8)
    assert torch.equal(logits(twin), before)


@pytest.mark.parametrize("kind", ["all bfloat16", "base bfloat16", "autocast"])
def test_bfloat16_is_near_float32(model: Any, kind: str) -> None:
    expected = logits(model)
    if kind == "all bfloat16":
        low, context = copy.deepcopy(model).to(torch.bfloat16), torch.no_grad()
    elif kind == "base bfloat16":
        low = ha.adapt(tiny_t5().to(torch.bfloat16), model.method, TASKS)
        low.hyperadapt.load_state_dict(model.hyperadapt.state_dict())
        assert all(parameter.dtype == torch.float32 for parameter in low.hyperadapt.parameters())
        context = torch.no_grad()
    else:
        low, context = copy.deepcopy(model), torch.autocast("cpu", torch.bfloat16)
    with context:
        output = low(**BATCH)
        found = logits(low)
    # Weights generated from the encoded input follow the rounding of the encoder's states.
    hyperdecoder = isinstance(model.method, ha.Hyperdecoder)
    tolerance = 0.35 if by_input(model.method) else 0.08 if hyperdecoder else 0.06
    assert 0 < relative_error(found.float(), expected) < tolerance
    output = low(**BATCH)
    output.loss.backward()
    for name, gradient in gradients(low).items():
        assert gradient.isfinite().all(), name
        assert gradient.dtype == low.get_parameter(name).dtype
    alone = torch.cat([logits(low, row(BATCH, index)) for index in range(6)])
    assert relative_error(alone.float(), logits(low).float()) < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_small_step_moves_all_that_is_trained_whatever_the_base_models_type(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    base = tiny_t5()
    base.save_pretrained(tmp_path / "base")
    base = T5ForConditionalGeneration.from_pretrained(tmp_path / "base", dtype=dtype)
    model = ha.adapt(base, PLUS_PLUS, TASKS).train()
    assert model.dtype == dtype
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4, weight_decay=0)
    model(**tiny_batch()).loss.backward()
    optimizer.step()
    for name, value in before.items():
        assert not torch.equal(model.get_parameter(name), value), name
    expected = model.eval()(**tiny_batch()).logits
    model.save_pretrained(tmp_path / "model")
    again = ha.load(tmp_path / "model")
    assert again.dtype == dtype
    assert torch.equal(again(**tiny_batch()).logits, expected)


def test_a_base_model_of_several_types_runs_under_autocast_as_ever() -> None:
    base, plain = tiny_t5(), tiny_t5()
    for model in (base, plain):
        model.shared.to(torch.bfloat16)
    batch = {name: tensor for name, tensor in BATCH.items() if name != "task_ids"}
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(**batch).logits
        found = ha.adapt(base, ha.FullFineTuning(), TASKS)(**batch).logits
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_under_autocast_weights_are_made_in_the_type_of_its_products(model: Any) -> None:
    made: list[Any] = []
    model.hyperadapt.register_forward_hook(lambda module, args, output: made.extend(output.weights))
    with torch.autocast("cpu", torch.bfloat16):
        model(**BATCH)
    types = {name: weight.dtype for weights in made for name, weight in weights.items()}
    wide = {"variance": torch.float64, "scale": torch.float32}  # of a folded norm; of a norm outside autocast
    assert types == {name: wide.get(name, torch.bfloat16) for name in types}
    assert bool(types) == bool(model.hyperadapt.site_groups())


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled before, and nothing left."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batches_to_compile() -> list[dict[str, Tensor]]:
    """One with more rows than there are tasks and one with fewer: other shapes, another way to their weights."""
    return [tiny_batch(rows, seed=rows) for rows in (6, 2)]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_the_compiled_models_gradients_are_the_eager_ones() -> None:
    eager = tiny_adapted(num_layers=1)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    for batch in batches_to_compile():
        expected = backward(eager, batch)
        backward(compiled, batch)
        for name, value in gradients(eager).items():
            assert relative_error(value, expected[name]) < TOLERANCE, name


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="inductor: no g++ or clang++")
@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_inductors_code_of_the_encoder_has_the_eager_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.simdlen", 1)  # g++ takes half the time without vectors
    model, batch = tiny_adapted(num_layers=1), tiny_batch()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "task_ids")}
    found = []
    for encoder in (model.encoder, torch.compile(model.encoder, fullgraph=True)):
        model.zero_grad()
        encoder(**inputs).last_hidden_state.square().mean().backward()
        found.append({name: of.grad.clone() for name, of in model.named_parameters() if of.grad is not None})
    eager, compiled = found
    assert eager.keys() == compiled.keys()
    assert len(eager) > 10
    for name, value in compiled.items():
        assert relative_error(value, eager[name]) < TOLERANCE, name


# A hypernetwork, and gates: the others are put together of the same parts.
COMPILED = (PLUS_PLUS, METHODS[9])


@pytest.mark.parametrize(
    "method",
    [method if method in COMPILED else pytest.param(method, marks=pytest.mark.slow) for method in METHODS],
    ids=map(name_of, METHODS),
)
@pytest.mark.usefixtures("fresh_compiler")
def test_the_compiled_model_equals_the_eager_one(method: Method) -> None:
    eager = tiny_adapted(method, num_layers=1)
    compiled = torch.compile(eager, fullgraph=True, backend="eager")
    for batch in batches_to_compile():
        found = logits(compiled, batch, use_cache=False)
        assert (found - logits(eager, batch)).abs().max() < TOLERANCE


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_generation_equals_the_eager_one() -> None:
    model = tiny_adapted(num_layers=1)
    config = CompileConfig(backend="aot_eager", fullgraph=True)
    config._compile_all_devices = True
    compiled = generate(model, cache_implementation="static", compile_config=config)
    assert torch.equal(compiled, generate(model))


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_step_of_a_generation_takes_the_weights_of_all_sites_in_a_few_tensors() -> None:
    model, inputs = tiny_adapted(), list[str]()

    def look(graph: torch.fx.GraphModule, *_: Any, **__: Any) -> Any:
        inputs.extend(node.name for node in graph.graph.nodes if node.op == "placeholder")
        return graph.forward

    config = CompileConfig(backend=look, fullgraph=True)  # type: ignore[arg-type]
    config._compile_all_devices = True
    compiled = generate(model, cache_implementation="static", compile_config=config)
    assert torch.equal(compiled, generate(model))
    [group] = model.hyperadapt.site_groups("decoder")
    kept = [name for name in inputs if "site_weights" in name]
    assert len(kept) == len(group.form.weights(group.sites[0])) == 6
    assert len(group.sites) == 4


def test_the_adapted_model_is_a_transformers_model_of_its_own_class(model: Any) -> None:
    assert isinstance(model, PreTrainedModel)
    assert isinstance(model, T5ForConditionalGeneration)
    assert type(model).__name__ == "T5ForConditionalGeneration"
    assert str(type(model)) == str(T5ForConditionalGeneration)
    assert isinstance(model.encoder, T5Stack)
    assert all(isinstance(block, T5Block) for block in model.decoder.block)
    assert model.can_generate()
    assert model.loss_function.__name__ == tiny_t5().loss_function.__name__


def test_forward_names_task_ids_beside_all_that_the_base_model_names(model: Any) -> None:
    base = list(inspect.signature(T5ForConditionalGeneration.forward).parameters)
    assert list(inspect.signature(type(model).forward).parameters) == [*base[:-1], "task_ids", base[-1]]
    assert "task_ids" in inspect.signature(model.forward).parameters
    assert find_labels(type(model)) == find_labels(T5ForConditionalGeneration) == ["labels"]


def test_positional_arguments_mean_what_they_mean_in_the_base_model(model: Any) -> None:
    decoder_input_ids = torch.full((6, 2), 5)
    given = (BATCH["input_ids"], BATCH["attention_mask"], decoder_input_ids)
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    with torch.no_grad():
        positional = model(*given, task_ids=BATCH["task_ids"]).logits
        named = model(**dict(zip(names, given, strict=True)), task_ids=BATCH["task_ids"]).logits
        as_tuple = model(*given, task_ids=BATCH["task_ids"], return_dict=False)[0]
    assert torch.equal(positional, named)
    assert torch.equal(as_tuple, named)


def test_the_base_models_parameters_keep_their_names_and_values(model: Any) -> None:
    base = tiny_t5().state_dict()
    ours = {name: value for name, value in model.state_dict().items() if not name.startswith("hyperadapt.")}
    assert list(ours) == list(base)
    assert all(torch.equal(ours[name], base[name]) for name in base)
    for kind in (T5Block, T5Stack, T5LayerNorm, T5ForConditionalGeneration):
        assert "hyperadapt" not in inspect.getsource(kind)
        assert kind.forward.__module__.startswith("transformers.")
        assert not kind.__mro__[1].__module__.startswith("hyperadapt")
    # A T5 beside it that is not adapted knows nothing of tasks.
    plain = {name: value for name, value in BATCH.items() if name != "task_ids"}
    assert tiny_t5()(**plain).logits.shape == (6, 4, 96)


def test_a_cache_that_the_configuration_turns_off_is_not_made_unless_asked_for(model: Any) -> None:
    model, places = copy.deepcopy(model), list(inspect.signature(model.forward).parameters)
    by_position = [BATCH.get(name) for name in places[: places.index("use_cache")]] + [True]
    with torch.no_grad():
        with_cache = model(**BATCH)
        model.config.use_cache = False  # as Trainer does
        without = model(**BATCH)
        assert model(**BATCH, use_cache=True).past_key_values is not None
        assert model(*by_position, task_ids=BATCH["task_ids"]).past_key_values is not None
    assert with_cache.past_key_values is not None
    assert without.past_key_values is None
    torch.testing.assert_close(without.logits, with_cache.logits)


def test_hidden_states_and_attentions_are_returned_when_asked_for(model: Any) -> None:
    model = copy.deepcopy(model)
    with torch.no_grad():
        output = model(**BATCH, output_hidden_states=True)
    assert len(output.encoder_hidden_states) == len(output.decoder_hidden_states) == 3
    assert torch.equal(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)
    assert torch.equal(output.encoder_hidden_states[0], model.shared(BATCH["input_ids"]))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**BATCH, output_attentions=True)
    assert (output.logits - logits(model)).abs().max() < TOLERANCE
    for weights, shape in (
        (output.encoder_attentions, (6, 4, 9, 9)),
        (output.decoder_attentions, (6, 4, 4, 4)),
        (output.cross_attentions, (6, 4, 4, 9)),
    ):
        assert [tuple(weight.shape) for weight in weights] == [shape] * 2
        assert (weights[0].sum(-1) - 1).abs().max() < TOLERANCE


def test_an_exception_within_a_forward_leaves_the_model_usable(conditioned: Any) -> None:
    expected = logits(conditioned)

    def fail(*_: Any) -> None:
        raise RuntimeError("within")

    hook = conditioned.decoder.block[1].layer[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="within"):
        logits(conditioned)
    hook.remove()
    assert INNERMOST.call is None, "the batch's weights outlive it"
    assert torch.equal(logits(conditioned), expected)


def rows_to_train() -> Dataset:
    batch = tiny_batch(rows=12)
    columns = {name: value.tolist() for name, value in batch.items()}
    return Dataset.from_dict({**columns, "line": list(range(12))})


def plain_trainer(model: Any, directory: Path, **options: Any) -> Seq2SeqTrainer:
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(directory),
        max_steps=4,
        save_steps=2,
        learning_rate=0.01,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        predict_with_generate=True,
        generation_max_length=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        **options,
    )
    data = rows_to_train()
    return Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data,
        data_collator=default_data_collator,
    )


@every_method
def test_a_plain_seq2seq_trainer_trains_saves_and_resumes_an_adapted_model(
    method: Method, tmp_path: Path
) -> None:
    model = redraw(ha.adapt(tiny_t5(dropout_rate=0.1), method, TASKS))
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = plain_trainer(model, tmp_path / "run")
    assert set(next(iter(trainer.get_train_dataloader()))) == set(BATCH), (
        "columns that forward names, and no others"
    )
    trainer.train()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, start[name]) != parameter.requires_grad, name
    scores = trainer.evaluate()
    assert scores["eval_loss"] == pytest.approx(mean_loss(model), rel=1e-4)

    with safe_open(tmp_path / "run/checkpoint-2/model.safetensors", "pt") as file:
        saved = set(file.keys())
    assert saved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    resumed = redraw(ha.adapt(tiny_t5(dropout_rate=0.1), method, TASKS), seed=9)
    plain_trainer(resumed, tmp_path / "run").train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    loaded = ha.load(tmp_path / "run/checkpoint-4", base_model=tiny_t5(dropout_rate=0.1))
    assert torch.equal(logits(loaded), logits(model.eval()))


def test_accumulated_batches_weigh_as_one(tmp_path: Path) -> None:
    """Trainer must divide by the number of batches, as T5's loss is a mean whose number of items it is not told."""
    model = tiny_adapted()
    expected = copy.deepcopy(model)
    rows = {
        name: value[1:5] for name, value in tiny_batch(rows=12).items()
    }  # none of their labels is ignored
    expected(**rows).loss.backward()
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    data = rows_to_train().select(range(1, 5))
    Seq2SeqTrainer(
        model=model, args=arguments, train_dataset=data, data_collator=default_data_collator
    ).train()
    for name, parameter in expected.named_parameters():
        if parameter.grad is not None:
            step = parameter - 0.1 * parameter.grad
            assert (model.get_parameter(name) - step).abs().max() < 1e-5, name


def mean_loss(model: Any) -> float:
    model.eval()
    rows = tiny_batch(rows=12)
    batches = [{name: value[start : start + 4] for name, value in rows.items()} for start in (0, 4, 8)]
    with torch.no_grad():
        return float(sum(model(**batch).loss for batch in batches) / 3)


# --- tasks added -----------------------------------------------------------------------------------------------------


@every_method
def test_a_task_added_from_another_starts_with_its_outputs_and_leaves_the_others_as_they_were(
    method: Method,
) -> None:
    model = tiny_adapted(method)
    before = [logits(model, of_task(BATCH, task_id)) for task_id in range(3)]
    model.add_task("delta", init_from="beta")
    assert model.tasks == (*TASKS, "delta")
    assert model.task_id("delta") == 3
    after = [logits(model, of_task(BATCH, task_id)) for task_id in range(4)]
    for old, new in zip([*before, before[1]], after, strict=True):
        assert torch.equal(old, new)


@every_conditioned_method
def test_a_task_added_from_another_then_goes_its_own_way(method: Method) -> None:
    model = tiny_adapted(method)
    model.add_task("delta", init_from="beta")
    optimizer = torch.optim.SGD([p for p in model.hyperadapt.parameters() if p.requires_grad], lr=0.05)
    model(**of_task(BATCH, 3)).loss.backward()
    optimizer.step()
    # A step on a row of a matrix of skills changes less than one on parameters.
    least = 1e-4 if isinstance(method, ha.Polytropon) else 1e-3
    assert (logits(model, of_task(BATCH, 3)) - logits(model, of_task(BATCH, 1))).abs().max() > least


@every_conditioned_method
def test_a_task_added_without_a_source_is_new_and_trained(method: Method) -> None:
    model = tiny_adapted(method)
    before = [logits(model, of_task(BATCH, task_id)) for task_id in range(3)]
    model.add_task("delta")
    for task_id in range(3):
        assert torch.equal(logits(model, of_task(BATCH, task_id)), before[task_id])
        assert (logits(model, of_task(BATCH, 3)) - before[task_id]).abs().max() > 0.1
    mixed = {**BATCH, "task_ids": torch.tensor([3, 0, 3, 1, 2, 3])}
    model(**mixed).loss.backward()
    per_task = [g for g in gradients(model).values() if g.shape[0] == 4 and g[3].any()]
    assert per_task


def test_a_task_added_to_adapters_starts_from_the_base_models_layer_norms() -> None:
    base = tiny_t5()
    norms = {name: value.clone() for name, value in base.state_dict().items() if "layer_norm.weight" in name}
    model = ha.adapt(base, ha.Adapters(reduction_factor=8), ["alpha"])
    model.add_task("delta")
    for stack in ("encoder", "decoder"):
        group = model.hyperadapt.groups[stack][1]
        for task_id in range(2):
            table = group.generators[0].table[task_id]
            for scale, site in zip(table, group.sites, strict=True):
                assert torch.equal(scale, norms[f"{site.path}.weight"])


def test_a_task_added_with_given_features_takes_them() -> None:
    features = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    model = ha.adapt(tiny_t5(), PLUS_PLUS, TASKS)
    model.add_task("delta", features=features[3].tolist())
    assert torch.equal(model.hyperadapt.conditioning.z[3], features[3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "beta"}, "already has a task 'beta'"),
        ({"name": "delta", "init_from": "bet"}, "no task 'bet'; did you mean 'beta'"),
        (
            {"name": "delta", "features": [1.0, 2.0]},
            r"task 'delta' needs features=12 numbers, not of shape \(2,\)",
        ),
    ],
)
def test_a_task_that_cannot_be_added_is_refused_and_nothing_changes(
    arguments: dict[str, Any], message: str
) -> None:
    model = tiny_adapted()
    before = logits(model)
    with pytest.raises(UserError, match=message):
        model.add_task(**arguments)
    assert model.tasks == TASKS
    assert model.hyperadapt.conditioning.z.shape[0] == 3
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("method", METHODS[:3], ids=lambda method: method.name)
def test_features_are_refused_where_the_method_has_no_task_embedding(method: Method) -> None:
    model = tiny_adapted(method)
    with pytest.raises(UserError, match="given features, but the model's method has no task embedding"):
        model.add_task("delta", features=[1.0])
    assert model.tasks == TASKS


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task_ids", "message"),
    [
        (None, r"task_ids are missing: .* \['alpha', 'beta', 'gamma'\]"),
        (torch.zeros(6), "must be a LongTensor .*not torch.float32"),
        (torch.zeros(6, dtype=torch.bool), "must be a LongTensor .*not torch.bool"),
        ([0] * 6, "must be a LongTensor .*not <class 'list'>"),
        (torch.zeros(5, dtype=torch.long), r"shape \(5,\), but the batch has 6 rows"),
        (torch.zeros(6, 1, dtype=torch.long), r"shape \(6, 1\), but the batch has 6 rows"),
        (torch.tensor(0), r"shape \(\), but the batch has 6 rows"),
        (torch.full((6,), 3), r"found 3, but the model has tasks 0\.\.2 \(alpha, beta, gamma\)"),
        (torch.full((6,), -1), r"found -1, but the model has tasks 0\.\.2"),
    ],
    ids=["none", "float", "bool", "list", "short", "matrix", "scalar", "too large", "negative"],
)
def test_task_ids_that_do_not_fit_are_refused(conditioned: Any, task_ids: Any, message: str) -> None:
    for run in (logits, generate):
        with pytest.raises(UserError, match=message):
            run(conditioned, {**BATCH, "task_ids": task_ids})
    assert logits(conditioned).isfinite().all()


def test_task_ids_of_32_bits_are_as_good() -> None:
    model = tiny_adapted()
    assert torch.equal(logits(model, {**BATCH, "task_ids": BATCH["task_ids"].int()}), logits(model))


@pytest.mark.parametrize(
    ("method", "tasks", "message"),
    [
        (PLUS_PLUS, [], "at least one name"),
        (PLUS_PLUS, "rte", "list of at least one name, not 'rte'"),
        (PLUS_PLUS, ["rte", "cola", "rte", "cola"], "tasks are repeated: cola, rte"),
        (
            ha.Adapters(reduction_factor=33),
            TASKS,
            "reduction_factor 33 leaves no bottleneck in a model of width 32",
        ),
        (ha.Adapters(activation="gelu_nwe"), TASKS, "'gelu_nwe' is unknown; did you mean 'gelu_new'"),
        (
            ha.HyperFormer(conditional_layer_norm=False, adapter_block=False),
            TASKS,
            "with neither adapter_block nor conditional_layer_norm",
        ),
        (ha.HyperFormer(task_features="none.json"), TASKS, "there is no file .*none.json"),
    ],
    ids=["no tasks", "a string", "repeated", "no bottleneck", "activation", "nothing generated", "features"],
)
def test_what_cannot_be_adapted_is_refused_before_anything_changes(
    method: Method, tasks: Any, message: str
) -> None:
    base = tiny_t5()
    with pytest.raises(UserError, match=message):
        ha.adapt(base, method, tasks)
    assert type(base) is T5ForConditionalGeneration
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert ha.adapt(base, PLUS_PLUS, TASKS).tasks == TASKS


def test_a_model_is_adapted_once(model: Any) -> None:
    with pytest.raises(UserError, match=f"adapted already, with {model.method.name.replace('+', '.')}"):
        ha.adapt(model, PLUS_PLUS, TASKS)


def test_a_family_without_a_backbone_is_refused_with_those_known() -> None:
    sizes = {"d_model": 16, "vocab_size": 40, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8}
    other = MarianMTModel(MarianConfig(**sizes, **heads, decoder_ffn_dim=8, pad_token_id=0))
    with pytest.raises(
        UserError, match=r"no backbone for model type 'marian'; .*choices: t5, mt5, umt5, bart"
    ):
        ha.adapt(other, PLUS_PLUS, TASKS)


def test_a_model_without_a_decoder_or_without_blocks_is_refused() -> None:
    with pytest.raises(
        UserError, match="T5EncoderModel has no decoder; load the model with AutoModelForSeq2SeqLM"
    ):
        ha.adapt(T5EncoderModel(tiny_t5().config), PLUS_PLUS, TASKS)
    with pytest.raises(UserError, match="the model's encoder has no blocks to adapt"):
        ha.adapt(tiny_t5(num_layers=0), PLUS_PLUS, TASKS)


def test_pushing_to_the_hub_is_refused_and_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="upload_folder"):
        tiny_adapted().save_pretrained(str(tmp_path / "model"), push_to_hub=True)
    assert not (tmp_path / "model").exists()


@every_method
def test_a_base_model_in_float16_whose_feed_forward_stays_in_float32_runs(
    tmp_path: Path, method: Method
) -> None:
    tiny_t5().save_pretrained(tmp_path)
    low = T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    assert low.encoder.block[0].layer[-1].DenseReluDense.wo.weight.dtype == torch.float32
    adapted = ha.adapt(low.eval(), method, TASKS)
    redraw(adapted)
    assert 0 < relative_error(logits(adapted).float(), logits(tiny_adapted(method))) < 0.02


def test_largest_reduction_factor_leaves_a_bottleneck_of_one() -> None:
    model = redraw(ha.adapt(tiny_t5(), ha.HyperFormerPlusPlus(reduction_factor=32, **SMALL), TASKS))
    rows = torch.cat([logits(model, row(BATCH, index)) for index in range(6)])
    assert (logits(model) - rows).abs().max() < TOLERANCE
