"""What an experiment will cost, said before it begins: runs, arithmetic, hours and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperadapt.config import RunConfig
from hyperadapt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GIB = 2**30
A100 = 312e12  # multiplications and additions a second in bfloat16, by NVIDIA's data sheet
SHARE = 0.4  # of them that a training of a large model reaches
TARGET_TOKENS = 8  # of a label; a summary has more, of what is little beside its document


@dataclass(frozen=True)
class Budget:
    """What a run takes at least.

    Attributes:
        base, trained: parameters of the base model, and those that are trained.
        flop: floating-point operations of all steps, if every input is as long as it may be.
        memory: bytes of weights, gradients and the optimizer's state; activations come on top.
    """

    base: int
    trained: int
    flop: float
    memory: int


def budgets(runs: Sequence[RunConfig]) -> list[Budget]:
    """Reckon what runs take, from their configurations alone; those of one model and method are counted once."""
    from hyperadapt.counting import count_without_weights
    from hyperadapt.tasks import resolve_tasks

    configs: dict[str, PreTrainedConfig] = {}
    counted: dict[tuple[str, str], tuple[int, int]] = {}
    found = []
    for run in runs:
        model = repr((run.model.name, run.model.config))
        if model not in configs:
            configs[model] = config_of(run)
        # The widths of a grid or an adapter make no difference that counts here.
        alike = (model, run.build_method().name)
        if alike not in counted:
            count = count_without_weights(
                configs[model], run.build_method(), len(resolve_tasks(run.data.tasks))
            )
            counted[alike] = count.base, count.trained
        base, trained = counted[alike]
        weights = {"float32": 4, "bfloat16": 2}[run.model.dtype]
        # Adafactor's state is a row and a column of each matrix; AdamW has two numbers for each that is trained.
        state = 4 + (0 if run.training.t5_adafactor else 8)
        flop = run.training.max_steps * flop_of_step(configs[model], run, trained / base)
        found.append(Budget(base, trained, flop, weights * base + state * trained))
    return found


def config_of(run: RunConfig) -> Any:
    """Return the configuration of a run's base model."""
    from transformers import T5Config

    from hyperadapt.counting import model_config

    return T5Config(**run.model.config) if run.model.config is not None else model_config(str(run.model.name))


def flop_of_step(config: Any, run: RunConfig, share: float) -> float:
    """Reckon a training step: two operations a weight and token, once forward, once for what goes back through it.

    The gradients of weights take as much again, for the share of them that is trained.
    """
    inner = config.num_heads * config.d_kv
    feed_forward = (3 if config.is_gated_act else 2) * config.d_model * config.d_ff
    attention = 4 * config.d_model * inner
    encoder = config.num_layers * (attention + feed_forward)
    decoder = config.num_decoder_layers * (2 * attention + feed_forward) + config.vocab_size * config.d_model
    of_row = run.data.max_source_length * encoder + TARGET_TOKENS * decoder
    return run.training.batch_size * of_row * 2 * (2 + min(share, 1))


def check_memory(runs: Sequence[RunConfig], processes: int = 1) -> None:
    """Check that this machine can hold what every run takes at least.

    Args:
        runs: their configurations.
        processes: over which a run's weights are spread, if it spreads them (training.arguments.fsdp).

    Raises:
        UserError: naming the largest run, what it takes and what there is.
    """
    import psutil
    import torch

    if not runs:
        return
    accelerator = torch.cuda.is_available()
    there = torch.cuda.get_device_properties(0).total_memory if accelerator else psutil.virtual_memory().total
    taken = [
        budget.memory // (processes if run.training.arguments.get("fsdp") else 1)
        for run, budget in zip(runs, budgets(runs), strict=True)
    ]
    most = max(range(len(runs)), key=taken.__getitem__)
    if taken[most] > there:
        run = runs[most]
        raise UserError(
            f"a run of {run.model.name} with method {run.build_method().name} takes at least "
            f"{taken[most] / GIB:.0f} GiB for weights, gradients and optimizer, and this machine's "
            f"{'GPU' if accelerator else 'memory'} has {there / GIB:.0f} GiB; take --scale small, a smaller --base, or "
            "spread the weights (--processes N training.arguments.fsdp=full_shard)"
        )


def steps_in_words(runs: Sequence[RunConfig]) -> str:
    """Say how many steps runs have; those of runs by epochs follow from their rows, and are in no number."""
    epochs = [run.training.epochs for run in runs if run.training.epochs is not None]
    steps = sum(run.training.max_steps for run in runs if run.training.epochs is None)
    by_epochs = f"{len(epochs)} x {max(epochs):g} epochs" if epochs else ""
    return " and ".join(filter(None, [f"{steps:,} steps" if steps or not epochs else "", by_epochs]))


def cost_in_words(runs: Sequence[RunConfig]) -> str:
    """Say what runs cost: in steps, and in hours of a processor that everybody knows, those by epochs left out."""
    if not runs:
        return "no runs"
    found = budgets(runs)
    flop = sum(budget.flop for budget, run in zip(found, runs, strict=True) if run.training.epochs is None)
    largest = max(found, key=lambda budget: budget.memory)
    hours = flop / A100 / SHARE / 3600
    known = f"{hours:,.0f} hours" if hours >= 1 else f"{60 * hours:,.0f} minutes"
    time = f"up to {flop:.1e} FLOP, {known} of one A100 at {100 * SHARE:.0f} % of its peak; " if flop else ""
    memory = f"at least {largest.memory / GIB:.1f} GiB of memory beside the activations"
    return f"{len(runs)} runs, {steps_in_words(runs)}: {time}{memory}"
