"""What a call needs is its own: two threads, tasks of asyncio, or a forward within another's, share one model."""

from __future__ import annotations

import asyncio
import copy
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from transformers.modeling_outputs import BaseModelOutput

import hyperadapt as ha
from hyperadapt.architectures import EncoderDecoder, Request
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from hyperadapt.studies.embeddings import embed
from hyperadapt.tasks.input_format import InputFormat
from tiny import NARROW, PLUS_PLUS, every_method, of_task, tiny_adapted, tiny_batch

ROWS = tiny_batch(rows=2)
# One batch a thread: other rows, and other tasks.
BATCHES = [of_task(tiny_batch(rows=2, seed=seed), task_id) for seed, task_id in ((2, 0), (3, 2))]
TURNS = 25


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def side_by_side(calls: list[Callable[[], Any]], turns: int = TURNS) -> list[list[Any]]:
    """Repeat each call in a thread of its own, all at once, and return what each has given."""
    found: list[list[Any]] = [[] for _ in calls]
    start = threading.Barrier(len(calls))

    def work(place: int) -> None:
        start.wait()
        for _ in range(turns):
            try:
                found[place].append(calls[place]())
            except Exception as error:
                found[place].append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def wrong(found: list[list[Any]], expected: list[Any]) -> int:
    """Count what differs from the answer that its thread is to get."""
    return sum(
        not (isinstance(answer, type(right)) and torch.equal(torch.as_tensor(answer), torch.as_tensor(right)))
        for answers, right in zip(found, expected, strict=True)
        for answer in answers
    )


@torch.no_grad()
def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch, use_cache=False).logits


def generated(model: Any, batch: dict[str, Tensor], **options: Any) -> Tensor:
    given = {name: value for name, value in batch.items() if name != "labels"}
    return model.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False, **options)


def calls_of(function: Callable[..., Any], model: Any, **options: Any) -> list[Callable[[], Any]]:
    return [lambda batch=batch: function(model, batch, **options) for batch in BATCHES]


@every_method
def test_two_threads_forwards_equal_those_of_one(method: Method) -> None:
    calls = calls_of(logits, tiny_adapted(method))
    assert wrong(side_by_side(calls), [call() for call in calls]) == 0


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("method", [PLUS_PLUS, ha.HyperGrid(fan_in=4, fan_out=8)], ids=lambda of: of.name)
def test_two_threads_generations_equal_those_of_one(method: Method, num_beams: int) -> None:
    calls = calls_of(generated, tiny_adapted(method, num_layers=1), num_beams=num_beams)
    expected = [call() for call in calls]
    assert wrong(side_by_side(calls, turns=8), expected) == 0


@every_method
def test_two_threads_gradients_through_checkpoints_equal_those_of_one(method: Method) -> None:
    model = tiny_adapted(method, num_layers=1).train()
    plain = copy.deepcopy(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def gradient(model: Any, batch: dict[str, Tensor]) -> Tensor:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(model(**batch, use_cache=False).loss, trained)
        return torch.cat([of.flatten() for of in found])

    expected = [gradient(plain, batch) for batch in BATCHES]
    for answers, right in zip(side_by_side(calls_of(gradient, model), turns=6), expected, strict=True):
        for answer in answers:
            torch.testing.assert_close(answer, right, rtol=1e-4, atol=1e-6)


def test_a_backward_in_another_thread_recomputes_with_the_weights_of_its_own_forward() -> None:
    model = tiny_adapted(num_layers=1).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    expected, losses = [], [model(**batch).loss for batch in BATCHES]
    for batch in BATCHES:
        model.zero_grad()
        model(**batch).loss.backward()
        expected.append(model.hyperadapt.conditioning.z.grad.clone())
    for loss, right in zip(losses, expected, strict=True):
        model.zero_grad()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
        assert torch.equal(model.hyperadapt.conditioning.z.grad, right)


@every_method
def test_a_forward_within_anothers_changes_neither(method: Method) -> None:
    model = tiny_adapted(method)
    outer, inner = (logits(model, batch) for batch in BATCHES)
    within: list[Tensor] = []

    def run_another(*_: Any) -> None:
        if not within:
            within.append(torch.empty(0))
            within[0] = logits(model, BATCHES[1])

    # After the norm that a gate or an adapter reads, and before it does.
    for place in ("encoder.block.1.layer.1", "decoder.block.0.layer.2"):
        within.clear()
        hook = model.get_submodule(f"{place}.DenseReluDense.wi").register_forward_hook(run_another)
        assert torch.equal(logits(model, BATCHES[0]), outer)
        hook.remove()
        assert torch.equal(within[0], inner)


@torch.no_grad()
def token_by_token(model: Any, batch: dict[str, Tensor], steps: int = 4) -> Iterator[Tensor]:
    """Generate greedily, and give the logits of each step before the next is made."""
    known = {"task_ids": batch["task_ids"]} if model.method.task_conditioned else {}
    given = {"attention_mask": batch["attention_mask"]}
    states = model.get_encoder()(input_ids=batch["input_ids"], **given, **known).last_hidden_state
    token, cache = torch.zeros(len(states), 1, dtype=torch.long), None
    for _ in range(steps):
        output = model(
            encoder_outputs=BaseModelOutput(states),
            decoder_input_ids=token,
            past_key_values=cache,
            use_cache=True,
            task_ids=batch["task_ids"],
            **given,
        )
        cache, token = output.past_key_values, output.logits[:, -1:].argmax(-1)
        yield output.logits[:, -1]


@every_method
def test_two_suspended_generations_take_turns_and_each_goes_on_as_alone(method: Method) -> None:
    model = tiny_adapted(method, num_layers=1)
    alone = [list(token_by_token(model, batch)) for batch in BATCHES]
    both = list(
        zip(*(token_by_token(model, batch) for batch in (BATCHES[0], BATCHES[1], BATCHES[0])), strict=True)
    )
    for step, found in enumerate(both):
        for place, of in enumerate((0, 1, 0)):
            assert torch.equal(found[place], alone[of][step])


@every_method
def test_a_copy_of_a_cache_goes_on_as_the_cache_does(method: Method) -> None:
    model, batch = tiny_adapted(method, num_layers=1), BATCHES[0]
    with torch.no_grad():
        first = model(**{**batch, "labels": None}, decoder_input_ids=batch["labels"][:, :2].clamp_min(0))
        rest = {
            "encoder_outputs": BaseModelOutput(first.encoder_last_hidden_state),
            "attention_mask": batch["attention_mask"],
            "decoder_input_ids": batch["labels"][:, 2:3].clamp_min(0),
        }
        copied = copy.deepcopy(first.past_key_values)
        found = [
            model(**rest, past_key_values=cache, task_ids=batch["task_ids"]).logits
            for cache in (copied, first.past_key_values)
        ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_a_cache_whose_rows_are_put_in_another_order_is_not_given_other_rows_gates() -> None:
    model, batch, order = (
        tiny_adapted(ha.HyperGrid(fan_in=4, fan_out=8)),
        tiny_batch(),
        torch.arange(5, -1, -1),
    )
    with torch.no_grad():
        first = model(**{**batch, "labels": None}, decoder_input_ids=torch.zeros(6, 1, dtype=torch.long))
        first.past_key_values.reorder_cache(order)
        with pytest.raises(UserError, match="do not hold the gates"):
            model(
                encoder_outputs=BaseModelOutput(first.encoder_last_hidden_state[order]),
                attention_mask=batch["attention_mask"][order],
                decoder_input_ids=torch.full((6, 1), 7),
                past_key_values=first.past_key_values,
            )


@pytest.mark.parametrize("method", [PLUS_PLUS, ha.Hyperdecoder(**NARROW)], ids=lambda of: of.name)
def test_two_threads_embed_their_own_rows(method: Method) -> None:
    run: Any = SimpleNamespace(model=tiny_adapted(method), tokenizer=bytes_tokenizer())
    rows = [[[5, 6, 7, 1], [8, 9, 1]], [[10, 11, 12, 13, 1], [14, 1]]]
    calls = [lambda task=task, of=of: embed(run, of, [task] * 2, 1) for task, of in enumerate(rows)]
    expected = [call() for call in calls]
    assert wrong(side_by_side(calls), expected) == 0


def test_tasks_of_asyncio_that_hand_their_forwards_to_threads_get_their_own_answers() -> None:
    model = tiny_adapted()
    expected = [logits(model, batch) for batch in BATCHES]

    async def both() -> list[Tensor]:
        return await asyncio.gather(*(asyncio.to_thread(logits, model, BATCHES[n % 2]) for n in range(40)))

    found = asyncio.run(both())
    assert sum(not torch.equal(answer, expected[n % 2]) for n, answer in enumerate(found)) == 0


@pytest.mark.parametrize(
    ("method", "backend"), [(PLUS_PLUS, "aot_eager"), (ha.HyperGrid(fan_in=4, fan_out=8), "eager")]
)
def test_a_compiled_model_is_one_graph_for_all_threads(method: Method, backend: str) -> None:
    torch._dynamo.reset()
    model = tiny_adapted(method, num_layers=1)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    expected = [logits(model, batch) for batch in BATCHES]
    logits(compiled, BATCHES[0])
    for answers, right in zip(side_by_side(calls_of(logits, compiled), turns=3), expected, strict=True):
        for answer in answers:
            torch.testing.assert_close(answer, right, rtol=0, atol=1e-5)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_a_model_that_trains_is_put_back_when_the_last_thread_has_predicted() -> None:
    model = tiny_adapted(num_layers=1, dropout_rate=0.5).train()
    tokenizer = bytes_tokenizer()
    sources = [[5, 6, 7, 1]] * 2

    def answers(task_id: int) -> list[str]:
        requests = [Request(task_id, ids, (4, 4), True) for ids in sources]
        found = EncoderDecoder().answer(model, tokenizer, requests)
        return [f"{of.text} {of.log_likelihood:.5f}" for of in found]

    expected = [answers(0), answers(2)]
    assert model.training, "answering left the model in evaluation mode"
    found = side_by_side([lambda: answers(0), lambda: answers(2)], turns=6)
    assert [set(map(str, of)) for of in found] == [{str(right)} for right in expected]
    assert model.training


def bytes_tokenizer() -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def test_threads_that_share_a_tokenizer_cut_their_own_texts() -> None:
    _, tokenizer = ha.load_tiny_t5()
    texts = {"source": ["the cat sat on the mat and looked at the rain for a long time"] * 40}
    contexts = {"source": ["question: who sat? context: "] * 40, "context": texts["source"]}

    def ids(texts: dict[str, list[str]], length: int) -> str:
        return str(EncoderDecoder().inputs(texts, tokenizer, InputFormat(length, 2)))

    calls = [lambda: ids(texts, 6), lambda: ids(texts, 9), lambda: ids(contexts, 16)]
    expected = [call() for call in calls]
    found = side_by_side(calls, turns=30)
    assert [set(map(str, of)) for of in found] == [{right} for right in expected]
