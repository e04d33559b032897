"""The quickstart: the commands that show what the library does, on tasks and a model that come with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperadapt.config import RunConfig
from hyperadapt.files import write_atomically

CONFIGURATION = "quickstart"
TASK = "paraphrase"  # do two sentences tell the same?
ROW = {
    "sentence1": "the old farmer followed the clever dog",
    "sentence2": "the smart hound was pursued by the aged peasant",
}


def commands(overrides: Sequence[str] = (), resume: bool = False) -> Iterator[list[str]]:
    """Name the commands one after another, each to be run before the next is asked for.

    Args:
        overrides: of the training's configuration, as "training.max_steps=100".
        resume: go on with a training that was stopped.
    """
    directory = Path(RunConfig.load(CONFIGURATION, overrides).output_dir)
    yield ["train", CONFIGURATION, *overrides, *(["--resume"] if resume else [])]
    yield ["evaluate", str(directory), "--split", "test"]
    row = directory / "row.jsonl"
    write_atomically(row, (json.dumps(ROW) + "\n").encode())
    yield ["predict", str(directory), "--task", TASK, "--input", str(row)]
    yield ["report", str(directory)]
