"""What a model is asked and answers; and how one of a task's labels is chosen.

Each gets the probability that a model writes it, where it may write labels alone. At every place where the labels'
tokens part, the model's probabilities of the tokens that go on are divided by their sum; a label's probability is the
product over the places on its way. What all labels begin with, as BART's start of a text, is read with the prompt, or
with the decoder's start. So labels that part there, as numbers do, take no further step; others take one, of as many
rows as their tree has branches that part once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hyperadapt.architectures.padding import padded_rows

FEWEST_BRANCHES = 16  # at once


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
        self._branches: dict[int, list[tuple[int, ...]]] = {}

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

    @cached_property
    def start(self) -> tuple[int, ...]:
        """The tokens with which all begin."""
        return self.forks[0].path if self.forks else ()

    def branches(self, read: int) -> list[tuple[int, ...]]:
        """Return the paths to where texts part behind the first tokens, without these; none that others go through.

        Args:
            read: how many tokens.
        """
        if read not in self._branches:  # all rows of a task have the same choices
            paths = [fork.path[read:] for fork in self.forks if len(fork.path) > read]
            self._branches[read] = [
                path
                for path in paths
                if not any(len(other) > len(path) and other[: len(path)] == path for other in paths)
            ]
        return self._branches[read]


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


class NextScores(Protocol):
    """What goes on from the first step."""

    def __call__(self, rows: Tensor, tokens: Tensor, last: bool) -> Tensor:
        """Return the scores of what follows each token, (R, T, vocabulary).

        Args:
            rows: (R,), of the batch.
            tokens: (R, T), that follow the first step in each.
            last: whether it is not called again.
        """
        ...


def log_probabilities(choices: Sequence[Choices], read: int, first: Tensor, deeper: NextScores) -> Tensor:
    """Compute the logarithms of the choices' probabilities.

    Args:
        choices: of each row.
        read: how many tokens with which a row's choices begin the first step has read.
        first: scores of the token behind these, (batch, vocabulary).
        deeper: called for at most as many branches at once as the batch has rows, which bounds its memory.

    Returns:
        (batch, most choices); 0 where a row has no more choices.
    """
    found = first.new_zeros(len(choices), max(len(of_row.texts) for of_row in choices), dtype=torch.float32)
    at_first: list[Place] = []
    behind: list[Place] = []
    branches: list[tuple[int, tuple[int, ...]]] = []
    for row, of_row in enumerate(choices):
        paths = of_row.branches(read)
        for fork in of_row.forks:
            rest = fork.path[read:]
            if rest:  # read where the first branch goes through it
                number = next(n for n, path in enumerate(paths) if path[: len(rest)] == rest)
                behind.append(Place(row, fork, len(branches) + number, len(rest) - 1))
            else:
                at_first.append(Place(row, fork, row, 0))
        branches += [(row, path) for path in paths]
    add_steps(found, at_first, first.unsqueeze(1))
    size = max(len(choices), FEWEST_BRANCHES)
    for start in range(0, len(branches), size):
        part, end = branches[start : start + size], start + size
        rows = torch.tensor([row for row, _ in part], device=first.device)
        longest = max(len(path) for _, path in part)
        tokens = padded_rows([path for _, path in part], longest, 0, device=first.device)
        scores = deeper(rows, tokens, last=end >= len(branches))
        here = [
            place._replace(branch=place.branch - start) for place in behind if start <= place.branch < end
        ]
        add_steps(found, here, scores)
    return found


class Place(NamedTuple):
    """Where the scores of a fork are: in which row of them, and behind which of its tokens."""

    row: int
    fork: Fork
    branch: int
    token: int


def add_steps(found: Tensor, places: Sequence[Place], scores: Tensor) -> None:
    """Add what forks tell of the choices.

    Args:
        found: (batch, most choices), the logarithms so far, which are changed.
        places: of the forks.
        scores: (R, T, vocabulary), of which those of the forks' tokens alone are read.
    """
    if not places:
        return
    device, widest = scores.device, found.shape[1]
    most = max(len(place.fork.tokens) for place in places)
    tokens = padded_rows([place.fork.tokens for place in places], most, -1, device=device)
    # Behind the tokens a column of zeros, for labels that do not come there.
    taken = padded_rows([place.fork.taken for place in places], widest, -1, device=device) % (most + 1)
    rows, branches, behind = torch.tensor(
        [[place.row, place.branch, place.token] for place in places], device=device
    ).T
    at_fork = scores[branches[:, None], behind[:, None], tokens.clamp_min(0)]
    at_fork = at_fork.float().masked_fill(tokens < 0, -torch.inf)
    steps = torch.nn.functional.pad(at_fork.log_softmax(1), (0, 1))
    found.index_add_(0, rows, steps.gather(1, taken))


def chosen_of(choices: Choices, log_probabilities: Sequence[float]) -> Answer:
    """Return the likeliest of a row's choices."""
    logs = list(log_probabilities[: len(choices.texts)])
    best = max(range(len(logs)), key=logs.__getitem__)
    return Answer(choices.texts[best], logs[best], tuple(map(math.exp, logs)))
