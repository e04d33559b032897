"""The eight tasks of GLUE (Wang et al., 2019) that the papers train on: all but WNLI.

Columns and label numbers are those of the hub's nyu-mll/glue. Its test labels are not public, so the papers
halve the validation rows of small tasks and hold 1,000 training rows of large ones out (HyperFormer,
section 3; Hyperdecoders, section 3.1.1). Of MNLI's two validation sets the test rows are the matched one, by
HyperFormer's Table 1 and the numbers of Hyperdecoders' Table 10, whose section 3.1.1 says the mismatched.
STS-B's scores are written in steps of 0.2 (HyperFormer, appendix A).
"""

from __future__ import annotations

from hyperadapt.tasks.splits import HALVE_VALIDATION, HOLD_OUT_TRAIN, Split
from hyperadapt.tasks.task import Task


def _glue(name: str, fields: tuple[str, ...], splits: dict[Split, str], **rest) -> Task:
    columns = {field: field for field in fields}
    place = {"hub": "nyu-mll/glue", "hub_config": name, "local": f"glue/{name}"}
    return Task(name=name, fields=columns, splits=splits, **place, **rest)


_TASKS = (
    _glue(
        "cola",
        fields=("sentence",),
        labels=("unacceptable", "acceptable"),
        metrics=("matthews",),
        splits=HALVE_VALIDATION,
    ),
    _glue(
        "sst2",
        fields=("sentence",),
        labels=("negative", "positive"),
        metrics=("accuracy",),
        splits=HOLD_OUT_TRAIN,
    ),
    _glue(
        "stsb",
        fields=("sentence1", "sentence2"),
        kind="score",
        step=0.2,
        metrics=("pearson", "spearman"),
        splits=HALVE_VALIDATION,
    ),
    _glue(
        "mrpc",
        fields=("sentence1", "sentence2"),
        labels=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        splits=HALVE_VALIDATION,
    ),
    _glue(
        "qqp",
        fields=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        splits=HOLD_OUT_TRAIN,
    ),
    _glue(
        "mnli",
        fields=("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        metrics=("accuracy",),
        splits={"train": "train", "validation": "validation_mismatched", "test": "validation_matched"},
    ),
    _glue(
        "qnli",
        fields=("question", "sentence"),
        labels=("entailment", "not_entailment"),
        metrics=("accuracy",),
        splits=HOLD_OUT_TRAIN,
    ),
    _glue(
        "rte",
        fields=("sentence1", "sentence2"),
        labels=("entailment", "not_entailment"),
        metrics=("accuracy",),
        splits=HALVE_VALIDATION,
    ),
)
GLUE: dict[str, Task] = {task.name: task for task in _TASKS}
