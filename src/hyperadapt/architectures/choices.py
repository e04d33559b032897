"""What a model is asked and answers; and how one of a task's labels is chosen.

Each gets the probability that a model writes it, where it may write labels alone. At every place where the labels'
tokens part, the model's probabilities of the tokens that go on are divided by their sum; a label's probability is the
product over the places on its way. So what all labels share costs nothing, and labels that differ in their first token,
as numbers do, take one step of the decoder, or the prompt alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from hyperadapt.architectures.padding import padded_rows


class Fork(NamedTuple):
    """A place where labels part.

    Attributes:
        path: the tokens before it.
        tokens: those that go on.
        taken: for each label which of them it has there; -1 if it never comes there.
    """

    path: tuple[int, ...]
    tokens: tuple[int, ...]
    taken: tuple[int, ...]


class Choices:
    """Texts of which one is the answer.

    Args:
        texts: at least two.
        ids: the tokens of each, its end among them.
    """

    def __init__(self, texts: Sequence[str], ids: Sequence[Sequence[int]] = ()) -> None:
        self.texts, self.ids = tuple(texts), tuple(map(tuple, ids))

    @cached_property
    def forks(self) -> tuple[Fork, ...]:
        """Where the texts part, the shortest path first."""
        paths = dict.fromkeys(ids[:end] for ids in self.ids for end in range(len(ids)))
        found = []
        for path in sorted(paths, key=len):
            size = len(path)
            goes_on = [ids[size] if ids[:size] == path and len(ids) > size else None for ids in self.ids]
            tokens = tuple(dict.fromkeys(token for token in goes_on if token is not None))
            if len(tokens) > 1:
                taken = tuple(-1 if token is None else tokens.index(token) for token in goes_on)
                found.append(Fork(path, tokens, taken))
        return tuple(found)

    @property
    def is_deep(self) -> bool:
        """Whether texts part behind their first token too."""
        return any(fork.path for fork in self.forks)


class Request(NamedTuple):
    """What a model is asked.

    Attributes:
        task_id: of the row's task.
        ids: the tokenized input.
        lengths: the fewest and the most tokens of an answer.
        likelihood: whether the likelihood of the answer is wanted.
        choices: one of which is the answer, the likeliest; else it is generated.
    """

    task_id: int
    ids: Sequence[int]
    lengths: tuple[int, int]
    likelihood: bool = False
    choices: Choices | None = None


class Answer(NamedTuple):
    """What a model answered.

    Attributes:
        text: the answer.
        log_likelihood: the logarithm of the likelihood that the model gives to it, in all or for each token; 0 where it
            was not asked for.
        probabilities: of each choice, where there are some.
    """

    text: str
    log_likelihood: float = 0.0
    probabilities: tuple[float, ...] = ()


# Rows of a batch, (R,), and tokens that follow its first step, (R, T) -> the scores of what follows each, (R, T,
# vocabulary).
NextScores = Callable[[Tensor, Tensor], Tensor]


def log_probabilities(choices: Sequence[Choices], first: Tensor, deeper: NextScores) -> Tensor:
    """Compute the logarithms of the choices' probabilities.

    Args:
        choices: of each row.
        first: scores of the first token, (batch, vocabulary).
        deeper: called once, if at all.

    Returns:
        (batch, most choices); 0 where a row has no more choices.
    """
    widest = max(len(of_row.texts) for of_row in choices)
    device, found = first.device, first.new_zeros(len(choices), widest, dtype=torch.float32)
    for deep in (False, True):
        places = [
            (row, fork)
            for row, of_row in enumerate(choices)
            for fork in of_row.forks
            if bool(fork.path) == deep
        ]
        if not places:
            continue
        forks = [fork for _, fork in places]
        rows = torch.tensor([row for row, _ in places], device=device)
        most = max(len(fork.tokens) for fork in forks)
        tokens = padded_rows([fork.tokens for fork in forks], most, -1, device=device)
        # Behind the tokens a column of zeros, for labels that do not come there.
        taken = padded_rows([fork.taken for fork in forks], widest, -1, device=device) % (most + 1)
        wanted = tokens.clamp_min(0)  # of which alone the scores are read
        if deep:
            longest = max(len(fork.path) for fork in forks)
            ends = torch.tensor([len(fork.path) - 1 for fork in forks], device=device)
            scores = deeper(rows, padded_rows([fork.path for fork in forks], longest, 0, device=device))
            at_fork = scores[torch.arange(len(forks), device=device)[:, None], ends[:, None], wanted]
        else:
            at_fork = first[rows[:, None], wanted]
        at_fork = at_fork.float().masked_fill(tokens < 0, -torch.inf)
        steps = torch.nn.functional.pad(at_fork.log_softmax(1), (0, 1))
        found.index_add_(0, rows, steps.gather(1, taken))
    return found


def chosen_of(choices: Choices, log_probabilities: Sequence[float]) -> Answer:
    """Return the likeliest of a row's choices."""
    logs = list(log_probabilities[: len(choices.texts)])
    best = max(range(len(logs)), key=logs.__getitem__)
    return Answer(choices.texts[best], logs[best], tuple(map(math.exp, logs)))
