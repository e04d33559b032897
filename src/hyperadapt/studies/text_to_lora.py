"""Sizes of generated LoRA: ours beside Text-to-LoRA's three heads (Charakorn et al. 2025, arXiv 2506.06105), counted.

Their hypernetwork, as their published code builds it, has a trunk of width `WIDTH` and a head for each kind of module:

    L   the head makes A and B of all ranks at once        width x r (d_in + d_out)
    M   one head for both, told which by an embedding      width x r max(d_in, d_out)
    S   the same, rank after rank                          width x max(d_in, d_out)

Ours shares a head among modules of one shape, in L's way, and has beside it what every module starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from hyperadapt.counting import model_config

MODEL, R, TASKS = "mistralai/Mistral-7B-v0.1", 8, 479
DESCRIPTION = 1024  # width of gte-large, which reads descriptions there
WIDTH, HEAD_IN = 128, 512  # of their trunk and of what their heads read
PRINTED = {"L": 55, "M": 34, "S": 5}  # millions, in the paper


class Counted(NamedTuple):
    """What a hypernetwork has, and what it takes to make one task's LoRA.

    Attributes:
        parameters: trained.
        products: multiplications, for all modules of all layers.
    """

    parameters: int
    products: int


def linear(d_in: int, d_out: int, bias: bool = True) -> tuple[int, int]:
    """Count a linear map's parameters and its products for one vector."""
    return d_in * d_out + bias * d_out, d_in * d_out


def text_to_lora(
    head: Literal["L", "M", "S"], shapes: Sequence[tuple[int, int]], layers: int, r: int
) -> Counted:
    """Count their hypernetwork.

    Args:
        head: which of the three.
        shapes: (d_in, d_out) of each kind of module.
        layers: of the model.
        r: rank.
    """
    n = WIDTH
    of_task = linear(DESCRIPTION, n // 2)
    norm = 2 * n
    mixer = [linear(n, 4 * n), linear(4 * n, n)]
    block = [linear(n, 4 * n), linear(4 * n, n)]
    last = [linear(n, 4 * n), linear(4 * n, HEAD_IN)]
    block_parameters, block_products = (sum(part[i] for part in block) for i in (0, 1))
    last_parameters, last_products = (sum(part[i] for part in last) for i in (0, 1))
    mixer_parameters, mixer_products = (sum(part[i] for part in mixer) for i in (0, 1))
    embeddings = (layers + len(shapes)) * n // 4 + 2 * 2 * (n // 4)
    trunk = (
        of_task[0]
        + n
        + embeddings
        + mixer_parameters
        + 2 * (block_parameters + norm)
        + norm
        + last_parameters
    )
    parameters, products = trunk, of_task[1]
    for d_in, d_out in shapes:
        size = {"L": r * (d_in + d_out), "M": r * max(d_in, d_out), "S": max(d_in, d_out)}[head]
        of_head = linear(HEAD_IN, size)
        parameters += of_head[0]
        one = last_products + of_head[1]
        products += (
            layers
            * {
                "L": mixer_products + 2 * block_products + one,
                "M": mixer_products + block_products + 2 * (block_products + one),
                "S": mixer_products + block_products + 2 * (block_products + r * (block_products + one)),
            }[head]
        )
    if head != "L":  # an embedding that says A or B for each kind of module, and their norm
        parameters += 2 * len(shapes) * n + norm
    if head == "S":  # one that says the rank, and its norm
        parameters += r * n + norm
    return Counted(parameters, products)


def hyperlora(
    shapes: Sequence[tuple[int, int]], layers: int, r: int, generated: Literal["B", "both"], described: bool
) -> Counted:
    """Count ours, in its default sizes.

    Args:
        shapes, layers, r: as of `text_to_lora`.
        generated: what is.
        described: z is a description's, of the same width as there; else it is learnt, for `TASKS` tasks.
    """
    from hyperadapt.methods import HyperLoRA

    method = HyperLoRA(r=r, generated=generated)
    t, e, d_site = method.task_embedding_dim, method.projector_hidden_dim, method.task_feature_dim
    d_task = DESCRIPTION if described else d_site
    of_task, of_site, out = linear(d_task, e), linear(2 * d_site, e, bias=False), linear(e, t)
    parameters = (layers + len(shapes)) * d_site + of_task[0] + of_site[0] + out[0] + 2 * t
    parameters += 0 if described else TASKS * d_site
    products = of_task[1] + layers * len(shapes) * (of_site[1] + out[1])
    for shape in dict.fromkeys(shapes):
        d_in, d_out = shape
        made = r * (d_out + d_in * (generated == "both"))
        parameters += t * made
    for d_in, d_out in shapes:
        made = r * (d_out + d_in * (generated == "both"))
        parameters += layers * r * (d_in + d_out)
        products += layers * t * made
    return Counted(parameters, products)


def table() -> list[dict[str, Any]]:
    """Set our hypernetworks beside theirs, for q and v of Mistral-7B, r = 8, for which their sizes are printed."""
    config = model_config(MODEL)
    head = config.head_dim
    q, v = config.num_attention_heads * head, config.num_key_value_heads * head
    shapes, layers = [(config.hidden_size, q), (config.hidden_size, v)], config.num_hidden_layers
    one = layers * sum(R * (d_in + d_out) for d_in, d_out in shapes)
    found: list[tuple[str, Counted, str]] = [
        (f"Text-to-LoRA {name}", text_to_lora(name, shapes, layers, R), f"{PRINTED[name]} M")
        for name in ("L", "M", "S")
    ]
    generated: Literal["B", "both"]
    for generated, described in (("B", True), ("both", True), ("B", False), ("both", False)):
        z = "z of descriptions" if described else f"z of {TASKS} tasks learnt"
        found.append((f"HyperLoRA, {generated}, {z}", hyperlora(shapes, layers, R, generated, described), ""))
    return [
        {
            "hypernetwork": name,
            "printed": printed,
            "parameters": f"{counted.parameters:,}",
            "of one LoRA": f"{counted.parameters / one:.1f}",
            "products for one task's LoRA": f"{counted.products:,}",
        }
        for name, counted, printed in found
    ]
