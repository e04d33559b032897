"""The built-in tasks: what their sentences say is read back from the words, and the labels follow from it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from hyperadapt.tasks import TASKS, load_split, resolve_tasks
from hyperadapt.tasks.kinds import METRICS
from hyperadapt.tasks.suites.builtin import (
    BUILTIN,
    NATURES,
    NOUNS,
    OPPOSITES,
    PLACES,
    SYNONYMS,
    VERBS,
    generate_rows,
)

Scene = dict[str, Any]
MEANING = {synonym: name for name, synonym in SYNONYMS.items()} | {name: name for name in SYNONYMS}
# Of all rows, so that results of different versions are known to be of the same data. A change here is a new dataset.
DIGESTS = {
    "acceptability": "71cfc721e949",
    "sentiment": "2d698955626d",
    "paraphrase": "6d0cf41826c7",
    "question-paraphrase": "de1190eb5161",
    "similarity": "5b907f770ba8",
    "inference": "253ff5c51b01",
    "entailment": "6905316b784e",
    "answer": "327a26962cd1",
}
LEAST_GAP = 20  # points between the bag of words and the 90 that fine-tuning must reach


def read(sentence: str) -> Scene:
    """Read what a sentence or question tells: agent, patient, their natures, verb, place, and whether it is denied."""
    scene: Scene = dict.fromkeys(("agent", "agent_nature", "verb", "patient", "patient_nature", "place"))
    scene["negated"] = " never " in sentence
    for phrase in [*PLACES, *PLACES.values()]:
        if phrase in sentence:
            scene["place"], sentence = MEANING[phrase], sentence.replace(phrase, "")
    words = [
        word for word in sentence.split() if word not in ("the", "never", "?", "who", "whom", "has", "where")
    ]
    verb = next(number for number, word in enumerate(words) if MEANING.get(word) in VERBS)
    scene["verb"] = MEANING[words[verb]]
    passive = "by" in words
    # "by whom was the dog followed": the patient stands before the verb, as in any passive.
    before = [MEANING[word] for word in words[:verb] if word in MEANING]
    after = [MEANING[word] for word in words[verb + 1 :] if word in MEANING]
    subject, other = ("patient", "agent") if passive else ("agent", "patient")
    for who, said in ((subject, before), (other, after)):
        for word in said:
            scene[who if word in NOUNS else f"{who}_nature"] = word
    return scene


def rows_of(name: str, source: str = "train") -> list[dict[str, Any]]:
    return list(generate_rows(name, source))


def told(scene: Scene) -> Scene:
    return {part: value for part, value in scene.items() if value is not None and part != "negated"}


def test_a_paraphrase_tells_the_same_scene_and_nothing_else_does() -> None:
    for row in rows_of("paraphrase"):
        assert (read(row["sentence1"]) == read(row["sentence2"])) == bool(row["label"]), row


def test_a_similarity_is_the_number_of_shared_parts() -> None:
    for row in rows_of("similarity"):
        first, second = read(row["sentence1"]), read(row["sentence2"])
        parts = ("agent", "agent_nature", "verb", "patient", "place")
        assert sum(first[part] == second[part] for part in parts) == row["label"], row


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("inference", "premise", "hypothesis"), ("entailment", "sentence1", "sentence2")],
)
def test_what_follows_is_told_already_and_what_contradicts_cannot_be_true_as_well(
    name: str, first: str, second: str
) -> None:
    for row in rows_of(name):
        premise, hypothesis = read(row[first]), read(row[second])
        follows = told(hypothesis).items() <= told(premise).items() and not hypothesis["negated"]
        contradicts = hypothesis["negated"] or any(
            None not in (premise[part], hypothesis[part]) and premise[part] != hypothesis[part]
            for part in premise
        )
        expected = 0 if follows else 2 if contradicts else 1
        assert row["label"] == (expected if name == "inference" else min(expected, 1)), row
        for part in ("agent_nature", "patient_nature"):
            if None not in (premise[part], hypothesis[part]) and premise[part] != hypothesis[part]:
                assert OPPOSITES[premise[part]] == hypothesis[part]


def test_questions_alike_ask_for_the_same_of_the_same_scene() -> None:
    for row in rows_of("question-paraphrase"):
        first, second = read(row["question1"]), read(row["question2"])
        assert (told(first) == told(second)) == bool(row["label"]), row


def test_an_answer_tells_all_that_the_question_supposes_and_what_it_asks_for() -> None:
    for row in rows_of("answer"):
        question, sentence = read(row["question"]), read(row["sentence"])
        about = next(part for part in ("agent", "patient", "place") if question[part] is None)
        answers = told(question).items() <= told(sentence).items() and sentence[about] is not None
        assert row["label"] == int(not answers), row


def test_a_sentence_is_acceptable_if_its_words_stand_in_order_and_its_verb_agrees_with_its_subject() -> None:
    singular = {*NOUNS, *NOUNS.values()}
    plural = {"seamen" if noun == "seaman" else noun + "s" for noun in singular}
    natures, beside = {*NATURES, *NATURES.values()}, {"near", "behind", "with"}
    somebody, near, be = (
        [{"the"}, natures, singular | plural],
        [beside, {"the"}, singular | plural],
        {"is", "are"},
    )
    for row in rows_of("acceptability"):
        words = row["sentence"].split()
        form = [*somebody, *(near if len(words) == 8 else []), be, natures]
        in_order = all(word in fitting for word, fitting in zip(words, form, strict=True))
        agrees = (words[2] in singular) == (words[-2] == "is")
        assert row["label"] == int(in_order and agrees), row


def test_a_sentiment_is_that_of_the_main_clause() -> None:
    praise = {"wonderful", "splendid", "charming", "delightful", "clever", "smart", "moving", "touching"}
    for row in rows_of("sentiment"):
        clauses = row["sentence"].replace("to be honest , ", "").split(" , ")
        (main,) = [clause for clause in clauses if "although" not in clause]
        denied = bool({"not", "never", "hardly"} & set(main.split()))
        assert row["label"] == int((main.split()[-1] in praise) != denied), row


def short_rows(rows: list[dict[str, Any]]) -> float:
    """Return the share of rows of less than ten words."""
    return float(np.mean([len(" ".join(map(str, row.values())).split()) < 10 for row in rows]))


@pytest.mark.parametrize("name", BUILTIN)
def test_rows_are_the_same_on_every_machine_and_none_is_in_two_splits(name: str) -> None:
    rows = {split: rows_of(name, split) for split in ("train", "validation", "test")}
    texts = [tuple(row.values())[:-1] for part in rows.values() for row in part]
    assert len(set(texts)) == len(texts)
    assert len(rows["validation"]) == len(rows["test"]) == 400
    for split in ("validation", "test"):  # short rows, which soon repeat, are as frequent in all
        assert abs(short_rows(rows[split]) - short_rows(rows["train"])) < 0.1
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12] == DIGESTS[name]


@pytest.mark.parametrize("name", BUILTIN)
def test_a_bag_of_words_is_not_enough(name: str) -> None:
    task = TASKS[name]
    train, test = rows_of(name), rows_of(name, "test")
    vectorizer = CountVectorizer(token_pattern=r"\S+")
    inputs = vectorizer.fit_transform([task.source_text(row, False) for row in train])
    tests = vectorizer.transform([task.source_text(row, False) for row in test])
    labels, expected = [row["label"] for row in train], np.array([row["label"] for row in test])
    if task.kind == "score":
        score = 100 * np.corrcoef(Ridge().fit(inputs, labels).predict(tests), expected)[0, 1]
    else:
        score = 100 * LogisticRegression(max_iter=1000).fit(inputs, labels).score(tests, expected)
        rates = np.bincount(expected) / len(expected)
        assert max(rates) < 1.2 / len(rates)
    assert score < 90 - LEAST_GAP


def test_the_suite_loads_as_any_other_tasks() -> None:
    tasks = resolve_tasks(["builtin"])
    assert [task.name for task in tasks] == list(BUILTIN)
    assert all(metric in METRICS for task in tasks for metric in task.metrics)
    assert {name for nature in OPPOSITES.items() for name in nature} == set(NATURES)
    rows = load_split(TASKS["similarity"], "validation", prefix=True)
    assert rows[0]["source"].startswith("similarity sentence1: ")
    assert {TASKS["similarity"].written(row["target"]) for row in rows} == {
        "0.0",
        "1.0",
        "2.0",
        "3.0",
        "4.0",
        "5.0",
    }
