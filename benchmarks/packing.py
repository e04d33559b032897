"""Packed rows beside length-sorted batches: a training step of a model without an encoder on rows of real lengths.

Three ways to make batches of the same rows of GLUE's training sets, 16 a step:

    at random          padded to the longest of the batch
    of like length     as runs make them (training/mixing.py), padded too
    packed             at random, end to end in one sequence, whose mask lets each row see itself alone

PEFT's LoRA on SmolLM2-135M's shape, scores at the targets alone, AdamW: one adapter for all rows. A packed sequence
holds rows of several tasks, so that methods which give each row parameters of its own would apply them token by token.

`python benchmarks/packing.py DATA [BATCHES]` takes a local copy of GLUE, and prints tokens that are no padding, by the
second. With 4 batches, on two threads of an AMD EPYC: at random 1.694 (1.680 to 1.753) of the time of like length,
packed 0.925 (0.910 to 0.931).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

import torch

ROWS, TARGET = 16, 2
WAYS = ("at random", "of like length", "packed")


def batches_of(lengths: Sequence[Sequence[int]], number: int, by_length: bool) -> list[list[int]]:
    """Draw the lengths of each batch's rows, the same rows in either order."""
    from hyperadapt.training.mixing import MixtureBatchSampler

    flat = [length for of_task in lengths for length in of_task]
    sampler = MixtureBatchSampler(lengths, ROWS, number, group_by_length=by_length, window=number, seed=1)
    return [[flat[row] for row in batch] for batch in sampler]


def padded(lengths: Sequence[int], vocabulary: int) -> dict[str, Any]:
    """Make a batch as runs do."""
    from hyperadapt.architectures.decoder_only import PromptCollator

    rows = [
        {
            "input_ids": torch.randint(3, vocabulary, (length,)).tolist(),
            "labels": torch.randint(3, vocabulary, (TARGET,)).tolist(),
            "task_ids": 0,
        }
        for length in lengths
    ]
    batch = PromptCollator(0, 1)(rows)
    del batch["task_ids"], batch["prompt_mask"]
    return batch


def packed(lengths: Sequence[int], vocabulary: int) -> dict[str, Any]:
    """Put a batch's rows end to end: what a row ends with is predicted, and never read."""
    read = torch.tensor([length + TARGET - 1 for length in lengths])
    whole = int(read.sum())
    row = torch.arange(len(lengths)).repeat_interleave(read)
    place = torch.cat([torch.arange(int(number)) for number in read])
    sees = (row[:, None] == row[None]) & (place[:, None] >= place[None])
    ends = read.cumsum(0)
    mask = torch.zeros(1, 1, whole, whole).masked_fill(~sees, torch.finfo(torch.float32).min)
    return {
        "input_ids": torch.randint(3, vocabulary, (1, whole)),
        "attention_mask": mask,
        "position_ids": place[None],
        "labels": torch.randint(3, vocabulary, (1, TARGET * len(lengths))),
        "logits_to_keep": (ends[:, None] - TARGET + torch.arange(TARGET)).flatten(),
    }


def main(data: str, batches_a_round: int = 12) -> None:
    """Print what each way does a second."""
    import peft
    from transformers import AutoModelForCausalLM

    from hyperadapt.architectures import DecoderOnly
    from hyperadapt.backbones import published_config
    from hyperadapt.studies.bench.real_rows import token_lengths
    from hyperadapt.studies.bench.section import Setting

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(published_config("HuggingFaceTB/SmolLM2-135M"))
    model: Any = peft.get_peft_model(base, peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    lengths = token_lengths(Setting(data_dir=data), "train", 20_000)
    random = batches_of(lengths, batches_a_round, by_length=False)
    alike = batches_of(lengths, batches_a_round, by_length=True)
    vocabulary = base.config.vocab_size
    batches = {
        "at random": [padded(batch, vocabulary) for batch in random],
        "of like length": [padded(batch, vocabulary) for batch in alike],
        "packed": [packed(batch, vocabulary) for batch in random],
    }
    useful = sum(map(sum, random)) + batches_a_round * ROWS * (TARGET - 1)

    def step(batch: dict[str, Any]) -> float:
        begin, inputs = time.perf_counter(), {**batch}
        labels = inputs.pop("labels")
        DecoderOnly().loss(model(**inputs, use_cache=False), labels, None, 0.0).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - begin

    for way in WAYS:
        step(batches[way][0])
    seconds: dict[str, list[float]] = {way: [0.0] * 3 for way in WAYS}
    for rounds in range(3):
        for number in range(
            batches_a_round
        ):  # in turns, so that what else the machine does falls on all alike
            for way in WAYS:
                seconds[way][rounds] += step(batches[way][number])
    for way in WAYS:
        low, middle, high = quantiles(
            [own / other for own, other in zip(seconds[way], seconds["of like length"], strict=True)],
            method="inclusive",
        )
        print(
            f"{way:15} {useful / median(seconds[way]):6.0f} tokens a second; "
            f"{middle:.3f} ({low:.3f} to {high:.3f}) of the time of like length"
        )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
