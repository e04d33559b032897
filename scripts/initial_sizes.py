"""How large the adapters that each method makes are before training: python scripts/initial_sizes.py

Prints the root mean square of each weight of the first site of tiny-t5's encoder, over eight tasks.
"""

from __future__ import annotations

import torch

import hyperadapt as ha
from hyperadapt.conditioning import Inputs
from hyperadapt.studies.comparison import markdown
from hyperadapt.tiny_t5 import load_tiny_t5

N_TASKS = 8


def initial_sizes(method: ha.Method) -> dict[str, str]:
    """Return the root mean square by the weight's name."""
    torch.manual_seed(1)
    base, _ = load_tiny_t5()
    model = ha.adapt(base, method, [f"task{number}" for number in range(N_TASKS)])
    task_ids = torch.arange(N_TASKS)
    with torch.no_grad():
        prepared = model.hyperadapt(Inputs("encoder", task_ids[:, None], task_ids), torch.float32)
    weights = model.hyperadapt.by_site(prepared).by_layer[0]["self_attention"]
    return {name: f"{weight.square().mean().sqrt():.4f}" for name, weight in weights.items()}


if __name__ == "__main__":
    methods = ha.AdaptersDagger, ha.HyperFormer, ha.HyperFormerPlusPlus
    print(
        markdown([{"method": method.name, **initial_sizes(method(reduction_factor=4))} for method in methods])
    )
