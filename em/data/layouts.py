"""From a decoded row to a conversation: the layouts that rows come in, and what can't be used of them.

    messages                      [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]
    prompt, completion            also prompt, response; both may be lists of messages (TRL)
    question, answer
    instruction, output           also instruction, response; a column `input` goes behind the instruction (Alpaca)
    input, output

A column `system` is the system prompt; beside messages that begin with another one it is refused. The content of a
message may be a list of parts when all of them are texts. Whatever would be lost (tool calls, pictures, messages of
weight 0, an `input` beside a prompt) is refused, never left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from em.errors import DataError
from em.types import Conversation, Message

ROLES = ("system", "user", "assistant")
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
)
SURROGATE = re.compile("[\ud800-\udfff]")


def conversation_of(row: Any, where: str) -> Conversation:
    """A decoded row as a conversation, checked: known roles in order, no empty turn, an answer to learn."""
    turns = turns_of(row, where)
    messages = [message_of(turn, position, where) for position, turn in enumerate(turns, start=1)]
    check_order(messages, where)
    return Conversation(tuple(messages))


def turns_of(row: Any, where: str) -> list[Any]:
    """The turns of a row in any layout, not yet looked at."""
    if isinstance(row, dict):
        if key := next((key for key in ("tools", "functions") if row.get(key)), ""):
            raise DataError(f"{where}: it offers {key} to the model, and em trains on plain text alone.")
        if row.get("messages") is not None:
            turns = row["messages"]
            if isinstance(turns, list) and turns:
                return with_system(row, turns, where)
        else:
            for question, answer in PAIRS:
                if question in row and answer in row:
                    return pair_of(row, question, answer, where)
    raise DataError(
        f'{where}: no "messages" list, nor a pair of {", ".join(" and ".join(pair) for pair in PAIRS)}: expected '
        '{"messages": [{"role": …, "content": …}, …]}.'
    )


def pair_of(row: dict[str, Any], question: str, answer: str, where: str) -> list[Any]:
    """The turns of a row that has its prompt and its answer in two columns."""
    asked, said = row[question], row[answer]
    context = "" if question == "input" else column_text(row, "input", where)
    as_turns = isinstance(asked, list) and isinstance(said, list) and bool(said)
    if context and (as_turns or question != "instruction"):
        raise DataError(
            f"{where}: em has no place for the column input beside {question}: write its text into {question}, or "
            "rename the column."
        )
    if as_turns:
        return with_system(row, [*asked, *said], where)
    for column, value in ((question, asked), (answer, said)):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: {column} has no text.")
    asked = f"{asked}\n\n{context}" if context else asked
    return with_system(row, [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], where)


def with_system(row: dict[str, Any], turns: list[Any], where: str) -> list[Any]:
    """The turns with the column `system` before them, where the row has one that they don't begin with already."""
    system = column_text(row, "system", where)
    if not system:
        return turns
    first = turns[0] if isinstance(turns[0], dict) else {}
    if first.get("role") != "system":
        return [{"role": "system", "content": system}, *turns]
    if text_of(first.get("content"), 1, where) != system:
        raise DataError(f"{where}: the column system and the system turn say different things: leave one of them out.")
    return turns


def column_text(row: dict[str, Any], column: str, where: str) -> str:
    """A column that may be there as text; empty where it is blank."""
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {column} must be a text, not {type(value).__name__}.")
    return value if value and value.strip() else ""


def message_of(turn: Any, position: int, where: str) -> Message:
    """One turn, whose role and text can be used."""
    if isinstance(turn, dict):
        refuse_what_would_be_lost(turn, position, where)
    if not isinstance(turn, dict) or turn.get("role") not in ROLES:
        raise DataError(f"{where}: message {position} has no role among {', '.join(ROLES)}.")
    content = text_of(turn.get("content"), position, where)
    if content is None or not content.strip():
        raise DataError(f"{where}: message {position} ({turn['role']}) has no text in content.")
    if SURROGATE.search(content):
        raise DataError(f"{where}: message {position} ({turn['role']}) holds half a character (a lone surrogate).")
    return Message(turn["role"], content)


def refuse_what_would_be_lost(turn: dict[str, Any], position: int, where: str) -> None:
    """Tool calls and weights are parts of OpenAI's format that em can't train on."""
    if turn.get("role") in ("tool", "function") or turn.get("tool_calls") or turn.get("function_call"):
        raise DataError(f"{where}: message {position} calls a tool or is its reply, and em trains on plain text alone.")
    if turn.get("weight") not in (None, 1):
        raise DataError(
            f"{where}: message {position} has weight {str(turn['weight'])[:20]}, and em learns every answer with "
            "weight 1."
        )


def text_of(content: Any, position: int, where: str) -> str | None:
    """The text of a message; parts that are all texts are joined as they are. None where it is no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = str(part.get("type"))[:30]
            raise DataError(f"{where}: message {position} holds a part of type {kind!r}, and em trains on text alone.")
    return "".join(part["text"] for part in content)


def check_order(messages: Sequence[Message], where: str) -> None:
    """At most one system turn, first; then user and assistant in turn; an assistant's turn at the end."""
    turns = messages[1:] if messages[0].role == "system" else messages
    if not any(m.role == "assistant" for m in turns):
        raise DataError(f"{where}: no assistant turn, so there is nothing to learn from it.")
    for position, turn in enumerate(turns):
        expected = "user" if position % 2 == 0 else "assistant"
        if turn.role != expected:
            raise DataError(
                f"{where}: a {turn.role} turn where a {expected} turn is expected (user and assistant alternate)."
            )
    if turns[-1].role != "assistant":
        raise DataError(f"{where}: the last turn is the user's: a training row ends with the assistant's answer.")
