"""The experiments of Ivison & Peters, EMNLP 2022."""

from __future__ import annotations

from hyperadapt.experiments.hyperdecoders import analysis, tables

EXPERIMENTS = (*tables.EXPERIMENTS, *analysis.EXPERIMENTS)
