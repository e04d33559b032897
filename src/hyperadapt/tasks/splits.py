"""Which rows are train, validation and test: sources, slices of them, and the protocols of the papers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from pydantic import ValidationInfo

from hyperadapt.errors import UserError, as_written, nearest
from hyperadapt.tasks.sources import PlacedRow, Row

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# The split protocols of the papers, for tasks with fewer and with more than 10,000 training rows (HyperFormer, section
# 3; Hyperdecoders, section 3.1.1).
HALVE_VALIDATION: dict[Split, str] = {
    "train": "train",
    "validation": "validation[:50%]",
    "test": "validation[50%:]",
}
HOLD_OUT_TRAIN: dict[Split, str] = {
    "train": "train[1000:]",
    "validation": "train[:1000]",
    "test": "validation",
}

# A slice is taken of rows in this order, whatever the seed of the run: no run trains on another's test rows.
SPLIT_SEED = 42

SLICE = re.compile(r"(?P<source>[\w+-]+)(\[(?P<start>\d+%?)?:(?P<stop>\d+%?)?\])?")


def splits_as_given(fields: dict[str, Any]) -> dict[Split, str]:
    files = fields.get("files") or SPLITS
    return {split: split for split in SPLITS if split in files}


def as_yaml_mapping(values: Mapping[str, str]) -> str:
    """Write names and texts as YAML that can be pasted, with quotes where a text needs them."""
    quoted = {
        name: text if re.fullmatch(r"[\w./-]+", text) else json.dumps(text, ensure_ascii=False)
        for name, text in values.items()
    }
    return "{" + ", ".join(f"{name}: {text}" for name, text in quoted.items()) + "}"


def source_of(part: object) -> str:
    """The source of a split, "" where the split is written wrongly."""
    match = SLICE.fullmatch(part) if isinstance(part, str) else None
    return match["source"] if match else ""


def in_parts(splits: Mapping[Any, object], files: Iterable[str], *asked: str) -> str:
    """Write splits that have validation, and all that are there or asked for, to be pasted into a task file.

    Those that have a source or a file of their own keep it. The others are parts of one source, which is that of train
    where it has one.

    Args:
        splits: that are there, maybe written wrongly.
        files: the names of the sources; none where they are the hub's.
        asked: names of splits.
    """
    files = list(files)

    def is_there(source: str) -> bool:
        return bool(source) and (not files or set(source.split("+")) <= set(files))

    source = next(filter(is_there, (source_of(splits.get("train")), "train", *files)))
    own, held_out = dict[str, object](), []
    for split in (name for name in SPLITS[1:] if name in {"validation", *splits, *asked, *files}):
        part = splits.get(split)
        if not is_there(source_of(part)):
            part = split if split in files else source
        if source_of(part) == source:
            held_out.append(split)
        else:
            own[split] = part
    share = 20 // max(len(held_out), 1)
    parts = {"train": f"{source}[20%:]" if held_out else source, **own}
    for place, split in enumerate(held_out):
        parts[split] = f"{source}[{f'{place * share}%' if place else ''}:{(place + 1) * share}%]"
    return f"splits: {as_yaml_mapping({split: str(parts[split]) for split in SPLITS if split in parts})}"


def read_protocol(splits: object, task: ValidationInfo) -> object:
    files = task.data.get("files") or ()
    if isinstance(splits, dict):
        for split, part in splits.items():
            if split not in SPLITS:
                raise UserError(f"'{split}' is no split; {nearest(split, SPLITS)}")
            if not source_of(part):
                raise UserError(
                    f"{as_written(part)} for {split} is neither SOURCE nor SOURCE[from:to]; write "
                    f"{in_parts(splits, files)}"
                )
        return splits
    if not isinstance(splits, str):
        raise UserError(f"{as_written(splits)} names no parts; write {in_parts({}, files)}")
    protocols = {
        "as_given": splits_as_given(task.data),
        "halve_validation": HALVE_VALIDATION,
        "hold_out_train": HOLD_OUT_TRAIN,
    }
    if splits not in protocols:
        raise UserError(
            f"'{splits}' is no split protocol; {nearest(splits, protocols)}; or write {in_parts({}, files)}"
        )
    return protocols[splits]


def sliced(
    rows: list[PlacedRow], start: str | None, stop: str | None, group_of: Callable[[Row], str] | None = None
) -> list[PlacedRow]:
    """Rows start … stop - 1 in the order of SPLIT_SEED; a bound is a count or a percentage of the rows.

    The rows of a group stand together, where its first one would, and are in the slice if that first one is.
    """
    if start is None and stop is None:
        return rows

    def bound(text: str) -> int:
        return len(rows) * int(text[:-1]) // 100 if text.endswith("%") else int(text)

    bounds = slice(bound(start or "0%"), bound(stop or "100%"))
    ordered = shuffled(rows, SPLIT_SEED)
    if group_of is None:
        return ordered[bounds]
    groups: dict[str, list[PlacedRow]] = {}
    for placed in ordered:
        groups.setdefault(group_of(placed[1]), []).append(placed)
    places = range(len(rows))[bounds]
    begins, kept = 0, []
    for members in groups.values():
        kept += members if begins in places else []
        begins += len(members)
    return kept


def shuffled(rows: list[PlacedRow], seed: int) -> list[PlacedRow]:
    return [rows[index] for index in drawn_order(len(rows), seed)]


def drawn_order(count: int, seed: int = SPLIT_SEED) -> list[int]:
    """The numbers of rows in the order of a seed, by default of that in which slices take them."""
    import torch

    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order
