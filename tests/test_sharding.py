"""An adapted model in shards (FSDP2): two processes on the CPU, against the whole model in each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import hyperadapt as ha
from hyperadapt.training import gathered
from tiny import METHODS, PLUS_PLUS, tiny_adapted, tiny_batch, tiny_t5

PROCESSES = 2


SHARDED = {method.name: method for method in (METHODS[1], PLUS_PLUS, ha.HyperGrid(fan_in=4, fan_out=8))}


def test_models_in_shards_train_generate_and_are_saved_as_the_whole_ones(tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={PROCESSES}", "--standalone"]
    done = subprocess.run(
        [sys.executable, *launcher, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    batch = tiny_batch()
    for name, method in SHARDED.items():
        assert done.stdout.count(f"{name}: equal") == PROCESSES
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


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for each in SHARDED:
        check(each, Path(sys.argv[1]) / each)
    # Now and then the interpreter's own end aborts ("terminate called without an active exception"): one of
    # torch's threads is still alive then. What this test is about is over.
    os._exit(0)
