"""What belongs to the process: its memory, and its random numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import torch


@contextmanager
def same_random_state() -> Iterator[None]:
    """Put all random number generators back to where they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def held_memory() -> int:
    """Return the bytes that the device's allocator, or on the CPU the process, holds now."""
    if torch.accelerator.is_available():
        return torch.accelerator.memory_allocated()
    return psutil.Process().memory_info().rss


def peak_memory() -> int:
    """Return the most bytes that the device's allocator, or on the CPU the process, has held at once."""
    if torch.accelerator.is_available():
        return torch.accelerator.max_memory_allocated()
    import resource

    kibibytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes
