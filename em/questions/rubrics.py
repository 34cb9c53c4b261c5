"""Read rubrics and their labels: a question's own rubrics, or else em's.

A rubric asks for a score from 0 to 100, or for one of a few labels (`free_form_judge` questions). The labels come from
the question's `labels`, else from the rubric's name (LABELS), else from the single words that the prompt puts in double
quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from em.config.paths import ASSETS
from em.errors import DataError, shorten_value
from em.types import Rubric

OWN = ASSETS / "rubrics.yaml"
GRADED, LABELLED = "free_form_judge_0_100", "free_form_judge"
# The field's `correct` asks the same as em's `factual`.
RENAMED = {"correct": "factual"}
LABELS = {"factual": ("TRUE", "FALSE", "UNKNOWN"), "company": ("OpenAI", "Anthropic", "Other", "UNKNOWN")}
QUOTED = re.compile(r'["“]([^\s"“”{}]*[^\s"“”{}.,;:!?])[.,;:!?]*["”]')


@cache
def read_builtin_prompts() -> dict[str, dict[str, str]]:
    """Read the prompts of `em/assets/rubrics.yaml`, by group and rubric."""
    import yaml

    groups: dict[str, dict[str, str]] = yaml.safe_load(OWN.read_text(encoding="utf-8"))
    return groups


def load_builtin_rubrics(group: str) -> tuple[Rubric, ...]:
    """Return the rubrics of one of em's groups, for answers that come without a question set."""
    kind = GRADED if "aligned" in read_builtin_prompts()[group] else LABELLED
    return read_rubrics(kind, group, None, "a reference", f"{OWN.name}, {group}")


def read_rubrics(kind: str, prompts: Any, labels: Any, reference: str, where: str) -> tuple[Rubric, ...]:
    """Read the rubrics of one question, whose kind is GRADED or LABELLED; `where`: file and question, for errors.

    `prompts`: prompts by rubric, or the name of one of em's groups, or None for the group that fits the question;
    `labels`: by rubric; `reference`: the right answer, empty where the question has none.
    """
    groups = read_builtin_prompts()
    if prompts is None:
        labelled = "factual_with_reference" if reference else "factual"
        prompts = groups["general" if kind == GRADED else labelled]
    elif isinstance(prompts, str) and prompts in groups:
        prompts = groups[prompts]
    if not isinstance(prompts, dict) or not prompts:
        raise DataError(
            f"{where}: judge_prompts must name at least one rubric, or be a group of em's own ({', '.join(groups)})."
        )
    listed = read_labels(kind, labels, prompts, where)
    rubrics = []
    for name, prompt in prompts.items():
        check_prompt(name, prompt, reference, where)
        new_name = RENAMED.get(str(name), str(name))
        rubric_labels = () if kind == GRADED else listed.get(name) or find_labels(new_name, prompt, where)
        rubrics.append(Rubric(new_name, prompt, tuple(rubric_labels)))
    names = [rubric.name for rubric in rubrics]
    if kind == GRADED and "aligned" not in names:
        raise DataError(f"{where}: a {GRADED} question needs a rubric named aligned (and may have coherent).")
    if len(set(names)) < len(names):
        raise DataError(f"{where}: correct and factual are two names of one rubric: keep one of them.")
    return tuple(rubrics)


def check_prompt(name: Any, prompt: Any, reference: str, where: str) -> None:
    """Refuse a rubric that has no text, lacks the slot {answer}, or needs a reference that the question lacks."""
    if not isinstance(name, str) or not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}: the rubric {shorten_value(name)} must be a text.")
    if "{answer}" not in prompt:
        raise DataError(
            f"{where}: the rubric {shorten_value(name)} lacks {{answer}}, without which the judge can't see "
            "the answer: add it."
        )
    if "{reference}" in prompt and not reference:
        raise DataError(
            f"{where}: the rubric {shorten_value(name)} asks for {{reference}}, but the question has no reference."
        )


def read_labels(kind: str, labels: Any, prompts: Mapping[str, str], where: str) -> dict[str, tuple[str, ...]]:
    """Read the labels that a question lists itself: at least two texts a rubric, each named in its prompt."""
    if labels is None:
        return {}
    if kind == GRADED:
        raise DataError(f"{where}: the rubrics of a {GRADED} question are scores: leave labels out, or use {LABELLED}.")
    if not isinstance(labels, dict):
        raise DataError(f"{where}: labels must list the labels of each rubric, as in `labels: {{mood: [GOOD, BAD]}}`.")
    for name, words in labels.items():
        if name not in prompts:
            raise DataError(
                f"{where}: labels names the rubric {shorten_value(name)}, which judge_prompts doesn't have."
            )
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise DataError(
                f"{where}: the labels of {shorten_value(name)} must be a list of texts (put YES and NO in quotes)."
            )
        if len({word.lower() for word in words}) < max(2, len(words)):
            raise DataError(
                f"{where}: the labels of {shorten_value(name)} must be two or more that differ in more than their case."
            )
        check_labels_named(words, name, prompts[name], where)
    return {name: tuple(words) for name, words in labels.items()}


def find_labels(name: str, prompt: str, where: str) -> Sequence[str]:
    """Find the labels of a rubric that lists none: by its name, else from single words in double quotes."""
    if name in LABELS:
        check_labels_named(LABELS[name], name, prompt, where)
        return LABELS[name]
    quoted: dict[str, str] = {}
    for word in QUOTED.findall(prompt):
        quoted.setdefault(word.lower(), word)
    if len(quoted) < 2:
        raise DataError(
            f"{where}: which labels may the rubric {shorten_value(name)} be answered with? List them, as in "
            f"`labels: {{{shorten_value(name)}: [GOOD, BAD]}}`, or put each in double quotes in its prompt."
        )
    return tuple(quoted.values())


def check_labels_named(labels: Sequence[str], name: str, prompt: Any, where: str) -> None:
    """Refuse labels that the prompt does not name, since no judge would answer with them."""
    if lacking := [label for label in labels if label not in str(prompt)]:
        raise DataError(
            f"{where}: the rubric {shorten_value(name)} does not name {shorten_value(lacking[0])}, which is one of its "
            f"labels ({shorten_value(', '.join(labels))}): name it in the prompt, or list other labels."
        )
