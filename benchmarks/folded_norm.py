"""What folding the adapter's layer norm into its up projection saves, on a CPU: time, side by side, and memory.

    python benchmarks/folded_norm.py time      # T5-small shape: both in turns, plain as a multiple of folded
    python benchmarks/folded_norm.py memory    # T5-base shape: the highest of two steps, a process for each

HyperFormer++ with a reduction factor of 32, 16 rows of 96 source and 4 target tokens, fp32, without dropout, AdamW.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

import torch
from transformers import T5ForConditionalGeneration

import hyperadapt as ha
from hyperadapt.backbones import published_config
from hyperadapt.forms import Bottleneck
from hyperadapt.forms.base import cast
from hyperadapt.studies.bench.worker import peak_memory

ROWS, TOKENS, TARGETS, ROUNDS = 16, 96, 4, 24
TASKS = [f"task{number}" for number in range(8)]
WAYS = {"folded": Bottleneck.prepare, "plain": lambda form, weights, dtype: cast(weights, dtype)}


def stepper(shape: str, n_tasks: int) -> Callable[[str], float]:
    """Return a training step by one of the ways, which returns its seconds."""
    torch.manual_seed(0)
    config: Any = published_config(shape)
    config.dropout_rate = 0.0
    base = T5ForConditionalGeneration(config)
    model = ha.adapt(base, ha.HyperFormerPlusPlus(reduction_factor=32), TASKS).train()
    tokens = torch.randint(3, config.vocab_size, (ROWS, TOKENS))
    batch = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": torch.randint(3, config.vocab_size, (ROWS, TARGETS)),
        "task_ids": torch.arange(ROWS) % n_tasks,
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step(way: str) -> float:
        Bottleneck.prepare = WAYS[way]  # type: ignore[method-assign]
        start = time.perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def compare_time() -> None:
    """Print plain steps as a multiple of folded ones of the same round."""
    for n_tasks in (1, 8):
        step, ratios = stepper("t5-small", n_tasks), []
        for number in range(ROUNDS):
            seconds = {way: step(way) for way in (list(WAYS) if number % 2 else reversed(WAYS))}
            ratios += [seconds["plain"] / seconds["folded"]] if number > 1 else []
        low, middle, high = quantiles(ratios)
        print(f"{n_tasks} tasks: plain is {middle:.3f} ({low:.3f} to {high:.3f}) of folded")


def compare_memory() -> None:
    """Print the highest memory of both ways."""
    for n_tasks in (1, 8):
        for way in WAYS:
            subprocess.run([sys.executable, __file__, "peak", way, str(n_tasks)], check=True)


def print_peak(way: str, n_tasks: int) -> None:
    """Print the highest memory of two steps in this process."""
    step = stepper("t5-base", n_tasks)
    for _ in range(2):
        step(way)
    print(f"{n_tasks} tasks: {way} {peak_memory(torch.device('cpu')):.0f} MB")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["time"]:
            compare_time()
        case ["memory"]:
            compare_memory()
        case ["peak", way, n_tasks]:
            print_peak(way, int(n_tasks))
        case _:
            sys.exit(__doc__)
