"""Ways to run a training step and a generation on a GPU, in turns: python benchmarks/gpu_ways.py [step] [generation]

Each contender of `hyperadapt bench` as it is, and as a CUDA graph that repeats its step; HyperFormer++ also without the
adapter's own kernel. Median milliseconds of ROUNDS, of full fine-tuning's, and the kernels with their milliseconds.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch.profiler import DeviceType, ProfilerActivity, profile

from hyperadapt.bench import Setting, worker
from hyperadapt.bench.measure import Spec
from hyperadapt.bench.sections import BARE, FULL, LORA_R8, PEERS, adapted, frozen_or_not, our_floor, spec
from hyperadapt.forms import base
from turns import in_turns

ROUNDS = 15
GPU = torch.device("cuda")
PLUS = "hyperformer++, 8 tasks"


@contextmanager
def without_triton() -> Any:
    """Compute adapters by PyTorch's operators."""
    base.HAS_TRITON = False
    try:
        yield
    finally:
        base.HAS_TRITON = True


@dataclass
class Way:
    """A piece of work, whether it is done with the adapter's own kernel, and what it must not lose."""

    work: Callable[[], object]
    fused: bool = True
    kept: Any = None

    def __call__(self) -> None:
        """Do it, and wait for the GPU."""
        if self.fused:
            self.work()
        else:
            with without_triton():
                self.work()
        torch.cuda.synchronize()

    def kernels(self) -> tuple[int, float]:
        """Count the kernels that it launches, and their own milliseconds."""
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            self()
        events = [event for event in profiled.events() or [] if event.device_type != DeviceType.CPU]
        return len(events), sum(event.self_device_time_total for event in events) / 1000


def model_of(of: Spec) -> Any:
    """Make a contender's model where it will be."""
    with GPU:
        return worker.adapted(asdict(of)).to(GPU)


def captured(of: Spec) -> Way:
    """Capture a step, the optimizer's included, which depends on shapes alone."""
    fields, model = asdict(of), model_of(of).train()
    [batch] = worker.inputs(fields, GPU)
    labels = torch.randint(
        3, fields["model"]["vocab_size"], (len(batch["input_ids"]), of.targets), device=GPU
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True, capturable=True)
    model.config.use_cache = False

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=of.autocast, cache_enabled=False):
            loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return Way(graph.replay, kept=step)


def steps(setting: Setting) -> dict[str, Way]:
    """Make every contender's step."""
    references, ours = frozen_or_not(setting), adapted(setting)
    lora = {LORA_R8: spec(setting, "peft", PEERS[LORA_R8])}
    contenders: dict[str, Spec] = {**references, **our_floor(setting), **ours, **lora}
    ways = {name: Way(worker.training(asdict(of), model_of(of), GPU)) for name, of in contenders.items()}
    plain = worker.training(asdict(ours[PLUS]), model_of(ours[PLUS]), GPU)
    ways[f"{PLUS}, without its kernel"] = Way(plain, fused=False)
    ways |= {f"graph: {name}": captured(of) for name, of in contenders.items()}
    with without_triton():
        ways[f"graph: {PLUS}, without its kernel"] = captured(ours[PLUS])
    return ways


def generations(setting: Setting) -> dict[str, Way]:
    """Make generations with a static cache, compiled by generate."""
    work: Any = {"work": "generate", "targets": 32, "compile": True}
    ours = adapted(setting, **work)
    contenders = {
        BARE: spec(setting, "transformers", {"train": "layer_norms"}, **work),
        PLUS: ours[PLUS],
        "hyperdecoder, 8 tasks": ours["hyperdecoder, 8 tasks"],
    }
    ways = {name: Way(worker.generation(asdict(of), model_of(of), GPU)) for name, of in contenders.items()}
    plain = worker.generation(asdict(ours[PLUS]), model_of(ours[PLUS]), GPU)
    return ways | {f"{PLUS}, without its kernel": Way(plain, fused=False)}


def show(ways: Mapping[str, Way], reference: str) -> None:
    """Print a line for each way."""
    taken = in_turns(ways, ROUNDS)
    for name, times in taken.items():
        number, busy = ways[name].kernels()
        ratio = median(own / other for own, other in zip(times, taken[reference], strict=True))
        print(
            f"{name:52} {median(times):7.2f} ms  {ratio:6.3f} of {reference}  {number:6} kernels, {busy:6.2f} ms",
            flush=True,
        )


def main() -> None:
    """Print what is asked for, or both."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    setting, asked = Setting(), sys.argv[1:] or ["step", "generation"]
    if "step" in asked:
        show(steps(setting), FULL)
    if "generation" in asked:
        show(generations(setting), BARE)


if __name__ == "__main__":
    main()
