"""Forms: the arithmetic that weights feed at a site, a file each. Stateless; they know shapes, not models."""

from __future__ import annotations

from hyperadapt.forms.base import Form, SiteCall
from hyperadapt.forms.bottleneck import Bottleneck
from hyperadapt.forms.grid import Grid
from hyperadapt.forms.low_rank import LowRank
from hyperadapt.forms.norm import NormScale
from hyperadapt.forms.parallel import ParallelBottleneck

__all__ = ["Bottleneck", "Form", "Grid", "LowRank", "NormScale", "ParallelBottleneck", "SiteCall"]
