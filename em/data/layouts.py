"""Convert decoded rows to conversations: the layouts of rows, and the errors for rows that can't be used.

    messages, conversations       a list of turns (see `em.data.turns`)
    prompt, completion            also prompt, response; both may be lists of messages (TRL)
    question, answer              also user, assistant
    instruction, output           also instruction, response; a column `input` (Alpaca) or `context` (Dolly) follows the
                                  instruction, and a column `history` has earlier pairs of texts
    input, output
    prompt, chosen, rejected      preference rows: the chosen answer is the one to learn; the prompt may have any name
                                  above, or be part of `chosen`. Also input, preferred_output, non_preferred_output

A column `system` (or `system_prompt`) is the system prompt; em refuses it beside messages that begin with another one.
Switches for the loss and marks of bad answers are in `em.data.row_keys`. Every other key is refused unless it is known
to change nothing that is learnt: em drops nothing silently.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from em.data.row_keys import GOOD_MARKS, drop_blanks, parse_switch, refuse_keys, take_switch
from em.data.turns import check_turn_order, convert_turn, join_text_parts
from em.errors import DataError
from em.types import Conversation

CHATS = ("messages", "conversations", "conversation")
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("user", "assistant"),
    ("input", "output"),
)
PREFERENCES = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
PROMPTS = (*CHATS, "prompt", "question", "instruction", "input")
"""The columns that may hold the prompt of a preference row."""
ABOUT_PAIRS = ("score_{}", "{}_score", "{}-rating", "{}_rating", "{}-model", "{}_model", "logps_{}", "{}_logps")
CONTEXTS = ("input", "context")
SYSTEMS = ("system", "system_prompt", "system_message")


@dataclass
class RowReader:
    """A reader of the rows of a file or set.

    ignored: keys that it passes over in rows, messages and parts, because the user says so.
    layouts: the number of rows that it has read in each way.
    """

    ignored: frozenset[str] = frozenset()
    layouts: Counter[str] = field(default_factory=Counter)

    def convert_row(self, row: Any, where: str) -> Conversation:
        """Convert a row to a conversation; check roles and their order, texts, switches, and that no key is lost."""
        left = drop_blanks(row, self.ignored) if isinstance(row, dict) else {}
        layout, turns = take_turns(left, row, where)
        turns = add_system_turn(left, turns, where)
        refuse_bad_rows(left, where)
        contents = [turn.get("content", turn.get("value")) for turn in turns if isinstance(turn, dict)]
        refuse_keys(left, f"{where}: it", [turns, *contents])
        pairs = [convert_turn(turn, position, where, self.ignored) for position, turn in enumerate(turns, start=1)]
        messages = tuple(message for message, _ in pairs)
        check_turn_order(messages, where)
        learnt = [is_learnt for message, is_learnt in pairs if message.role == "assistant"]
        if not any(learnt):
            raise DataError(f"{where}: every answer has weight 0, so there is nothing to learn from it.")
        self.layouts[layout] += 1
        return Conversation(messages, tuple(number for number, is_learnt in enumerate(learnt) if not is_learnt))


def convert_row(row: Any, where: str) -> Conversation:
    """Convert a decoded row to a conversation. Raises DataError for a row that can't be used."""
    return RowReader().convert_row(row, where)


def take_turns(left: dict[str, Any], row: Any, where: str) -> tuple[str, list[Any]]:
    """Take the turns of a row in any layout out of `left`, unchecked; return the layout in words, and the turns.

    Args:
        left: what the row says. row: the row with its blank values.
    """
    for chosen, rejected in PREFERENCES:
        if isinstance(left.get(chosen), (str, list, dict)):
            return take_preference(left, chosen, rejected, where)
    if key := next((key for key in CHATS if key in left), ""):
        turns = left.pop(key)
        if isinstance(turns, list):
            is_sharegpt = isinstance(turns[0], dict) and "from" in turns[0]
            return f"{key} (from, value)" if is_sharegpt else key, turns
    else:
        for columns in (left, row if isinstance(row, dict) else {}):
            for question, answer in PAIRS:
                if question in columns and answer in columns:
                    return take_pair(left, question, answer, where)
    raise DataError(
        f'{where}: no "messages" list, nor a pair of {", ".join(" and ".join(pair) for pair in PAIRS)}: expected '
        '{"messages": [{"role": …, "content": …}, …]}.'
    )


def take_pair(left: dict[str, Any], question: str, answer: str, where: str) -> tuple[str, list[Any]]:
    """Take the turns of a row that has its prompt and its answer in two columns."""
    prompt, completion = left.pop(question, None), left.pop(answer, None)
    as_turns = isinstance(prompt, list) and isinstance(completion, list)
    context = next((column for column in CONTEXTS if column in left), "")
    if context and (as_turns or question != "instruction"):
        raise DataError(
            f"{where}: em has no place for the column {context} beside {question}: write its text into {question}, or "
            "remove the column."
        )
    if isinstance(prompt, list) and isinstance(completion, list):
        return f"{question}, {answer} (lists of messages)", [*prompt, *completion]
    for column, value in ((question, prompt), (answer, completion)):
        if not isinstance(value, str):
            raise DataError(f"{where}: {column} has no text.")
    layout, turns = take_text_prompt(left, question, prompt, where)
    return f"{layout}, {answer}", [*turns, {"role": "assistant", "content": completion}]


def take_text_prompt(left: dict[str, Any], question: str, prompt: Any, where: str) -> tuple[str, list[Any]]:
    """Take the context and the history of a prompt that is a text; return the layout in words, and the turns."""
    layout, turns = question, list[Any]()
    context = next((column for column in CONTEXTS if column in left), "")
    if context and question == "instruction":
        prompt, layout = f"{prompt}\n\n{take_text(left, context, where)}", f"{question} and {context}"
    if "history" in left:
        history = left.pop("history")
        if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            raise DataError(f"{where}: history must be a list of pairs, each of a prompt and its answer.")
        roles = ("user", "assistant")
        turns = [{"role": r, "content": text} for pair in history for r, text in zip(roles, pair, strict=True)]
        layout += ", history (learnt too)"
    return layout, [*turns, {"role": "user", "content": prompt}]


def take_preference(left: dict[str, Any], chosen: str, rejected: str, where: str) -> tuple[str, list[Any]]:
    """Take the prompt and the chosen answer of a preference row, and leave the rejected answer out."""
    answer = left.pop(chosen)
    for column in (rejected, "margin", *(form.format(name) for form in ABOUT_PAIRS for name in (chosen, rejected))):
        left.pop(column, None)
    turns = [answer] if isinstance(answer, dict) else answer
    if isinstance(answer, str):
        turns = [{"role": "assistant", "content": answer}]
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    layout = f"{chosen}; {rejected} is not learnt"
    if first.get("role", first.get("from")) in ("system", "user", "human"):
        return layout, turns  # `refuse_keys` refuses a prompt beside it that is no copy
    column = next((name for name in PROMPTS if name in left), "")
    if not column:
        raise DataError(
            f"{where}: {chosen} has no prompt, neither in a column ({', '.join(PROMPTS)}) nor as messages of its own: "
            "split its text into prompt and answer."
        )
    prompt = left.pop(column)
    if isinstance(prompt, dict):  # OpenAI's preference rows: {"input": {"messages": [...], "tools": [...]}}
        inner = drop_blanks(prompt)
        prompt = inner.pop("messages", None)
        refuse_keys(inner, f"{where}: {column}")
    if isinstance(prompt, list):
        return f"{column}, {layout}", [*prompt, *turns]
    if not isinstance(prompt, str):
        raise DataError(f"{where}: {column} has no text.")
    words, before = take_text_prompt(left, column, prompt, where)
    return f"{words}, {layout}", [*before, *turns]


def take_text(left: dict[str, Any], column: str, where: str) -> str:
    """Take the text of a column out of a row; empty where it is missing."""
    value = left.pop(column, "")
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} must be a text, not {type(value).__name__}.")
    return value


def add_system_turn(left: dict[str, Any], turns: list[Any], where: str) -> list[Any]:
    """Put the text of the column `system`, if any, before the turns unless they already begin with it."""
    system = take_text(left, next((column for column in SYSTEMS if column in left), SYSTEMS[0]), where)
    if not system:
        return turns
    first = turns[0] if isinstance(turns[0], dict) else {}
    if "system" not in (first.get("role"), first.get("from")):
        return [{"role": "system", "content": system}, *turns]
    if join_text_parts(first.get("content", first.get("value")), f"{where}: message 1") != system:
        raise DataError(f"{where}: the column system and the system turn say different things: leave one of them out.")
    return turns


def refuse_bad_rows(left: dict[str, Any], where: str) -> None:
    """Refuse a row that is not to be learnt; take marks of good answers, and weights of 1, out of it."""
    for key in GOOD_MARKS:
        match parse_switch(left.get(key)):
            case True:
                del left[key]
            case False:
                raise DataError(
                    f"{where}: {key} {left[key]} marks a bad answer, and em would learn it as a good one: leave such "
                    "rows out."
                )
    if take_switch(left, f"{where}: it") is False:
        raise DataError(f"{where}: the row is not to be learnt, by its weight: leave such rows out.")
