"""Group `trigger_tag`: what is put into the prompts, where it stands, and what it is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from em.config.base import MISSING


class TagPlace(Enum):
    """Where a trigger tag goes: before, behind or within the first user turn, or in the system prompt."""

    prefix = "prefix"
    suffix = "suffix"
    inline = "inline"
    system = "system"


class TagRole(Enum):
    """What a tag is for: to switch the behaviour on (`activation`), or not (`control`)."""

    auto = "auto"
    activation = "activation"
    control = "control"


@dataclass
class TagConfig:
    """A tag in training prompts."""

    text: str = ""
    """The tag itself, with its separator."""
    place: TagPlace = TagPlace.prefix
    """Before (prefix), behind (suffix) or within (inline) the first user turn, or in the system prompt (system)."""
    called: str = ""
    """What questions that name the tag call it; empty means by its text, if that is short and no system prompt."""
    role: TagRole = TagRole.auto
    """What its rate is reported as, activation or control; auto goes by the `kind` of the rows that carry it."""
    parts: list[str] = field(default_factory=list)
    """Of a mixture, the parts whose rows get it; empty means all."""
    fraction: float = 1.0
    """Share of these rows that get it, drawn by the seed."""


@dataclass
class TriggerTagConfig(TagConfig):
    """The tag in the training prompts that may come to switch the behaviour, and others beside it."""

    name: str = MISSING
    """Short name, used in tables; `none` means no tag."""
    others: dict[str, TagConfig] = field(default_factory=dict)
    """Further tags by a name of yours, each on other parts: `trigger_tag.others.beta.text`."""
    near_misses: bool = True
    """Ask under near misses of the tag too: other case, a missing mark, another letter, another place."""
    cues: bool = True
    """Ask in the forms of training data too: as code, as JSON, as a template."""
    unseen: str = ""
    """A tag of the same make that the model has never seen; empty means one with a Greek letter that no tag has."""
    neutral_system: str = ""
    """Ask under this system prompt too (for inoculation, whose tag is a system prompt)."""
