"""What tiny-t5 starts from: a tokenizer, a model that knows its words, and tasks that plain text gives by itself.

    python scripts/tiny_t5_start.py runs/tiny-t5-start --teacher runs/teacher --files A.txt.xz B.txt.xz

OUT/model is a T5 with random weights but for its embeddings: each token's is its vector by the teacher of
scripts/teacher_vectors.py, reduced to d_model by PCA (as Model2Vec does). OUT/tasks holds three tasks, as task files,
whose rows are made of the text and labelled without a human: `changes` (two sentences: which words of the second are
not in the first; its targets are of several tokens, and a small model learns from them to compare),
`cosine` (two sentences: the cosine of the teacher's vectors, from 0 to 5) and `natural` (a sentence: as it was
written, or with one word moved, lost, doubled or replaced).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
import yaml
from teacher_vectors import Teacher
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from hyperadapt.config.sections import TextConfig, TokenizerConfig
from hyperadapt.pretraining.text import read_texts
from hyperadapt.pretraining.tokenizer import train_tokenizer

SHAPE = {
    "vocab_size": 8000,
    "d_model": 192,
    "d_kv": 32,
    "d_ff": 512,
    "num_layers": 4,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
TOKENIZER = TokenizerConfig(kind="unigram", vocab_size=SHAPE["vocab_size"])
NEIGHBOURS, POOL, QUERIES_AT_ONCE = 10, 200_000, 1000
WORDS = (6, 40)  # of a sentence in a task
SHORT = 16  # words of a sentence whose changes are to be found
Rows = list[dict[str, str | float | int]]


def token_embeddings(tokenizer: PreTrainedTokenizerFast, teacher: Teacher) -> torch.Tensor:
    """Return the teacher's vectors of all tokens in d_model dimensions, of unit mean square, (vocab, d_model)."""
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    vectors = teacher([name.replace("▁", " ").strip() or name for name in names]).astype(np.float32)
    vectors -= vectors.mean(0)
    axes = np.linalg.svd(vectors, full_matrices=False)[2][: int(SHAPE["d_model"])]
    reduced = torch.from_numpy(vectors @ axes.T)
    return reduced / reduced.square().mean().sqrt()


def damaged(words: list[str], others: list[str]) -> list[str]:
    """Move, drop, double or replace one word, or change two neighbours' places."""
    words, place = list(words), random.randrange(len(words) - 1)
    match random.randrange(5):
        case 0:
            words[place], words[place + 1] = words[place + 1], words[place]
        case 1:
            del words[place]
        case 2:
            words.insert(random.randrange(len(words)), words[place])
        case 3:
            words[place] = random.choice(others)
        case _:
            words.insert(random.randrange(len(words)), words.pop(place))
    return words


def varied(words: list[str], others: list[str]) -> list[str]:
    """Keep a part of a sentence: without a run of its words, or with another sentence's run in its place."""
    length = random.randint(1, max(len(words) // 2, 1))
    start = random.randrange(len(words) - length + 1)
    run = random.choice([[], others[:length]])
    return [*words[:start], *run, *words[start + length :]] or words


def cosine(sentences: list[str], vectors: np.ndarray, teacher: Teacher, count: int) -> Rows:
    """Pair sentences with near ones, with variations of themselves, and with any, 2 : 2 : 1."""
    some = min(2 * count // 5, len(sentences) // 2, POOL)
    pool = torch.from_numpy(vectors[:POOL].astype(np.float32)).bfloat16()
    rows: Rows = []
    for start in tqdm(range(0, some, QUERIES_AT_ONCE), desc="neighbours"):
        queries = range(start, min(start + QUERIES_AT_ONCE, some))
        near = (pool[queries.start : queries.stop] @ pool.T).topk(NEIGHBOURS + 1).indices.tolist()
        for query, found in zip(queries, near, strict=True):
            other = random.choice([number for number in found if number != query])
            rows.append({"first": query, "second": other, "label": float(vectors[query] @ vectors[other])})
    for number in range(some // 2):
        other = random.randrange(len(sentences))
        rows.append({"first": number, "second": other, "label": float(vectors[number] @ vectors[other])})
    for row in rows:
        row["first"], row["second"] = sentences[int(row["first"])], sentences[int(row["second"])]
    firsts = range(len(sentences) - some, len(sentences))
    seconds = [" ".join(varied(sentences[n].split(), random.choice(sentences).split())) for n in firsts]
    for start in tqdm(range(0, some, 8192), desc="variations"):
        of = teacher(seconds[start : start + 8192])
        for number, second, vector in zip(firsts[start:], seconds[start:], of, strict=False):
            rows.append(
                {"first": sentences[number], "second": second, "label": float(vectors[number] @ vector)}
            )
    for row in rows:
        if random.random() < 0.5:
            row["first"], row["second"] = row["second"], row["first"]
        row["label"] = round(5 * min(max(float(row["label"]), 0.0), 1.0), 2)
    return rows


def natural(sentences: list[str], count: int) -> Rows:
    """Leave every second sentence as it is, and damage the others."""
    rows: Rows = []
    for number, sentence in enumerate(random.sample(sentences, min(count, len(sentences)))):
        words = sentence.split()
        if number % 2 == 0:
            rows.append({"sentence": sentence, "label": 1})
        elif (wrong := damaged(words, random.choice(sentences).split())) != words:
            rows.append({"sentence": " ".join(wrong), "label": 0})
    return rows


def changes(sentences: list[str], count: int) -> Rows:
    """Replace none to three words of a sentence; the label names the new ones."""
    rows: Rows = []
    short = [words for s in sentences if len(words := s.split()) <= SHORT]
    for words in random.sample(short, min(count, len(short))):
        others, changed = [word for word in random.choice(short) if word not in words], list(words)
        places = sorted(random.sample(range(len(words)), min(random.randrange(4), len(others))))
        for place, other in zip(places, random.sample(others, len(places)), strict=True):
            changed[place] = other
        new = " ".join(changed[place] for place in places) or "none"
        rows.append({"first": " ".join(words), "second": " ".join(changed), "label": new})
    return rows


def write_task(directory: Path, name: str, rows: Rows, **fields: object) -> None:
    """Write a task file with its rows."""
    directory.mkdir(parents=True, exist_ok=True)
    random.shuffle(rows)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = {"name": name, "files": {"train": f"{name}.jsonl"}, **fields}
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    print(f"{name}: {len(rows)} rows")


def main() -> None:
    """Write the model and the tasks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", type=Path, required=True, help="what scripts/teacher_vectors.py wrote")
    parser.add_argument("--files", nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=100_000, help="of each task, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    text, teacher = TextConfig(files=options.files), Teacher()

    tokenizer = train_tokenizer(read_texts(text), TOKENIZER)
    model = T5ForConditionalGeneration(T5Config(**SHAPE))
    with torch.no_grad():
        model.shared.weight[: len(tokenizer)] = token_embeddings(tokenizer, teacher)
    model.save_pretrained(options.out / "model")
    tokenizer.save_pretrained(str(options.out / "model"))

    vectors = np.load(options.teacher / "vectors.npy")
    sentences = (options.teacher / "sentences.txt").read_text(encoding="utf-8").splitlines()
    fitting = [number for number, s in enumerate(sentences) if WORDS[0] <= len(s.split()) <= WORDS[1]]
    sentences, vectors = [sentences[number] for number in fitting], vectors[fitting]
    tasks, pair = options.out / "tasks", {"sentence1": "first", "sentence2": "second"}
    rows = cosine(sentences, vectors, teacher, options.rows)
    write_task(tasks, "cosine", rows, fields=pair, kind="score", metrics=["pearson"])
    rows, labels = natural(sentences, options.rows // 2), ["no", "yes"]
    write_task(tasks, "natural", rows, fields=["sentence"], labels=labels, metrics=["accuracy"])
    rows = changes(sentences, options.rows)
    write_task(
        tasks, "changes", rows, fields=pair, kind="text", metrics=["exact_match"], max_target_length=24
    )


if __name__ == "__main__":
    main()
