"""Autocast left off where it would change nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hyperadapt.forms.base import autocast_dtype
from hyperadapt.model.stack import embedding_weight


class PlainStack(nn.Module):
    """Mixed in before the class of a stack whose weights have one type: where it is autocast's too, autocast is off.

    It would do nothing but look at every operator, and widen what an adapter's layer norm adds.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        weight = embedding_weight(self)
        kind = weight.device.type
        if autocast_dtype(kind) != weight.dtype:
            return super().forward(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return super().forward(*args, **kwargs)
