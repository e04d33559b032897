"""What parts of hyperadapt/fast save of a training step on a CPU: time, side by side, and memory.

    python benchmarks/fast.py PART time      # T5-small shape: both in turns, without the part as a multiple of with it
    python benchmarks/fast.py PART memory    # T5-base shape: the highest of two steps, a process for each

PART is norms, autocast (bfloat16 under autocast) or folded_norm. HyperFormer++ with a reduction factor of 32, 16 rows
of 96 source and 4 target tokens, without dropout, AdamW; with one task in the batch and with eight.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import quantiles
from typing import Any

import torch
from torch import nn
from transformers import T5ForConditionalGeneration

import hyperadapt as ha
from hyperadapt.backbones import published_config
from hyperadapt.fast.folded_norm import FoldedBottleneck
from hyperadapt.fast.norms import FastNorm
from hyperadapt.fast.stacks import PlainStack
from hyperadapt.forms import Bottleneck
from hyperadapt.model.norm import TrainedNorm
from hyperadapt.studies.bench.worker import peak_memory

ROWS, TOKENS, TARGETS, ROUNDS = 16, 96, 4, 24
TASKS = [f"task{number}" for number in range(8)]


def forward_of_the_next(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run what a `PlainStack` stands before."""
    return super(PlainStack, self).forward(*args, **kwargs)  # type: ignore[misc]


# part -> the class, its method, and the one that it has without the part
PARTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "norms": (FastNorm, "forward", TrainedNorm.forward),
    "autocast": (PlainStack, "forward", forward_of_the_next),
    "folded_norm": (FoldedBottleneck, "prepare", Bottleneck.prepare),
}
WAYS = ("with", "without")


def stepper(part: str, shape: str, n_tasks: int) -> Callable[[str], float]:
    """Return a training step with or without a part, which returns its seconds."""
    owner, method, plain = PARTS[part]
    ways = {"with": getattr(owner, method), "without": plain}
    low = part == "autocast"
    torch.manual_seed(0)
    config: Any = published_config(shape)
    config.dropout_rate = 0.0
    base = T5ForConditionalGeneration(config).to(torch.bfloat16 if low else torch.float32)
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
        setattr(owner, method, ways[way])
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def compare_time(part: str) -> None:
    """Print steps without a part as a multiple of those with it of the same round."""
    for n_tasks in (1, 8):
        step, ratios = stepper(part, "t5-small", n_tasks), []
        for number in range(ROUNDS):
            seconds = {way: step(way) for way in (WAYS if number % 2 else reversed(WAYS))}
            ratios += [seconds["without"] / seconds["with"]] if number > 1 else []
        low, middle, high = quantiles(ratios)
        print(
            f"{part}, {n_tasks} tasks: a step without is {middle:.3f} ({low:.3f} to {high:.3f}) of one with it"
        )


def compare_memory(part: str) -> None:
    """Print the highest memory of both ways."""
    for n_tasks in (1, 8):
        for way in WAYS:
            subprocess.run([sys.executable, __file__, part, "peak", way, str(n_tasks)], check=True)


def print_peak(part: str, way: str, n_tasks: int) -> None:
    """Print the highest memory of two steps in this process."""
    step = stepper(part, "t5-base", n_tasks)
    for _ in range(2):
        step(way)
    print(f"{part}, {n_tasks} tasks: {way} {peak_memory(torch.device('cpu')):.0f} MB")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [part, "time"] if part in PARTS:
            compare_time(part)
        case [part, "memory"] if part in PARTS:
            compare_memory(part)
        case [part, "peak", way, n_tasks] if part in PARTS:
            print_peak(part, way, int(n_tasks))
        case _:
            sys.exit(__doc__)
