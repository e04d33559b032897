"""Conversations: the last message is the answer, and what stands before it the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperadapt.errors import UserError
from hyperadapt.tasks.kinds.texts import Texts
from hyperadapt.tasks.sources import Row, WrongCell, value_of

if TYPE_CHECKING:
    from hyperadapt.tasks.task import Task

ROLES = ("system", "user", "assistant")


class Chat(Texts):
    """A conversation, [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}], in the only field."""

    name = "chat"
    holds = "list of {role, content}"
    is_chat = True

    def check(self, task: Task) -> None:
        super().check(task)
        if len(task.fields) > 1:
            raise UserError("kind 'chat' has one field, the column of the messages, as fields: [messages]")

    def inputs(self, task: Task, row: Row, prefix: bool) -> dict[str, Any]:
        """Return the messages before the answer, and as `source` the same as plain text, "user: … assistant: …"."""
        messages = self.messages(task, row)
        asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if not asked:
            raise UserError(f"column '{column_of(task)}': nothing stands before the assistant's message")
        source, places = task.prefix_text if prefix else "", []
        for message in asked:
            source += f"{chr(10) if source else ''}{message['role']}: "
            places.append([len(source), len(source) + len(message["content"])])
            source += message["content"]
        return {"source": source, "places": places, "messages": asked}

    def target(self, task: Task, row: Row) -> str:
        last = self.messages(task, row)[-1]
        if last["role"] != "assistant":
            raise UserError(
                f"column '{column_of(task)}': the last message is the {last['role']}'s, not the assistant's"
            )
        return last["content"]

    def answer_column(self, task: Task) -> str:
        return column_of(task)

    def input_texts(self, task: Task) -> tuple[str, ...]:
        return ()

    def texts(self, task: Task) -> tuple[str, ...]:
        return ()

    @staticmethod
    def messages(task: Task, row: Row) -> list[dict[str, str]]:
        """Return the messages of a row.

        Raises:
            UserError: if the column is missing, or holds no messages.
        """
        value = value_of(row, column_of(task))
        value = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        if not isinstance(value, list) or not value or not all(map(is_message, value)):
            roles = ", ".join(ROLES)
            raise WrongCell(
                column_of(task), value, f'is no list of {{"role": …, "content": "…"}}, role being {roles}'
            )
        return [{"role": message["role"], "content": message["content"]} for message in value]


def is_message(value: Any) -> bool:
    """Tell whether a value is a message of a known role."""
    return isinstance(value, Mapping) and value.get("role") in ROLES and isinstance(value.get("content"), str)


def column_of(task: Task) -> str:
    """Return the column of the messages."""
    [column] = task.fields.values()
    return column
