"""What the parts of fast/ save that no other benchmark measures, side by side in one process, on this machine.

    python benchmarks/fast.py norms       # trained norms in few passes: a step with T5's own as a multiple of it
    python benchmarks/fast.py autocast    # bfloat16 under autocast: a step with autocast on in the stacks, likewise

HyperFormer++ with a reduction factor of 32 on the T5-small shape, 16 rows of 96 source and 4 target tokens, AdamW.
"""

from __future__ import annotations

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
from hyperadapt.fast import norms, stacks
from hyperadapt.model.norm import TrainedNorm

ROWS, TOKENS, TARGETS, ROUNDS = 16, 96, 4, 24
TASKS = [f"task{number}" for number in range(8)]


def forward_of_the_next(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run what a part of fast/ stands before."""
    return super(stacks.PlainStack, self).forward(*args, **kwargs)  # type: ignore[misc]


# part -> the class, and the forward that it has without the part
PARTS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "norms": (norms.FastNorm, TrainedNorm.forward),
    "autocast": (stacks.PlainStack, forward_of_the_next),
}


def main(part: str) -> None:
    """Print a step without a part as a multiple of one with it, of the same round."""
    owner, plain = PARTS[part]
    ways = {"with": owner.forward, "without": plain}
    low = part == "autocast"
    torch.manual_seed(0)
    config: Any = published_config("t5-small")
    config.dropout_rate = 0.0
    base = T5ForConditionalGeneration(config).to(torch.bfloat16 if low else torch.float32)
    model = ha.adapt(base, ha.HyperFormerPlusPlus(reduction_factor=32), TASKS).train()
    tokens = torch.randint(3, config.vocab_size, (ROWS, TOKENS))
    batch = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": torch.randint(3, config.vocab_size, (ROWS, TARGETS)),
        "task_ids": torch.arange(ROWS) % len(TASKS),
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step(way: str) -> float:
        owner.forward = ways[way]
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    ratios = []
    for number in range(ROUNDS):
        seconds = {way: step(way) for way in (list(ways) if number % 2 else reversed(list(ways)))}
        ratios += [seconds["without"] / seconds["with"]] if number > 1 else []
    low_quartile, middle, high_quartile = quantiles(ratios)
    print(
        f"{part}: a step without is {middle:.3f} ({low_quartile:.3f} to {high_quartile:.3f}) of one with it"
    )


if __name__ == "__main__":
    main(sys.argv[1])
