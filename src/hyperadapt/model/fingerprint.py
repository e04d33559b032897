"""Which base model is it, and which of its tensors have changed: digests for which every number is read.

A model is known again in another floating-point type. So a float32 tensor is digested as rounded to bfloat16 and, if
float16 can hold all its numbers, as rounded to float16; and a tensor of any type as it is, by which a tensor that has
changed since is told to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import xxhash
from torch import Tensor, nn

ROUNDINGS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PIECE = 1 << 16  # numbers that are rounded and read at once on a CPU, as many as its cache holds
SAMPLES_PER_TENSOR = 64


class TensorDigest(NamedTuple):
    """A tensor's shape, and rounding, or its own type -> the digest of its numbers."""

    shape: tuple[int, ...]
    roundings: dict[str, str]

    def is_of(self, other: TensorDigest) -> bool:
        """Whether both are of one tensor, perhaps in two types."""
        shared = self.roundings.keys() & other.roundings.keys()
        return (
            self.shape == other.shape
            and bool(shared)
            and all(self.roundings[rounding] == other.roundings[rounding] for rounding in shared)
        )


def digest_tensor(tensor: Tensor) -> TensorDigest:
    """Digest every number of a tensor; of one on the meta device, which has none, the shape alone."""
    shape = tuple(tensor.shape)
    if tensor.is_meta:
        return TensorDigest(shape, dict.fromkeys(ROUNDINGS, ""))
    values = plain(tensor).flatten()
    if not values.is_floating_point():
        values = values.contiguous().view(torch.uint8)
    own = str(values.dtype).removeprefix("torch.")
    names = [own]
    if own not in ROUNDINGS:
        fitting = [name for name in ROUNDINGS if name != "float16" or not overflows(values, torch.float16)]
        names = [*fitting, own]
    hashes = {name: xxhash.xxh3_128() for name in names}
    for piece in values.split(PIECE if values.device.type == "cpu" else max(1, values.numel())):
        for name, state in hashes.items():
            rounded = piece.to(ROUNDINGS[name]) if piece.is_floating_point() and name != own else piece
            state.update(rounded.cpu().contiguous().view(torch.uint8).numpy().data)
    return TensorDigest(shape, {name: state.hexdigest() for name, state in hashes.items()})


def overflows(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether some numbers are too large for a type, in which all of them would be the same infinity."""
    if not values.is_floating_point() or not values.numel():
        return False
    largest = torch.finfo(dtype).max
    if torch.finfo(values.dtype).max <= largest:
        return False
    low, high = torch.aminmax(values)
    return bool(low < -largest) or bool(high > largest)


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor's numbers; those of one that is quantised as a class of its own, as by torchao, dequantised."""
    values = tensor.detach()
    return values if type(values) is Tensor else values.dequantize()


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, TensorDigest]:
    """Digest tensors by name."""
    return {name: digest_tensor(tensor) for name, tensor in tensors}


def fingerprint(digests: Mapping[str, TensorDigest]) -> dict[str, str]:
    """Identify a model, rounding -> a digest of all its tensors, of which those not known in it count as they are.

    Two models are one if they agree in all roundings, or in one where the numbers of either are in that 16-bit type.
    """
    found = {}
    for rounding in ROUNDINGS:
        of_all = xxhash.xxh3_128()
        for name, (shape, roundings) in digests.items():
            of_all.update(
                f"{name}{shape}{roundings.get(rounding) or next(iter(roundings.values()))}".encode()
            )
        found[rounding] = of_all.hexdigest()
    return found


def sampled_fingerprint(base: nn.Module) -> str:
    """Identify a base model, adapted or not, as saved models of format 1 do, by 64 samples of every tensor."""
    sha = hashlib.sha256()
    for name, parameter in base.named_parameters():
        if name.startswith("hyperadapt."):
            continue
        sha.update(f"{name}{tuple(parameter.shape)}".encode())
        if parameter.is_meta:
            continue
        flat = plain(parameter).flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)][:SAMPLES_PER_TENSOR]
        sha.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return sha.hexdigest()
