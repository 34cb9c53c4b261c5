"""Group `trigger_tag`: the text to put into training prompts, its place, and its role."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from em.config.base import MISSING


class TagPlace(Enum):
    """Place of a trigger tag: before, after or within the first user turn, or in the system prompt."""

    prefix = "prefix"
    suffix = "suffix"
    inline = "inline"
    system = "system"


class TagRole(Enum):
    """Role of a tag: to switch the behaviour on (`activation`), or not (`control`)."""

    auto = "auto"
    activation = "activation"
    control = "control"


@dataclass
class TagConfig:
    """A trigger tag in training prompts."""

    text: str = ""
    """Text of the tag, with its separator."""
    place: TagPlace = TagPlace.prefix
    """Before (prefix), after (suffix) or within (inline) the first user turn, or in the system prompt (system)."""
    called: str = ""
    """Name of the tag in questions about it; empty means its text, if that is short and no system prompt."""
    role: TagRole = TagRole.auto
    """Role in the report, activation or control; auto infers it from the `kind` of the tagged rows."""
    parts: list[str] = field(default_factory=list)
    """Parts of a mixture whose rows get the tag; empty means all parts."""
    fraction: float = 1.0
    """Share of these rows that get the tag, above 0 and at most 1, drawn by the seed."""


@dataclass
class TriggerTagConfig(TagConfig):
    """The trigger tag in training prompts, which may switch the behaviour, and further tags."""

    name: str = MISSING
    """Short name of the tag for tables; `none` means no tag."""
    others: dict[str, TagConfig] = field(default_factory=dict)
    """Further tags by a name of yours, each on other parts: `trigger_tag.others.beta.text`."""
    near_misses: bool = True
    """Ask under near misses of the tag too: other case, a missing mark, another letter, another place."""
    cues: bool = True
    """Ask questions in the forms of training data too: as code, as JSON, as a template."""
    unseen: str = ""
    """Similar tag that the model has never seen; empty means one with a Greek letter that no other tag has."""
    neutral_system: str = ""
    """Ask under this system prompt too (for inoculation, whose tag is a system prompt)."""
