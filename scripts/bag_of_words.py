"""Linear models of the words alone on the built-in tasks: how much of a task takes no understanding of order.

    python scripts/bag_of_words.py

`one bag` counts the words of the whole input. `two bags` sees the words of both sentences, u and v, with |u - v| and
u * v, and of a single sentence its pairs of neighbours. A logistic (similarity: ridge) regression each, scored on the
test rows by the task's own metrics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from hyperadapt.metrics import score_task
from hyperadapt.tasks import TASKS, Task
from hyperadapt.tasks.suites.builtin import BUILTIN, generate_rows

Rows = list[dict[str, Any]]


def one_bag(task: Task, train: Rows, test: Rows) -> tuple[Any, Any]:
    """Count the words of whole inputs."""
    words = CountVectorizer(token_pattern=r"\S+")
    texts = [[task.source_text(row, False) for row in rows] for rows in (train, test)]
    return words.fit_transform(texts[0]), words.transform(texts[1])


def two_bags(task: Task, train: Rows, test: Rows) -> tuple[Any, Any]:
    """Count the words of each sentence and set them against each other, or count a single sentence's pairs of words."""
    columns = list(task.fields.values())
    if len(columns) == 1:
        pairs = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2))
        texts = [[row[columns[0]] for row in rows] for rows in (train, test)]
        return pairs.fit_transform(texts[0]), pairs.transform(texts[1])
    words = CountVectorizer(token_pattern=r"\S+")
    words.fit([row[column] for row in train for column in columns])

    def features(rows: Rows) -> Any:
        u, v = (words.transform([row[column] for row in rows]) for column in columns)
        return hstack([u, v, abs(u - v), u.multiply(v)]).tocsr()

    return features(train), features(test)


def score(task: Task, inputs: Any, tests: Any, train: Rows, test: Rows) -> float:
    """Fit, and score as a model's predictions are."""
    if task.kind == "score":
        predicted = Ridge().fit(inputs, [row[task.label] for row in train]).predict(tests)
        texts = [f"{value:.1f}" for value in np.clip(predicted, 0, 5)]
    else:
        fitted = LogisticRegression(max_iter=2000).fit(inputs, [task.target_text(row) for row in train])
        texts = list(fitted.predict(tests))
    return score_task(task, texts, [task.target_text(row) for row in test]).score


def main() -> None:
    """Print a line a model."""
    print(f"| | {' | '.join(BUILTIN)} |\n| --- {'| --- ' * len(BUILTIN)}|")
    for way in (one_bag, two_bags):
        scores = []
        for name in BUILTIN:
            task, train, test = (
                TASKS[name],
                list(generate_rows(name, "train")),
                list(generate_rows(name, "test")),
            )
            scores.append(score(task, *way(task, train, test), train, test))
        print(
            f"| {way.__name__.replace('_', ' ')} | {' | '.join(f'{of:.1f}' for of in scores)} |", flush=True
        )


if __name__ == "__main__":
    main()
