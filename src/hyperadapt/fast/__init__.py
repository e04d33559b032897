"""What is to compute the same faster: without this folder no result changes (tests/test_fast.py deletes it).

file               what it does                                      measured by
norms.py           a backbone's norm in few passes, or one kernel    `python benchmarks/fast.py norms time`
stacks.py          autocast left off where it would change nothing   `python benchmarks/fast.py autocast time`
folded_norm.py     the adapter's layer norm within its projection    `python benchmarks/fast.py folded_norm memory`
output_layer.py    the frozen output layer by oneDNN                 `python benchmarks/linear_maps.py`
cuda_graphs.py     training steps repeated as recorded               `hyperadapt bench step`, on a GPU

On a GPU the first two are what makes a step of few kernels (docs/benchmarks.md): norms by PyTorch's kernel 1,363 for
2,671 of the floor, 0.61 of its time as a graph (H100) and 1,386 MB for 1,537 (H200); autocast left off 94.4 ms and
2,714 kernels for 107.7 and 2,946 of HyperFormer++ (H200). On a CPU the norms in few passes move 3.36 GB in the floor's
step of T5-small for 3.97 (`hyperadapt bench arithmetic`), and save no time on an AMD EPYC: with eight tasks, one thread
and two, a step without norms.py takes 0.992 (0.982 to 1.014) and 0.984 (0.953 to 1.030) of one with it, and one without
stacks.py 0.986 (0.973 to 1.002) and 1.003 (0.981 to 1.039).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hyperadapt.adaptation import Adaptation
from hyperadapt.backbones.base import Backbone, NormKind
from hyperadapt.fast.folded_norm import FOLDED_FROM, FoldedBottleneck
from hyperadapt.fast.norms import FastNorm
from hyperadapt.fast.output_layer import OutputLayer
from hyperadapt.fast.stacks import PlainStack
from hyperadapt.forms import Bottleneck, Form
from hyperadapt.model.mixed import subclass


def speed_up_forms(adaptation: Adaptation) -> None:
    """Let forms compute the same in the way that is faster here, before their sites take them."""
    for group in adaptation.site_groups():
        group.form = faster(group.form)


def faster(form: Form) -> Form:
    """Return what computes the same faster, the form itself where nothing does."""
    if type(form) is Bottleneck and form.adapter_block and form.reduction_factor >= FOLDED_FROM:
        return FoldedBottleneck(form.reduction_factor, form.activation)
    return form


def speed_up_base(base: Any, backbone: Backbone) -> None:
    """Run what a base model has of its own in as few calls as it can be, whatever the method."""
    for name, stack in backbone.modules(base).items():
        norms: list[Any] = [base.get_submodule(site.path) for site in backbone.norm_sites(base, name)]
        scales = {id(norm.weight) for norm in norms}
        rest = [weight for weight in stack.parameters() if id(weight) not in scales]
        if len({weight.dtype for weight in rest if weight.is_floating_point()}) == 1:
            subclass(stack, PlainStack)
        for norm in norms if backbone.norm == NormKind.RMS else ():
            subclass(norm, FastNorm)
            norm.eps, norm.model = backbone.eps(base), (base,)
    speed_up_output_layer(base)


def speed_up_output_layer(base: Any) -> None:
    """Let the output layer multiply by what is fastest, where it is plain and frozen."""
    layer = base.get_output_embeddings()
    if type(layer) is nn.Linear and layer.bias is None and not layer.weight.requires_grad:
        subclass(layer, OutputLayer)
