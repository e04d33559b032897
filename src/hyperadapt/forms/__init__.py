"""Forms: the arithmetic that weights feed at a site. Stateless; they know shapes, not models.

A `Form` changes a module's output; a `Gate` multiplies a linear map's matrix, row by row of the batch.
"""

from __future__ import annotations

from hyperadapt.forms.base import Form, Gate
from hyperadapt.forms.bottleneck import Bottleneck
from hyperadapt.forms.grid import Grid
from hyperadapt.forms.low_rank import LowRank
from hyperadapt.forms.norm import NormScale
from hyperadapt.forms.parallel import ParallelBottleneck

__all__ = ["Bottleneck", "Form", "Gate", "Grid", "LowRank", "NormScale", "ParallelBottleneck"]
