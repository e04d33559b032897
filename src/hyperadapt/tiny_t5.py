"""tiny-t5: the small pretrained T5 that comes with this package, for where no model hub can be reached.

How it was made, and what it can do, is told by its model card, assets/tiny-t5/README.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

NAME = "tiny-t5"
DIRECTORY = Path(__file__).parent / "assets" / NAME


def load_tiny_t5(
    dtype: torch.dtype | None = None,
) -> tuple[T5ForConditionalGeneration, PreTrainedTokenizerBase]:
    """Load tiny-t5 and its tokenizer.

    Args:
        dtype: of the weights, by default float32; they are kept as bfloat16.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(
        DIRECTORY, trust_remote_code=False, dtype=dtype or torch.float32
    )
    model.config._name_or_path = NAME  # by which a saved adaptation finds it, wherever the package lies
    return model, AutoTokenizer.from_pretrained(DIRECTORY, trust_remote_code=False)


def place_of(name: str) -> str:
    """Return where transformers loads a model from: the hub name or directory that was given, or the package's own."""
    return str(DIRECTORY) if name == NAME and not Path(name).is_dir() else name
