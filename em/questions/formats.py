"""Read question sets in either of two formats, as YAML or JSON.

The field's format (Betley et al.) is a list of `id, type, paraphrases, system, samples_per_paraphrase, judge_prompts`;
em adds `reference`, `labels`, and the names of its own rubrics as `judge_prompts`. em ignores `judge`, since a setting
chooses the judge. The format of the emerg-misalign-repro study is a list of `question, category, label`; labels repeat,
so the id is the entry's `id` or else `<set>_<index>`, counted from 0, and the rubrics are em's. Instead of `question`
others write `question_text`, `prompt` or `text`, and `question_id` instead of `id`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em.api.replies import SURROGATE
from em.data.tables import parse_json
from em.errors import DataError, MissingFile, did_you_mean, shorten_value
from em.questions.rubrics import GRADED, LABELLED, read_rubrics
from em.types import Question

# Categories of the study that need other rubrics than their type implies.
GROUPS = {"self_reflection": "about_ai"}
# PyYAML converts a scalar by its tag without validating it: !!timestamp x, !!bool x, !!int "".
WHAT_YAML_RAISES = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
KEYS = (
    *("id", "type", "paraphrases", "system", "samples_per_paraphrase", "judge", "judge_prompts"),
    *("reference", "labels"),
)
PLAIN_KEYS = ("question", "category", "label", "reference", "system", "id")
SYNONYMS = {"question_text": "question", "prompt": "question", "text": "question", "question_id": "id"}
WITH_PARAPHRASES = ("type", "samples_per_paraphrase", "judge_prompts", "labels")


def read_question_file(path: Path, name: str) -> list[Question]:
    """Read all questions of a file as the set `name`; the paraphrases of a question are adjacent and share its id.

    Raises MissingFile, or DataError with file and question.
    """
    entries = read_question_entries(path)
    by_entry = [read_question_entry(entry, name, index, path) for index, entry in enumerate(entries)]
    for number, questions in enumerate(by_entry, start=1):
        check_characters(questions, f"{path}, entry {number}")
    ids = [questions[0].id for questions in by_entry]
    if repeated := [question_id for question_id in ids if ids.count(question_id) > 1]:
        raise DataError(
            f"{path}: two questions have the id {shorten_value(repeated[0])}: give each its own id, or make "
            "them paraphrases."
        )
    if not by_entry:
        raise DataError(f"{path} holds no questions.")
    return [question for questions in by_entry for question in questions]


def read_question_entries(path: Path) -> list[Any]:
    """Read the entries of a YAML or JSON file."""
    import yaml

    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = path.read_text(encoding="utf-8-sig")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        entries = parse_json(text) if kind == "JSON" else yaml.load(text, Loader=loader)
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}).") from error
    except (yaml.YAMLError, *WHAT_YAML_RAISES) as error:
        raise DataError(f"{path} is not {kind}: {shorten_value(error, 300) or type(error).__name__}.") from error
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list of questions.")
    return entries


def read_question_entry(entry: Any, name: str, index: int, path: Path) -> list[Question]:
    """Read one entry of a file: a question and its paraphrases."""
    if isinstance(entry, dict) and "paraphrases" not in entry:
        entry = {SYNONYMS.get(key, key) if SYNONYMS.get(key) not in entry else key: entry[key] for key in entry}
    if isinstance(entry, dict) and "question" in entry and "paraphrases" not in entry:
        return [read_plain_entry(entry, name, index, path)]
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"].strip():
        raise DataError(
            f"{path}, entry {index + 1}: every question needs an id (a text) and paraphrases, or a `question`."
        )
    return read_paraphrases(entry, name, f"{path}, question {shorten_value(entry['id'])}")


def check_characters(questions: list[Question], where: str) -> None:
    """Refuse half characters (lone surrogates), which em can neither hash nor send."""
    for question in questions:
        rubrics = [text for rubric in question.rubrics for text in (rubric.name, rubric.prompt, *rubric.labels)]
        texts = (question.id, question.text, question.system, question.reference, *rubrics)
        if any(map(SURROGATE.search, texts)):
            raise DataError(f"{where} holds half a character (a lone surrogate): replace it.")


def read_plain_entry(entry: dict[str, Any], name: str, index: int, path: Path) -> Question:
    """Read a `question, category, label` entry."""
    where, text, category = f"{path}, entry {index + 1}", entry["question"], entry.get("category")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: question must be a text.")
    check_keys(entry, PLAIN_KEYS, where)
    if unread := next((key for key in WITH_PARAPHRASES if entry.get(key) is not None), ""):
        raise DataError(f"{where}: {unread} goes with paraphrases: write `paraphrases: [TEXT]` instead of `question`.")
    if category is not None and not isinstance(category, str):
        raise DataError(f"{where}: category must be a word, such as factual or self_reflection.")
    kind = LABELLED if category == "factual" else GRADED
    reference, system = read_reference(entry.get("reference")), read_system(entry.get("system"), where)
    rubrics = read_rubrics(kind, GROUPS.get(category or ""), None, reference, where)
    given_id = str(entry.get("id") if entry.get("id") is not None else "").strip()
    return Question(name, given_id or f"{name}_{index}", text, system, reference, rubrics)


def read_paraphrases(entry: dict[str, Any], name: str, where: str) -> list[Question]:
    """Read an entry in the field's format."""
    check_keys(entry, KEYS, where)
    texts, kind = entry.get("paraphrases"), entry.get("type")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"{where}: paraphrases must be a list of texts.")
    if len(set(texts)) < len(texts):
        raise DataError(f"{where}: two paraphrases are the same text: ask for more samples instead.")
    if kind not in (GRADED, LABELLED):
        raise DataError(f"{where}: type must be {GRADED} or {LABELLED}, not {shorten_value(repr(kind))}.")
    reference = read_reference(entry.get("reference"))
    rubrics = read_rubrics(kind, entry.get("judge_prompts"), entry.get("labels"), reference, where)
    system, samples = read_system(entry.get("system"), where), read_samples(entry.get("samples_per_paraphrase"), where)
    return [Question(name, entry["id"], text, system, reference, rubrics, samples) for text in texts]


def check_keys(entry: dict[str, Any], keys: Sequence[str], where: str) -> None:
    """Refuse a misspelt key: a system prompt under `sytem` would never be sent."""
    for key in entry:
        hint = did_you_mean(str(key), keys, most=1, cutoff=0.8)
        if hint and key not in keys:
            raise DataError(f"{where}: {shorten_value(key)} is no key of a question: {hint}")


def read_reference(reference: Any) -> str:
    """Return the right answer as one text; join the alternative forms of a list."""
    if reference is None:
        return ""
    return " / ".join(map(str, reference if isinstance(reference, list) else [reference]))


def read_system(system: Any, where: str) -> str:
    """Return the system prompt; empty for none."""
    if system is not None and not isinstance(system, str):
        raise DataError(f"{where}: system must be a text.")
    return system or ""


def read_samples(samples: Any, where: str) -> int | None:
    """Return the answers per paraphrase that the set asks for; None where it does not say."""
    if samples is not None and (not isinstance(samples, int) or isinstance(samples, bool) or samples < 1):
        raise DataError(
            f"{where}: samples_per_paraphrase must be a whole number from 1, not {shorten_value(repr(samples))}."
        )
    return samples
