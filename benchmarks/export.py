"""How long it takes to write the LoRAs of a thousand tasks of a T5-base in PEFT's format; at most 60 s were asked.

`python benchmarks/export.py [TASKS]` builds a T5-base of random weights with HyperLoRA, r = 8 on queries and values,
writes each task's folder into a temporary directory, and prints the seconds and the bytes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM


def main(n_tasks: int) -> None:
    """Time it."""
    import hyperadapt as ha
    from hyperadapt.backbones import published_config
    from hyperadapt.export import export_all

    tasks = [f"task{number}" for number in range(n_tasks)]
    base = AutoModelForSeq2SeqLM.from_config(published_config("google-t5/t5-base"))
    model = ha.adapt(base, ha.HyperLoRA(r=8), tasks)
    with tempfile.TemporaryDirectory() as directory:
        begin = time.perf_counter()
        folders = export_all(model, Path(directory) / "loras").values()
        seconds = time.perf_counter() - begin
        size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads: {n_tasks} LoRAs of a T5-base in "
        f"{seconds:.1f} s, {size / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
