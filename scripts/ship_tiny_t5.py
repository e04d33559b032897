"""Put a pretrained model into the package as tiny-t5, as bfloat16, with its loss curve and model card.

    python scripts/ship_tiny_t5.py runs/tiny-t5 [--checkpoint 12000] [--evidence FILE.md …]

The card's numbers are the run's own; --evidence adds tables that other commands have printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration
from transformers.utils import logging

from hyperadapt.studies.figures import curves
from hyperadapt.tiny_t5 import DIRECTORY

CARD = Path(__file__).with_name("tiny_t5_card.md")


def main() -> None:
    """Write assets/tiny-t5."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoint", type=int, help="a step, instead of the finished run's model")
    parser.add_argument("--evidence", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=DIRECTORY)
    options = parser.parse_args()
    logging.set_verbosity_error()

    config = yaml.safe_load((options.run / "config.yaml").read_text())
    if options.checkpoint is None:
        model = AutoModelForSeq2SeqLM.from_pretrained(options.run / "model")
        history = json.loads((options.run / "history.json").read_text())
        steps = config["training"]["max_steps"]
    else:
        checkpoint = options.run / f"checkpoints/checkpoint-{options.checkpoint}"
        shape = T5Config.from_pretrained(config["model"]["name"])
        model = T5ForConditionalGeneration.from_pretrained(checkpoint, config=shape)
        history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
        steps = options.checkpoint
    options.out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(options.out)
    (options.out / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    AutoTokenizer.from_pretrained(options.run / "tokenizer").save_pretrained(options.out)
    (options.out / "loss.svg").write_text(curves(losses(history), "held-out loss"))
    card = CARD.read_text().format(**facts(options.run, config, model, steps, losses(history), options.out))
    evidence = "".join(f"\n{file.read_text().rstrip()}\n" for file in options.evidence)
    (options.out / "README.md").write_text(card.replace("\n## Made with", f"{evidence}\n## Made with", 1))
    print(f"tiny-t5 is in {options.out}")


def losses(history: list[dict[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """Return the held-out losses over the steps, by kind."""
    lines = {}
    for kind in ("span_corruption", "prefix_lm"):
        of = [entry for entry in history if f"eval_{kind}_loss" in entry]
        lines[kind.replace("_", " ")] = (
            [entry["step"] for entry in of],
            [entry[f"eval_{kind}_loss"] for entry in of],
        )
    return lines


def facts(
    run: Path, config: dict[str, Any], model: Any, steps: int, lines: dict[str, Any], out: Path
) -> dict[str, Any]:
    """Gather what the card says."""
    from hyperadapt.config.sections import ObjectiveConfig
    from hyperadapt.pretraining.objectives import window_length
    from hyperadapt.pretraining.text import read_tokens
    from hyperadapt.tasks import load_split, resolve_tasks

    objective, training, distillation = config["objective"], config["training"], config["distillation"]
    multitask = config["multitask"]
    in_text = len(read_tokens(run / "tokens.npy"))
    examples = steps * training["batch_size"] * (1 - multitask["share"])
    seen = examples * window_length(ObjectiveConfig(**objective))
    with (Path(distillation["directory"]) / "sentences.txt").open(encoding="utf-8") as file:
        sentences = sum(1 for _ in file)
    names = [Path(file).name for file in config["text"]["files"]]
    tasks = resolve_tasks(multitask["tasks"])
    return {
        **model.config.to_dict(),
        "parameters": model.num_parameters() / 1e6,
        "text": " and ".join(names),
        "files": " ".join(f"../shared/text/{name}" for name in names),
        "tokens_of_text": in_text / 1e6,
        "rate": objective["corruption_rate"],
        "span": objective["mean_span_length"],
        "spans": (1 - multitask["share"]) * (1 - objective["prefix_lm_share"]),
        "prefixes": (1 - multitask["share"]) * objective["prefix_lm_share"],
        "share": multitask["share"],
        "rows": sum(len(load_split(task, "train")) for task in tasks),
        "source_length": objective["source_length"],
        "sentences": sentences,
        "per_example": distillation["sentences_per_example"],
        "steps": steps,
        "batch_size": training["batch_size"],
        "tokens": seen / 1e6,
        "passes": seen / (in_text - config["text"]["held_out_tokens"]),
        "learning_rate": training["learning_rate"],
        "scheduler": training["lr_scheduler_type"].replace("_", " "),
        "held_out": config["text"]["held_out_tokens"],
        "losses": ", ".join(f"{kind} {values[-1]:.3f}" for kind, (_, values) in lines.items()),
        "megabytes": (out / "model.safetensors").stat().st_size / 1e6,
    }


if __name__ == "__main__":
    main()
