"""Time calls of this process side by side; contenders in processes of their own are studies.bench.measure's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from time import perf_counter

WARM_UP = 3


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return each way's milliseconds, in each round in another order."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    order = Random(0)
    for number in range(WARM_UP + rounds):
        for way in order.sample(list(ways), len(ways)):
            start = perf_counter()
            ways[way]()
            if number >= WARM_UP:
                taken[way].append(1000 * (perf_counter() - start))
    return taken
