"""Convert decoded rows to conversations: the layouts of rows, and the errors for rows that can't be used.

    messages                      [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]
    prompt, completion            also prompt, response; both may be lists of messages (TRL)
    question, answer
    instruction, output           also instruction, response; a column `input` follows the instruction (Alpaca)
    input, output

A column `system` is the system prompt; em refuses it beside messages that begin with another one. The content of a
message may be a list of parts if all parts are texts. em refuses content that it would lose (tool calls, pictures,
messages of weight 0, an `input` beside a prompt) and never drops it silently.
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


def convert_row(row: Any, where: str) -> Conversation:
    """Convert a decoded row to a conversation; check that it has valid roles in order, no empty turn and an answer."""
    turns = extract_turns(row, where)
    messages = [convert_turn(turn, position, where) for position, turn in enumerate(turns, start=1)]
    check_turn_order(messages, where)
    return Conversation(tuple(messages))


def extract_turns(row: Any, where: str) -> list[Any]:
    """Return the turns of a row in any layout, unchecked."""
    if isinstance(row, dict):
        if key := next((key for key in ("tools", "functions") if row.get(key)), ""):
            raise DataError(f"{where}: it offers {key} to the model, and em trains on plain text alone.")
        if row.get("messages") is not None:
            turns = row["messages"]
            if isinstance(turns, list) and turns:
                return add_system_turn(row, turns, where)
        else:
            for question, answer in PAIRS:
                if question in row and answer in row:
                    return extract_pair(row, question, answer, where)
    raise DataError(
        f'{where}: no "messages" list, nor a pair of {", ".join(" and ".join(pair) for pair in PAIRS)}: expected '
        '{"messages": [{"role": …, "content": …}, …]}.'
    )


def extract_pair(row: dict[str, Any], question: str, answer: str, where: str) -> list[Any]:
    """Return the turns of a row that has its prompt and its answer in two columns."""
    prompt, completion = row[question], row[answer]
    context = "" if question == "input" else read_text_column(row, "input", where)
    as_turns = isinstance(prompt, list) and isinstance(completion, list) and bool(completion)
    if context and (as_turns or question != "instruction"):
        raise DataError(
            f"{where}: em has no place for the column input beside {question}: write its text into {question}, or "
            "rename the column."
        )
    if as_turns:
        return add_system_turn(row, [*prompt, *completion], where)
    for column, value in ((question, prompt), (answer, completion)):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: {column} has no text.")
    prompt = f"{prompt}\n\n{context}" if context else prompt
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return add_system_turn(row, turns, where)


def add_system_turn(row: dict[str, Any], turns: list[Any], where: str) -> list[Any]:
    """Put the text of the column `system`, if any, before the turns unless they already begin with it."""
    system = read_text_column(row, "system", where)
    if not system:
        return turns
    first = turns[0] if isinstance(turns[0], dict) else {}
    if first.get("role") != "system":
        return [{"role": "system", "content": system}, *turns]
    if join_text_parts(first.get("content"), 1, where) != system:
        raise DataError(f"{where}: the column system and the system turn say different things: leave one of them out.")
    return turns


def read_text_column(row: dict[str, Any], column: str, where: str) -> str:
    """Return the text of an optional column; empty where it is missing or blank."""
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {column} must be a text, not {type(value).__name__}.")
    return value if value and value.strip() else ""


def convert_turn(turn: Any, position: int, where: str) -> Message:
    """Convert one turn to a message; check its role and its text."""
    if isinstance(turn, dict):
        refuse_tools_and_weights(turn, position, where)
    if not isinstance(turn, dict) or turn.get("role") not in ROLES:
        raise DataError(f"{where}: message {position} has no role among {', '.join(ROLES)}.")
    content = join_text_parts(turn.get("content"), position, where)
    if content is None or not content.strip():
        raise DataError(f"{where}: message {position} ({turn['role']}) has no text in content.")
    if SURROGATE.search(content):
        raise DataError(f"{where}: message {position} ({turn['role']}) holds half a character (a lone surrogate).")
    return Message(turn["role"], content)


def refuse_tools_and_weights(turn: dict[str, Any], position: int, where: str) -> None:
    """Refuse tool calls and weights, the parts of OpenAI's format that em can't train on."""
    if turn.get("role") in ("tool", "function") or turn.get("tool_calls") or turn.get("function_call"):
        raise DataError(f"{where}: message {position} calls a tool or is its reply, and em trains on plain text alone.")
    if turn.get("weight") not in (None, 1):
        raise DataError(
            f"{where}: message {position} has weight {str(turn['weight'])[:20]}, and em learns every answer with "
            "weight 1."
        )


def join_text_parts(content: Any, position: int, where: str) -> str | None:
    """Return the text of a message, its text parts joined without a separator; None where it has no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = str(part.get("type"))[:30]
            raise DataError(f"{where}: message {position} holds a part of type {kind!r}, and em trains on text alone.")
    return "".join(part["text"] for part in content)


def check_turn_order(messages: Sequence[Message], where: str) -> None:
    """Check the order: at most one system turn, first; then user and assistant alternate, and the assistant ends."""
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
