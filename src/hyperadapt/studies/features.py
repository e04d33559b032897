"""Task features z made from data (Vu et al. 2020, arXiv 2005.00770), to be given to HyperFormer as `task_features`.

text    TextEmb, the mean over the rows of the mean state of the base model's encoder, (d_model,).
fisher  TaskEmb, the diagonal of the empirical Fisher information, E[(d log p(target | input) / d theta)^2], of the
        base model fine-tuned on the task; theta are the encoder's layer norms, (norms * d_model,), each norm's part
        scaled by itself, as there components are compared.

They are scaled to a mean square of 1, that of the z which are learnt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperadapt.config.written import RunConfig
from hyperadapt.errors import UserError, nearest
from hyperadapt.files.writing import write_atomically

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

KINDS = ("text", "fisher")


def write_features(
    config: RunConfig, kind: str, output: Path, max_rows: int, steps: int = 0
) -> dict[str, dict[str, Any]]:
    """Write the features of a configuration's tasks, {task: [numbers]}, from their training rows.

    Args:
        config: says model, tasks and data.
        kind: "text" or "fisher".
        output: a JSON file.
        max_rows: of each task.
        steps: of fine-tuning on each task before, with the configuration's batch size and learning rate; for "fisher".

    Returns:
        Each task's "rows", and its "nearest" other one by the cosine of their features less the mean of all.

    Raises:
        UserError: if the kind is unknown, there is a file already, or the model or the data cannot be had.
    """
    import torch
    from transformers import set_seed

    from hyperadapt.architectures import architecture_of, check_encoder_decoder
    from hyperadapt.runs.base_model import build_base, load_tokenizer
    from hyperadapt.tasks import check_there, load_split, resolve_tasks

    if kind not in KINDS:
        raise UserError(f"--kind '{kind}' is unknown; {nearest(kind, KINDS)}")
    if output.exists():
        raise UserError(f"--output: there is a file {output} already")
    data, tasks = config.data, resolve_tasks(config.data.tasks)
    check_there(tasks, data.data_dir, ["train"])
    tokenizer = load_tokenizer(config.model)
    set_seed(config.seed)
    model: Any = build_base(config.model, config.seed).eval()
    check_encoder_decoder(model, "hyperadapt features")
    architecture = architecture_of(model)
    architecture.check(model, tokenizer)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    model = model.to(device) if device else model
    features: dict[str, list[float]] = {}
    summary: dict[str, dict[str, Any]] = {}
    for number, task in enumerate(tasks):
        texts = load_split(task, "train", data.data_dir, max_rows, config.training_rows_seed, config.prefix)
        with_step = task.with_step(texts["target"])
        rows = architecture.training_rows(texts, with_step, number, tokenizer, data.input_format)
        if kind == "text":
            vector = text_embedding(model, rows)
        else:
            of_task = fine_tuned(model, rows, tokenizer, config, steps) if steps else model
            vector = fisher_embedding(of_task, rows)
        features[task.name] = (vector / vector.square().mean().sqrt().clamp_min(1e-12)).tolist()
        summary[task.name] = {"rows": len(texts)}
    if len(features) > 2:  # of two, each is the other's opposite
        vectors = torch.tensor(list(features.values()))
        unit = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
        for name, cosines in zip(features, (unit @ unit.T).fill_diagonal_(-1), strict=True):
            best = int(cosines.argmax())
            summary[name]["nearest"] = f"{tasks[best].name} ({cosines[best]:.2f})"
    write_atomically(output, json.dumps(features).encode())
    return summary


def fine_tuned(
    model: Any, rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: RunConfig, steps: int
) -> Any:
    """Fine-tune a copy of the model on rows."""
    import copy
    from tempfile import TemporaryDirectory

    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Seq2SeqTrainer

    from hyperadapt.training.arguments import training_arguments

    changes = {"max_steps": steps, "cuda_graphs": False}  # which a plain Trainer does not know
    model, training = copy.deepcopy(model), config.training.model_copy(update=changes)
    with TemporaryDirectory() as folder:
        args = training_arguments(training, config.seed, Path(folder), best="loss")
        args.eval_strategy = args.save_strategy = "no"
        args.load_best_model_at_end, args.disable_tqdm = False, True
        trainer = Seq2SeqTrainer(
            model,
            args,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model),
            train_dataset=rows.remove_columns("task_ids"),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model.eval()


def text_embedding(model: Any, rows: Dataset, batch_size: int = 32) -> Tensor:
    """Average the encoder's mean states over the rows, (d_model,)."""
    import torch

    from hyperadapt.conditioning import mean_state

    total = torch.zeros(model.config.d_model)
    ordered = sorted(rows["input_ids"], key=len)  # rows of like length together: little is padded
    with torch.inference_mode():
        for start in range(0, len(ordered), batch_size):
            part = [torch.tensor(ids) for ids in ordered[start : start + batch_size]]
            ids = torch.nn.utils.rnn.pad_sequence(
                part, batch_first=True, padding_value=model.config.pad_token_id
            )
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(ids_of_row) for ids_of_row in part], batch_first=True
            )
            ids, mask = ids.to(model.device), mask.to(model.device)
            states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            total += mean_state(states, mask).sum(0).cpu()
    return total / len(ordered)


def fisher_embedding(model: Any, rows: Dataset) -> Tensor:
    """Average the squared gradients of the rows' log-likelihoods by the encoder's norms, (norms * d_model,)."""
    import torch

    from hyperadapt.backbones import backbone_of

    sites = backbone_of(model).norm_sites(model, "encoder")
    model.requires_grad_(False)
    norms = [model.get_parameter(f"{site.path}.weight").requires_grad_() for site in sites]
    total = torch.zeros(sum(norm.numel() for norm in norms))
    for row in rows:  # one by one, as the squares of a batch's sum would not do
        ids, labels = (torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels"))
        logits = model(input_ids=ids, labels=labels).logits
        likelihood = logits.float().log_softmax(-1).gather(2, labels.unsqueeze(2)).sum()
        gradients = torch.autograd.grad(likelihood, norms)
        total += torch.cat([gradient.float().square().flatten() for gradient in gradients]).cpu()
    by_norm = (total / len(rows)).view(len(norms), -1)
    return (by_norm / by_norm.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)).flatten()
