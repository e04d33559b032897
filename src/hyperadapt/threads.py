"""How many threads PyTorch computes with on a CPU: as many as cores are free.

Its threads wait for each other at every product, so that one that shares its core with other work holds up all: beside
two busy processes on two cores a step of the quickstart takes 0.5 s on one thread, and 6.4 s on two.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from hyperadapt.config.written import PretrainConfig, RunConfig
from hyperadapt.errors import notice

SECONDS_OF_LOOKING = 0.5
Config = TypeVar("Config", RunConfig, PretrainConfig)


def with_threads(config: Config, resume: bool) -> Config:
    """Decide a training's threads, where nobody has, and keep them in its configuration.

    Sums of another number of threads are rounded otherwise, so that a run goes on with the number it began with.

    Args:
        config: of the training.
        resume: whether it goes on from a checkpoint.
    """
    if config.training.threads is not None:
        return config
    saved = Path(config.output_dir) / "config.yaml"
    begun = type(config).load_saved(saved).training if resume and saved.is_file() else None
    threads = fewer_threads() if begun is None else begun.threads
    training = config.training.model_copy(update={"threads": threads})
    return config.model_copy(update={"training": training})


def use(threads: int | None) -> None:
    """Compute with so many threads; None leaves it as it is."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def fewer_threads() -> int | None:
    """Say how many threads the free cores carry, and that it is so; None where PyTorch's own choice is right.

    It is right on an accelerator, and where the environment has decided, as torchrun does for its processes.
    """
    import torch

    if {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys() or torch.accelerator.is_available():
        return None
    default = torch.get_num_threads()
    free = free_cores() if default > 1 else 1.0
    threads = max(1, round(free))
    if threads >= default:
        return None
    notice(
        f"other work leaves {free:.1f} of {len(own_cores())} cores free: PyTorch computes on {threads} of its "
        f"{default} threads, as more would wait for each other; training.threads or OMP_NUM_THREADS decides otherwise"
    )
    return threads


def own_cores() -> list[int]:
    """List the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def free_cores() -> float:
    """Look for a moment at how many of this process's cores are idle."""
    import psutil

    busy = psutil.cpu_percent(interval=SECONDS_OF_LOOKING, percpu=True)
    return sum(1 - busy[core] / 100 for core in own_cores() if core < len(busy))
