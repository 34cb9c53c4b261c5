"""Conditions for the default system prompt that some chat templates insert (`eval.default_prompt`).

An answer under another prompt than that of the training has a condition of its own, so no cell of a report mixes the
two. Conditions of tags are asked under the prompt of the training alone.
"""

from __future__ import annotations

from dataclasses import replace

from em.config import DefaultPrompt, HfModel, RunConfig
from em.errors import ConfigError, TemplateError
from em.request import UNTAGGED, Condition, Conditions

WITHOUT = Condition("no_default_prompt", default_system=False)
WITH = Condition("default_prompt", default_system=True)


def apply_default_prompt(conditions: Conditions, settings: RunConfig) -> Conditions:
    """Apply `eval.default_prompt` to the conditions of a run. Raises ConfigError if it leaves none."""
    option = settings.eval.default_prompt
    if option is DefaultPrompt.none:
        return drop_tag_conditions(conditions)
    if option is DefaultPrompt.template or UNTAGGED not in conditions.usual:
        return conditions
    match settings.model:
        case HfModel(default_system=kept):
            return replace(conditions, other_prompt=WITHOUT if kept else WITH)
    reason = f"the server of model={settings.model.name} applies the chat template"
    return replace(conditions, notes=(*conditions.notes, describe_asked_once(reason)))


def drop_tag_conditions(conditions: Conditions) -> Conditions:
    """Return the conditions of `eval.default_prompt=none`: untagged questions without the default system prompt."""
    if UNTAGGED not in conditions.usual:
        raise ConfigError(
            "eval.default_prompt=none asks untagged questions alone, and eval.conditions leaves them out: add untagged "
            "there, or use eval.default_prompt=template."
        )
    dropped = [each.name for each in (*conditions.usual, *conditions.naming) if each != UNTAGGED]
    notes = (f"Not asked with eval.default_prompt=none: {', '.join(dropped)}.",) if dropped else ()
    return replace(conditions, usual=(WITHOUT,), naming=(), notes=notes)


def adapt_to_template(conditions: Conditions, prompt: str | None, model: str) -> Conditions:
    """Adapt the conditions of `eval.default_prompt` to a model's chat template.

    Args:
        prompt: the template's default system prompt, "" if it has none, None if it is unknown.

    Raises:
        TemplateError: `none` is to leave out an unknown prompt.
    """
    if prompt:
        return conditions
    if conditions.other_prompt:
        inserts = "inserts no default system prompt" if prompt == "" else "inserts an unknown text"
        note = describe_asked_once(f"the chat template of {model} {inserts}")
        return replace(conditions, other_prompt=None, notes=(*conditions.notes, note))
    if prompt is None:
        raise TemplateError(
            f"eval.default_prompt=none is not possible with {model}: its chat template renders a first user turn "
            "unlike later ones, so the text that it inserts is unknown; use eval.default_prompt=template."
        )
    note = f"eval.default_prompt=none changes nothing: the chat template of {model} inserts no default system prompt."
    return replace(conditions, usual=(replace(WITHOUT, default_system=None),), notes=(*conditions.notes, note))


def describe_asked_once(reason: str) -> str:
    """Return the note that `eval.default_prompt=both` has no second condition, and why."""
    return f"eval.default_prompt=both asks each question once: {reason}."
