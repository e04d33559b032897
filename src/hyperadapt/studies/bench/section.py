"""A section of the benchmarks: what is measured, under which setting, and what is asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from hyperadapt import tiny_t5

NEEDS = {"data_dir": "--data-dir", "adapters_python": "--adapters-python", "on_gpu": "an NVIDIA or AMD GPU"}


def available_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Setting:
    """Under what the sections measure.

    Attributes:
        rounds: of runs that take turns.
        launches: in which all start anew, as a process may be faster than its twin for as long as both live.
        threads: of the CPU.
        dropout: of the models in training; T5's is 0.1, whose random numbers cost a CPU much of a step, alike for all.
        data_dir: a local copy of GLUE, for real lengths.
        tokenizer: whose tokens those are, a hub name or a directory.
        adapters_python: interpreter of an environment with the `adapters` library, which needs older transformers.
        smoke: tiny models, for tests.
    """

    rounds: int = 18
    launches: int = 6
    threads: int = field(default_factory=available_cores)
    dropout: float = 0.0
    data_dir: str | None = None
    tokenizer: str = tiny_t5.NAME
    adapters_python: str | None = None
    smoke: bool = False

    @cached_property
    def on_device(self) -> bool:
        """Whether there is an accelerator."""
        import torch

        return torch.accelerator.is_available()

    @property
    def at_once(self) -> int:
        """How many contenders memory holds beside those that all are measured beside."""
        return 12 if self.on_device else 6

    @cached_property
    def on_gpu(self) -> bool:
        """Whether there is one that repeats CUDA graphs."""
        import torch

        return torch.cuda.is_available()

    def lacks(self, needed: str | None) -> str | None:
        """Say what is missing of what a section needs, None if nothing is."""
        return NEEDS[needed] if needed is not None and not getattr(self, needed) else None

    @property
    def shape(self) -> str:
        """The model of the step and of generation."""
        return "t5-base" if self.on_device else "t5-small"

    @property
    def batch(self) -> tuple[int, int, int]:
        """Rows, source tokens and target tokens of a step."""
        if self.smoke:
            return 8, 6, 2
        return (32, 128, 4) if self.on_device else (16, 96, 4)


@dataclass(frozen=True)
class Goal:
    """What is asked of a number.

    Attributes:
        what: the number.
        measured: what came out, the median of the rounds.
        bound: what was asked.
        at_most: whether it is an upper bound, else a lower.
        interval: its 95 % confidence interval, of a ratio of times.
    """

    what: str
    measured: float
    bound: float
    at_most: bool = True
    interval: tuple[float, float] | None = None

    @property
    def met(self) -> Literal["yes", "no", "open"]:
        """Whether it was reached; open where the interval's ends lie on both sides of the bound."""
        ends = self.interval or (self.measured,)
        within = [end <= self.bound if self.at_most else end >= self.bound for end in ends]
        return "yes" if all(within) else "open" if any(within) else "no"


def between(ends: tuple[float, float] | None) -> str:
    """Write how far apart the ends of something lie."""
    return "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"


class Multiple(Protocol):
    """A multiple of another's number."""

    def goal(self, what: str, bound: float, at_most: bool = True) -> Goal:
        """Set it beside what is asked."""
        ...


class Comparable(Protocol):
    """What was measured, or counted, of a contender."""

    def ratio(self, reference: str) -> Multiple:
        """Return it as a multiple of another's."""
        ...


@dataclass(frozen=True)
class Found:
    """What a section measured.

    Attributes:
        how: in a sentence.
        rows: one a contender.
        goals: what was asked.
        seconds: of every contender's runs, in turns with the references of its group.
        launches: over which the rounds are spread; None where they are as many as the setting's.
    """

    how: str
    rows: list[dict[str, Any]]
    goals: list[Goal]
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    launches: int | None = None


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: on the command line.
        title: on the page.
        measure: does the work.
        needs: what of the setting it cannot do without.
        libraries: what must be installed for it.
    """

    name: str
    title: str
    measure: Callable[[Setting], Found]
    needs: Literal["data_dir", "adapters_python", "on_gpu"] | None = None
    libraries: tuple[str, ...] = ()
