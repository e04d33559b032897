"""What `hyperadapt init` writes: a configuration, a task of one's own, and rows for it that are made up."""

from __future__ import annotations

import json
from importlib import resources
from itertools import product
from pathlib import Path
from random import Random

from hyperadapt.files.writing import check_empty, write_atomically

TEMPLATES = ("config.yaml", "reviews.yaml")
ROWS = {"train": 120, "validation": 40, "test": 40}
THINGS = ("book", "film", "phone", "lamp", "chair", "coat", "kettle", "song", "game", "bicycle")
PRAISE = ("beautiful", "excellent", "useful", "wonderful", "strong", "lovely")
BLAME = ("ugly", "terrible", "useless", "boring", "weak", "broken")
BODIES = (
    "I bought it last week and it is {word}.",
    "My sister thinks that it is {word}, and so do I.",
    "After a month I can say that it is {word}.",
    "It came on time, but it is not {opposite}: it is {word}.",
)


def write_starter(directory: Path) -> list[Path]:
    """Write a configuration, a task file and its rows.

    Args:
        directory: where; made if it is not there.

    Returns:
        The files.

    Raises:
        UserError: if the directory is not empty, or no directory.
    """
    check_empty(directory)
    templates = resources.files("hyperadapt") / "assets/starter"
    contents = {name: (templates / name).read_bytes() for name in TEMPLATES}
    rows = made_up_rows()
    for split, number in ROWS.items():
        lines = (json.dumps(row) + "\n" for row in rows[:number])
        contents[f"{split}.jsonl"] = "".join(lines).encode()
        del rows[:number]
    for name, content in contents.items():
        write_atomically(directory / name, content)
    return [directory / name for name in contents]


def made_up_rows() -> list[dict[str, str]]:
    """Make 200 reviews up, of which no two are the same and half are good, the same ones every time."""
    random = Random(0)
    opposites = list(zip(PRAISE, BLAME, strict=True))
    reviews = {
        verdict: [
            {
                "title": f"{word.capitalize()} {thing}" if random.random() < 0.5 else f"About a {thing}",
                "body": body.format(word=word, opposite=opposite),
                "verdict": verdict,
            }
            for thing, body, (word, opposite) in product(THINGS, BODIES, pairs)
        ]
        for verdict, pairs in {"good": opposites, "bad": [(bad, good) for good, bad in opposites]}.items()
    }
    half = sum(ROWS.values()) // len(reviews)
    rows = [row for of_verdict in reviews.values() for row in random.sample(of_verdict, half)]
    random.shuffle(rows)
    return rows
