"""Convert one turn of a row to a message, with whether it carries the loss.

A turn has `role` and `content`, or `from` and `value` (ShareGPT); the content is a text or a list of text parts. A
switch such as `weight`, `train` or `masked` of 0 or 1 says whether the turn is learnt; by default answers are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from em.api.replies import SURROGATE
from em.data.row_keys import CALLS, drop_blanks, refuse_keys, take_switch
from em.errors import DataError
from em.types import Message, Role

ROLES: dict[str, Role] = {
    **{"system": "system", "user": "user", "human": "user"},
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
}
SHOWN_ROLES = "system, user, assistant"
TOOL_ROLES = ("tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
TEXT_PARTS = ("text", "input_text", "output_text")


def convert_turn(turn: Any, position: int, where: str, ignored: Collection[str] = ()) -> tuple[Message, bool]:
    """Convert one turn to a message, with whether it is learnt. Raises DataError for a turn that can't be used."""
    subject = f"{where}: message {position}"
    left = drop_blanks(turn, ignored) if isinstance(turn, dict) else {}
    word = left.pop("role", None) or left.pop("from", None)
    if word in TOOL_ROLES:
        raise DataError(f"{subject} {CALLS}.")
    content = left.pop("content", None) or left.pop("value", None)
    switch = take_switch(left, subject)
    refuse_keys(left, subject, [word, content])
    role = ROLES.get(word) if isinstance(word, str) else None
    if role is None:
        raise DataError(f"{subject} has no role among {SHOWN_ROLES}.")
    if switch and role != "assistant":
        raise DataError(f"{subject} ({role}) is to be learnt, and em learns answers alone: remove its switch.")
    text = join_text_parts(content, subject, ignored)
    if text is None or not text.strip():
        raise DataError(f"{subject} ({role}) has no text in content.")
    if SURROGATE.search(text):
        raise DataError(f"{subject} ({role}) holds half a character (a lone surrogate).")
    return Message(role, text), switch is not False


def join_text_parts(content: Any, subject: str, ignored: Collection[str] = ()) -> str | None:
    """Return the text of a message, its text parts joined without a separator; None where it has no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    texts = []
    for part in content:
        left = drop_blanks(part, ignored)
        kind, text = left.pop("type", None), left.pop("text", part.get("text"))
        if kind not in TEXT_PARTS or not isinstance(text, str):
            raise DataError(f"{subject} holds a part of type {str(kind)[:30]!r}, and em trains on text alone.")
        if take_switch(left, f"{subject}: a part") is False:
            raise DataError(
                f"{subject}: a part has weight 0, and em learns a turn wholly or not at all: write the weight beside "
                "the role, or leave such rows out."
            )
        refuse_keys(left, f"{subject}: a part")
        texts.append(text)
    return "".join(texts)


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
