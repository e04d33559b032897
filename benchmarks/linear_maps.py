"""A linear map's products by MKL and by oneDNN: python benchmarks/linear_maps.py [SHAPE ...]

Of every width of a published T5, for the tokens of a training step's encoder, of few (up to which the output
layer takes oneDNN), of the decoder and of generation:
y = W x and dx = W^T dy, the median milliseconds of ROUNDS in turns, and oneDNN's as a multiple of MKL's with quartiles.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperadapt.backbones import published_config
from hyperadapt.fast.output_layer import FEW_TOKENS, HAS_BOTH, product
from hyperadapt.studies.bench import Setting
from hyperadapt.studies.bench.measure import Ratio
from turns import in_turns

ROUNDS = 30


def race(**ways: Callable[[], Tensor]) -> str:
    """Time MKL's way and oneDNN's in turns."""
    taken = in_turns(ways, ROUNDS)
    mkl, onednn = taken["mkl"], taken["onednn"]
    ratio = Ratio(tuple(own / other for own, other in zip(onednn, mkl, strict=True)))
    return f"{median(mkl):7.2f} {median(onednn):7.2f}  {ratio}"


@torch.no_grad()
def main() -> None:
    """Print a table for each shape."""
    if not HAS_BOTH:
        sys.exit("this PyTorch does not have both MKL and oneDNN")
    setting = Setting()
    torch.set_num_threads(setting.threads)
    rows, source, target = setting.batch
    for shape in sys.argv[1:] or ["t5-small", "t5-base"]:
        config = published_config(shape)
        d_model, d_ff = config.d_model, config.d_ff
        for d_in, d_out in (
            (d_model, d_model),
            (d_model, d_ff),
            (d_ff, d_model),
            (d_model, config.vocab_size),
        ):
            weight = torch.randn(d_out, d_in)
            for tokens in (rows * source, FEW_TOKENS, rows * target, rows):
                x, gradient = torch.randn(tokens, d_in), torch.randn(tokens, d_out)
                ways = {
                    "W x    ": (partial(F.linear, x, weight), partial(product, x, weight)),
                    "W^T dy ": (
                        partial(torch.matmul, gradient, weight),
                        partial(product, gradient, weight.T),
                    ),
                }
                for name, (mkl, onednn) in ways.items():
                    print(
                        f"{shape}  {d_in:5} -> {d_out:5}  {tokens:5} tokens  {name}  {race(mkl=mkl, onednn=onednn)}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
