"""What noise does not reach: the arithmetic of a run, and the bytes that its operators move, beside those of others.

A run waits for its products, which the first counts, and for its memory, which the second does. So a goal of time that
the rounds leave open is likely met where both ratios are within what is asked, and likely missed where neither is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import NamedTuple

from hyperadapt.studies.bench.measure import WARM_UP, Contender, Spec
from hyperadapt.studies.bench.section import Found, Goal, Setting
from hyperadapt.studies.bench.sections import (
    SHAPES,
    Contest,
    adapters_contest,
    generation_contest,
    lora_contest,
    named,
    shape_contest,
    sizes,
    step_contest,
    tasks_contest,
    tokens_generated,
)


class Multiples(NamedTuple):
    """Multiples of another run's numbers."""

    products: float
    bytes_moved: float

    def goal(self, what: str, bound: float, at_most: bool = True) -> Goal:
        """Set the worse of both beside what is asked."""
        low, high = sorted(self)
        return Goal(what, high if at_most else low, bound, at_most, (low, high))


class Counted(NamedTuple):
    """What a run does, and by name what those beside it do.

    Attributes:
        products: floating-point operations of matrix products.
        bytes_moved: that operators read and write.
        beside: all of a contest.
    """

    products: int
    bytes_moved: int
    beside: Mapping[str, Counted]

    def ratio(self, reference: str) -> Multiples:
        """Return both as multiples of another's."""
        other = self.beside[reference]
        return Multiples(self.products / other.products, self.bytes_moved / other.bytes_moved)


def count(name: str, spec: Spec) -> tuple[int, int]:
    """Count what a contender's run does, in a process of its own."""
    with Contender(name, spec) as one:
        for _ in range(WARM_UP - 1):  # the optimizer makes its state
            one.ask("run")
        products, bytes_moved = one.ask("arithmetic")
        return products, bytes_moved


def contests(setting: Setting) -> Iterator[tuple[str, Contest]]:
    """List what has goals of time, as far as it can be run here."""
    yield "a step", step_contest(setting)
    yield "a step of LoRA", lora_contest(setting)
    if setting.adapters_python is not None:
        yield "beside the adapters library", adapters_contest(setting)
    yield "a thousand tasks", tasks_contest(setting)
    for shape in SHAPES:
        yield f"a step of {named(shape, setting)}", shape_contest(setting, shape)
    yield "generation", generation_contest(setting)


def arithmetic(setting: Setting) -> Found:
    """Count what all contenders with goals of time do."""
    known: dict[str, tuple[int, int]] = {}
    rows, goals = [], []
    for title, contest in contests(setting):
        specs = {**contest.references, **contest.others}
        beside: dict[str, Counted] = {}
        for name, spec in specs.items():
            key = json.dumps(asdict(spec))  # the same contender may stand in several contests
            if key not in known:
                known[key] = count(name, spec)
            beside[name] = Counted(*known[key], beside)
        first = next(iter(contest.references))
        for name, found in beside.items():
            ratio = found.ratio(first)
            rows.append(
                {
                    "": f"{title}: {name}",
                    "products (GFLOP)": f"{found.products / 1e9:.1f}",
                    "moved (GB)": f"{found.bytes_moved / 1e9:.2f}",
                    "beside": first,
                    "of its products": f"{ratio.products:.3f}",
                    "of its bytes": f"{ratio.bytes_moved:.3f}",
                }
            )
        goals += contest.goals(beside)
    how = (
        "What noise does not reach: the floating-point operations of a run's matrix products, and the bytes that its "
        "operators read and write, in a cache or not, views left out. The contenders are those of the sections on "
        f"time ({sizes(setting)}; {tokens_generated(setting)} tokens to generate); a process each, of which one run is "
        "counted operator by operator. Of a goal the worse of both ratios is set beside what is asked, in brackets "
        "both; it is open where they lie on both sides. Neither is time: small operators, of which a method calls more "
        "than its base, cost a CPU some microseconds each, whatever they move."
    )
    return Found(how, rows, goals)
