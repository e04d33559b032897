"""Encoder-decoders: the encoder reads the input, the decoder writes the target; the loss is of the target's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DataCollatorForSeq2Seq
from transformers.modeling_outputs import BaseModelOutput

from hyperadapt.architectures.base import IGNORED, Answer, Answering, Architecture, Request, padded
from hyperadapt.architectures.generation import likelihoods_of, plain_generation
from hyperadapt.architectures.tokenizing import TOKENIZER, tokenized_examples
from hyperadapt.errors import UserError
from hyperadapt.tasks.limits import Limits

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task


class EncoderDecoder(Architecture):
    """T5 and its like."""

    name = "encoder_decoder"

    def check(self, base: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the tokenizer's ids are in the model's vocabulary, and that the decoder knows how to start."""
        if base.config.decoder_start_token_id is None:
            raise UserError(
                "the base model's config has no decoder_start_token_id, without which it cannot be trained"
            )
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise UserError(
                "the tokenizer has no end token (eos_token) or no padding (pad_token), which T5 needs"
            )
        for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
            number = getattr(base.config, name)
            if number is not None and not 0 <= number < base.config.vocab_size:
                raise UserError(
                    f"the base model's config has {name} {number}, but its vocabulary has only "
                    f"{base.config.vocab_size} tokens"
                )
        highest = max(tokenizer.get_vocab().values())  # not their number: a vocabulary may have gaps
        if highest >= base.config.vocab_size:
            raise UserError(
                f"the tokenizer's ids go up to {highest}, but the model's vocabulary has only "
                f"{base.config.vocab_size} tokens: they do not belong together"
            )
        if tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
            raise UserError(
                "the tokenizer does not end a text with its end token, as T5's do: give it such a post-processor"
            )

    def training_rows(
        self, rows: Dataset, task: Task, task_id: int, tokenizer: PreTrainedTokenizerBase, limits: Limits
    ) -> Dataset:
        from datasets import Dataset, concatenate_datasets

        parts = [
            Dataset.from_dict({"input_ids": inputs, "labels": labels, "task_ids": [task_id] * len(inputs)})
            for inputs, labels in tokenized_examples(rows, task, tokenizer, *limits)
        ]
        return concatenate_datasets(parts)

    def collator(self, model: Any, tokenizer: PreTrainedTokenizerBase, multiple_of: int | None) -> Any:
        return DataCollatorForSeq2Seq(
            tokenizer, model=model, label_pad_token_id=IGNORED, pad_to_multiple_of=multiple_of
        )

    def loss(self, outputs: Any, labels: Tensor, num_items: Tensor | None, label_smoothing: float) -> Tensor:
        """Compute the cross-entropy per target token, with label smoothing."""
        total = F.cross_entropy(
            outputs.logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        return total / (labels.ne(IGNORED).sum() if num_items is None else num_items)

    def check_memory(self, model: Any, requests: Sequence[Request], how: Answering) -> None:
        """Check that there is memory for a step of the longest batch with beams.

        Counted are the scores of every token, of which beam search holds three copies, and what the decoder reads of
        the input, each for every beam: more is held, so that what is refused would have failed.
        """
        config, rows = model.config, min(how.batch_size, len(requests))
        read = config.d_model + 2 * config.num_decoder_layers * config.num_heads * config.d_kv
        longest = max((len(request.ids) for request in requests), default=0)
        needed = rows * how.num_beams * (3 * 4 * config.vocab_size + longest * read * model.dtype.itemsize)
        on_gpu = model.device.type == "cuda"
        free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
        if how.num_beams > 1 and needed > free:
            raise UserError(
                f"num_beams {how.num_beams}: a batch of {rows} rows takes more than {needed / 1e9:,.0f} GB, and "
                f"{free / 1e9:,.0f} GB are free; take fewer beams, or a smaller batch_size"
            )

    def answer_batch(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], how: Answering
    ) -> list[Answer]:
        """Generate; generation and likelihoods share the encoder's states."""
        fewest, most = requests[0].lengths
        inputs = padded(
            model, tokenizer, [request.ids for request in requests], [request.task_id for request in requests]
        )
        # generate repeats the states that it is given in place.
        states = encoder_states(model, inputs) if requests[0].likelihood else None
        shared = {} if states is None else {"encoder_outputs": BaseModelOutput(states)}
        options = {
            **plain_generation(model.generation_config),
            "num_beams": how.num_beams,
            "do_sample": False,
            "min_new_tokens": fewest,
            "max_new_tokens": most,
        }
        generated = model.generate(**inputs, **shared, **options)
        with TOKENIZER:
            texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        likelihoods = [0.0] * len(requests)
        if requests[0].likelihood:
            likelihoods = log_likelihoods(model, inputs, generated, states, how.per_token)
        return [Answer(text.strip(), likelihood) for text, likelihood in zip(texts, likelihoods, strict=True)]


@torch.no_grad()
def encoder_states(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run the encoder alone, (batch, seq, d_model)."""
    known = {
        name: value for name, value in inputs.items() if name != "task_ids" or model.method.task_conditioned
    }
    return model.get_encoder()(**known).last_hidden_state


@torch.no_grad()
def log_likelihoods(
    model: Any,
    inputs: Mapping[str, Tensor],
    generated: Tensor,
    states: Tensor | None = None,
    per_token: bool = False,
) -> list[float]:
    """Add up, or average, the logarithms of the probabilities of each generated sequence's tokens, its end included.

    By one more forward of the decoder: what generate can return of its scores holds the vocabulary for every step, and
    with beams is not of the sequences alone.

    Args:
        model: an adapted model.
        inputs: of the generation.
        generated: (batch, tokens), from the start token on.
        states: the encoder's, (batch, seq, d_model), which it need not run for then.
        per_token: average.
    """
    shared = {} if states is None else {"encoder_outputs": BaseModelOutput(states)}
    logits = model(**inputs, **shared, decoder_input_ids=generated[:, :-1]).logits
    return likelihoods_of(logits, generated[:, 1:], model.generation_config.eos_token_id, per_token)
