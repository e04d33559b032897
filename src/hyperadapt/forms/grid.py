"""Gates on a linear map of a feed-forward block, computed from the block's input (HyperGrid, Tay et al. 2021).

    y = H x + W x,    H = psi(sigma((L_r X) (L_c X')^T)) * W    (eq. 3 and 6)

W (d_out, d_in) is the block's second matrix, d_model by d_ff; psi repeats the (d_r, d_c) grid over blocks of it. X
(d_model,) is what the block reads of the row's first token, and X' (d_in,) what W reads of it: so the published costs
come out, d_model d_r and d_in d_c (section 3.2). Were L_c to read X as well, it would have d_model d_c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from hyperadapt.conditioning import mean_state
from hyperadapt.errors import UserError
from hyperadapt.forms.base import Form, SiteCall, autocast_dtype
from hyperadapt.sites import Site, Tap, Weight

Variant = Literal["L", "L_rows", "L2", "LG", "GL"]
Pool = Literal["first", "last", "mean", "sum"]


@dataclass(frozen=True)
class Grid(Form):
    """The gate of HyperGrid (eq. 2 to 6), and of its output gate (eq. 7).

    Attributes:
        fan_in, fan_out: d_r and d_c, blocks along W's output and its input.
        variant: "L2" as above; "LG" learns a vector in place of L_c X' (eq. 4), "GL" in place of L_r X (eq. 5); "L" is
            eq. 2, H = psi(sigma(U X)) * W, a vector along d_in; "L_rows" has it along d_out instead.
        offset: y = (offset + psi(sigma(...))) * W x; HyperGrid's is 1 (eq. 6), the output gate's 0 (eq. 7).
        pool: X and X' are those of the "first" token, or their "mean" or "sum" over the row's tokens (section 3.2);
            where a token sees those before it alone, the "last" of the prompt is the one that has seen all of it.
    """

    fan_in: int
    fan_out: int
    variant: Variant
    offset: float
    pool: Pool = "first"

    @property
    def taps(self) -> tuple[Tap, ...]:
        return Tap.NORM_OUTPUT, Tap.INPUT

    @property
    def keeps(self) -> bool:
        return True

    def weights(self, site: Site) -> dict[str, Weight]:
        d_model, d_in, d_out = site.d_read, site.d_in, site.d_out
        for side, blocks, width in (("output", self.fan_in, d_out), ("input", self.fan_out, d_in)):
            if width % blocks:
                raise UserError(
                    f"{blocks} blocks do not divide the {side} of {site.path}, {width} numbers; "
                    f"the nearest number that does is {nearest_divisor(blocks, width)}"
                )
        # One factor starts at zero, so that all gates start at sigma(0); both at zero would have no gradient.
        rows = Weight((self.fan_in, d_model), std=d_model**-0.5)
        columns = Weight((self.fan_out, d_in))
        if self.variant == "L":
            return {"input_gate": Weight((self.fan_out, d_model))}
        if self.variant == "L_rows":
            return {"rows": Weight((self.fan_in, d_model))}
        if self.variant == "LG":
            return {"rows": rows, "column_gate": Weight((self.fan_out,))}
        if self.variant == "GL":
            return {"row_gate": Weight((self.fan_in,), std=1.0), "columns": columns}
        return {"rows": rows, "columns": columns}

    def apply(self, call: SiteCall, weights: dict[str, Tensor]) -> Tensor:
        """Multiply by the gated matrix; the gates of a generation's first step hold for all of it."""
        x, linear_map = call.taps[Tap.INPUT], call.module
        gates = None if call.kept is None else call.kept.get("gates")
        if gates is None:
            in_dtype = {name: weight.to(x.dtype) for name, weight in weights.items()}
            gates = self.gate(call.taps[Tap.NORM_OUTPUT].to(x.dtype), x, in_dtype, call.mask)
            if call.kept is not None:
                call.kept["gates"] = gates
        y = gated_linear(x, matrix_of(linear_map), gates)
        return y if linear_map.bias is None else y + linear_map.bias

    def gate(self, read: Tensor, x: Tensor, weights: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        """Compute the gates of a batch, offset included, (batch, d_r, d_c).

        Args:
            read: what the block reads, (batch, seq, d_model).
            x: what W reads, (batch, seq, d_in).
            weights: name -> (1, *shape).
            mask: (batch, seq), 1 for a token; None if all are.
        """
        read = pooled(read, mask, self.pool)
        if self.variant == "L":
            return self.offset + torch.sigmoid(F.linear(read, weights["input_gate"].squeeze(0))).unsqueeze(1)
        if "rows" in weights:
            rows = F.linear(read, weights["rows"].squeeze(0))
        else:
            rows = weights["row_gate"].expand(len(read), -1)
        if "columns" in weights:
            columns = F.linear(pooled(x, mask, self.pool), weights["columns"].squeeze(0))
        elif "column_gate" in weights:
            columns = weights["column_gate"].expand(len(read), -1)
        else:
            columns = rows.new_ones(len(read), 1)
        return self.offset + torch.sigmoid(rows.unsqueeze(2) * columns.unsqueeze(1))


def pooled(states: Tensor, mask: Tensor | None, pool: Pool) -> Tensor:
    """Take of a row's states the first or last that is of a token, or mean or sum, (batch, seq, d) -> (batch, d)."""
    if pool == "mean":
        return mean_state(states, mask).to(states.dtype)
    if pool == "sum":
        return (states if mask is None else states * mask.to(states).unsqueeze(-1)).sum(1)
    at_end = pool == "last"
    if mask is None or mask.shape != states.shape[:2]:
        return states[:, -1 if at_end else 0]
    read = mask.ne(0).int()  # padding may stand on the left
    place = states.shape[1] - 1 - read.flip(1).argmax(1) if at_end else read.argmax(1)
    return states.gather(1, place[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)


def nearest_divisor(blocks: int, width: int) -> int:
    """Find the divisor of a width that is nearest to a number of blocks."""
    divisors = (divisor for divisor in range(1, width + 1) if width % divisor == 0)
    return min(divisors, key=lambda divisor: abs(divisor - blocks))


def matrix_of(linear_map: Any) -> Tensor:
    """Return a linear map's matrix, (d_out, d_in); GPT-2's keep theirs transposed."""
    return linear_map.weight if hasattr(linear_map, "in_features") else linear_map.weight.T


def gated_linear(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    """Multiply every row of a batch by a matrix whose blocks it gates, y = (psi(gate) * W) x.

    Args:
        x: (batch, seq, d_in).
        weight: (d_out, d_in).
        gate: (batch, d_r, d_c), which divide d_out and d_in.

    Returns:
        (batch, seq, d_out).
    """
    if (dtype := autocast_dtype(x.device.type)) is not None:
        x, weight, gate = x.to(dtype), weight.to(dtype), gate.to(dtype)
    seq, (d_out, d_in), (d_r, d_c) = x.shape[1], weight.shape, gate.shape[1:]
    rows, columns, matrix = seq * d_r * d_in, seq * d_c * d_out, d_out * d_in
    if d_r == 1:
        return F.linear(x * over_input(gate, d_in), weight)
    if d_c == 1:
        return by_columns(x, weight, gate)
    # Half: the parts take a pass more than a matrix does.
    if 2 * min(rows, columns) > matrix:
        return by_matrix(x, weight, gate)
    by_parts = by_columns if columns < rows else by_rows
    if not torch.is_grad_enabled():
        return by_parts(x, weight, gate)
    # Nothing of the parts is kept for the backward: they are many times what the rows themselves are.
    return checkpoint(by_parts, x, weight, gate, use_reentrant=False, preserve_rng_state=False)


def by_rows(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    """Gate the input for each block of rows, (d_r, batch, seq, d_in), and multiply."""
    (batch, seq, d_in), (d_r, _) = x.shape, gate.shape[1:]
    gated = (x * over_input(gate, d_in).transpose(0, 1).unsqueeze(2)).flatten(1, 2)
    products = torch.bmm(gated, weight.unflatten(0, (d_r, -1)).transpose(1, 2))
    return products.unflatten(1, (batch, seq)).permute(1, 2, 0, 3).flatten(2)


def by_columns(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    """Multiply by each block of columns, (d_c, batch, seq, d_out), and add the gated products up."""
    (batch, seq, _), (d_r, d_c) = x.shape, gate.shape[1:]
    parts = x.flatten(0, 1).unflatten(1, (d_c, -1)).transpose(0, 1)
    products = torch.bmm(parts, weight.unflatten(1, (d_c, -1)).permute(1, 2, 0))
    products = products.view(d_c, batch, seq, d_r, -1)
    return (products * gate.permute(2, 0, 1)[:, :, None, :, None]).sum(0).flatten(2)


def by_matrix(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
    """Gate the matrix for each row, (batch, d_out, d_in), and multiply, as many rows at once as `AT_ONCE` allows."""
    return GatedMatrix.apply(x, weight, gate)


def over_input(gate: Tensor, d_in: int) -> Tensor:
    """Repeat gates over the numbers of their block of the input, (batch, d_r, d_c) -> (batch, d_r, d_in)."""
    return gate.repeat_interleave(d_in // gate.shape[2], 2)


# Numbers of gated matrices at once. On a CPU they stay in the cache, and are less than the 32 MB from which on malloc
# gives memory back to the system at once, so that its pages would be made anew for each product.
AT_ONCE = {"cpu": 5_000_000}
AT_ONCE_ON_ACCELERATORS = 2**28


class GatedMatrix(torch.autograd.Function):
    """`by_matrix`, which keeps for its backward only what it was given: no matrix a row."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, gate: Tensor) -> Tensor:
        blocks, gates, rows = GatedMatrix.at_once(weight, gate)
        return torch.cat(
            [
                torch.bmm(x_of, (blocks * gates_of).flatten(1, 2).transpose(1, 2))
                for x_of, gates_of in zip(x.split(rows), gates.split(rows), strict=True)
            ]
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, gate = ctx.saved_tensors
        of_x, of_weight, of_gate = ctx.needs_input_grad
        blocks, gates, rows = GatedMatrix.at_once(weight, gate)
        grad_x, grad_gates = [], []
        # In float32, as a sum over many rows in bfloat16 would lose the small ones.
        exact = torch.promote_types(weight.dtype, torch.float32)
        grad_blocks = torch.zeros_like(blocks, dtype=exact)
        for x_of, gates_of, grad_of in zip(x.split(rows), gates.split(rows), grad.split(rows), strict=True):
            if of_x:
                grad_x.append(torch.bmm(grad_of, (blocks * gates_of).flatten(1, 2)))
            if of_weight or of_gate:
                outer = torch.bmm(grad_of.transpose(1, 2), x_of).unflatten(1, blocks.shape[:2])
                if of_weight:
                    grad_blocks += (outer * gates_of).sum(0, dtype=exact)
                if of_gate:
                    grad_gates.append(outer.mul_(blocks).sum(2))
        return (
            torch.cat(grad_x) if of_x else None,
            grad_blocks.flatten(0, 1).to(weight.dtype) if of_weight else None,
            torch.cat(grad_gates).unflatten(2, (gate.shape[2], -1)).sum(3) if of_gate else None,
        )

    @staticmethod
    def at_once(weight: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, int]:
        """Cut the matrix into blocks of rows, (d_r, d_out / d_r, d_in), its gates alike, and count the rows at once."""
        rows = AT_ONCE.get(weight.device.type, AT_ONCE_ON_ACCELERATORS) // weight.numel()
        blocks = weight.unflatten(0, (gate.shape[1], -1))
        return blocks, over_input(gate, weight.shape[1]).unsqueeze(2), max(1, rows)
