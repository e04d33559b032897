"""An adapted model in shards (FSDP2): two processes on the CPU, against the whole model in each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import hyperadapt as ha
from hyperadapt.training.trainer import gathered
from tiny import METHODS, PLUS_PLUS, tiny_adapted, tiny_batch, tiny_t5
from tiny_run import Forked, ranks

PROCESSES = 2


SHARDED = {method.name: method for method in (METHODS[1], PLUS_PLUS, ha.HyperGrid(fan_in=4, fan_out=8))}


def test_models_in_shards_train_generate_and_are_saved_as_the_whole_ones(
    tmp_path: Path, forked: Callable[..., Forked]
) -> None:
    outcomes = [
        process.wait() for process in [forked(check_all, tmp_path, **rank) for rank in ranks(PROCESSES)]
    ]
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err[-2000:]
    batch = tiny_batch()
    for name, method in SHARDED.items():
        assert all(f"{name}: equal" in outcome.out for outcome in outcomes)
        loaded = ha.load(tmp_path / name, base_model=tiny_t5())
        with torch.no_grad():
            assert torch.equal(loaded(**batch).logits, tiny_adapted(method)(**batch).logits)


def check(name: str, directory: Path) -> None:
    """Compare a sharded model with the whole one, in one of the processes."""
    rank, method = dist.get_rank(), SHARDED[name]
    whole, shards = tiny_adapted(method), tiny_adapted(method)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for module in (*shards.encoder.block, *shards.decoder.block, shards):
        fully_shard(module, mesh=mesh)

    batch = tiny_batch()
    batch["labels"] = batch["labels"].clamp_min(3)  # none is ignored: all shares have as many
    whole(**batch).loss.backward()
    share = {key: value[rank::PROCESSES].contiguous() for key, value in batch.items()}
    shards(**share).loss.backward()
    expected = {key: value.grad for key, value in whole.named_parameters() if value.grad is not None}
    found = {key: value.grad for key, value in shards.named_parameters() if value.grad is not None}
    assert expected.keys() == found.keys()
    for key in expected:
        torch.testing.assert_close(found[key].full_tensor(), expected[key], rtol=1e-4, atol=1e-5)

    inputs = {key: value for key, value in batch.items() if key != "labels"}
    beams = {"num_beams": 2, "max_new_tokens": 5}
    with gathered(shards):
        assert torch.equal(shards.generate(**inputs, **beams), whole.generate(**inputs, **beams))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(shards, options=options)
    if rank == 0:
        shards.save_pretrained(str(directory), state_dict=state)
    dist.barrier()
    print(f"{name}: equal", flush=True)


def check_all(directory: Path) -> None:
    """What each of the processes does."""
    dist.init_process_group("gloo")
    for name in SHARDED:
        check(name, directory / name)
    # Now and then the process's own end aborts ("terminate called without an active exception"): one of torch's
    # threads is still alive then. What this test is about is over.
    os._exit(0)
