"""A training step on the shape of Gemma 3 270M, whose vocabulary is most of it: ours beside PEFT's LoRA.

Four ways, 8 rows of 64 prompt and 2 target tokens, AdamW, random weights:

    hyperformer++   as runs train it: scores of the last places alone, 8 tasks mixed in every batch
    hyperlora       the same of generated LoRA, r = 8 on queries and values
    lora            PEFT's, r = 8 on queries and values, with the same scores
    lora, common    the same trained the common way: labels of full width, scores of every place

`python benchmarks/causal_step.py time` prints ratios of steps that take turns in one process; `memory` each way's peak
in a process of its own, beside that of the model alone.

On an AMD EPYC without bfloat16, two threads, float32,
HyperFormer++ takes 0.697 (0.659 to 0.769) of LoRA's step with the same scores, and 0.329 (0.314 to 0.402) of the common
one's, HyperLoRA 0.656 (0.546 to 0.742) and 0.283 (0.276 to 0.390). Peaks: the model alone 2.10 GB, hyperformer++ 2.54,
lora 2.30, lora the common way 3.89: so 0.65 of it, where at most 0.5 was asked, which the float32 model and Python
alone, 0.54 of it, leave no room for; what training takes beyond the model is 0.44 GB for 1.79.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

PROMPT, TARGET, ROWS, ROUNDS = 64, 2, 8, 5
OURS = ("hyperformer++", "hyperlora")
WAYS = (*OURS, "lora", "lora, common")
GOALS = {"lora": 1.05, "lora, common": 0.6}  # of a step; of memory, 0.5 of the common way's


def base() -> Any:
    """Build the model."""
    from transformers import AutoModelForCausalLM

    from hyperadapt.backbones import published_config

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(published_config("google/gemma-3-270m"))


def step_of(way: str, model: Any) -> Callable[[], None]:
    """Return what takes a step."""
    import peft

    import hyperadapt as ha
    from hyperadapt.architectures import DecoderOnly
    from hyperadapt.architectures.decoder_only import PromptCollator

    draw = torch.Generator().manual_seed(1)
    rows = [
        {
            "input_ids": torch.randint(3, 200_000, (PROMPT,), generator=draw).tolist(),
            "labels": torch.randint(3, 200_000, (TARGET,), generator=draw).tolist(),
            "task_ids": row,
        }
        for row in range(ROWS)
    ]
    methods = {"hyperformer++": ha.HyperFormerPlusPlus(reduction_factor=32), "hyperlora": ha.HyperLoRA(r=8)}
    if way in OURS:
        model = ha.adapt(model, methods[way], [f"task{row}" for row in range(ROWS)])
    else:
        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    batch = PromptCollator(0, 1)(rows)
    if way not in OURS:
        del batch["task_ids"], batch["prompt_mask"]
    labels = batch.pop("labels")
    targets = labels.ne(-100).sum()  # of the step, by which a run divides
    whole = torch.tensor([[*row["input_ids"], *row["labels"]] for row in rows])
    common = whole.clone()
    common[:, :PROMPT] = -100

    def step() -> None:
        if way == "lora, common":
            loss = model(input_ids=whole, labels=common, use_cache=False).loss
        else:
            loss = DecoderOnly().loss(model(**batch, use_cache=False), labels, targets, 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def time_steps() -> None:
    """Print each way's seconds, and its ratio to the others', step by step in turns."""
    steps = {way: step_of(way, base()) for way in WAYS}
    for step in steps.values():
        step()
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, step in steps.items():
            begin = time.perf_counter()
            step()
            taken[way].append(time.perf_counter() - begin)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, {ROUNDS} rounds")
    for way in WAYS:
        print(f"{way:15} {median(taken[way]):6.2f} s")
    for own in OURS:
        for other, bound in GOALS.items():
            ratios = sorted(ours / theirs for ours, theirs in zip(taken[own], taken[other], strict=True))
            print(
                f"{own:13} / {other:13} {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), asked: at most "
                f"{bound}"
            )


def memory() -> None:
    """Print each way's peak of resident memory above that of the model alone."""
    for way in ("model", *WAYS):
        found = subprocess.run(
            [sys.executable, __file__, "peak", way], capture_output=True, text=True, check=True
        )
        print(f"{way:15} {int(found.stdout.split()[-1]) / 1e6:6.2f} GB")


def peak(way: str) -> None:
    """Print the peak of a process that takes two steps, in kilobytes."""
    model = base()
    if way != "model":
        step = step_of(way, model)
        step()
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    {"time": time_steps, "memory": memory, "peak": lambda: peak(sys.argv[2])}[sys.argv[1]]()
