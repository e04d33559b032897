"""Linear probes on the frozen encoders of T5s, against random weights of the same shape.

    python scripts/probe.py MODEL [MODEL …] --data-dir ../shared/data

A sentence is the mean of the encoder's last states, u; a pair is |u - v| and u * v (as in SentEval). On these, scaled
to unit variance, a logistic regression (STS-B: a ridge regression) is fitted to training rows, with the strength of
its penalty chosen on the validation rows, and scored on the test rows of the task's own splits. A seed draws the
random weights and, of tasks that have more, the training rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5ForConditionalGeneration, set_seed

from hyperadapt.conditioning import mean_state
from hyperadapt.tasks import TASKS, Task
from hyperadapt.tasks.kinds import METRICS
from hyperadapt.tasks.loading import read_split
from hyperadapt.tiny_t5 import place_of

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
BATCH = 128


@torch.inference_mode()
def encode(model: Any, tokenizer: Any, sentences: Sequence[str]) -> np.ndarray:
    """Return the mean encoder state of each sentence, (sentences, d_model)."""
    order = sorted(range(len(sentences)), key=lambda number: len(sentences[number]))
    vectors = np.empty((len(sentences), model.config.d_model), dtype=np.float32)
    for start in tqdm(range(0, len(order), BATCH), leave=False, delay=2):
        numbers = order[start : start + BATCH]
        batch = tokenizer(
            [sentences[number] for number in numbers],
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )
        states = model.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        vectors[numbers] = mean_state(states, batch["attention_mask"])
    return vectors


def features(model: Any, tokenizer: Any, task: Task, rows: Sequence[Any]) -> np.ndarray:
    """Return what the probe sees of rows, (rows, d_model) or, of pairs, (rows, 2 d_model)."""
    first, *second = (
        encode(model, tokenizer, [row[column] for row in rows]) for column in task.fields.values()
    )
    return np.hstack([abs(first - second[0]), first * second[0]]) if second else first


def score(task: Task, predicted: Sequence[Any], rows: Sequence[Any]) -> float:
    """Score predictions by the task's first metric, in percent."""
    if task.kind == "score":
        predicted = np.clip(predicted, 0, 5)
    texts = [[str(value) for value in values] for values in (predicted, [row[task.label] for row in rows])]
    return METRICS[task.metrics[0]](*texts)


def probe(model: Any, tokenizer: Any, task: Task, splits: dict[str, list[Any]]) -> float:
    """Fit a probe for each penalty, and score the one that is best on the validation rows on the test rows."""
    inputs = {split: features(model, tokenizer, task, rows) for split, rows in splits.items()}
    labels = [row[task.label] for row in splits["train"]]
    best, found = -np.inf, 0.0
    for penalty in PENALTIES:
        fitted = Ridge(penalty) if task.kind == "score" else LogisticRegression(C=1 / penalty, max_iter=1000)
        fitted = make_pipeline(StandardScaler(), fitted).fit(inputs["train"], labels)
        on_validation = score(task, fitted.predict(inputs["validation"]), splits["validation"])
        if on_validation > best:
            best, found = on_validation, score(task, fitted.predict(inputs["test"]), splits["test"])
    return found


def main() -> None:
    """Print a line a task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="tiny-t5, or directories of models with their tokenizers")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--tasks", nargs="+", default=["sst2", "stsb", "cola", "rte"])
    parser.add_argument("--rows", type=int, default=4000, help="training rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()

    loaded = {
        name: (
            AutoModelForSeq2SeqLM.from_pretrained(place_of(name), dtype=torch.float32).eval(),
            AutoTokenizer.from_pretrained(place_of(name)),
        )
        for name in options.models
    }
    shape, its_tokenizer = next(iter(loaded.values()))
    print(f"| task | metric | random weights | {' | '.join(loaded)} |")
    print("| --- " * (3 + len(loaded)) + "|")
    for name in options.tasks:
        task = TASKS[name]
        scores: dict[str, list[float]] = {}
        for seed in options.seeds:
            rows = {"train": options.rows, "validation": None, "test": None}
            splits = {
                split: [row for _, row in read_split(task, split, options.data_dir, count, seed)]
                for split, count in rows.items()
            }
            set_seed(seed)
            random = T5ForConditionalGeneration(shape.config).eval()
            for kind, (model, tokenizer) in {"random": (random, its_tokenizer), **loaded}.items():
                scores.setdefault(kind, []).append(probe(model, tokenizer, task, splits))
        cells = [f"{fmean(of):.1f} ± {stdev(of):.1f}" for of in scores.values()]
        print(f"| {name} | {task.metrics[0]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
