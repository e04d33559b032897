"""AdamW over the few tensors that a method trains, on a CPU: python benchmarks/optimizers.py

Fused (Trainer's default), foreach and one tensor after another, in turns: the median milliseconds of ROUNDS, and what
they are of a whole step's.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

import torch

from hyperadapt.studies.bench import Setting, worker
from hyperadapt.studies.bench.sections import adapted
from turns import in_turns

ROUNDS, STEPS = 60, 7
WAYS: dict[str, Any] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "one by one": {"foreach": False},
}


def main() -> None:
    """Print each contender's step and ways."""
    setting = Setting()
    torch.set_num_threads(setting.threads)
    for name, spec in adapted(setting).items():
        given = asdict(spec)
        model = worker.adapted(given)
        [steps] = in_turns({name: worker.training(given, model, torch.device("cpu"))}, STEPS).values()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.randn_like(parameter)
        optimizers = {way: torch.optim.AdamW(trained, lr=1e-6, **options) for way, options in WAYS.items()}
        size = f"{sum(map(torch.numel, trained)) / 1e6:.2f} million parameters in {len(trained)} tensors"
        print(f"{name}: {size}, a step {median(steps):.0f} ms")
        for way, taken in in_turns({way: of.step for way, of in optimizers.items()}, ROUNDS).items():
            print(f"  {way:10}  {median(taken):6.2f} ms  {median(taken) / median(steps):6.1%}", flush=True)


if __name__ == "__main__":
    main()
