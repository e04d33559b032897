"""How many threads PyTorch computes with on a CPU: as many as cores are free.

Its threads wait for each other at every product, so that one that shares its core with other work holds up all: beside
two busy processes on two cores a step of the quickstart takes 0.5 s on one thread, and 6.4 s on two. So is it where a
container may use less than the cores that it sees.
"""

from __future__ import annotations

import os
import time
from math import inf
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
    cause = "the container's limit" if quota() <= free else "other work"
    notice(
        f"{cause} leaves {free:.1f} of {len(own_cores())} cores free: PyTorch computes on {threads} of its {default} "
        "threads, as more would wait for each other; training.threads or OMP_NUM_THREADS decides otherwise"
    )
    return threads


def own_cores() -> list[int]:
    """List the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def free_cores() -> float:
    """Look for a moment at how many of this process's cores are idle, as far as its container lets it have them."""
    import psutil

    busy = psutil.cpu_percent(interval=SECONDS_OF_LOOKING, percpu=True)
    return min(sum(1 - busy[core] / 100 for core in own_cores() if core < len(busy)), quota())


def quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores' time a container's limit gives, as `docker run --cpus` sets it; boundless without one."""
    versions = (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"])
    for names in versions:
        files = [root / name for name in names]
        if all(file.is_file() for file in files):
            most, period, *_ = " ".join(file.read_text() for file in files).split()
            if most.isdigit():  # else "max", or -1
                return int(most) / int(period)
    return inf


class Crowding:
    """How many of this process's cores other work takes, from one look to the next."""

    def __init__(self) -> None:
        self.before = self.now()

    def look(self) -> float:
        """Return the cores that others took since the last look."""
        before, self.before = self.before, self.now()
        seconds, busy, own = (after - earlier for after, earlier in zip(self.before, before, strict=True))
        return max(busy - own, 0.0) / max(seconds, 1e-9)

    @staticmethod
    def now() -> tuple[float, float, float]:
        """Read the clock, the seconds that this process's cores have worked, and those that it has itself."""
        import psutil

        cores = psutil.cpu_times(percpu=True)
        busy = sum(
            sum(cores[core]) - cores[core].idle - getattr(cores[core], "iowait", 0.0)
            for core in own_cores()
            if core < len(cores)
        )
        own = psutil.Process().cpu_times()
        return time.perf_counter(), busy, own.user + own.system
