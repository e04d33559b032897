"""The kinds of tasks, a file each, with their metrics."""

from __future__ import annotations

from hyperadapt.tasks.kinds.base import Kind, Metric, References, Target, label_of
from hyperadapt.tasks.kinds.chat import Chat
from hyperadapt.tasks.kinds.classes import Classes
from hyperadapt.tasks.kinds.coreference import Coreference
from hyperadapt.tasks.kinds.questions import Questions
from hyperadapt.tasks.kinds.scores import Scores
from hyperadapt.tasks.kinds.texts import Texts

__all__ = ["KINDS", "METRICS", "REPORTED_ONLY", "Kind", "Metric", "References", "Target", "label_of"]

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Classes(), Scores(), Texts(), Questions(), Coreference(), Chat())
}
METRICS: dict[str, Metric] = {
    name: metric for kind in KINDS.values() for name, metric in kind.metrics.items()
}
REPORTED_ONLY = frozenset(name for kind in KINDS.values() for name in kind.reported_only)
