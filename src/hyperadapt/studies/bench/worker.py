"""A contender in a process of its own: a model with random weights, and a piece of work that it repeats on demand.

    python worker.py SPEC

Each line of standard input is a question, answered by a line of JSON on standard output: "run" does one piece of work
and answers its seconds; "peak" answers the highest memory of the process (the device's allocator, where there is one)
in MB; "trained" how many parameters are trained; "operators" how many a run calls, or how many kernels of a GPU it
launches; "arithmetic" the floating-point operations of a run's products, and the bytes that its operators read and
write. SPEC is the JSON of `Spec.__dict__`. Nothing of hyperadapt is imported unless the contender has something of
it, so that libraries which need older versions of others can run this file in an environment of their own.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FIRST_WORD = 3  # of a vocabulary whose first tokens are padding, end and unknown
# Beside views: what only names memory, or reserves it.
NO_WORK = (
    "aten::_unsafe_view",
    "aten::_reshape_alias",
    "aten::squeeze_",
    "aten::unsqueeze_",
    "aten::empty",
    "aten::new_empty",
)


def main() -> None:
    """Build what the specification asks for, and answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    spec = json.loads(sys.argv[1])
    import torch

    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = device or torch.device("cpu")
    with device if spec["quantization"] is None else nullcontext():  # drawn where it will be
        model = adapted(spec).to(device)
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()  # drawing it is the contender's making
    work = work_of(spec, model, device)

    def run() -> float:
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        return time.perf_counter() - start

    questions = {
        "run": run,
        "peak": lambda: peak_memory(device),
        "trained": lambda: sum(p.numel() for p in model.parameters() if p.requires_grad),
        "operators": lambda: 0 if device.type == "cpu" and spec["compile"] else operators(work, device),
        "arithmetic": lambda: arithmetic(work),
    }
    for question in sys.stdin:
        print(json.dumps(questions[question.strip()]()), file=answers, flush=True)


def work_of(spec: dict[str, Any], model: Any, device: Any) -> Any:
    """Return what a run does."""
    works = {"train": training, "generate": generation, "evaluate": evaluation, "evaluate by task": by_task}
    return works[spec["work"]](spec, model, device)


def adapted(spec: dict[str, Any]) -> Any:
    """Build the model: T5 of the given shape, and what the library adds to it."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    model: Any = T5ForConditionalGeneration(T5Config(**spec["model"]))
    model = model.to(getattr(torch, spec["dtype"]))
    if spec["quantization"]:
        with TemporaryDirectory() as place:
            model.save_pretrained(place)
            del model
            model = T5ForConditionalGeneration.from_pretrained(
                place, trust_remote_code=False, quantization_config=spec["quantization"]
            )
        forget_loading(model)
    options = spec["options"]
    if spec["library"] == "hyperadapt":
        import hyperadapt as ha
        from hyperadapt.methods import method_from

        model = ha.adapt(model, method_from(options), [f"task{number}" for number in range(spec["tasks"])])
    elif spec["library"] == "peft":
        import peft

        kind = {"lora": peft.LoraConfig, "ia3": peft.IA3Config}[options["kind"]]
        fields = {name: value for name, value in options.items() if name != "kind"}
        model = peft.get_peft_model(model, kind(task_type="SEQ_2_SEQ_LM", **fields))
    elif spec["library"] == "adapters":
        import adapters

        adapters.init(model)
        model.add_adapter("task", config=options["config"])
        model.train_adapter("task")
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(options["train"] == "all" or "layer_norm" in name)
        if options.get("as_hyperadapt"):
            from hyperadapt.backbones import backbone_of
            from hyperadapt.fast import speed_up_base
            from hyperadapt.model.adapt import train_norms

            backbone = backbone_of(model)
            train_norms(model, backbone)
            speed_up_base(model, backbone)
            model.decoder.config.use_cache = False
    return model


def forget_loading(model: Any) -> None:
    """Give back the memory that loading has left: it is the contender's making, not its training."""
    import ctypes

    for parameter in model.parameters():
        if parameter.is_floating_point():
            # Not quantised: a view of the file, the whole of which it would keep in memory.
            parameter.data = parameter.data.clone()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def inputs(spec: dict[str, Any], device: Any) -> list[dict[str, Any]]:
    """Make the batches: random tokens, padded to the longest row of each unless `pad_to` says how far."""
    import torch

    made = []
    for rows in spec["batches"]:
        width = spec["pad_to"] or max(length for length, _ in rows)
        tokens = torch.randint(FIRST_WORD, spec["model"]["vocab_size"], (len(rows), width))
        mask = torch.arange(width) < torch.tensor([length for length, _ in rows])[:, None]
        batch = {"input_ids": tokens * mask, "attention_mask": mask.long()}
        if spec["library"] == "hyperadapt":
            batch["task_ids"] = torch.tensor([task for _, task in rows])
        made.append({name: tensor.to(device) for name, tensor in batch.items()})
    return made


def training(spec: dict[str, Any], model: Any, device: Any) -> Any:
    """Return a training step: forward, backward and the optimizer that Trainer takes by default, fused AdamW."""
    import torch

    batches = inputs(spec, device)
    for batch in batches:
        shape = len(batch["input_ids"]), spec["targets"]
        batch["labels"] = torch.randint(FIRST_WORD, spec["model"]["vocab_size"], shape, device=device)
    cycle = itertools.cycle(batches)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    model.train()
    model.config.use_cache = False  # as Trainer sets it
    forward = torch.compile(model, fullgraph=True) if spec["compile"] else model

    def loss_of(batch: dict[str, Any]) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=spec["autocast"]):
            loss = forward(**batch).loss
        loss.backward()
        return loss.detach()

    if spec["captured"]:
        from hyperadapt.fast.cuda_graphs import CapturedSteps

        loss_of = CapturedSteps(loss_of, trained)

    def step() -> None:
        loss_of(next(cycle))
        optimizer.step()
        optimizer.zero_grad()

    return step


def generation(spec: dict[str, Any], model: Any, device: Any) -> Any:
    """Return a greedy generation of exactly `targets` tokens."""
    cycle = itertools.cycle(inputs(spec, device))
    model.eval()
    # No fewest tokens, for which generate would mask the vocabulary: random weights do not find the end before.
    length = {"max_new_tokens": spec["targets"]}
    static = {"cache_implementation": "static"} if spec["compile"] else {}

    def generate() -> None:
        made = model.generate(**next(cycle), **length, **static, do_sample=False, num_beams=1)
        assert made.shape[1] == 1 + spec["targets"], f"only {made.shape[1] - 1} tokens were generated"

    return generate


def evaluation(spec: dict[str, Any], model: Any, device: Any) -> Any:
    """Return hyperadapt's predictions for the rows of all tasks, of which each of `batches` is one's."""
    from hyperadapt.architectures import Request, architecture_of
    from hyperadapt.architectures.choices import Choices
    from hyperadapt.tiny_t5 import load_tiny_t5

    rows, answers = texts(spec), spec["answers"]
    [tokenizer] = load_tiny_t5()[1:]  # it pads and decodes; which words it knows does not matter
    choices = [
        Choices([str(number) for number in range(len(labels))], labels) if labels else None
        for labels in spec["choices"] or [()] * len(rows)
    ]
    requests = [
        Request(task, ids, (0, answers[task]), choices=choices[task])
        for task, of_task in enumerate(rows)
        for ids in of_task
    ]
    return lambda: architecture_of(model).answer(model, tokenizer, requests)


def by_task(spec: dict[str, Any], model: Any, device: Any) -> Any:
    """Return predictions task by task, of rows in their own order, padded to `pad_to`."""
    import torch

    from hyperadapt.tiny_t5 import load_tiny_t5

    rows = texts(spec)
    [tokenizer] = load_tiny_t5()[1:]
    model.eval()

    def predict() -> None:
        for task, (of_task, length) in enumerate(zip(rows, spec["answers"], strict=True)):
            for start in range(0, len(of_task), 64):
                some = {"input_ids": of_task[start : start + 64]}
                batch = tokenizer.pad(
                    some, padding="max_length", max_length=spec["pad_to"], return_tensors="pt"
                )
                task_ids = torch.full((len(batch["input_ids"]),), task, device=device)
                generated = model.generate(
                    **batch.to(device), task_ids=task_ids, max_new_tokens=length, do_sample=False
                )
                tokenizer.batch_decode(generated, skip_special_tokens=True)

    return predict


def texts(spec: dict[str, Any]) -> list[list[list[int]]]:
    """Draw random tokens of the given lengths, as lists."""
    import torch

    return [
        [torch.randint(FIRST_WORD, spec["model"]["vocab_size"], (length,)).tolist() for length, _ in rows]
        for rows in spec["batches"]
    ]


def wait(device: Any) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        import torch

        torch.accelerator.synchronize()


def peak_memory(device: Any) -> float:
    """Return the highest memory so far, in MB."""
    if device.type != "cpu":
        import torch

        return torch.accelerator.max_memory_allocated() / 2**20
    # The process's own: getrusage would count what its parent held when it began.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def operators(work: Any, device: Any) -> int:
    """Count the kernels that a run launches on a GPU; elsewhere the operators that it calls, views left out."""
    from torch.profiler import DeviceType, ProfilerActivity, profile

    activities = {"cuda": ProfilerActivity.CUDA, "xpu": ProfilerActivity.XPU}
    if device.type in activities:
        with profile(activities=[activities[device.type]]) as profiled:
            work()
        events = profiled.events() or []
        return sum(
            event.device_type != DeviceType.CPU and not event.name.startswith("Mem") for event in events
        )

    number = 0

    def count(*called: Any) -> None:
        nonlocal number
        number += 1

    with_each_operator(work, count)
    return number


def arithmetic(work: Any) -> tuple[int, int]:
    """Add up a run's work: floating-point operations of its products, and bytes that its operators read and write.

    Bytes are those of an operator's tensors, in a cache or not; of what is repeated without a copy, once, and of a
    table of which rows are looked up, the rows.
    """
    import torch
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    looked_up = {torch.ops.aten.embedding, torch.ops.aten.index_select, torch.ops.aten.gather}
    products = bytes_moved = 0

    def size(tensor: Any) -> int:
        once = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or n == 0)
        return math.prod(once) * tensor.element_size()

    def count(operator: Any, args: Any, kwargs: Any, made: Any) -> None:
        nonlocal products, bytes_moved
        packet = operator._overloadpacket
        read, written = (
            [leaf for leaf in tree_leaves(operands) if isinstance(leaf, torch.Tensor)]
            for operands in ((args, kwargs), made)
        )
        if "new_" in str(packet) or "_like" in str(packet):
            read = []  # but its shape
        if packet in flop_registry:
            products += flop_registry[packet](*args, **kwargs, out_val=made)
        elif "linear" in str(packet):  # oneDNN's own
            products += 2 * made.numel() * args[0].shape[-1]
        tables = read[:1] if packet in looked_up else []
        bytes_moved += sum(map(size, [*read[len(tables) :], *written, *written[: len(tables)]]))

    with_each_operator(work, count)
    return products, bytes_moved


def with_each_operator(work: Any, see: Any) -> None:
    """Do the work, and show each operator that it calls but for views, its arguments and what it makes."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = operator(*args, **(kwargs or {}))
            if not (operator.is_view or operator.name().startswith(NO_WORK)):
                see(operator, args, kwargs or {}, made)
            return made

    with Watched():
        work()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
