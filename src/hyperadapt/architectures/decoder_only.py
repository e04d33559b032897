r"""Decoder-only models: the prompt, and behind it the target, of which alone the loss is.

    prompt      [start] input "\n"          or a task's template, or the tokenizer's chat template
    target      label [end]                 behind a blank, where a template ends with none

Rows are padded on the left, so that all targets end together: the model computes the scores of the last places alone,
as many as the longest target has tokens. What a target ends with is predicted, and never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperadapt.architectures.base import IGNORED, Request, padded
from hyperadapt.architectures.choices import NextScores
from hyperadapt.architectures.frames import MARKS, Frame, chat_prompt, chat_texts, special_tokens
from hyperadapt.architectures.generation import likelihoods_of, notice_once
from hyperadapt.architectures.padding import Collator, padded_ids, padded_rows
from hyperadapt.architectures.text import TextArchitecture
from hyperadapt.architectures.tokenizing import Texts, Writer
from hyperadapt.backbones import backbone_of
from hyperadapt.errors import UserError
from hyperadapt.tasks.input_format import InputFormat

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hyperadapt.tasks import Task


class DecoderOnly(TextArchitecture):
    """Llama, Gemma, GPT-2 and their like."""

    name = "decoder_only"

    def check(self, base: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the tokenizer's ids are in the model's vocabulary, and that it has an end token.

        A tokenizer without padding, as GPT-2's, pads with its end token: what is padded is not read.
        """
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end token (eos_token), without which no answer would end")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.check_vocabulary(base, tokenizer)

    def check_task(
        self, model: Any, task: Task, tokenizer: PreTrainedTokenizerBase, form: InputFormat
    ) -> None:
        self.check_labels(task, tokenizer, form)
        self.check_room(model, form.max_source_length + self.longest_target(task), task, form)

    def frame(self, tokenizer: PreTrainedTokenizerBase, task: Task | None, form: InputFormat) -> Frame:
        if form.chat_template:
            chat = chat_texts(tokenizer)
            if task is not None and task.kind_of_task.is_chat:
                return Frame()  # `columns` writes it whole
            return Frame(before=chat.before, behind=chat.between)
        if task is not None and task.kind_of_task.is_chat and getattr(tokenizer, "chat_template", None):
            notice_once(
                f"task '{task.name}' is of conversations, and the tokenizer has a chat template: data.chat_template "
                "would write them by it"
            )
        starts, _ = special_tokens(tokenizer)
        if task is not None and task.template is not None:
            return Frame(starts)
        return Frame(starts, behind="\n")

    def columns(self, texts: Texts, tokenizer: PreTrainedTokenizerBase, form: InputFormat) -> Texts:
        """Write conversations as the tokenizer's chat template has them."""
        if "messages" not in texts or not form.chat_template:
            return texts
        written = [chat_prompt(tokenizer, messages)[0] for messages in texts["messages"]]
        places = [
            places_of(tokenizer, messages, text)
            for messages, text in zip(texts["messages"], written, strict=True)
        ]
        return {**texts, "source": written, "places": places}

    def writer(self, tokenizer: PreTrainedTokenizerBase, task: Task, form: InputFormat) -> Writer:
        """Return what turns a task's targets into tokens, as the tokenizer has them behind the prompt."""
        lead, ends = "\n", end_token(tokenizer)
        if form.chat_template:
            _, between, behind = chat_texts(tokenizer)
            lead, ends = between[-1:], end_of_turn(tokenizer, behind)
        elif task.template is not None and not task.template.endswith("\n"):
            lead = ": "
        # What is read as one piece with the text before it, as a blank is, is no text of its own.
        before = tokenizer(lead.rstrip(" "), add_special_tokens=False)["input_ids"]

        def write(texts: Sequence[str], longest: int | None) -> list[list[int]]:
            behind_lead = [f"{lead}{text}" for text in texts]
            found = []
            for text, ids in zip(
                texts,
                tokenizer(behind_lead, add_special_tokens=False, verbose=False)["input_ids"],
                strict=True,
            ):
                own = ids[len(before) :]
                if ids[: len(before)] != before:
                    own = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
                found.append([*(own if longest is None else own[: max(longest - len(ends), 0)]), *ends])
            return found

        return write

    def row_lengths(self, rows: Dataset) -> list[int]:
        return [
            len(prompt) + len(target) - 1
            for prompt, target in zip(rows["input_ids"], rows["labels"], strict=True)
        ]

    def collator(self, model: Any, tokenizer: PreTrainedTokenizerBase, multiple_of: int | None) -> Any:
        return PromptCollator(int(tokenizer.pad_token_id), multiple_of or 1)

    def numbers_read(self, model: Any) -> int:
        """Count the keys and values of all layers; of those with a window, which read no more than that, none."""
        config, [stack] = model.config, backbone_of(model).stacks
        if getattr(config, "sliding_window", None):
            return 0
        maps = backbone_of(model).linear_maps(model, stack, (self.key_map(model),))
        shared = 3 if self.key_map(model).endswith("qkv") else 1
        return sum(2 * site.d_out // shared for site in maps)

    @staticmethod
    def key_map(model: Any) -> str:
        """Return the position of the map that gives keys."""
        [table] = backbone_of(model).stacks.values()
        return next(place for place in table.attention_maps if place.rpartition(".")[2] in ("k", "qkv"))

    def generate(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        options: Mapping[str, Any],
        per_token: bool,
    ) -> tuple[Tensor, list[float]]:
        """Generate the answers of a batch, which end with the tokenizer's end token, its chat's, or the model's own."""
        inputs = padded(model, tokenizer, requests, "left")
        brought = model.generation_config.eos_token_id
        own = brought if isinstance(brought, list) else [] if brought is None else [brought]
        ends = list(dict.fromkeys([*end_token(tokenizer), *end_of_chat(tokenizer), *own]))
        tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": ends}
        generated = model.generate(**inputs, **options, **tokens)[:, inputs["input_ids"].shape[1] :]
        if not requests[0].likelihood:
            return generated, [0.0] * len(requests)
        return generated, log_likelihoods(model, inputs, generated, ends, per_token)

    @torch.no_grad()
    def first_scores(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        starts: Sequence[tuple[int, ...]],
        goes_on: bool,
    ) -> tuple[Tensor, NextScores]:
        begun = [
            request._replace(ids=[*request.ids, *start])
            for request, start in zip(requests, starts, strict=True)
        ]
        inputs = padded(model, tokenizer, begun, "left")
        mask = inputs["attention_mask"]
        prompt = mask.clone()
        prompt[:, mask.shape[1] - len(starts[0]) :] = 0  # equally many tokens of each row, at its end
        outputs = model(
            **inputs,
            position_ids=positions(mask),
            prompt_mask=prompt,
            logits_to_keep=1,
            use_cache=goes_on,
        )

        def deeper(rows: Tensor, tokens: Tensor, last: bool) -> Tensor:
            own, task_ids = mask[rows], inputs["task_ids"][rows]
            cache = model.go_on_with(outputs.past_key_values, rows, task_ids, copied=not last)
            whole = torch.cat([own, torch.ones_like(tokens)], 1)
            return model(
                input_ids=tokens,
                attention_mask=whole,
                position_ids=positions(whole)[:, own.shape[1] :],
                past_key_values=cache,
                task_ids=task_ids,
            ).logits

        return outputs.logits[:, -1], deeper


class PromptCollator(Collator):
    """Makes batches of prompts and targets, padded on the left."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Returns:
            input_ids, attention_mask, position_ids and prompt_mask, (batch, seq); labels, (batch, longest target), of
            the last places; task_ids (batch,); logits_to_keep, how many places these are.
        """
        prompts, targets = ([list(row[name]) for row in rows] for name in ("input_ids", "labels"))
        read = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
        asked = [
            [1] * len(prompt) + [0] * (len(target) - 1)
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        longest = max(map(len, targets))
        width = self.width(max(longest, *map(len, read)))
        batch = padded_ids(read, width, self.padding, "left")
        return {
            **batch,
            "position_ids": positions(batch["attention_mask"]),
            "prompt_mask": padded_rows(asked, width, 0, "left"),
            "labels": padded_rows(targets, longest, IGNORED, "left"),
            "task_ids": torch.tensor([row["task_ids"] for row in rows]),
            "logits_to_keep": longest,
        }


def positions(mask: Tensor) -> Tensor:
    """Number the tokens of each row from 0, (batch, seq), as generate does; padding is not counted."""
    return (mask.cumsum(1) - 1).clamp_min(0)


@torch.no_grad()
def log_likelihoods(
    model: Any, inputs: Mapping[str, Tensor], generated: Tensor, ends: Sequence[int], per_token: bool
) -> list[float]:
    """Add up, or average, the logarithms of the probabilities of each generated sequence's tokens, its end included.

    Args:
        model: an adapted model.
        inputs: of the generation.
        generated: (batch, tokens), behind the prompts.
        ends: the tokens that end a sequence.
        per_token: average.
    """
    read, mask = generated[:, :-1], inputs["attention_mask"]
    whole = torch.cat([mask, torch.ones_like(read)], 1)
    logits = model(
        input_ids=torch.cat([inputs["input_ids"], read], 1),
        attention_mask=whole,
        position_ids=positions(whole),
        prompt_mask=torch.cat([mask, torch.zeros_like(read)], 1),
        task_ids=inputs["task_ids"],
        logits_to_keep=generated.shape[1],
    ).logits
    return likelihoods_of(logits, generated, ends, per_token)


def places_of(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], text: str
) -> list[list[int]]:
    """Find where in a written chat each message's own text stands; from one that the template changes on, nowhere.

    Between which texts the template puts them is found by writing marks in their place.
    """
    marked = [{**message, "content": MARKS[0]} for message in messages]
    *between, _ = chat_prompt(tokenizer, marked)[0].split(MARKS[0])
    found, end = [], 0
    for message, before in zip(messages, between, strict=False):
        begin, content = end + len(before), str(message["content"])
        own = next((part for part in (content, content.strip()) if text.startswith(part, begin)), None)
        if own is None or text[end:begin] != before:
            break
        end = begin + len(own)
        found.append([begin, end])
    return found + [[end, end]] * (len(messages) - len(found))


def end_of_turn(tokenizer: PreTrainedTokenizerBase, behind: str) -> tuple[int, ...]:
    """Return the tokens behind an answer of a chat, up to the one that ends it; what follows needs no answer."""
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    known = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    last = next((place for place, token in enumerate(ids) if token in known), None)
    return end_token(tokenizer) if last is None else tuple(ids[: last + 1])


def end_of_chat(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the token that ends an answer of a chat; none where the tokenizer has no chat template of use."""
    if not getattr(tokenizer, "chat_template", None):
        return ()
    try:
        return end_of_turn(tokenizer, chat_texts(tokenizer).behind)[-1:]
    except UserError:  # said where chats are asked for
        return ()


def end_token(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the token that ends a text."""
    return (int(tokenizer.eos_token_id),)
