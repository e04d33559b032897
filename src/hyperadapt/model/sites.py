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
        form, site, call = self.form, self.site, call_around(self.site)
        weights = call.site_weights.at(site)
        if weights is None:
            return super().forward(*args, **kwargs)
        taps: dict[Tap, Tensor] = {}
        rest: tuple[Any, ...] | None = None
        if Tap.OUTPUT in form.taps:
            output = super().forward(*args, **kwargs)
            taps[Tap.OUTPUT], rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        for tap in form.taps:
            if tap != Tap.OUTPUT:
                read = call.inputs.pop(site.path) if tap in self.tapped else args[0]
                taps[tap] = read.to(taps[Tap.OUTPUT].dtype) if Tap.OUTPUT in taps else read
        kept = call.site_weights.kept_at(site) if form.keeps else None
        changed = form.apply(SiteCall(taps, self, call.site_weights.mask, kept), weights)
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
