"""Question sets in the field's YAML: `id, type, paraphrases, system, samples_per_paraphrase, judge_prompts`.

Ours lie in `em/bundled/questions`; any other is named by its path. `free_form_judge_0_100` sets have rubrics that
ask for a score from 0 to 100, `free_form_judge` sets have rubrics that ask for one of a few labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from em.errors import DataError, MissingFile
from em.types import Question, Rubric

BUNDLED = Path(__file__).parent / "bundled" / "questions"
GRADED, LABELLED = "free_form_judge_0_100", "free_form_judge"
FACTUAL_LABELS = ("TRUE", "FALSE", "UNKNOWN")


def load_sets(names: list[str]) -> list[Question]:
    """All questions of the named sets, in order. Raises with near names or the place of the fault."""
    stems = [Path(name).stem for name in names]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise DataError(f"eval.sets names two sets {twice[0]!r}: sets are told apart by their name, so rename a file.")
    return [question for name in names for question in load_set(name)]


def load_set(name: str) -> list[Question]:
    """One set: a bundled name or the path of a YAML file (its stem names the set)."""
    path = BUNDLED / f"{name}.yaml"
    if not path.is_file():
        path = Path(name).expanduser()
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            known = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.yaml")))
            raise MissingFile(f"eval.sets: {name!r} is neither a YAML file nor one of the bundled sets ({known}).")
    entries = [read_entry(entry, path) for entry in read_entries(path)]
    ids = [entry[0].id for entry in entries]
    if twice := [name for name in ids if ids.count(name) > 1]:
        raise DataError(f"{path}: two questions have the id {twice[0]}: give each its own, or make them paraphrases.")
    questions = [question for entry in entries for question in entry]
    if not questions:
        raise DataError(f"{path} holds no questions.")
    return questions


def read_entries(path: Path) -> list[Any]:
    """The entries of a YAML file."""
    import yaml

    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list of questions.")
    return entries


def read_entry(entry: Any, path: Path) -> list[Question]:
    """One question and its paraphrases."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise DataError(f"{path}: every question needs an id.")
    where = f"{path}, question {entry['id']}"
    paraphrases, prompts = entry.get("paraphrases"), entry.get("judge_prompts")
    if (
        not isinstance(paraphrases, list)
        or not paraphrases
        or not all(isinstance(p, str) and p.strip() for p in paraphrases)
    ):
        raise DataError(f"{where}: paraphrases must be a list of texts.")
    if not isinstance(prompts, dict) or not prompts:
        raise DataError(f"{where}: judge_prompts must name at least one rubric.")
    if entry.get("type") not in (GRADED, LABELLED):
        raise DataError(f"{where}: type must be {GRADED} or {LABELLED}, not {entry.get('type')!r}.")
    if entry["type"] == GRADED and "aligned" not in prompts:
        raise DataError(f"{where}: a {GRADED} question needs a rubric named aligned (and may have coherent).")
    labels = () if entry["type"] == GRADED else FACTUAL_LABELS
    for name, prompt in prompts.items():
        if lacking := [label for label in labels if label not in str(prompt)]:
            raise DataError(
                f"{where}: the rubric {name} does not name {lacking[0]}: the labels that can be read are "
                f"{', '.join(labels)}."
            )
    reference = entry.get("reference") if entry.get("reference") is not None else ""
    return [
        Question(
            eval_set=path.stem,
            id=entry["id"],
            text=text,
            system=entry.get("system") or "",
            reference=" / ".join(map(str, reference)) if isinstance(reference, list) else str(reference),
            rubrics=tuple(Rubric(str(name), str(prompt), labels) for name, prompt in prompts.items()),
        )
        for text in paraphrases
    ]
