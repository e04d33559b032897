"""The modules at sites: they take their own of what is bound, and apply a form."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hyperadapt.forms import Form, SiteCall
from hyperadapt.model.bind import INNERMOST, call_around
from hyperadapt.sites import Site, Source, Tap


class AdaptedSite(nn.Module):
    """Mixed in before the class of a module whose output a form changes (the first, where it returns several).

    Attributes:
        form, site: what is applied, and where.
        tapped: what other modules leave for the form.
    """

    form: Form
    site: Site
    tapped: dict[Tap, Source]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call, site = call_around(self.site), self.site
        weights = call.site_weights.at(site)
        if weights is None:
            return super().forward(*args, **kwargs)
        taps: dict[Tap, Tensor] = {}
        rest: tuple[Any, ...] | None = None
        if Tap.OUTPUT in self.form.taps:
            output = super().forward(*args, **kwargs)
            taps[Tap.OUTPUT], rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        for tap in self.form.taps:
            if tap in self.tapped:
                taps[tap] = call.inputs.pop(site.path)
            elif tap != Tap.OUTPUT:
                taps[tap] = args[0]
        if Tap.OUTPUT in taps:
            taps = {tap: value.to(taps[Tap.OUTPUT].dtype) for tap, value in taps.items()}
        bound_here = call.site_weights
        site_call = SiteCall(taps, self, bound_here.mask, bound_here.kept_at(site))
        changed = self.form.apply(site_call, weights)
        return changed if rest is None else (changed, *rest)


class TappedModule(nn.Module):
    """Mixed in before the class of a module that a site taps, within the same call.

    No hook: what is unpickled in a new process has hooks under numbers that the process gives to others again.
    """

    reader: Site
    side: str

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        if INNERMOST.call is not None:
            INNERMOST.call.inputs[self.reader.path] = args[0] if self.side == "input" else output
        return output
