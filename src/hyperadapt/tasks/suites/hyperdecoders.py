"""The tasks of the Hyperdecoders paper beside GLUE: question answering, summarisation and natural language inference.

MRQA (Fisch et al., 2019; section 3.1.2) is twelve data sets in one; the six out-of-domain ones have test rows alone.
Summaries and inference are those of section 3.1.3. Columns are those of the hub's data sets, templates and label
numbers those of the paper's code.
"""

from __future__ import annotations

from typing import Any

from hyperadapt.tasks.preprocessors import preprocessor
from hyperadapt.tasks.sources import Row, value_of
from hyperadapt.tasks.splits import HALVE_VALIDATION, HOLD_OUT_TRAIN, Split
from hyperadapt.tasks.task import Task

MRQA_IN_DOMAIN = {
    "mrqa-squad": "SQuAD",
    "mrqa-newsqa": "NewsQA",
    "mrqa-triviaqa": "TriviaQA-web",
    "mrqa-searchqa": "SearchQA",
    "mrqa-hotpotqa": "HotpotQA",
    "mrqa-nq": "NaturalQuestionsShort",
}
MRQA_OUT_OF_DOMAIN = {
    "mrqa-bioasq": "BioASQ",
    "mrqa-drop": "DROP",
    "mrqa-duorc": "DuoRC.ParaphraseRC",
    "mrqa-race": "RACE",
    "mrqa-relations": "RelationExtraction",
    "mrqa-textbookqa": "TextbookQA",
}
QUESTION: dict[str, Any] = {
    "fields": {"question": "question", "context": "context"},
    "label": "answers",
    "kind": "question_answering",
    "metrics": ("answer_f1", "answer_exact_match"),
    "scored_by": ("answer_f1",),  # Tables 4 and 5
    "prefix": "",
    "min_generated_length": 1,  # as the paper's code; in its text chunks may have none: evaluation.empty_answers
}
# All rows are trained on (Table 11), and the published validation rows evaluated on, as the test rows have no public
# answers: so a training keeps its last checkpoint, as the best would be chosen by the rows that are reported.
IN_DOMAIN: dict[Split, str] = {"train": "train", "validation": "validation", "test": "validation"}
ROUNDS = {split: "+".join(f"{split}_r{number}" for number in (1, 2, 3)) for split in ("train", "dev", "test")}


@preprocessor(
    "mrqa",
    {
        "answers": "list of texts",
        "detected_answers": "{text: [...], char_spans: [{start: [...], end: [...]}]}, an end is the last character",
    },
    answers=("answers", "detected_answers"),
)
def mrqa(row: Row) -> dict[str, Any]:
    """Take the places of the answers from where MRQA marks them, by their first and last characters."""
    if "answers" not in row:
        return {}
    texts, marked = list(row["answers"]), value_of(row, "detected_answers")
    by_text = {text.casefold(): number for number, text in reversed(list(enumerate(texts)))}
    spans = [
        [start, end + 1, by_text.get(text.casefold(), 0)]
        for text, places in zip(marked["text"], marked["char_spans"], strict=True)
        for start, end in zip(places["start"], places["end"], strict=True)
    ]
    return {"answers": {"text": texts, "spans": spans}}


def _mrqa(name: str, subset: str, splits: dict[Split, str]) -> Task:
    place = {"hub": "mrqa-workshop/mrqa", "local": "qa/mrqa", "where": {"subset": subset}}
    return Task(name=name, splits=splits, preprocess="mrqa", **place, **QUESTION)


def _question_answering(name: str, hub: str | None = None) -> Task:
    return Task(name=name, hub=hub, local=f"qa/{name}", splits=HALVE_VALIDATION, **QUESTION)


def _summarisation(name: str, hub: str, document: str, summary: str, **rest: Any) -> Task:
    return Task(
        name=name,
        hub=hub,
        local=f"summarization/{name.removesuffix('-halved')}",
        fields={"": document},
        label=summary,
        kind="text",
        metrics=("rouge2", "rougeL"),
        scored_by=("rouge2",),  # Tables 6 and 16
        prefix="summarize:",
        max_target_length=128,
        max_generated_length=60,
        min_generated_length=10,
        **rest,
    )


_TASKS = (
    *(_mrqa(name, subset, IN_DOMAIN) for name, subset in MRQA_IN_DOMAIN.items()),
    *(_mrqa(name, subset, {"test": "test"}) for name, subset in MRQA_OUT_OF_DOMAIN.items()),
    _question_answering("squad", "rajpurkar/squad"),
    _question_answering("quoref", "allenai/quoref"),
    _question_answering("mlqa"),  # the hub's has no training rows
    _summarisation("xsum", "EdinburghNLP/xsum", "document", "summary"),
    # Of a local copy without test rows.
    _summarisation("xsum-halved", "EdinburghNLP/xsum", "document", "summary", splits=HALVE_VALIDATION),
    _summarisation("cnn_dailymail", "abisee/cnn_dailymail", "article", "highlights", hub_config="3.0.0"),
    _summarisation("wiki_lingua", "GEM/wiki_lingua", "source", "target", hub_config="en"),
    Task(
        name="anli",
        hub="facebook/anli",
        local="nli/anli",
        fields=("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        metrics=("accuracy",),
        splits={"train": ROUNDS["train"], "validation": ROUNDS["dev"], "test": ROUNDS["test"]},
    ),
    Task(
        name="art",
        hub="allenai/art",
        local="nli/art",
        fields={
            "observation 1": "observation_1",
            "observation 2": "observation_2",
            "hypothesis 1": "hypothesis_1",
            "hypothesis 2": "hypothesis_2",
        },
        labels=("0", "1", "2"),
        metrics=("accuracy",),
        splits=HOLD_OUT_TRAIN,  # by Table 12; section 3.1.3 says that validation rows are held out
    ),
)
HYPERDECODERS: dict[str, Task] = {task.name: task for task in _TASKS}
