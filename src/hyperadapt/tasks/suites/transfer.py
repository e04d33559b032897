"""The tasks to which the HyperFormer paper transfers (section 3.2), and others of their kind.

Texts, label numbers and splits are those of the paper's code, which halves the rows that small sets are evaluated on.
CB and BoolQ have names of their own, as SuperGLUE's, in T5's form, write words. Where the local copy has no test rows
(SciTail, PAWS) a task of its own halves the validation rows. SNLI, SICK and the reviews beside them come from local
copies alone.
"""

from __future__ import annotations

from typing import Any

from hyperadapt.tasks.splits import HALVE_VALIDATION, Split
from hyperadapt.tasks.task import Task

HALVE_TEST: dict[Split, str] = {"train": "train", "validation": "test[:50%]", "test": "test[50%:]"}
SENTIMENT = ("negative", "positive")
INFERENCE = ("entailment", "neutral", "contradiction")


def _task(name: str, fields: tuple[str, ...] | dict[str, str], labels: tuple[str, ...], **rest: Any) -> Task:
    return Task(
        name=name,
        fields=fields,
        labels=labels,
        **{"local": f"transfer/{name}", "metrics": ("accuracy",), **rest},
    )


SCITAIL: dict[str, Any] = {
    "fields": {"sentence1": "premise", "sentence2": "hypothesis"},
    "labels": ("entails", "neutral"),
    "hub": "allenai/scitail",
    "hub_config": "tsv_format",
    "local": "transfer/scitail",
}
PAWS: dict[str, Any] = {
    "fields": ("sentence1", "sentence2"),
    "labels": ("different", "paraphrase"),
    "hub": "google-research-datasets/paws",
    "hub_config": "labeled_final",
    "local": "transfer/paws",
}
_TASKS = (
    _task("scitail", **SCITAIL),
    _task("scitail-halved", prefix="scitail", splits=HALVE_VALIDATION, **SCITAIL),
    _task(
        "transfer-cb",
        ("premise", "hypothesis"),
        ("entailment", "contradiction", "neutral"),
        prefix="superglue-cb",
        splits=HALVE_VALIDATION,
        hub="aps/super_glue",
        hub_config="cb",
        local="super_glue/cb",
    ),
    _task(
        "transfer-boolq",
        ("question", "passage"),
        ("false", "true"),
        prefix="superglue-boolq",
        splits=HALVE_VALIDATION,
        hub="aps/super_glue",
        hub_config="boolq",
        local="super_glue/boolq",
    ),
    _task("imdb", {"": "text"}, SENTIMENT, splits=HALVE_TEST, hub="stanfordnlp/imdb"),
    _task("yelp_polarity", {"sentence": "text"}, SENTIMENT, splits=HALVE_TEST, hub="fancyzhx/yelp_polarity"),
    _task("paws", **PAWS),
    _task("paws-halved", prefix="paws", splits=HALVE_VALIDATION, **PAWS),
    _task(
        "trec",
        {"sentence": "text"},
        ("abbreviation", "entity", "description", "human", "location", "number"),
        label="coarse_label",
        splits=HALVE_TEST,
        hub="CogComp/trec",
    ),
    _task("snli", ("premise", "hypothesis"), INFERENCE, splits=HALVE_VALIDATION),
    _task("sick", {"premise": "sentence_A", "hypothesis": "sentence_B"}, INFERENCE),
    _task("mr", {"sentence": "text"}, SENTIMENT, splits=HALVE_TEST),
    _task("cr", {"sentence": "text"}, SENTIMENT, splits=HALVE_TEST),
    _task("movie_reviews", {"sentence": "text"}, SENTIMENT, splits=HALVE_TEST),
)
TRANSFER: dict[str, Task] = {task.name: task for task in _TASKS}
