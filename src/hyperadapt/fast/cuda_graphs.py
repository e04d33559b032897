"""Training steps as CUDA graphs: what a step launches is recorded once for each shape of a batch, and then repeated.

A GPU does the step of a frozen backbone in a fraction of the time that Python takes to tell it of all the kernels
(docs/benchmarks.md). What they are depends on shapes alone: in training no method reads a batch on an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

MOST = 64  # graphs; of further shapes every batch runs as it is
Step = Callable[[dict[str, Any]], Tensor]


class CapturedSteps:
    """Runs forward and backward; from the second batch of a shape on, by repeating what the shape's graph recorded.

    Gradients are added up in buffers of their own, whichever graph makes them, and start from zero where a parameter
    has none: one that takes no part in a step has a gradient of zero.

    Args:
        step: goes forward and backward, and returns the loss; it must not wait for the device.
        trained: the parameters.
        capture: records a call without arguments, and returns what repeats it and the output that is written anew.
    """

    def __init__(self, step: Step, trained: Iterable[torch.nn.Parameter], capture: Any = None) -> None:
        self.step, self.trained = step, list(trained)
        self.capture = capture or on_the_gpu()
        self.gradients = [torch.zeros_like(parameter) for parameter in self.trained]
        self.seen: set[Any] = set()
        self.captured: dict[Any, tuple[Callable[[], None], dict[str, Any], Tensor]] = {}

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """Take the step, and return its loss.

        Args:
            batch: on the parameters' device, or numbers on the CPU.
        """
        if self.trained[0].grad is not self.gradients[0]:
            self.take_gradients()
        shape = tuple((name, *shape_of(value)) for name, value in batch.items())
        # Run once as it is, for what is made at the first call.
        if shape not in self.seen or (shape not in self.captured and len(self.captured) == MOST):
            self.seen.add(shape)
            return self.step(send_to_device(batch, self.trained[0].device, non_blocking=True))
        if shape not in self.captured:
            there = send_to_device(batch, self.trained[0].device, non_blocking=True)
            own = {
                name: value.clone() if isinstance(value, Tensor) else value for name, value in there.items()
            }
            replay, loss = self.capture(lambda: self.step(own))
            self.captured[shape] = replay, own, loss
        replay, own, loss = self.captured[shape]
        for name, value in batch.items():
            if isinstance(value, Tensor):
                own[name].copy_(value, non_blocking=True)
        replay()
        return loss.clone()

    def take_gradients(self) -> None:
        """Let the buffers hold the parameters' gradients, whatever those are so far."""
        torch._foreach_zero_(self.gradients)
        for parameter, gradient in zip(self.trained, self.gradients, strict=True):
            if parameter.grad is not None:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient


def shape_of(value: Any) -> tuple[Any, ...]:
    """Return what a graph is recorded for: a tensor's shape and type, or a number."""
    return (value.shape, value.dtype) if isinstance(value, Tensor) else (value,)


def on_the_gpu() -> Any:
    """Return what captures CUDA graphs, which share the memory of what they make on the way."""
    pool = torch.cuda.graph_pool_handle()

    def capture(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: the data loader's may pin memory meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            loss = call()
        return graph.replay, loss

    return capture
