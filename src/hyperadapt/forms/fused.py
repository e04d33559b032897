"""The adapter block on a GPU in one kernel forward and one backward, beside the products of the weights' gradients.

    h = D x + b_D,    a = act(h),    u = U a + b_U,    n = (u - mean(u)) / sqrt(var(u) + eps)
    z = y + u,        or with a layer norm    z = y + gamma n + beta

Of a frozen backbone a GPU does its work faster than it is told of it, so that every call counts; and of what the block
makes nothing as wide as the model has to be written but z (docs/benchmarks.md has both counted).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

NAMES = ("down", "down_bias", "up", "up_bias", "norm_weight", "norm_bias")


@triton.jit
def activated(h, kind: tl.constexpr):
    """Return act(h)."""
    if kind == "relu":
        return tl.maximum(h, 0.0)
    if kind == "silu":
        return h * tl.sigmoid(h)
    if kind == "tanh":
        return 2.0 * tl.sigmoid(2.0 * h) - 1.0
    if kind == "gelu":
        return 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
    inner = 0.7978845608028654 * (h + 0.044715 * h * h * h)
    return h * tl.sigmoid(2.0 * inner)  # tanh(v) = 2 sigmoid(2 v) - 1


@triton.jit
def slope(h, kind: tl.constexpr):
    """Return the derivative of act at h."""
    if kind == "relu":
        return tl.where(h > 0, 1.0, 0.0)
    if kind == "silu":
        s = tl.sigmoid(h)
        return s * (1.0 + h * (1.0 - s))
    if kind == "tanh":
        t = 2.0 * tl.sigmoid(2.0 * h) - 1.0
        return 1.0 - t * t
    if kind == "gelu":
        return 0.5 * (1.0 + tl.erf(h * 0.7071067811865476)) + h * 0.3989422804014327 * tl.exp(-0.5 * h * h)
    inner = 0.7978845608028654 * (h + 0.044715 * h * h * h)
    s = tl.sigmoid(2.0 * inner)
    return s + h * s * (1.0 - s) * 2.0 * 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * h * h)


@triton.jit
def change_of(hidden, up, up_bias, columns, inner, d_out, bottleneck):
    """Return u of some tokens for some columns, in float32."""
    within = (columns < d_out)[None, :] & (inner < bottleneck)[:, None]
    matrix = tl.load(up + columns[None, :] * bottleneck + inner[:, None], mask=within, other=0.0)
    bias = tl.load(up_bias + columns, mask=columns < d_out, other=0.0).to(tl.float32)
    return tl.dot(hidden, matrix, input_precision="ieee") + bias[None, :]


@triton.jit
def forward_kernel(
    x,
    y,
    z,
    hidden,
    before,
    mean,
    inverse,
    down,
    down_bias,
    up,
    up_bias,
    scale,
    shift,
    step_down,
    step_down_bias,
    step_up,
    step_up_bias,
    step_scale,
    step_shift,
    tokens,
    d_in,
    d_out,
    bottleneck,
    eps,
    kind: tl.constexpr,
    has_norm: tl.constexpr,
    keep: tl.constexpr,
    t_tile: tl.constexpr,
    w_tile: tl.constexpr,
    b_tile: tl.constexpr,
):
    """Write z for t_tile tokens of one group of rows, and what the backward reads."""
    group = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * t_tile + tl.arange(0, t_tile)
    row, there, inner = group * tokens + token, token < tokens, tl.arange(0, b_tile)
    h = tl.zeros((t_tile, b_tile), tl.float32)
    for start in range(0, d_in, w_tile):
        columns = start + tl.arange(0, w_tile)
        read = tl.load(
            x + row[:, None] * d_in + columns[None, :],
            mask=there[:, None] & (columns < d_in)[None, :],
            other=0.0,
        )
        across = (columns < d_in)[:, None] & (inner < bottleneck)[None, :]
        matrix = tl.load(
            down + group * step_down + inner[None, :] * d_in + columns[:, None], mask=across, other=0.0
        )
        h = tl.dot(read, matrix, h, input_precision="ieee")
    h += tl.load(down_bias + group * step_down_bias + inner, mask=inner < bottleneck, other=0.0).to(
        tl.float32
    )[None, :]
    a = activated(h, kind).to(x.dtype.element_ty)
    if keep:
        narrow = row[:, None] * bottleneck + inner[None, :]
        kept = there[:, None] & (inner < bottleneck)[None, :]
        tl.store(before + narrow, h.to(x.dtype.element_ty), mask=kept)
        tl.store(hidden + narrow, a, mask=kept)
    up += group * step_up
    up_bias += group * step_up_bias
    centre = tl.zeros((t_tile,), tl.float32)
    factor = tl.zeros((t_tile,), tl.float32)
    if has_norm:
        for start in range(0, d_out, w_tile):
            columns = start + tl.arange(0, w_tile)
            centre += tl.sum(change_of(a, up, up_bias, columns, inner, d_out, bottleneck), 1)
        centre /= d_out
        for start in range(0, d_out, w_tile):
            columns = start + tl.arange(0, w_tile)
            apart = change_of(a, up, up_bias, columns, inner, d_out, bottleneck) - centre[:, None]
            factor += tl.sum(tl.where((columns < d_out)[None, :], apart * apart, 0.0), 1)
        factor = 1.0 / tl.sqrt(factor / d_out + eps)
        if keep:
            tl.store(mean + row, centre, mask=there)
            tl.store(inverse + row, factor, mask=there)
    for start in range(0, d_out, w_tile):
        columns = start + tl.arange(0, w_tile)
        place = row[:, None] * d_out + columns[None, :]
        within = there[:, None] & (columns < d_out)[None, :]
        made = change_of(a, up, up_bias, columns, inner, d_out, bottleneck)
        if has_norm:
            gamma = tl.load(scale + group * step_scale + columns, mask=columns < d_out, other=0.0).to(
                tl.float32
            )
            beta = tl.load(shift + group * step_shift + columns, mask=columns < d_out, other=0.0).to(
                tl.float32
            )
            made = (made - centre[:, None]) * factor[:, None] * gamma[None, :] + beta[None, :]
        residual = tl.load(y + place, mask=within, other=0.0).to(tl.float32)
        tl.store(z + place, (residual + made).to(z.dtype.element_ty), mask=within)


@triton.jit
def backward_kernel(
    gradient,
    hidden,
    before,
    mean,
    inverse,
    down,
    up,
    up_bias,
    scale,
    step_down,
    step_up,
    step_up_bias,
    step_scale,
    of_x,
    of_change,
    of_before,
    sums,
    tokens,
    d_in,
    d_out,
    bottleneck,
    kind: tl.constexpr,
    has_norm: tl.constexpr,
    adds_to_x: tl.constexpr,
    t_tile: tl.constexpr,
    w_tile: tl.constexpr,
    b_tile: tl.constexpr,
):
    """Write the gradients of x, u and h for t_tile tokens of one group, and those of the vectors summed over them."""
    group = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * t_tile + tl.arange(0, t_tile)
    row, there, inner = group * tokens + token, token < tokens, tl.arange(0, b_tile)
    narrow = row[:, None] * bottleneck + inner[None, :]
    kept = there[:, None] & (inner < bottleneck)[None, :]
    a = tl.load(hidden + narrow, mask=kept, other=0.0)
    up += group * step_up
    up_bias += group * step_up_bias
    sums += (group * tl.num_programs(1) + tl.program_id(1)) * (3 * d_out + bottleneck)
    centre = tl.zeros((t_tile,), tl.float32)
    factor = tl.zeros((t_tile,), tl.float32)
    along_one = tl.zeros((t_tile,), tl.float32)
    along_n = tl.zeros((t_tile,), tl.float32)
    if has_norm:
        centre = tl.load(mean + row, mask=there, other=0.0)
        factor = tl.load(inverse + row, mask=there, other=0.0)
        for start in range(0, d_out, w_tile):
            columns = start + tl.arange(0, w_tile)
            place = row[:, None] * d_out + columns[None, :]
            within = there[:, None] & (columns < d_out)[None, :]
            g = tl.load(gradient + place, mask=within, other=0.0).to(tl.float32)
            gamma = tl.load(scale + group * step_scale + columns, mask=columns < d_out, other=0.0).to(
                tl.float32
            )
            n = (change_of(a, up, up_bias, columns, inner, d_out, bottleneck) - centre[:, None]) * factor[
                :, None
            ]
            g *= gamma[None, :]
            along_one += tl.sum(g, 1)
            along_n += tl.sum(g * n, 1)
        along_one /= d_out
        along_n /= d_out
    of_a = tl.zeros((t_tile, b_tile), tl.float32)
    for start in range(0, d_out, w_tile):
        columns = start + tl.arange(0, w_tile)
        place = row[:, None] * d_out + columns[None, :]
        within = there[:, None] & (columns < d_out)[None, :]
        g = tl.load(gradient + place, mask=within, other=0.0).to(tl.float32)
        if has_norm:
            gamma = tl.load(scale + group * step_scale + columns, mask=columns < d_out, other=0.0).to(
                tl.float32
            )
            n = (change_of(a, up, up_bias, columns, inner, d_out, bottleneck) - centre[:, None]) * factor[
                :, None
            ]
            tl.store(sums + columns, tl.sum(g * n, 0), mask=columns < d_out)
            tl.store(sums + d_out + columns, tl.sum(g, 0), mask=columns < d_out)
            g = factor[:, None] * (g * gamma[None, :] - along_one[:, None] - n * along_n[:, None])
            g = tl.where(within, g, 0.0)
            tl.store(of_change + place, g.to(of_change.dtype.element_ty), mask=within)
        tl.store(sums + 2 * d_out + columns, tl.sum(g, 0), mask=columns < d_out)
        across = (columns < d_out)[:, None] & (inner < bottleneck)[None, :]
        matrix = tl.load(up + columns[:, None] * bottleneck + inner[None, :], mask=across, other=0.0)
        of_a = tl.dot(g.to(matrix.dtype), matrix, of_a, input_precision="ieee")
    h = tl.load(before + narrow, mask=kept, other=0.0).to(tl.float32)
    of_h = tl.where(kept, of_a * slope(h, kind), 0.0)
    tl.store(sums + 3 * d_out + inner, tl.sum(of_h, 0), mask=inner < bottleneck)
    of_h = of_h.to(of_before.dtype.element_ty)
    tl.store(of_before + narrow, of_h, mask=kept)
    for start in range(0, d_in, w_tile):
        columns = start + tl.arange(0, w_tile)
        place = row[:, None] * d_in + columns[None, :]
        within = there[:, None] & (columns < d_in)[None, :]
        across = (columns < d_in)[None, :] & (inner < bottleneck)[:, None]
        matrix = tl.load(
            down + group * step_down + inner[:, None] * d_in + columns[None, :], mask=across, other=0.0
        )
        made = tl.dot(of_h, matrix, input_precision="ieee")
        if adds_to_x:
            made += tl.load(gradient + place, mask=within, other=0.0).to(tl.float32)
        tl.store(of_x + place, made.to(of_x.dtype.element_ty), mask=within)


def adapter_block(
    x: Tensor, y: Tensor | None, weights: Mapping[str, Tensor], activation: str, eps: float
) -> Tensor:
    """Add to y (batch, seq, d_out) what the block makes of x (batch, seq, d_in).

    Args:
        x: what the block reads.
        y: what it is added to; None is x.
        weights: `NAMES` -> (G, ...), for G groups of rows; without the last two there is no layer norm.
        activation: one of `ACTIVATIONS`.
        eps: of the layer norm.
    """
    given = [weights.get(name) for name in NAMES]
    # T5 keeps parts of a float16 model in float32.
    tensors = [of if of is None or of.dtype == x.dtype else of.to(x.dtype) for of in given]
    if torch.is_grad_enabled():
        return AdapterBlock.apply(x, y, activation, eps, *tensors)
    return launch_forward(x, y, activation, eps, tensors, keep=False)[0]


class AdapterBlock(torch.autograd.Function):
    """`adapter_block`, for gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, activation: str, eps: float, *weights: Tensor | None
    ) -> Tensor:
        z, *kept = launch_forward(x, y, activation, eps, weights, keep=True)
        down, _, up, up_bias, scale, _ = weights
        ctx.save_for_backward(x, down, up, up_bias, scale, *kept)
        ctx.activation, ctx.residual = activation, y is None
        ctx.groups = tuple(map(groups_of, weights))
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_x, *of_weights = launch_backward(
            gradient.contiguous(), ctx.activation, ctx.residual, max(ctx.groups), *ctx.saved_tensors
        )
        of_weights = [
            of if of is None or len(of) == groups else of.sum(0, keepdim=True)
            for of, groups in zip(of_weights, ctx.groups, strict=True)
        ]
        return of_x, gradient if ctx.needs_input_grad[1] else None, None, None, *of_weights


def launch_forward(
    x: Tensor, y: Tensor | None, activation: str, eps: float, weights: Sequence[Any], keep: bool
) -> tuple[Tensor, ...]:
    """Return z, and what the backward reads: a, h, and the layer norm's mean and inverse deviation, in float32."""
    x = x.contiguous()
    y = x if y is None else y.contiguous()
    down, _, up, *_, scale, _ = weights
    groups, (bottleneck, d_in), d_out = max(map(groups_of, weights)), down.shape[1:], up.shape[1]
    z = torch.empty_like(y)
    rows = x.numel() // d_in
    hidden, before = x.new_empty(2, rows if keep else 0, bottleneck).unbind(0)
    mean, inverse = x.new_empty(2, rows if keep and scale is not None else 0, dtype=torch.float32).unbind(0)
    tokens = rows // groups
    tile = tile_of(tokens, bottleneck, x.dtype)
    forward_kernel[(groups, -(-tokens // tile[0]))](
        x, y, z, hidden, before, mean, inverse,
        *(z if of is None else of for of in weights), *map(step_of, weights),
        tokens, d_in, d_out, bottleneck, eps,
        activation, scale is not None, keep, *tile,
    )  # fmt: skip
    return z, hidden, before, mean, inverse


def launch_backward(
    gradient: Tensor, activation: str, residual: bool, groups: int,
    x: Tensor, down: Tensor, up: Tensor, up_bias: Tensor, scale: Tensor | None,
    hidden: Tensor, before: Tensor, mean: Tensor, inverse: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Return the gradients of x and of the weights."""
    (bottleneck, d_in), d_out = down.shape[1:], up.shape[1]
    tokens = len(hidden) // groups
    tile = tile_of(tokens, bottleneck, x.dtype)
    tiles = -(-tokens // tile[0])
    of_x, of_before = torch.empty_like(x), torch.empty_like(hidden)
    of_change = gradient if scale is None else torch.empty_like(gradient)
    sums = gradient.new_empty(groups, tiles, 3 * d_out + bottleneck, dtype=torch.float32)
    parts = (down, up, up_bias, scale)
    backward_kernel[(groups, tiles)](
        gradient, hidden, before, mean, inverse,
        *(gradient if of is None else of for of in parts), *map(step_of, parts),
        of_x, of_change, of_before, sums,
        tokens, d_in, d_out, bottleneck,
        activation, scale is not None, residual, *tile,
    )  # fmt: skip
    of_scale, of_shift, of_up_bias, of_down_bias = (
        sums.sum(1).to(gradient.dtype).split([d_out, d_out, d_out, bottleneck], 1)
    )
    of_up = torch.bmm(of_change.view(groups, tokens, -1).mT, hidden.view(groups, tokens, -1))
    of_down = torch.bmm(of_before.view(groups, tokens, -1).mT, x.reshape(groups, tokens, -1))
    norm = (None, None) if scale is None else (of_scale, of_shift)
    return of_x, of_down, of_down_bias, of_up, of_up_bias, *norm


def tile_of(tokens: int, bottleneck: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Return how many tokens, numbers of each and of its bottleneck a program holds, as many as its registers do."""
    few, wide = tokens <= 16, dtype.itemsize > 2
    return (
        16 if few or wide else 32,
        128 if few and not wide else 64,
        max(1 << (bottleneck - 1).bit_length(), 16),
    )


def groups_of(weight: Tensor | None) -> int:
    """Count the groups of rows that have weights of their own."""
    return 1 if weight is None else len(weight)


def step_of(weight: Tensor | None) -> int:
    """Return how far apart a weight's groups lie in memory; 0 where all share one."""
    return 0 if weight is None or len(weight) == 1 else weight.stride(0)
