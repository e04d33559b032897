"""AdamW over the few tensors that a method trains, on a CPU: python benchmarks/optimizers.py [CONTENDER ...]

Fused (Trainer's default), foreach and one tensor after another, in turns: the median milliseconds of ROUNDS, and what
they are of a whole step's.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from time import perf_counter

import torch

from hyperadapt.bench import Setting, worker
from hyperadapt.bench.sections import adapted
from hyperadapt.errors import nearest

ROUNDS, WARM_UP, STEPS = 60, 5, 5
WAYS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "one by one": {"foreach": False}}


def main() -> None:
    """Print a line for each contender and way."""
    setting = Setting()
    torch.set_num_threads(setting.threads)
    contenders = adapted(setting)
    for name in sys.argv[1:] or contenders:
        if name not in contenders:
            sys.exit(f"contender '{name}' is unknown; {nearest(name, contenders)}")
        given = asdict(contenders[name])
        model = worker.adapted(given)
        step = worker.training(given, model, torch.device("cpu"))
        whole = median(seconds(step) for _ in range(WARM_UP + STEPS))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.randn_like(parameter)
        optimizers = {way: torch.optim.AdamW(trained, lr=1e-6, **options) for way, options in WAYS.items()}
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(WARM_UP + ROUNDS):
            for way in random.sample(list(WAYS), len(WAYS)):
                own = seconds(optimizers[way].step)
                if number >= WARM_UP:
                    taken[way].append(own)
        size = f"{sum(map(torch.numel, trained)) / 1e6:.2f} million parameters in {len(trained)} tensors"
        print(f"{name}: {size}, a step {1000 * whole:.0f} ms")
        for way, times in taken.items():
            print(f"  {way:10}  {1000 * median(times):6.2f} ms  {median(times) / whole:6.1%}", flush=True)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = perf_counter()
    work()
    return perf_counter() - start


if __name__ == "__main__":
    main()
