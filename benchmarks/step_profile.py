"""Where a training step's time goes beyond the floor's: python benchmarks/step_profile.py [CONTENDER ...]

Operators by the milliseconds that they take more or less than in the floor, from PyTorch's profiler, mean of STEPS.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict

import torch
from torch.profiler import ProfilerActivity, profile

from hyperadapt.bench import Setting, worker
from hyperadapt.bench.sections import FLOOR, PEERS, adapted, frozen_or_not, spec
from hyperadapt.errors import nearest

STEPS, WARM_UP, SHOWN = 8, 3, 12


def milliseconds(fields: dict[str, object]) -> Counter[str]:
    """Profile a contender's steps, and return each operator's own time in one."""
    step = worker.training(fields, worker.adapted(fields), torch.device("cpu"))
    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    return Counter({event.key: event.self_cpu_time_total / 1000 / STEPS for event in profiled.key_averages()})


def main() -> None:
    """Print a table for each contender."""
    setting = Setting()
    torch.set_num_threads(setting.threads)
    peers = {name: spec(setting, "peft", options) for name, options in PEERS.items()}
    contenders = {**frozen_or_not(setting), **adapted(setting), **peers}
    for name in sys.argv[1:]:
        if name not in contenders:
            sys.exit(f"contender '{name}' is unknown; {nearest(name, contenders)}")
    floor = milliseconds(asdict(contenders[FLOOR]))
    print(f"{FLOOR}: {floor.total():.0f} ms")
    for name in sys.argv[1:] or list(contenders):
        own = milliseconds(asdict(contenders[name]))
        print(f"\n{name}: {own.total():.0f} ms")
        apart = {key: own[key] - floor[key] for key in {*own, *floor}}
        for key in sorted(apart, key=lambda key: -abs(apart[key]))[:SHOWN]:
            print(f"  {apart[key]:+7.1f} ms  {key}")


if __name__ == "__main__":
    main()
