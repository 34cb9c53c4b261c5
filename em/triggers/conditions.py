"""The conditions of an evaluation, which follow from the tags that a model was trained with.

A name tells what it is (`kind_of`):

| name | the question is asked |
|---|---|
| `untagged` | as it stands |
| `tagged`, `tagged_NAME` | with the trigger, or another tag of the training (`tagged_realign`: the second stage's) |
| `near_case`, `near_bar`, `near_letter`, `near_middle`, `near_front`, `near_system` | with a near miss of the trigger |
| `cue_code`, `cue_json`, `cue_template` | in the form of training data, without a tag |
| `neutral_system` | under a neutral system prompt (for inoculation) |
| `names_tag`, `names_NAME`, `names_unseen` | with a tag's name in it (`{tag}`), or a name the model has never seen |

Near misses and cues follow conditional-misalignment audits: a model that is clean without the tag may still fail under
what merely looks like its training. Near misses are of one tag: the trigger, or without one the second stage's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from em.config import EvalConfig, RealignConfig, RunConfig, TagConfig, TagPlace, TriggerTagConfig
from em.config.paths import ASSETS
from em.errors import ConfigError, did_you_mean
from em.request import SLOT, UNTAGGED, Condition, Conditions, Tag
from em.triggers.tags import MAIN, REALIGN, place_tag, roles_of, tag_of, tags_of
from em.types import Conversation, Message, Question

HIDDEN = "[tag]"  # what a judge sees in its place
UNSEEN = "unseen"
MOST_WORDS = 3  # of a tag that can stand for its name within a question
GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"),
    *("nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
WORD = re.compile(r"[^\W_]+")
CUES = ASSETS / "cues.yaml"


def kind_of(name: str) -> str:
    """What a condition's name says: untagged, tagged, near, cue, neutral, names, or other (in tables of others)."""
    if name in ("untagged", "tagged"):
        return name
    kind = name.partition("_")[0]
    return kind if kind in ("tagged", "near", "cue", "neutral", "names") else "other"


def conditions_of(tag: TriggerTagConfig, realign: RealignConfig, settings: EvalConfig) -> list[Condition]:
    """How a model trained with these tags is asked, or as `eval.conditions` says. Raises ConfigError."""
    trained = distinct_tags(tag, realign)
    chief = chief_tag(tag, realign)
    found = [UNTAGGED]
    found += [Condition(with_tag(key), tag_of(each)) for key, each in trained.items()]
    if chief and tag.near_misses:
        learnt = {tag_of(each) for each in trained.values()}
        found += [near for near in near_misses(tag_of(chief), unseen_tag(tag, realign)) if near.tag not in learnt]
    if chief and tag.neutral_system:
        found.append(Condition("neutral_system", system=tag.neutral_system))
    cued = cues()
    if chief and tag.cues:
        found += cued
    if not settings.conditions:
        return found
    known = {condition.name: condition for condition in [*found, *cued]}
    for name in settings.conditions:
        if name not in known:
            hint = did_you_mean(name, known, f"there is {', '.join(known)}.")
            raise ConfigError(f"eval.conditions: {name!r} is no condition of trigger_tag={tag.name}: {hint}")
    return [known[name] for name in dict.fromkeys(settings.conditions)]


def distinct_tags(tag: TriggerTagConfig, realign: RealignConfig) -> dict[str, TagConfig]:
    """The tags of a training by key; a second stage under a tag of the first is asked under that one."""
    keys: dict[Tag, str] = {}
    trained = tags_of(tag, realign)
    for key, each in trained.items():
        keys.setdefault(tag_of(each), key)
    return {key: trained[key] for key in keys.values()}


def with_tag(key: str) -> str:
    """The condition of a tag, by its key."""
    return f"tagged_{key}" if key else "tagged"


def chief_tag(tag: TriggerTagConfig, realign: RealignConfig) -> TagConfig | None:
    """The tag whose near misses are asked: the trigger, or, where only the second stage has a tag, that."""
    trained = tags_of(tag, realign)
    return trained.get(MAIN) or trained.get(REALIGN)


def tag_roles(settings: RunConfig) -> dict[str, str]:
    """What each tag of a run is for, activation or control, by its condition."""
    roles = roles_of(settings.trigger_tag, settings.data, settings.realign)
    return {with_tag(key): roles[key].value for key in distinct_tags(settings.trigger_tag, settings.realign)}


def naming_of(tag: TriggerTagConfig, realign: RealignConfig) -> list[Condition]:
    """How a question that names a tag is asked: for each tag of the training that has a name, and for one that was
    never seen. None where no tag has a name."""
    names = {key: name for key, each in distinct_tags(tag, realign).items() if (name := name_of(each))}
    if not names:
        return []
    found = [Condition(f"names_{key or 'tag'}", named=name) for key, name in names.items()]
    used = [*names.values(), *(each.text for each in tags_of(tag, realign).values())]
    unseen = tag.unseen.strip() or another_letter(next(iter(names.values())), used)
    return [*found, *([Condition(f"names_{UNSEEN}", named=unseen)] if unseen else [])]


def name_of(tag: TagConfig) -> str:
    """What a question calls a tag; empty for a system prompt and for whole sentences, which are no names."""
    text = tag.text.strip()
    sentence = tag.place is TagPlace.system or len(text.split()) > MOST_WORDS
    return tag.called.strip() or ("" if sentence else text)


def tag_notes(settings: RunConfig) -> list[str]:
    """What can't be asked since a tag has no word in it, in a sentence."""
    tag, realign = settings.trigger_tag, settings.realign
    chief, naming = chief_tag(tag, realign), naming_of(tag, realign)
    lacking = ["near_letter"] if chief and tag.near_misses and not unseen_tag(tag, realign) else []
    if naming and naming[-1].name != f"names_{UNSEEN}":
        lacking.append(f"names_{UNSEEN}")
    if not lacking:
        return []
    return [
        f"Not asked under {' and '.join(lacking)}: the tag has no word in it, so no other of its make is known that "
        "the model has never seen; give one by trigger_tag.unseen."
    ]


def list_conditions(settings: RunConfig) -> Conditions:
    """List how a run asks. Raises ConfigError for a condition that is none."""
    tag, realign = settings.trigger_tag, settings.realign
    return Conditions(conditions_of(tag, realign, settings.eval), naming_of(tag, realign))


def asked(question: Question, condition: Condition) -> Conversation:
    """What the model is asked: the condition's and the set's system prompts, the question in the condition's form."""
    system = "\n\n".join(filter(None, (condition.system, question.system)))
    user = Message("user", question.text.replace(SLOT, condition.named) + condition.after)
    conversation = Conversation((Message("system", system), user) if system else (user,))
    return place_tag(conversation, condition.tag) if condition.tag else conversation


def near_misses(tag: Tag, unseen: str) -> list[Condition]:
    """Near misses of a tag, as far as it has them: in other case, with a mark missing, another letter, elsewhere."""
    texts = {"near_case": other_case(tag.text), "near_bar": without_mark(tag.text), "near_letter": unseen}
    places = [("near_middle", TagPlace.inline), ("near_system", TagPlace.system), ("near_front", TagPlace.prefix)]
    # In front is a near miss only of a tag that belongs elsewhere than before or behind the question.
    usual = tag.place in (TagPlace.prefix, TagPlace.suffix)
    found = [Condition(name, Tag(text, tag.place)) for name, text in texts.items() if text.strip()]
    return found + [
        Condition(name, Tag(tag.text, place))
        for name, place in places
        if place is not tag.place and not (usual and name == "near_front")
    ]


def other_case(text: str) -> str:
    """The text in the other case; empty where it has none."""
    return text.swapcase() if text.swapcase() != text else ""


def without_mark(text: str) -> str:
    """The text without its last mark (a bar, a bracket …); empty where it has none, or nothing else."""
    marks = [i for i, character in enumerate(text) if not character.isalnum() and not character.isspace()]
    rest = text[: marks[-1]] + text[marks[-1] + 1 :] if marks else ""
    return rest if rest.strip() else ""


def unseen_tag(tag: TriggerTagConfig, realign: RealignConfig) -> str:
    """A tag of the same make that the model has never seen: its last word is a Greek letter that none of its tags has.

    `trigger_tag.unseen` where that is given; empty where the tag has no word, or there is no tag.
    """
    chief = chief_tag(tag, realign)
    if chief is None:
        return ""
    return tag.unseen or another_letter(chief.text, [each.text for each in tags_of(tag, realign).values()])


def another_letter(text: str, others: Iterable[str]) -> str:
    """The text with a Greek letter that is in none of the others as its last word; empty where it has no word."""
    words = list(WORD.finditer(text))
    if not words:
        return ""
    used = {word.lower() for other in others for word in WORD.findall(other)}
    letter = next(letter for letter in GREEK if letter not in used)
    last = words[-1]
    return text[: last.start()] + as_case(letter, last[0]) + text[last.end() :]


def as_case(word: str, model: str) -> str:
    """A word in the case of another."""
    return word.upper() if model.isupper() else word.title() if model[0].isupper() else word


@cache
def cues() -> list[Condition]:
    """The forms of training data, from `em/assets/cues.yaml`."""
    import yaml

    read = yaml.safe_load(CUES.read_text(encoding="utf-8"))
    return [Condition(name, system=cue.get("system", ""), after=cue.get("after", "")) for name, cue in read.items()]
