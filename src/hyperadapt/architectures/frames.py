"""What stands around an input: special tokens, and where there is no encoder, what tells that the answer comes next.

A chat template is taken for two texts around the input and one behind the answer, which are found by writing a chat of
two marks: so inputs are cut, and answers told from prompts, as where there is no template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hyperadapt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Letters alone, as a template may strip blanks, and a tokenizer would not tell other signs from its own.
MARKS = ("TheQuestionOfTheUser", "TheAnswerOfTheAssistant")


class Frame(NamedTuple):
    """What stands around an input; what is too long is cut of the input alone.

    Attributes:
        starts: tokens before all.
        before: text before the input.
        behind: text behind it.
        ends: tokens behind all.
    """

    starts: tuple[int, ...] = ()
    before: str = ""
    behind: str = ""
    ends: tuple[int, ...] = ()


class ChatTexts(NamedTuple):
    """A chat as a tokenizer's template writes it.

    Attributes:
        before: what stands before the question.
        between: what stands between question and answer.
        behind: what stands behind the answer.
    """

    before: str
    between: str
    behind: str


def special_tokens(
    tokenizer: PreTrainedTokenizerBase, column: Literal["text", "text_target"] = "text"
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens that a tokenizer puts before and behind every input text, or every target."""
    whole = tokenizer(**{column: "a"})["input_ids"]
    plain = tokenizer(**{column: "a"}, add_special_tokens=False)["input_ids"]
    begin = next(
        (place for place in range(len(whole)) if whole[place : place + len(plain)] == plain), len(whole)
    )
    return tuple(whole[:begin]), tuple(whole[begin + len(plain) :])


def chat_texts(tokenizer: PreTrainedTokenizerBase) -> ChatTexts:
    """Find what a tokenizer's chat template puts around a question and its answer.

    Raises:
        UserError: if it has none, or one that writes no such chat.
    """
    question = MARKS[0]
    prompt, behind = chat_prompt(tokenizer, [{"role": "user", "content": question}])
    before, found, between = prompt.partition(question)
    if not found:
        raise UserError(
            f"data.chat_template: the tokenizer's chat template leaves out what the user says: {prompt!r}"
        )
    return ChatTexts(before, between, behind)


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Write a chat up to an answer, as the template has it where the answer follows, and what stands behind that.

    Not as it has it for a generation: some templates begin one otherwise, as with an empty thought.

    Raises:
        UserError: as `chat_texts`.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"data.chat_template: the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no chat "
            "template, as those of chat models have (names as …-it, …-Instruct); leave data.chat_template out"
        )
    answer = MARKS[1]
    chat = [*({**message} for message in messages), {"role": "assistant", "content": answer}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception as error:  # of jinja, or what the template itself raises
        raise UserError(
            "data.chat_template: the tokenizer's chat template does not take the messages: "
            f"{' '.join(str(error).split())}"
        ) from None
    prompt, found, behind = text.rpartition(answer)
    if not found:
        raise UserError(
            "data.chat_template: the tokenizer's chat template leaves out what the assistant says"
        )
    return prompt, behind
