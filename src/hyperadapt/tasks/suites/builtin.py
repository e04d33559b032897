"""Eight small tasks of generated English that mirror GLUE's kinds: for first steps, tests and controlled experiments.

All are about scenes: somebody of some nature did something to somebody somewhere.

    SCENE     agent, verb, patient, place             each of agent and patient has a NATURE and a NOUN
    active    AGENT VERB PATIENT PLACE                "the old farmer followed the clever dog near the river"
    passive   PATIENT was VERB by AGENT PLACE         "the clever dog was pursued by the old farmer near the river"
    fronted   PLACE, active or passive                "near the river the old farmer followed the clever dog"

Any word may be told by its synonym. Which words stand in a row says little about its label, but which words two
sentences share says more (scripts/bag_of_words.py); the rest takes their order and what agrees with what. Every row
follows from the task's name alone, on every machine; none occurs twice, and which split has it is drawn after all
rows are.

    acceptability        CoLA    verbs agree with their subject, words stand in order        4,000 training rows
    sentiment            SST-2   praise and blame, negated, and set against each other       6,000
    paraphrase           MRPC    do two sentences tell one scene?                            1,500
    question-paraphrase  QQP     do two questions ask the same?                             10,000
    similarity           STS-B   how many of five parts do two scenes share?                 4,000
    inference            MNLI    does one follow from the other, contradict it, or neither? 10,000
    entailment           RTE     does one follow from the other?                             1,500
    answer               QNLI    does a sentence answer a question?                          8,000

The small tasks share their grammar with large ones (paraphrase with question-paraphrase, entailment with inference).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from random import Random
from typing import Any

from hyperadapt.tasks.task import Task

EVALUATION_ROWS = 400  # of validation, and of test

# A word -> its synonym.
PEOPLE = {"farmer": "peasant", "teacher": "tutor", "doctor": "physician", "sailor": "seaman"}
ANIMALS = {"dog": "hound", "rabbit": "hare", "horse": "steed", "donkey": "mule"}
NATURES = {
    "old": "aged",
    "big": "large",
    "clever": "smart",
    "young": "youthful",
    "small": "little",
    "foolish": "silly",
}
OPPOSITES = dict(zip(NATURES, [*list(NATURES)[3:], *list(NATURES)[:3]], strict=True))
VERBS = {"followed": "pursued", "helped": "assisted", "noticed": "spotted", "frightened": "scared"}
PLACES = {
    "near the river": "close to the river",
    "in the garden": "inside the garden",
    "behind the house": "at the back of the house",
    "at the market": "in the market",
}
NOUNS = PEOPLE | ANIMALS
SYNONYMS = NOUNS | NATURES | VERBS | PLACES


@dataclass(frozen=True)
class Scene:
    """Who did what to whom, and where; a nature or the place may be untold."""

    agent: str
    agent_nature: str | None
    verb: str
    patient: str
    patient_nature: str | None
    place: str | None


PARTS = {field.name for field in fields(Scene)}
WORDS = {
    "agent": NOUNS,
    "agent_nature": NATURES,
    "verb": VERBS,
    "patient": NOUNS,
    "patient_nature": NATURES,
    "place": PLACES,
}


def draw_scene(random: Random) -> Scene:
    """Draw a scene in which everything is told."""
    agent, patient = random.sample(list(NOUNS), 2)
    agent_nature, patient_nature = random.sample(list(NATURES), 2)
    verb, place = random.choice(list(VERBS)), random.choice(list(PLACES))
    return Scene(agent, agent_nature, verb, patient, patient_nature, place)


def changed(scene: Scene, **parts: Any) -> Scene:
    """Tell other parts; None leaves one untold."""
    return replace(scene, **parts)


def differing(scene: Scene, parts: Iterable[str], random: Random) -> Scene:
    """Replace parts by other words that the scene does not have yet."""
    for part in parts:
        taken = {getattr(scene, name) for name in PARTS}
        scene = changed(scene, **{part: random.choice([word for word in WORDS[part] if word not in taken])})
    return scene


def swapped(scene: Scene) -> Scene:
    """Let agent and patient change places."""
    return changed(
        scene,
        agent=scene.patient,
        agent_nature=scene.patient_nature,
        patient=scene.agent,
        patient_nature=scene.agent_nature,
    )


def word(name: str, random: Random) -> str:
    """Say a word, or its synonym."""
    return SYNONYMS[name] if name in SYNONYMS and random.random() < 0.3 else name


def someone(noun: str, nature: str | None, random: Random, article: str = "the") -> str:
    """Say a noun with its nature."""
    return " ".join([article, *([word(nature, random)] if nature else []), word(noun, random)])


def tell(scene: Scene, random: Random, negated: bool = False) -> str:
    """Tell a scene, in one of its forms."""
    agent = someone(scene.agent, scene.agent_nature, random)
    patient = someone(scene.patient, scene.patient_nature, random)
    verb, never = word(scene.verb, random), ["never"] if negated else []
    active, passive = [agent, *never, verb, patient], [patient, "was", *never, verb, "by", agent]
    parts = active if random.random() < 0.5 else passive
    if scene.place is not None:
        place = word(scene.place, random)
        parts = [place, *parts] if random.random() < 0.3 else [*parts, place]
    return " ".join(parts)


def ask(scene: Scene, about: str, random: Random) -> str:
    """Ask for the agent, the patient or the place of a scene."""
    agent = someone(scene.agent, scene.agent_nature, random)
    patient = someone(scene.patient, scene.patient_nature, random)
    verb = word(scene.verb, random)
    place = [] if scene.place is None else [word(scene.place, random)]
    active = random.random() < 0.5
    if about == "agent":
        parts = ["who", verb, patient, *place] if active else ["by whom was", patient, verb, *place]
    elif about == "patient":
        parts = ["who was", verb, "by", agent, *place] if active else ["whom has", agent, verb, *place]
    else:
        parts = ["where has", agent, verb, patient] if active else ["where was", patient, verb, "by", agent]
    return " ".join([*parts, "?"])


def other_scene(scene: Scene, random: Random, parts: list[str]) -> Scene:
    """Draw a scene that differs: in who does it to whom, or in some of these parts."""
    if {"agent", "patient"} <= set(parts) and random.random() < 0.15:
        return swapped(scene)
    return differing(scene, random.sample(parts, random.randint(1, len(parts))), random)


def in_plural(noun: str) -> str:
    """Return a noun's plural."""
    return "seamen" if noun == "seaman" else noun + "s"


def acceptability(random: Random) -> dict[str, Any]:
    """Is a sentence grammatical? The verb agrees with its subject, not with the noun beside it; words have a place."""
    subject, beside = random.sample(list(NOUNS), 2)
    plural, plural_beside = random.random() < 0.5, random.random() < 0.5
    noun, noun_beside = word(subject, random), word(beside, random)
    head = ["the", word(random.choice(list(NATURES)), random), in_plural(noun) if plural else noun]
    noun_beside = in_plural(noun_beside) if plural_beside else noun_beside
    neighbour = [random.choice(["near", "behind", "with"]), "the", noun_beside]
    be = ["are" if plural else "is", random.choice(list(NATURES))]
    if random.random() < 0.6:
        neighbour = []
    label, words = random.randrange(2), [*head, *neighbour, *be]
    if not label:
        match random.randrange(3):
            case 0:
                words[-2] = {"are": "is", "is": "are"}[words[-2]]
            case 1:
                words[:3] = random.choice([[head[0], head[2], head[1]], [head[1], head[0], head[2]]])
            case 2:
                words.reverse()
    return {"sentence": " ".join(words), "label": label}


PRAISE = {"wonderful": "splendid", "charming": "delightful", "clever": "smart", "moving": "touching"}
BLAME = {"dreadful": "awful", "tedious": "boring", "foolish": "silly", "clumsy": "awkward"}
ASPECTS = [
    f"the {whole} {part}"
    for whole in ("film 's", "play 's", "novel 's", "whole", "first", "last")
    for part in ("story", "music", "ending", "dialogue", "scene", "part")
]
VOICES = ("i think", "they say", "for me", "in the end", "to be honest ,", "we agreed that")


def opinion(positive: bool, aspect: str, random: Random) -> str:
    """Praise or blame something, perhaps by denying the opposite."""
    denied = random.random() < 0.2
    term = random.choice(list(PRAISE if positive != denied else BLAME))
    term = (PRAISE | BLAME)[term] if random.random() < 0.5 else term
    how = random.choice(("not", "never", "hardly") if denied else ("truly", "very", "so"))
    return f"{aspect} was {how} {term}"


def sentiment(random: Random) -> dict[str, Any]:
    """Is an opinion good? What stands beside "although" does not count."""
    positive = random.random() < 0.5
    first, second = random.sample(ASPECTS, 2)
    main, aside = opinion(positive, first, random), opinion(not positive, second, random)
    whose = random.choice(VOICES)
    forms = [f"{whose} {main}", f"{whose} {main}", f"although {aside} , {main}", f"{main} , although {aside}"]
    return {"sentence": random.choice(forms), "label": int(positive)}


def paraphrase(random: Random) -> dict[str, Any]:
    """Do two sentences tell one scene?"""
    scene, label = draw_scene(random), random.randrange(2)
    other = scene if label else other_scene(scene, random, ["agent", "verb", "patient", "place"])
    return {"sentence1": tell(scene, random), "sentence2": tell(other, random), "label": label}


def question_paraphrase(random: Random) -> dict[str, Any]:
    """Do two questions ask the same?"""
    scene, label = draw_scene(random), random.randrange(2)
    about = random.choice(["agent", "patient", "place"])
    other, about_other = scene, about
    if not label:
        # What is asked for is not told: only the other parts can differ.
        told = [part for part in ("agent", "verb", "patient", "place") if part != about]
        if random.random() < 0.2:
            about_other = random.choice([part for part in ("agent", "patient", "place") if part != about])
        else:
            other = other_scene(scene, random, told)
    return {
        "question1": ask(scene, about, random),
        "question2": ask(other, about_other, random),
        "label": label,
    }


def similarity(random: Random) -> dict[str, Any]:
    """How many of agent, its nature, verb, patient and place do two scenes share?"""
    scene, score = draw_scene(random), random.randrange(6)
    parts = random.sample(["agent", "agent_nature", "verb", "patient", "place"], 5 - score)
    other = differing(scene, parts, random)
    return {"sentence1": tell(scene, random), "sentence2": tell(other, random), "label": float(score)}


DETAILS = ("agent_nature", "patient_nature", "place")


def with_one_detail(scene: Scene, detail: str) -> Scene:
    """Leave the other details untold."""
    return changed(scene, **{other: None for other in DETAILS if other != detail})


def opposite(scene: Scene, detail: str, random: Random) -> Scene:
    """Tell something that cannot be true as well: the opposite nature, or another place."""
    if detail == "place":
        return differing(scene, [detail], random)
    return changed(scene, **{detail: OPPOSITES[getattr(scene, detail)]})


def inference(random: Random) -> dict[str, Any]:
    """Does the hypothesis follow (0), may it be so (1), or does it contradict the premise (2)?"""
    whole, label = draw_scene(random), random.randrange(3)
    untold, kept = random.sample(DETAILS, 2)
    premise, negated = changed(whole, **{untold: None}), label == 2 and random.random() < 0.4
    # One detail each, whatever the label: their number must not tell it.
    hypothesis = with_one_detail(whole, untold if label == 1 else kept)
    if label == 2 and not negated:
        hypothesis = opposite(hypothesis, kept, random)
    return {
        "premise": tell(premise, random),
        "hypothesis": tell(hypothesis, random, negated),
        "label": label,
    }


def entailment(random: Random) -> dict[str, Any]:
    """Does the second sentence follow from the first (0) or not (1)?"""
    wanted = random.randrange(2)
    while True:
        row = inference(random)
        if min(row["label"], 1) == wanted:
            return {"sentence1": row["premise"], "sentence2": row["hypothesis"], "label": wanted}


def answer(random: Random) -> dict[str, Any]:
    """Does the sentence answer the question (0) or not (1)?"""
    scene, label = draw_scene(random), random.randrange(2)
    about = random.choice(["agent", "patient", "place"])
    told = scene
    if label:
        if about == "place" and random.random() < 0.5:
            told = changed(scene, place=None)
        else:
            told = other_scene(
                scene, random, [part for part in ("agent", "verb", "patient") if part != about]
            )
    return {"question": ask(scene, about, random), "sentence": tell(told, random), "label": label}


TWO = {"kind": "class", "metrics": ("accuracy",)}
_KINDS: dict[str, tuple[Callable[[Random], dict[str, Any]], int, dict[str, Any]]] = {
    "acceptability": (
        acceptability,
        4000,
        {"fields": ("sentence",), "labels": ("unacceptable", "acceptable"), "metrics": ("matthews",)},
    ),
    "sentiment": (sentiment, 6000, {"fields": ("sentence",), "labels": ("negative", "positive"), **TWO}),
    "paraphrase": (
        paraphrase,
        1500,
        {
            "fields": ("sentence1", "sentence2"),
            "labels": ("not_equivalent", "equivalent"),
            "metrics": ("accuracy", "f1"),
        },
    ),
    "question-paraphrase": (
        question_paraphrase,
        10_000,
        {
            "fields": ("question1", "question2"),
            "labels": ("not_duplicate", "duplicate"),
            "metrics": ("accuracy", "f1"),
        },
    ),
    "similarity": (
        similarity,
        4000,
        {
            "fields": ("sentence1", "sentence2"),
            "kind": "score",
            "step": 0.2,
            "metrics": ("pearson", "spearman"),
        },
    ),
    "inference": (
        inference,
        10_000,
        {"fields": ("premise", "hypothesis"), "labels": ("entailment", "neutral", "contradiction"), **TWO},
    ),
    "entailment": (
        entailment,
        1500,
        {"fields": ("sentence1", "sentence2"), "labels": ("entailment", "not_entailment"), **TWO},
    ),
    "answer": (
        answer,
        8000,
        {"fields": ("question", "sentence"), "labels": ("entailment", "not_entailment"), **TWO},
    ),
}
BUILTIN: dict[str, Task] = {
    name: Task(name=name, generated=True, **options) for name, (_, _, options) in _KINDS.items()
}


def generate_rows(name: str, source: str) -> list[dict[str, Any]]:
    """Generate the rows of one source of a built-in task: "validation", "test" or "train", no row in two of them."""
    return _split_rows(name)[source]


@cache
def _split_rows(name: str) -> dict[str, list[dict[str, Any]]]:
    """Generate all rows of a task, once, as which split has a row is known when all are drawn."""
    draw, train_rows, _ = _KINDS[name]
    random = Random(name)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    while len(rows) < train_rows + 2 * EVALUATION_ROWS:
        row = draw(random)
        rows.setdefault(tuple(row.values())[:-1], row)
    drawn = list(rows.values())
    random.shuffle(drawn)
    first, second = EVALUATION_ROWS, 2 * EVALUATION_ROWS
    return {"validation": drawn[:first], "test": drawn[first:second], "train": drawn[second:]}
