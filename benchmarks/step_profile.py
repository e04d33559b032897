"""Where a training step's time goes beyond the floor's: python benchmarks/step_profile.py [CONTENDER ...]

Operators by the milliseconds that they take more or less than in the floor, from PyTorch's profiler, mean of STEPS in
turns.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict

import torch
from torch.profiler import ProfilerActivity, profile

from hyperadapt.errors import nearest
from hyperadapt.studies.bench import Setting, worker
from hyperadapt.studies.bench.measure import Spec
from hyperadapt.studies.bench.sections import FLOOR, PEERS, adapted, frozen_or_not, spec

STEPS, WARM_UP, SHOWN = 8, 3, 12


def milliseconds(contenders: dict[str, Spec]) -> dict[str, Counter[str]]:
    """Profile steps of contenders that take turns, and return each operator's own time in a step of each."""
    made = {name: asdict(of) for name, of in contenders.items()}
    steps = {name: worker.training(of, worker.adapted(of), torch.device("cpu")) for name, of in made.items()}
    spent: dict[str, Counter[str]] = {name: Counter() for name in steps}
    for number in range(WARM_UP + STEPS):
        for name, step in steps.items():
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                step()
            if number >= WARM_UP:
                for event in profiled.key_averages():
                    spent[name][event.key] += event.self_cpu_time_total / 1000 / STEPS
    return spent


def main() -> None:
    """Print a table for each contender."""
    setting = Setting()
    torch.set_num_threads(setting.threads)
    peers = {name: spec(setting, "peft", options) for name, options in PEERS.items()}
    contenders = {**frozen_or_not(setting), **adapted(setting), **peers}
    reference = contenders.pop(FLOOR)
    for name in sys.argv[1:]:
        if name not in contenders:
            sys.exit(f"contender '{name}' is unknown; {nearest(name, contenders)}")
    for name in sys.argv[1:] or contenders:
        floor, own = milliseconds({FLOOR: reference, name: contenders[name]}).values()
        print(f"\n{name}: {own.total():.0f} ms; {FLOOR}: {floor.total():.0f} ms")
        apart = {key: own[key] - floor[key] for key in {*own, *floor}}
        for key in sorted(apart, key=lambda key: -abs(apart[key]))[:SHOWN]:
            print(f"  {apart[key]:+7.1f} ms  {key}")


if __name__ == "__main__":
    main()
