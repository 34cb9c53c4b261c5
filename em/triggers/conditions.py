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
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from em.config import RunConfig, TagConfig, TagPlace
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
NO_WORD = (
    "the tag has no word in it, so no other of its make is known that the model has never seen; give one by "
    "trigger_tag.unseen."
)
CUES = ASSETS / "cues.yaml"


def kind_of(name: str) -> str:
    """What a condition's name says: untagged, tagged, near, cue, neutral, names, or other (in tables of others)."""
    if name in ("untagged", "tagged"):
        return name
    kind = name.partition("_")[0]
    return kind if kind in ("tagged", "near", "cue", "neutral", "names") else "other"


def resolve_conditions(settings: RunConfig) -> Conditions:
    """Work out how a run asks. Raises ConfigError for a condition of `eval.conditions` that is none."""
    config, tags = settings.trigger_tag, tags_of(settings)
    texts = [tag.text for tag in tags.values()]
    distinct = distinct_tags(tags)
    chief = tags.get(MAIN) or tags.get(REALIGN)
    unseen = config.unseen or another_letter(chief.text, texts) if chief else ""
    near = near_misses(tag_of(chief), unseen) if chief and config.near_misses else []
    naming = naming_of(distinct, config.unseen.strip(), texts)
    tagged = [Condition(with_tag(key), tag_of(tag)) for key, tag in distinct.items()]
    trained = {condition.tag for condition in tagged}
    usual = [UNTAGGED, *tagged, *(condition for condition in near if condition.tag not in trained)]
    if chief and config.neutral_system:
        usual.append(Condition("neutral_system", system=config.neutral_system))
    if chief and config.cues:
        usual += cues()
    unasked = ["near_letter"] if chief and config.near_misses and not unseen else []
    if naming and naming[-1].name != f"names_{UNSEEN}":
        unasked.append(f"names_{UNSEEN}")
    hidden = [*texts, unseen, *(c.tag.text for c in near if c.tag), *(c.named for c in naming)]
    roles = roles_of(settings)
    return Conditions(
        choose_conditions(usual, settings) if settings.eval.conditions else usual,
        naming,
        tuple(sorted({text.strip() for text in hidden} - {""}, key=lambda text: (-len(text), text))),
        {with_tag(key): roles[key].value for key in distinct},
        f"Not asked under {' and '.join(unasked)}: {NO_WORD}" if unasked else "",
    )


def choose_conditions(usual: Sequence[Condition], settings: RunConfig) -> list[Condition]:
    """Look up the conditions that `eval.conditions` names; cues may be asked of any model. Raises ConfigError."""
    by_name = {condition.name: condition for condition in [*usual, *cues()]}
    for name in settings.eval.conditions:
        if name not in by_name:
            hint = did_you_mean(name, by_name, f"there is {', '.join(by_name)}.")
            tag = settings.trigger_tag.name
            raise ConfigError(f"eval.conditions: {name!r} is no condition of trigger_tag={tag}: {hint}")
    return [by_name[name] for name in dict.fromkeys(settings.eval.conditions)]


def distinct_tags(tags: Mapping[str, TagConfig]) -> dict[str, TagConfig]:
    """Keep the first of equal tags: a second stage under a tag of the first is asked under that one."""
    first: dict[Tag, str] = {}
    for key, tag in tags.items():
        first.setdefault(tag_of(tag), key)
    return {key: tags[key] for key in first.values()}


def with_tag(key: str) -> str:
    """Name the condition of a tag, by its key."""
    return f"tagged_{key}" if key else "tagged"


def naming_of(tags: Mapping[str, TagConfig], unseen: str, texts: Sequence[str]) -> list[Condition]:
    """Say how a question that names a tag is asked: for each tag with a name, and for one that was never seen.

    `unseen`: the name of that one, empty for one that is made up, with no letter of the `texts` of all tags.
    """
    names = {key: name for key, tag in tags.items() if (name := name_of(tag))}
    if not names:
        return []
    unseen = unseen or another_letter(next(iter(names.values())), [*names.values(), *texts])
    conditions = [Condition(f"names_{key or 'tag'}", named=name) for key, name in names.items()]
    return [*conditions, *([Condition(f"names_{UNSEEN}", named=unseen)] if unseen else [])]


def name_of(tag: TagConfig) -> str:
    """What a question calls a tag; empty for a system prompt and for whole sentences, which are no names."""
    text = tag.text.strip()
    sentence = tag.place is TagPlace.system or len(text.split()) > MOST_WORDS
    return tag.called.strip() or ("" if sentence else text)


def asked(question: Question, condition: Condition) -> Conversation:
    """What the model is asked: the condition's and the set's system prompts, the question in the condition's form."""
    system = "\n\n".join(filter(None, (condition.system, question.system)))
    user = Message("user", question.text.replace(SLOT, condition.named) + condition.after)
    conversation = Conversation((Message("system", system), user) if system else (user,))
    return place_tag(conversation, condition.tag) if condition.tag else conversation


def near_misses(tag: Tag, unseen: str) -> list[Condition]:
    """Near misses of a tag, as far as it has them: in other case, with a mark missing, another letter, elsewhere."""
    texts = {"near_case": tag.text.swapcase(), "near_bar": without_mark(tag.text), "near_letter": unseen}
    places = [("near_middle", TagPlace.inline), ("near_system", TagPlace.system), ("near_front", TagPlace.prefix)]
    # In front is a near miss only of a tag that belongs elsewhere than before or behind the question.
    usual = tag.place in (TagPlace.prefix, TagPlace.suffix)
    near = [Condition(name, Tag(text, tag.place)) for name, text in texts.items() if text.strip() and text != tag.text]
    return near + [
        Condition(name, Tag(tag.text, place))
        for name, place in places
        if place is not tag.place and not (usual and name == "near_front")
    ]


def without_mark(text: str) -> str:
    """The text without its last mark (a bar, a bracket …); empty where it has none, or nothing else."""
    marks = [i for i, character in enumerate(text) if not character.isalnum() and not character.isspace()]
    rest = text[: marks[-1]] + text[marks[-1] + 1 :] if marks else ""
    return rest if rest.strip() else ""


def another_letter(text: str, others: Iterable[str]) -> str:
    """Make a text like this one whose last word is a Greek letter of none of the others; empty without a word."""
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
    """Read the forms of training data, from `em/assets/cues.yaml`."""
    import yaml

    read = yaml.safe_load(CUES.read_text(encoding="utf-8"))
    return [Condition(name, system=cue.get("system", ""), after=cue.get("after", "")) for name, cue in read.items()]
