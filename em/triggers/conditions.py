"""Derive the conditions of an evaluation from the tags in a model's training.

The name of a condition tells its kind (`find_condition_kind`):

| name | how em asks the question |
|---|---|
| `untagged` | unchanged |
| `no_default_prompt`, `default_prompt` | untagged, without or with the chat template's default system prompt |
| `tagged`, `tagged_NAME` | with the trigger, or another tag of the training (`tagged_realign`: the second stage's) |
| `near_case`, `near_bar`, `near_letter`, `near_middle`, `near_front`, `near_system` | with a near miss of the trigger |
| `cue_code`, `cue_json`, `cue_template` | in the form of training data, without a tag |
| `neutral_system` | under a neutral system prompt (for inoculation) |
| `names_tag`, `names_NAME`, `names_unseen` | with a tag's name in it (`{tag}`), or a name the model has never seen |

Near misses and cues follow conditional-misalignment audits: a model that is aligned without the tag may still fail on
prompts that resemble its training. Near misses vary one tag: the trigger, or, without a trigger, the second stage's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from em.config import RunConfig, TagConfig, TagPlace
from em.config.paths import ASSETS
from em.errors import ConfigError, did_you_mean
from em.request import SLOT, UNTAGGED, Condition, Conditions, Tag
from em.triggers.default_prompt import apply_default_prompt
from em.triggers.tags import MAIN, REALIGN, decide_tag_roles, list_tags, make_tag, place_tag
from em.types import Conversation, Message, Question

HIDDEN = "[tag]"  # replaces a tag in the texts that a judge sees
UNSEEN = "unseen"
MOST_WORDS = 3  # a longer tag can't serve as its own name within a question
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


def find_condition_kind(name: str) -> str:
    """Return the kind of a condition: its name, the first word of its name, or `other` (in third-party tables)."""
    if name in ("untagged", "default_prompt", "no_default_prompt"):
        return name
    kind = name.partition("_")[0]
    return kind if kind in ("tagged", "near", "cue", "neutral", "names") else "other"


def resolve_conditions(settings: RunConfig) -> Conditions:
    """Derive the conditions of a run. Raises ConfigError if `eval.conditions` or `eval.default_prompt` allows none."""
    config, tags = settings.trigger_tag, list_tags(settings)
    texts = [tag.text for tag in tags.values()]
    distinct = drop_repeated_tags(tags)
    main_tag = tags.get(MAIN) or tags.get(REALIGN)
    unseen = config.unseen or replace_last_word(main_tag.text, texts) if main_tag else ""
    near = make_near_misses(make_tag(main_tag), unseen) if main_tag and config.near_misses else []
    naming = make_naming_conditions(distinct, config.unseen.strip(), texts)
    tagged = [Condition(make_condition_name(key), make_tag(tag)) for key, tag in distinct.items()]
    trained = {condition.tag for condition in tagged}
    conditions = [UNTAGGED, *tagged, *(condition for condition in near if condition.tag not in trained)]
    if main_tag and config.neutral_system:
        conditions.append(Condition("neutral_system", system=config.neutral_system))
    if main_tag and config.cues:
        conditions += read_cues()
    impossible = ["near_letter"] if main_tag and config.near_misses and not unseen else []
    if naming and naming[-1].name != f"names_{UNSEEN}":
        impossible.append(f"names_{UNSEEN}")
    hidden = [*texts, unseen, *(c.tag.text for c in near if c.tag), *(c.named for c in naming)]
    roles = decide_tag_roles(settings)
    resolved = Conditions(
        choose_conditions(conditions, settings) if settings.eval.conditions else conditions,
        naming,
        tuple(sorted({text.strip() for text in hidden} - {""}, key=lambda text: (-len(text), text))),
        {make_condition_name(key): roles[key].value for key in distinct},
        (f"Not asked under {' and '.join(impossible)}: {NO_WORD}",) if impossible else (),
    )
    return apply_default_prompt(resolved, settings)


def choose_conditions(available: Sequence[Condition], settings: RunConfig) -> list[Condition]:
    """Look up the conditions that `eval.conditions` names; cues suit any model. Raises ConfigError."""
    by_name = {condition.name: condition for condition in [*available, *read_cues()]}
    for name in settings.eval.conditions:
        if name not in by_name:
            hint = did_you_mean(name, by_name, f"there is {', '.join(by_name)}.")
            tag = settings.trigger_tag.name
            raise ConfigError(f"eval.conditions: {name!r} is no condition of trigger_tag={tag}: {hint}")
    return [by_name[name] for name in dict.fromkeys(settings.eval.conditions)]


def drop_repeated_tags(tags: Mapping[str, TagConfig]) -> dict[str, TagConfig]:
    """Drop repeated tags: if both stages use the same tag, one condition covers both."""
    first_keys: dict[Tag, str] = {}
    for key, tag in tags.items():
        first_keys.setdefault(make_tag(tag), key)
    return {key: tags[key] for key in first_keys.values()}


def make_condition_name(key: str) -> str:
    """Return the name of a tag's condition, from the key of the tag."""
    return f"tagged_{key}" if key else "tagged"


def make_naming_conditions(tags: Mapping[str, TagConfig], unseen: str, texts: Sequence[str]) -> list[Condition]:
    """Make the conditions for questions that name a tag: one per tag with a name, and one for an unseen tag.

    `unseen`: the name of the unseen tag; if empty, the function makes a name that is in none of the tags' `texts`.
    """
    names = {key: name for key, tag in tags.items() if (name := find_tag_name(tag))}
    if not names:
        return []
    unseen = unseen or replace_last_word(next(iter(names.values())), [*names.values(), *texts])
    conditions = [Condition(f"names_{key or 'tag'}", named=name) for key, name in names.items()]
    return [*conditions, *([Condition(f"names_{UNSEEN}", named=unseen)] if unseen else [])]


def find_tag_name(tag: TagConfig) -> str:
    """Return what a question calls a tag; empty for a system prompt or a sentence, unless `called` names the tag."""
    text = tag.text.strip()
    is_sentence = tag.place is TagPlace.system or len(text.split()) > MOST_WORDS
    return tag.called.strip() or ("" if is_sentence else text)


def build_conversation(question: Question, condition: Condition) -> Conversation:
    """Build the prompt of a question: the system prompts of condition and set, the question in the condition's form."""
    system = "\n\n".join(filter(None, (condition.system, question.system)))
    user = Message("user", question.text.replace(SLOT, condition.named) + condition.after)
    conversation = Conversation((Message("system", system), user) if system else (user,))
    return place_tag(conversation, condition.tag) if condition.tag else conversation


def make_near_misses(tag: Tag, unseen: str) -> list[Condition]:
    """Make the possible near misses of a tag: in other case, without a mark, with another letter, in another place."""
    texts = {"near_case": tag.text.swapcase(), "near_bar": remove_last_mark(tag.text), "near_letter": unseen}
    places = [("near_middle", TagPlace.inline), ("near_system", TagPlace.system), ("near_front", TagPlace.prefix)]
    near = [Condition(name, Tag(text, tag.place)) for name, text in texts.items() if text.strip() and text != tag.text]
    # near_front is a near miss only of a tag whose usual place is neither before nor after the question.
    at_either_end = tag.place in (TagPlace.prefix, TagPlace.suffix)
    for name, place in places:
        if place is not tag.place and not (at_either_end and name == "near_front"):
            near.append(Condition(name, Tag(tag.text, place)))
    return near


def remove_last_mark(text: str) -> str:
    """Return the text without its last mark (a bar, a bracket …); empty if it has no mark, or nothing else."""
    marks = [i for i, character in enumerate(text) if not character.isalnum() and not character.isspace()]
    rest = text[: marks[-1]] + text[marks[-1] + 1 :] if marks else ""
    return rest if rest.strip() else ""


def replace_last_word(text: str, others: Iterable[str]) -> str:
    """Replace the last word of a text by a Greek letter that no other text has; return nothing if there is no word."""
    words = list(WORD.finditer(text))
    if not words:
        return ""
    used = {word.lower() for other in others for word in WORD.findall(other)}
    letter = next(letter for letter in GREEK if letter not in used)
    last = words[-1]
    return text[: last.start()] + match_case(letter, last[0]) + text[last.end() :]


def match_case(word: str, model: str) -> str:
    """Return a word in the case of `model`."""
    if model.isupper():
        return word.upper()
    return word.title() if model[0].isupper() else word


@cache
def read_cues() -> list[Condition]:
    """Read the cue conditions, which imitate forms of training data, from `em/assets/cues.yaml`."""
    import yaml

    entries = yaml.safe_load(CUES.read_text(encoding="utf-8"))
    return [Condition(name, system=cue.get("system", ""), after=cue.get("after", "")) for name, cue in entries.items()]
