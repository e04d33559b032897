"""What HyperGrid's gates cost: ways to multiply by a gated matrix, and a training step beside full fine-tuning.

    python benchmarks/gated_feed_forward.py ways
    python benchmarks/gated_feed_forward.py step [--model t5-base] [--rows 8] [--tokens 128] [--targets 4] [--rounds 5]

Both print markdown. A variant's steps alternate with full fine-tuning's, and the ratio is the median over the rounds;
memory is the highest of a process of its own. As HyperGrid trains no embeddings, plain training without them stands
beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import T5ForConditionalGeneration

import hyperadapt as ha
from hyperadapt.backbones import published_config
from hyperadapt.forms.grid import by_columns, by_matrix, by_rows, gated_linear

D_MODEL, D_FF, FAN_IN, FAN_OUT = 768, 3072, 32, 128  # T5-base, and the grid
PLAIN, NO_EMBEDDINGS = "full_fine_tuning", "full_fine_tuning, embeddings frozen"
VARIANTS: dict[str, Any] = {
    PLAIN: ha.FullFineTuning(),
    NO_EMBEDDINGS: ha.FullFineTuning(),
    **{
        f"hypergrid, {variant}": ha.HyperGrid(variant=variant, fan_in=FAN_IN, fan_out=FAN_OUT)
        for variant in ("L", "L2", "LG", "GL")
    },
    "output_gate": ha.OutputGate(),
}


def seconds(function: Callable[[], object], least: float = 0.5) -> float:
    """Time a call, the median of as many as take half a second."""
    function()
    times: list[float] = []
    while sum(times) < least or len(times) < 3:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times)


def ways(rows: int) -> None:
    """Print the milliseconds of each way, of the plain product, and of the one that is chosen with its backward."""
    weight = torch.randn(D_MODEL, D_FF, requires_grad=True)
    gate = torch.rand(rows, FAN_IN, FAN_OUT, requires_grad=True)
    forwards: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "plain": lambda x: torch.nn.functional.linear(x, weight),
        **{way.__name__: partial(way, weight=weight, gate=gate) for way in (by_matrix, by_columns, by_rows)},
        "chosen": partial(gated_linear, weight=weight, gate=gate),
    }
    both = {f"{name}, backward too": forwards[name] for name in ("plain", "chosen")}
    print(f"{rows} rows, {torch.get_num_threads()} threads, milliseconds\n")
    print(f"| tokens | {' | '.join([*forwards, *both])} |\n| --- {'| --- ' * (len(forwards) + len(both))}|")
    for tokens in (1, 4, 8, 16, 24, 32, 64, 128):
        x = torch.randn(rows, tokens, D_FF, requires_grad=True)
        with torch.no_grad():
            times = [seconds(partial(run, x)) for run in forwards.values()]
        times += [seconds(lambda run=run, x=x: run(x).sum().backward()) for run in both.values()]
        print(f"| {tokens} | {' | '.join(f'{1000 * time:.1f}' for time in times)} |", flush=True)


def step_of(name: str, model: str, rows: int, tokens: int, targets: int) -> Callable[[], None]:
    """Build a training step, forward, backward and AdamW, of a variant."""
    torch.manual_seed(0)
    base = T5ForConditionalGeneration(published_config(model))
    adapted = ha.adapt(base, VARIANTS[name], ["task"]).train()
    if name == NO_EMBEDDINGS:
        adapted.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)
    batch = {
        "input_ids": torch.randint(3, 1000, (rows, tokens)),
        "labels": torch.randint(3, 1000, (rows, targets)),
    }

    def step() -> None:
        adapted(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_memory(name: str, options: argparse.Namespace) -> int:
    """Measure the memory of two steps in a process of their own, in MB."""
    sizes = ["--model", options.model, "--rows", str(options.rows), "--tokens", str(options.tokens)]
    sizes += ["--targets", str(options.targets)]
    command = [sys.executable, __file__, "memory", "--variant", name, *sizes]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def own_peak() -> int:
    """Read this process's highest memory in MB; getrusage would count what its parent held when it was begun."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def steps(options: argparse.Namespace) -> None:
    """Print each variant's step and memory as multiples of full fine-tuning's."""
    memory = {name: peak_memory(name, options) for name in VARIANTS}
    shape = options.model, options.rows, options.tokens, options.targets
    plain = step_of(PLAIN, *shape)
    sizes = f"{options.rows} rows of {options.tokens} tokens, {options.targets} targets"
    print(f"{options.model}, {sizes}, {torch.get_num_threads()} threads")
    print()
    print("| variant | step (s) | of full fine-tuning | memory (MB) | of full fine-tuning |")
    print("| --- | --- | --- | --- | --- |")
    for name in VARIANTS:
        step = plain if name == PLAIN else step_of(name, *shape)
        times: list[tuple[float, float]] = []
        for _ in range(options.rounds + 1):
            begin = time.perf_counter()
            plain()
            middle = time.perf_counter()
            step()
            times.append((middle - begin, time.perf_counter() - middle))
        taken, ratio = median(own for _, own in times[1:]), median(own / floor for floor, own in times[1:])
        of_memory = memory[name] / memory[PLAIN]
        print(f"| {name} | {taken:.2f} | {ratio:.2f}x | {memory[name]} | {of_memory:.2f}x |", flush=True)


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["ways", "step", "memory"])
    parser.add_argument("--model", default="t5-base")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--targets", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", choices=list(VARIANTS), default="full_fine_tuning")
    options = parser.parse_args()
    if options.what == "ways":
        ways(options.rows)
    elif options.what == "step":
        steps(options)
    else:
        step = step_of(options.variant, options.model, options.rows, options.tokens, options.targets)
        step()
        step()
        print(own_peak())


if __name__ == "__main__":
    main()
