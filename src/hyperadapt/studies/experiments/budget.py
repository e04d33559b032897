"""What an experiment will cost, said before it begins: runs, arithmetic, hours and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperadapt.config.written import RunConfig
from hyperadapt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GIB = 2**30
A100 = 312e12  # operations a second in bfloat16, by NVIDIA's data sheet
# Of them that trainings with all their evaluations reach: Hyperdecoders' on GLUE and on summaries and inference take 18
# and 22.5 hours of one (appendix B), which are 7 and 5 % of it by this reckoning.
SHARE = 0.06
TARGET_TOKENS = 8  # of a label; a summary has more, of what is little beside its document


@dataclass(frozen=True)
class Budget:
    """What a run takes at least.

    Attributes:
        base, trained: parameters of the base model, and those that are trained.
        steps: of the training; of one by epochs, those that the printed numbers of its rows make, or none.
        flop: floating-point operations of all steps, if every input is as long as it may be.
        weights: bytes of weights, gradients and the optimizer's state.
        batch: bytes that the encoder's layers keep of a batch.
    """

    base: int
    trained: int
    steps: int
    flop: float
    weights: int
    batch: int

    @property
    def memory(self) -> int:
        """Bytes of both."""
        return self.weights + self.batch


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
        steps = steps_of(run)
        flop = steps * flop_of_step(configs[model], run, trained / base)
        batch = kept_of_batch(configs[model], run)
        found.append(Budget(base, trained, steps, flop, weights * base + state * trained, batch))
    return found


def steps_of(run: RunConfig) -> int:
    """Return a run's steps, of one by epochs those by the printed numbers of its rows, 0 where they are not known."""
    from hyperadapt.studies.published_runs import published_training_rows
    from hyperadapt.tasks import resolve_tasks

    if run.training.epochs is None:
        return run.training.max_steps
    rows, tasks = published_training_rows(), [task.name for task in resolve_tasks(run.data.tasks)]
    if not all(task in rows for task in tasks):
        return 0
    return run.training.with_steps(sum(rows[task] for task in tasks)).max_steps


def kept_of_batch(config: Any, run: RunConfig) -> int:
    """Reckon the bytes that the encoder's layers keep for the way back, of a batch of inputs as long as they may be.

    Each keeps at least what its norms, its four maps and its feed-forward block read.
    """
    if run.training.arguments.gradient_checkpointing:
        return 0
    tokens = run.training.batch_size // run.training.gradient_accumulation_steps * run.data.max_source_length
    of_token = 4 * config.d_model + config.num_heads * config.d_kv + config.d_ff
    wide = 2 if run.training.arguments.bf16 or run.model.dtype == "bfloat16" else 4
    return tokens * config.num_layers * of_token * wide


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


def check_memory(runs: Sequence[RunConfig], processes: int = 1, jobs: int = 1) -> None:
    """Check that this machine can hold what runs take at least.

    Args:
        runs: their configurations.
        processes: of each, which share its batch, and its weights if they are spread (training.arguments.fsdp).
        jobs: runs at once; without a GPU they share the memory.

    Raises:
        UserError: naming the largest run, what it takes and what there is.
    """
    import psutil
    import torch

    if not runs:
        return
    accelerator = torch.cuda.is_available()
    if accelerator:
        there = torch.cuda.get_device_properties(0).total_memory
    else:
        there = psutil.virtual_memory().available // min(jobs, len(runs))
    taken = []
    for run, budget in zip(runs, budgets(runs), strict=True):
        shares = processes if accelerator else 1
        spread = shares if run.training.arguments.fsdp else 1
        taken.append(budget.weights // spread + budget.batch // shares)
    most = max(range(len(runs)), key=taken.__getitem__)
    if taken[most] > there:
        run = runs[most]
        raise UserError(
            f"a run of {run.model.name} with method {run.build_method().name} takes at least "
            f"{taken[most] / GIB:.0f} GiB for weights, gradients, optimizer and a batch, and this machine's "
            f"{'GPU' if accelerator else 'memory'} has {there / GIB:.0f} GiB{' a job' * (jobs > 1)} free; "
            "take --scale small, a smaller --base, training.gradient_accumulation_steps, or on GPUs spread the weights "
            "(--processes N training.arguments.fsdp=full_shard)"
        )


def steps_in_words(runs: Sequence[RunConfig]) -> str:
    """Say how many steps runs have; of those by epochs at least, as a context may be several rows."""
    unknown = sum(steps_of(run) == 0 for run in runs)
    least = "at least " if any(run.training.epochs is not None for run in runs) else ""
    counted = f"{least}{sum(map(steps_of, runs)):,} steps"
    return f"{counted}, {unknown} runs by epochs not counted" if unknown else counted


def cost_in_words(runs: Sequence[RunConfig]) -> str:
    """Say what runs cost: in steps, and in hours of a processor that everybody knows."""
    if not runs:
        return "nothing to train"
    found = budgets(runs)
    flop, memory = sum(budget.flop for budget in found), max(budget.memory for budget in found)
    hours = flop / A100 / SHARE / 3600
    known = ""  # of small runs, which nobody takes to a cluster
    if hours >= 1:
        known = (
            f"about {flop:.1e} FLOP, {hours:,.0f} hours of one A100, evaluations included, at {100 * SHARE:.0f} % of "
            "its peak; "
        )
    return f"{len(runs)} runs, {steps_in_words(runs)}: {known}at least {memory / GIB:.1f} GiB of memory"
