"""The modules at sites: they take their own of what is bound, and apply a form or gate their matrix."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hyperadapt.forms import Form, Gate
from hyperadapt.forms.grid import gated_linear
from hyperadapt.model.bind import INNERMOST, call_around
from hyperadapt.sites import Site


class AdaptedSite(nn.Module):
    """Mixed in before the class of a module whose output a form changes (the first, where it returns several)."""

    form: Form
    site: Site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        call = call_around(self.site)
        weights = call.site_weights.at(self.site).weights
        y = output[0] if isinstance(output, tuple) else output
        if self.site.insertion == "sequential":
            x = y
        else:
            x = args[0] if self.site.reads is None else call.inputs.pop(self.site.path)
        changed = self.form.apply(x.to(y.dtype), y, weights)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


class AdaptedLinear(nn.Module):
    """Mixed in before the class of a linear map whose matrix is gated."""

    form: Gate
    site: Site
    weight: Tensor
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        call, x = call_around(self.site), input
        at_site, read = call.site_weights.at(self.site), call.inputs.pop(self.site.path)
        gates = None if at_site.gates is None else at_site.gates.get(self.site.path)
        if gates is None:
            weights = {name: weight.to(x.dtype) for name, weight in at_site.weights.items()}
            gates = self.form.gate(read.to(x.dtype), x, weights, at_site.mask)
            if at_site.gates is not None:
                at_site.gates[self.site.path] = gates
        y = gated_linear(x, self.weight, gates)
        return y if self.bias is None else y + self.bias


class ReadModule(nn.Module):
    """Mixed in before the class of a module whose output a site reads, within the same call.

    No hook: what is unpickled in a new process has hooks under numbers that the process gives to others again.
    """

    reader: Site

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        if INNERMOST.call is not None:
            INNERMOST.call.inputs[self.reader.path] = output
        return output
