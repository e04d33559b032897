"""Labels are chosen by the probabilities that a model gives them, computed once for what they share."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hyperadapt as ha
from families import ENCODER_ONLY, tiny_base
from hyperadapt.architectures import Answering, Request, architecture_of
from hyperadapt.architectures.choices import Choices
from hyperadapt.methods import Method
from hyperadapt.metrics import calibration_error
from tiny import METHODS, NARROW, TASKS, name_of, redraw, tiny_t5

END = 2
FLAT = Choices(("a", "b", "c"), ((5, END), (6, END), (7, END)))
DEEP = Choices(("a", "b", "c", "d"), ((5, END), (6, 7, END), (6, 8, END), (6, 8, 9, END)))
SHARED = Choices(("a", "b"), ((4, 5, END), (4, 6, END)))  # which part behind their first token alone
WIDE = Choices(
    ("a", "b", "c", "d", "e"), ((5, 7, END), (5, 8, END), (6, 7, END), (6, 9, END), (6, 9, 10, END))
)
TOKENIZER: Any = SimpleNamespace(pad_token_id=0, eos_token_id=END)
HOW = Answering()
ROWS = (
    ([9, 8, 7, 6, 5], 0, FLAT),
    ([30, 31], 2, DEEP),
    ([40, 41, 42], 1, SHARED),
    ([50, 51, 52], 2, DEEP),
    ([60, 61], 0, WIDE),
)
CONDITIONED: tuple[Method, ...] = (METHODS[0], METHODS[4], ha.Hyperdecoder(**NARROW), METHODS[9])


def test_forks_are_where_texts_part() -> None:
    assert [(fork.path, fork.tokens, fork.taken) for fork in DEEP.forks] == [
        ((), (5, 6), (0, 1, 1, 1)),
        ((6,), (7, 8), (-1, 0, 1, 1)),
        ((6, 8), (END, 9), (-1, -1, 0, 1)),
    ]
    assert [fork.path for fork in SHARED.forks] == [(4,)]
    assert (FLAT.start, DEEP.start, SHARED.start) == ((), (), (4,))
    assert (FLAT.branches(0), SHARED.branches(1), SHARED.branches(0)) == ([], [], [(4,)])
    assert DEEP.branches(0) == [(6, 8)]  # which goes through the other
    assert WIDE.branches(0) == [(5,), (6, 9)]


def next_logits(model: Any, ids: list[int], task: int, path: tuple[int, ...]) -> torch.Tensor:
    """The scores of the token behind a path, by a whole forward of this row alone."""
    inputs = {"input_ids": torch.tensor([ids]), "task_ids": torch.tensor([task])}
    if model.config.is_encoder_decoder:
        start = [model.config.decoder_start_token_id, *path]
        return model(**inputs, decoder_input_ids=torch.tensor([start])).logits[0, -1]
    prompt = torch.tensor([[1] * len(ids) + [0] * len(path)])
    inputs["input_ids"] = torch.tensor([[*ids, *path]])
    return model(**inputs, prompt_mask=prompt).logits[0, -1]


@pytest.mark.parametrize("at_once", [1, 16])
@pytest.mark.parametrize("method", CONDITIONED, ids=name_of)
@pytest.mark.parametrize("family", ["t5", "bart", "umt5", "llama", "gemma2", "gemma3", "gpt2"])
@torch.no_grad()
def test_probabilities_of_a_mixed_batch_are_those_of_each_label_written_alone(
    family: str, method: Method, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all rows at once, or row by row, where branches go on one by one, each from a copy of the cache."""
    monkeypatch.setattr("hyperadapt.architectures.choices.FEWEST_BRANCHES", at_once)
    model = redraw(ha.adapt(tiny_t5() if family == "t5" else tiny_base(family), method, TASKS)).eval()
    requests = [Request(task, ids, (1, 3), choices=choices) for ids, task, choices in ROWS]
    found = architecture_of(model).answer(model, TOKENIZER, requests, Answering(batch_size=at_once))
    for (ids, task, choices), answer in zip(ROWS, found, strict=True):
        expected = [0.0] * len(choices.texts)
        for fork in choices.forks:
            logits = next_logits(model, ids, task, fork.path)[list(fork.tokens)].log_softmax(0).tolist()
            for label, taken in enumerate(fork.taken):
                expected[label] += logits[taken] if taken >= 0 else 0.0
        assert answer.probabilities == pytest.approx([math.exp(of) for of in expected], abs=1e-4)
        assert sum(answer.probabilities) == pytest.approx(1)
        best = max(range(len(expected)), key=expected.__getitem__)
        assert answer.text == choices.texts[best]
        assert answer.log_likelihood == pytest.approx(expected[best], abs=1e-3)


@pytest.mark.parametrize("family", ENCODER_ONLY)
@torch.no_grad()
def test_an_encoders_choices_are_those_of_its_heads(family: str) -> None:
    labels = {"alpha": 2, "beta": 1, "gamma": 3}
    model = redraw(ha.adapt(tiny_base(family), METHODS[4], TASKS, num_labels=labels))
    two, three = Choices(("no", "yes")), Choices(("x", "y", "z"))
    rows = (([9, 8, 7, 6], 0, two), ([30, 31], 2, three), ([40, 41, 42], 1, None))
    requests = [Request(task, ids, (1, 3), choices=choices) for ids, task, choices in rows]
    found = architecture_of(model).answer(model, TOKENIZER, requests, HOW)
    for (ids, task, choices), answer in zip(rows, found, strict=True):
        logits = model(input_ids=torch.tensor([ids]), task_ids=torch.tensor([task])).logits[0]
        if choices is None:
            assert float(answer.text) == pytest.approx(logits[0].item(), abs=1e-4)
            continue
        expected = logits[: len(choices.texts)].softmax(0)
        assert answer.probabilities == pytest.approx(expected.tolist(), abs=1e-5)
        assert answer.text == choices.texts[int(expected.argmax())]


def test_the_calibration_error_is_the_gap_between_probability_and_truth() -> None:
    assert calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)
    assert calibration_error([0.95] * 4, [False] * 4) == pytest.approx(95)
    # Two bins, weighted by their answers: |0.55 - 1| of one, |0.95 - 0.5| of two.
    assert calibration_error([0.55, 0.95, 0.95], [True, True, False]) == pytest.approx(45)
    assert calibration_error([1.0, 0.96], [True, True]) == pytest.approx(2)
