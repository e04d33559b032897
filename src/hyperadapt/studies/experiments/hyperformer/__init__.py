"""The experiments of Karimi Mahabadi et al., ACL 2021."""

from __future__ import annotations

from hyperadapt.studies.experiments.hyperformer import costs, glue, transfer

EXPERIMENTS = (*glue.EXPERIMENTS, *transfer.EXPERIMENTS, *costs.EXPERIMENTS)
