"""Encoder-decoders: the encoder reads the input, the decoder writes the target; the loss is of the target's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DataCollatorForSeq2Seq
from transformers.modeling_outputs import BaseModelOutput

from hyperadapt.architectures.base import IGNORED, Request, padded
from hyperadapt.architectures.choices import NextScores
from hyperadapt.architectures.frames import Frame, special_tokens
from hyperadapt.architectures.generation import likelihoods_of
from hyperadapt.architectures.text import TextArchitecture
from hyperadapt.architectures.tokenizing import Writer
from hyperadapt.backbones import backbone_of
from hyperadapt.errors import UserError
from hyperadapt.tasks.input_format import InputFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task


class EncoderDecoder(TextArchitecture):
    """T5, BART and their like."""

    name = "encoder_decoder"

    def check(self, base: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the tokenizer's ids are in the model's vocabulary, and that the decoder knows how to start.

        It starts alike in training, as the model shifts a target's tokens, and in answers, as its config says.
        """
        if base.config.decoder_start_token_id is None:
            raise UserError(
                "the base model's config has no decoder_start_token_id, without which it cannot be trained"
            )
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise UserError(
                "the tokenizer has no end token (eos_token) or no padding (pad_token), which an encoder-decoder needs"
            )
        for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
            number = getattr(base.config, name)
            if number is not None and not 0 <= number < base.config.vocab_size:
                raise UserError(
                    f"the base model's config has {name} {number}, but its vocabulary has only "
                    f"{base.config.vocab_size} tokens"
                )
        self.check_vocabulary(base, tokenizer)
        if tokenizer.eos_token_id not in special_tokens(tokenizer)[1]:
            raise UserError(
                "the tokenizer does not end a text with its end token, as those of encoder-decoders do: give it such a "
                "post-processor"
            )
        target = torch.tensor([tokenizer(text_target="a")["input_ids"]])
        in_training = int(base.prepare_decoder_input_ids_from_labels(labels=target)[0, 0])
        in_answers = base.config.decoder_start_token_id
        if in_training != in_answers:
            raise UserError(
                "targets of this tokenizer start the decoder with "
                f"{tokenizer.convert_ids_to_tokens(in_training)} in training, and for answers the model's config has "
                f"decoder_start_token_id {in_answers} ({tokenizer.convert_ids_to_tokens(in_answers)}): set it to "
                f"{in_training}, or the tokenizer's tgt_lang to the language that is written"
            )

    def frame(self, tokenizer: PreTrainedTokenizerBase, task: Task | None, form: InputFormat) -> Frame:
        if form.chat_template:
            raise UserError("data.chat_template is for models without an encoder; leave it out")
        starts, ends = special_tokens(tokenizer)
        return Frame(starts, ends=ends)

    def writer(self, tokenizer: PreTrainedTokenizerBase, task: Task, form: InputFormat) -> Writer:
        def write(texts: Sequence[str], longest: int | None) -> list[list[int]]:
            cut = longest is not None
            return tokenizer(text_target=list(texts), truncation=cut, max_length=longest, verbose=False)[
                "input_ids"
            ]

        return write

    def target_starts(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        return special_tokens(tokenizer, "text_target")[0]

    def collator(self, model: Any, tokenizer: PreTrainedTokenizerBase, multiple_of: int | None) -> Any:
        return DataCollatorForSeq2Seq(
            tokenizer, model=model, label_pad_token_id=IGNORED, pad_to_multiple_of=multiple_of
        )

    def check_task(
        self, model: Any, task: Task, tokenizer: PreTrainedTokenizerBase, form: InputFormat
    ) -> None:
        self.check_labels(task, tokenizer, form)
        self.check_room(model, form.max_source_length, task, form)
        most, longest = backbone_of(model).positions(model.config), self.longest_target(task)
        if most is not None and longest > most:
            field = "max_target_length" if task.max_target_length > most else "max_generated_length"
            raise UserError(
                f"task '{task.name}': {field} {longest} is more than the {most} tokens that the model's decoder has "
                "places for; lower it"
            )

    def numbers_read(self, model: Any) -> int:
        """Count the encoder's states, and the keys and values that the decoder makes of them."""
        maps = backbone_of(model).linear_maps(model, "decoder", ("cross_attention.k",))
        return model.config.hidden_size + sum(2 * site.d_out for site in maps)

    def generate(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        options: Mapping[str, Any],
        per_token: bool,
    ) -> tuple[Tensor, list[float]]:
        """Generate the answers of a batch; generation and likelihoods share the encoder's states."""
        inputs = padded(model, tokenizer, requests)
        if not requests[0].likelihood:
            return model.generate(**inputs, **options), [0.0] * len(requests)
        # generate repeats the states that it is given in place.
        states = encoder_states(model, inputs)
        generated = model.generate(**inputs, encoder_outputs=BaseModelOutput(states), **options)
        return generated, log_likelihoods(model, inputs, generated, states, per_token)

    @torch.no_grad()
    def first_scores(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        starts: Sequence[tuple[int, ...]],
        goes_on: bool,
    ) -> tuple[Tensor, NextScores]:
        inputs = padded(model, tokenizer, requests)
        states, mask = encoder_states(model, inputs), inputs["attention_mask"]
        begin = [(model.config.decoder_start_token_id, *start) for start in starts]
        outputs = model(
            encoder_outputs=BaseModelOutput(states),
            attention_mask=mask,
            decoder_input_ids=torch.tensor(begin, device=mask.device),
            task_ids=inputs["task_ids"],
            use_cache=goes_on,
        )

        def deeper(rows: Tensor, tokens: Tensor, last: bool) -> Tensor:
            task_ids, of_rows = inputs["task_ids"][rows], states[rows]
            cache = model.go_on_with(outputs.past_key_values, rows, task_ids, of_rows, copied=not last)
            return model(
                encoder_outputs=BaseModelOutput(of_rows),
                attention_mask=mask[rows],
                decoder_input_ids=tokens,
                past_key_values=cache,
                task_ids=task_ids,
            ).logits

        return outputs.logits[:, -1], deeper


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
