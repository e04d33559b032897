"""Weights bound to the sites that a thread runs, for the length of a stack's or block's forward."""

from __future__ import annotations

import threading
from typing import NamedTuple

from torch import Tensor

from hyperadapt.adaptation import SiteWeights
from hyperadapt.sites import Site


class Call(NamedTuple):
    """One call of a stack or block, while it runs.

    Attributes:
        site_weights: of all the stack's sites.
        inputs: path of a site -> the output of the module that it reads, from when that ran until the site does.
    """

    site_weights: SiteWeights
    inputs: dict[str, Tensor]


class Innermost(threading.local):
    """The call that a thread is in, the innermost of several: no other thread's, nor one that it went on from."""

    def __init__(self) -> None:
        self.call: Call | None = None


INNERMOST = Innermost()  # not a ContextVar, which torch.compile cannot trace


class bound:  # noqa: N801 - reads as a statement
    """Bind weights to the sites that this thread runs, for a while."""

    def __init__(self, site_weights: SiteWeights) -> None:
        self.call, self.outer = Call(site_weights, {}), INNERMOST.call

    def __enter__(self) -> None:
        INNERMOST.call = self.call

    def __exit__(self, *exc: object) -> None:
        INNERMOST.call = self.outer


def call_around(site: Site) -> Call:
    """Return the call in which a site runs."""
    return innermost(site.path)


def innermost(what: object) -> Call:
    """Return the call in which something runs."""
    assert INNERMOST.call is not None, f"{what} ran outside its block"
    return INNERMOST.call
