"""How far from the base model each method begins, on a pretrained model without an encoder.

`python benchmarks/start.py MODEL` takes a directory or a hub name, and prints the mean loss per token of a few
sentences: of the base model, and of it adapted by each method before any training. On Gemma 3 270M:

    the base model   3.27        single_adapter   3.27
    adapters        17.88        task_hypernet    3.36
    adapters_dagger 17.88        hyperdecoder     3.46
    hyperformer++   30.14        polytropon       3.27

The HyperFormer paper's adapters end in a layer norm, which gives what they add the width of 1 whatever they have
learnt, and a sub-layer of Gemma puts out far less: what they learn first is to undo that. With `start="fast"` they
begin as the base model does, as all that is a LoRA.

`python benchmarks/start.py MODEL DATA` trains 45 steps of 8 rows of SST-2, from a local copy of GLUE, and prints how
many of 100 validation rows are answered rightly, the likeliest of both names being the answer, before and after 15, 30
and 45 steps; one seed, rates not searched. On Gemma 3 270M:

    steps                   0   15   30   45
    hyperformer++, paper   57   57   43   43
    hyperformer++, fast    61   44   75   80
    hyperlora              61   87   82   92
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


def contenders() -> dict[str, tuple[Any, float]]:
    """Return what is trained, by name, each with its learning rate."""
    import hyperadapt as ha

    return {
        "hyperformer++, paper": (ha.HyperFormerPlusPlus(train_layer_norms=False), 3e-4),
        "hyperformer++, fast": (ha.HyperFormerPlusPlus(train_layer_norms=False, start="fast"), 1e-3),
        "hyperlora": (ha.HyperLoRA(), 1e-3),
    }


def train(name: str, data: str) -> None:
    """Train a few steps, and print what is answered rightly."""
    import random

    from transformers import AutoModelForCausalLM, AutoTokenizer

    import hyperadapt as ha
    from hyperadapt.architectures import Answering, DecoderOnly, Request
    from hyperadapt.tasks import TASKS, load_split
    from hyperadapt.tasks.input_format import InputFormat

    wording = {
        "template": "Review: {sentence}\nSentiment:",
        "writes": "name",
        "labels": ("negative", "positive"),
    }
    task, form, decoder = TASKS["sst2"].model_copy(update=wording), InputFormat(64), DecoderOnly()
    tokenizer = AutoTokenizer.from_pretrained(name)
    train_texts, texts = load_split(task, "train", data, 600), load_split(task, "validation", data, 100)
    rows = decoder.training_rows(train_texts, task, 0, tokenizer, form)
    choices = decoder.choices(task, tokenizer, form)
    prompts, _ = decoder.inputs(
        {column: texts[column] for column in texts.column_names}, tokenizer, form, task
    )
    requests = [Request(0, prompt, (1, 3), choices=choices) for prompt in prompts]

    def right(model: Any) -> int:
        answers = decoder.answer(model, tokenizer, requests, Answering(batch_size=25))
        pairs = zip(answers, texts["target"], strict=True)
        return sum(answer.text == task.written(target) for answer, target in pairs)

    for way, (method, rate) in contenders().items():
        torch.manual_seed(0)
        draw = random.Random(0)
        model = ha.adapt(AutoModelForCausalLM.from_pretrained(name), method, ["sst2"])
        collator, found = decoder.collator(model, tokenizer, None), [right(model.eval())]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate)
        for step in range(1, 46):
            model.train()
            batch = collator([draw.choice(rows) for _ in range(8)])
            labels = batch.pop("labels")
            decoder.loss(model(**batch, use_cache=False), labels, None, 0.0).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 15 == 0:
                found.append(right(model.eval()))
        print(f"{way:22} {' '.join(f'{number:4}' for number in found)}", flush=True)


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
        ha.HyperFormerPlusPlus(start="fast"),
        ha.HyperLoRA(),
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
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1]) if len(sys.argv) == 2 else train(*sys.argv[1:])
