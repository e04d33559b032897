"""Write the quickstart's three small tasks: one set of sentences, three questions about each.

The sentences are the same for all tasks, so that nothing but the task's id tells the model what to answer.

    python make_tasks.py DIRECTORY
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

FEELINGS = {"good": ["lovely", "happy", "great", "kind"], "bad": ["awful", "angry", "cruel", "sad"]}
KINDS = {"animal": ["cat", "dog", "horse", "owl"], "food": ["bread", "soup", "cake", "rice"]}
TIMES = {"past": ["was", "seemed"], "present": ["is", "looks"], "future": ["will be", "may become"]}
TASKS = {"feeling": FEELINGS, "kind": KINDS, "time": TIMES}
ROWS = {"train": 1200, "validation": 120, "test": 240}


def sentence(draw: random.Random) -> tuple[str, dict[str, str]]:
    """Draw a sentence and its label in every task."""
    labels = {task: draw.choice(list(choices)) for task, choices in TASKS.items()}
    noun, verb, adjective = (draw.choice(TASKS[task][labels[task]]) for task in ("kind", "time", "feeling"))
    place = draw.choice(["at home", "in town", "today", "by the sea"])
    return f"{draw.choice(['the', 'my', 'that'])} {noun} {verb} {adjective} {place}", labels


def main(directory: Path) -> None:
    """Write a YAML file and three jsonl files for each task."""
    draw = random.Random(0)
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in ROWS.items():
        for task in TASKS:
            with (directory / f"{task}-{split}.jsonl").open("w") as file:
                for _ in range(rows):
                    text, labels = sentence(draw)
                    file.write(json.dumps({"text": text, "label": labels[task]}) + "\n")
    for task, choices in TASKS.items():
        files = ", ".join(f"{split}: {task}-{split}.jsonl" for split in ROWS)
        (directory / f"{task}.yaml").write_text(
            f"name: {task}\nfiles: {{{files}}}\nfields: [text]\nlabels: [{', '.join(choices)}]\nmetrics: [accuracy]\n"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
