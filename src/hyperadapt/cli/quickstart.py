"""The quickstart: the commands that show what the library does, on tasks and a model that come with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperadapt.config.written import RunConfig
from hyperadapt.files.writing import write_atomically

CONFIGURATION = "quickstart"
TASK = "paraphrase"  # do two sentences tell the same?
TOLD = "the old farmer followed the clever dog"
ROWS = (  # with the right answers, which predict gives back beside its own
    {
        "sentence1": TOLD,
        "sentence2": "the smart hound was pursued by the aged peasant",
        "label": "equivalent",
    },
    {
        "sentence1": TOLD,
        "sentence2": "the smart hound was pursued by the young king",
        "label": "not_equivalent",
    },
)


def commands(overrides: Sequence[str] = (), resume: bool = False) -> Iterator[list[str]]:
    """Name the commands one after another, each to be run before the next is asked for.

    Args:
        overrides: of the training's configuration, as "training.max_steps=100".
        resume: go on with a training that was stopped.
    """
    directory = Path(RunConfig.load(CONFIGURATION, overrides).output_dir)
    yield ["train", CONFIGURATION, *overrides, *(["--resume"] if resume else [])]
    rows = directory / "rows.jsonl"
    write_atomically(rows, "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    yield ["predict", str(directory), "--task", TASK, "--input", str(rows)]
    yield ["report", str(directory)]
