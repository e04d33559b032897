"""The experiments of Ivison & Peters, EMNLP 2022."""

from __future__ import annotations

from hyperadapt.studies.experiments.hyperdecoders import (
    analysis,
    data_sets,
    glue,
    placement,
    question_answering,
    summaries,
)

EXPERIMENTS = (
    *glue.EXPERIMENTS,
    *question_answering.EXPERIMENTS,
    *summaries.EXPERIMENTS,
    *placement.EXPERIMENTS,
    *analysis.EXPERIMENTS,
    *data_sets.EXPERIMENTS,
)
