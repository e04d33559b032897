"""`hyperadapt bench`: speed and memory, measured side by side as ratios, and the page of the numbers.

Each section keeps its numbers, every run's time among them, as OUTPUT/NAME.json; the page is written from those that
are there and keeps its other sections, so that one can be measured again without the others.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from hyperadapt.errors import UserError, nearest
from hyperadapt.files.writing import make_directory, write_atomically
from hyperadapt.studies.bench import arithmetic, operators, real_rows, sections
from hyperadapt.studies.bench.section import Goal, Section, Setting, between
from hyperadapt.studies.comparison import markdown

__all__ = ["SECTIONS", "Setting", "bench"]

SECTIONS = {
    section.name: section
    for section in (
        Section("step", "A training step", sections.step, libraries=("peft", "bitsandbytes")),
        Section("lora", "A training step of LoRA", sections.lora_step, libraries=("peft",)),
        Section("operators", "Operators of a step", operators.operators, libraries=("peft",)),
        Section(
            "arithmetic", "Arithmetic and bytes", arithmetic.arithmetic, libraries=("peft", "bitsandbytes")
        ),
        Section("captured", "A training step as a CUDA graph", sections.captured, "on_gpu", ("peft",)),
        Section("compiled", "A compiled training step", sections.compiled),
        Section("adapters", "Beside the adapters library", sections.beside_adapters, "adapters_python"),
        Section("tasks", "A thousand tasks", sections.many_tasks),
        Section("shapes", "Depth and width", sections.shapes),
        Section("memory", "Memory of training", sections.memory, libraries=("peft", "bitsandbytes")),
        Section("generation", "Generation", sections.generation),
        Section("lengths", "Training on rows of real lengths", real_rows.training_lengths, "data_dir"),
        Section("evaluation", "Evaluation", real_rows.evaluating, "data_dir"),
        Section("start-up", "Starting", sections.start_up),
    )
}


def bench(names: Sequence[str], setting: Setting, output: Path, page: Path) -> list[dict[str, str]]:
    """Measure sections, and write the page.

    Args:
        names: keys of `SECTIONS`; none measures all that the setting allows.
        setting: of all.
        output: directory of what was measured.
        page: file, in Markdown; its other sections stay, and what was written by hand under its last heading, `NOTES`.

    Returns:
        What was asked and what came out, a row a goal.

    Raises:
        UserError: if a section is unknown or lacks what it needs, a library is missing, the tokenizer cannot be
            loaded, or a contender dies.
    """
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"section '{name}' is unknown; {nearest(name, SECTIONS)}")
    chosen = [SECTIONS[name] for name in names or SECTIONS]
    for section in chosen:
        if names and (lacking := setting.lacks(section.needs)):
            raise UserError(f"section '{section.name}' needs {lacking}")
        for library in section.libraries:
            if find_spec(library) is None:
                raise UserError(f"section '{section.name}' measures {library} too: pip install {library}")
    theirs = "" if setting.adapters_python is None else f" {versions_beside(setting.adapters_python)}."
    if setting.data_dir is not None and any(section.needs == "data_dir" for section in chosen):
        real_rows.tokenizer_of(setting)
    goals = []
    for directory in (output, page.parent):
        make_directory(directory)
    for section in chosen:
        if lacking := setting.lacks(section.needs):
            print(f"{section.name} is left out: it needs {lacking}")
            continue
        print(f"measuring {section.name}", flush=True)
        found = section.measure(setting)
        asked = [asked_of(goal) for goal in found.goals]
        changes = {"goals": asked, "launches": found.launches or setting.launches}
        record = {**asdict(found), **changes, "machine": f"{machine(setting)}{theirs}"}
        write_atomically(output / f"{section.name}.json", json.dumps(record, indent=1).encode())
        write_atomically(page, written(output, page.read_text() if page.exists() else "").encode())
        goals += [{"section": section.name, **goal} for goal in asked]
    return goals


def versions_beside(python: str) -> str:
    """Name the versions of the adapters library and of the transformers beside it.

    Raises:
        UserError: if the interpreter has no such library.
    """
    words = (
        "from importlib.metadata import version as v; "
        'print(f\'adapters {v("adapters")}, with transformers {v("transformers")}\')'
    )
    try:
        done = subprocess.run([python, "-c", words], check=False, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--adapters-python {python} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise UserError(
            f"--adapters-python {python} has no library adapters: {python} -m pip install adapters"
        )
    return done.stdout.strip()


def written(output: Path, before: str = "") -> str:
    """Write the page from what was measured.

    Args:
        output: directory of what was measured.
        before: the page as it was, which keeps its sections that were measured elsewhere, and its notes.
    """
    of_page, heading, notes = before.partition(NOTES)
    old = {part.partition("\n")[0]: part for part in f"\n{of_page}".split("\n## ")[1:]}
    parts = [PREFACE]
    for section in SECTIONS.values():
        file = output / f"{section.name}.json"
        if file.exists():
            parts.append(section_text(section, json.loads(file.read_text())))
        elif section.title in old:
            parts.append(f"## {old[section.title].strip()}\n\n")
    return "\n".join([*parts, *filter(None, [f"{heading}{notes}"])])


def section_text(section: Section, record: dict[str, Any]) -> str:
    """Write one section."""
    goals = f"{markdown(record['goals'])}\n" if record["goals"] else ""
    rounds = {len(times) for group in record.get("seconds", {}).values() for times in group.values()}
    # As `side_by_side` shares them out.
    shared = {number: ceil(number / ceil(number / record["launches"])) for number in rounds}
    how = " ".join(
        [
            record["how"],
            *(f"{number} rounds in {each} launch{'es' * (each > 1)}." for number, each in shared.items()),
        ]
    )
    return f"## {section.title}\n\n{how}\n\n{record['machine']}\n\n{markdown(record['rows'])}\n{goals}"


def asked_of(goal: Goal) -> dict[str, str]:
    """Lay out what was asked and what came out."""
    return {
        "what": goal.what,
        "asked": f"at {'most' if goal.at_most else 'least'} {goal.bound:g}",
        "measured": f"{goal.measured:.3f}{between(goal.interval)}",
        "met": goal.met,
    }


def machine(setting: Setting) -> str:
    """Describe what measured."""
    import torch

    name = platform.processor() or platform.machine()
    models = [line for line in lines_of("/proc/cpuinfo") if line.startswith("model name")]
    name = models[0].partition(": ")[2] if models else name
    if torch.accelerator.is_available():
        name = f"{torch.cuda.get_device_name()}, " * torch.cuda.is_available() + name
    named = [library for library in ("torch", "transformers", "peft", "bitsandbytes") if find_spec(library)]
    versions = ", ".join(f"{library} {version(library)}" for library in named)
    tiny = "Tiny models, whose numbers mean nothing: " if setting.smoke else ""
    how = f"{setting.threads} threads of {name}; {versions}; dropout {setting.dropout:g} in training"
    return f"{tiny}{how}; {date.today()}."


def lines_of(path: str) -> list[str]:
    """Read a file's lines; none where there is no such file."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


NOTES = "## What was tried\n"
PREFACE = """# Benchmarks

Written by `hyperadapt bench` (`make bench`). Models have random weights of published shapes, in fp32 on a CPU; on a GPU
all train under bf16 autocast, frozen weights are in bf16. Contenders are processes of their own whose runs take turns,
in another order each round; a ratio is the median over the rounds of two runs of the same round, with its quartiles;
seconds are medians, and those of different groups cannot be compared. In each launch all contenders start
anew, as a process may be faster than its twin while both live: a goal's 95 % confidence interval is Student's, of the
logarithms of the launches' medians, and the goal is open where it lies on both sides of what is asked. Memory, real
lengths and starting have none. The floor is the frozen model of which only the layer norms are trained. A step is
forward, backward and fused AdamW. Operators are those of a run, without views; on a GPU the kernels that it launches.
"""
