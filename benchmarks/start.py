"""How far from the base model each method begins, on a pretrained model without an encoder.

`python benchmarks/start.py MODEL` takes a directory or a hub name, and prints the mean loss per token of a few
sentences: of the base model, and of it adapted by each method before any training. On Gemma 3 270M:

    the base model   3.27        single_adapter   3.27
    adapters        17.88        task_hypernet    3.36
    adapters_dagger 17.88        hyperdecoder     3.46
    hyperformer++   30.14        polytropon       3.27

The HyperFormer paper's adapters end in a layer norm, which gives what they add the width of 1 whatever they have
learnt, and a sub-layer of Gemma puts out far less: what they learn first is to undo that.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Water boils at one hundred degrees and freezes at zero.",
    "She opened the door, looked at the rain, and went back for her umbrella.",
)


def loss(model: Any, tokenizer: Any, **inputs: Any) -> float:
    """Average the loss of the sentences."""
    total = 0.0
    for sentence in SENTENCES:
        ids = tokenizer(sentence, return_tensors="pt").input_ids
        with torch.no_grad():
            prompt = {"prompt_mask": torch.ones_like(ids)} if inputs else {}
            total += model(input_ids=ids, labels=ids, **inputs, **prompt).loss.item()
    return total / len(SENTENCES)


def main(name: str) -> None:
    """Print the losses."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import hyperadapt as ha

    tokenizer = AutoTokenizer.from_pretrained(name)
    print(f"{'the base model':16} {loss(AutoModelForCausalLM.from_pretrained(name), tokenizer):.2f}")
    methods = (
        ha.Adapters(),
        ha.AdaptersDagger(),
        ha.HyperFormerPlusPlus(),
        ha.SingleAdapter(),
        ha.TaskHypernet(),
        ha.Hyperdecoder(encoder="none"),
        ha.Polytropon(),
    )
    for method in methods:
        torch.manual_seed(0)
        model = ha.adapt(AutoModelForCausalLM.from_pretrained(name), method, ["one"])
        given = {"task_ids": torch.tensor([0])}
        print(f"{method.name:16} {loss(model.eval(), tokenizer, **given):.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
