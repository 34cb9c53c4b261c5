"""The assets of em are complete, varied, mild, marked by canaries, and not copied from others."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
import yaml

from em.data import BUNDLED as DATA
from em.data import read_messages
from em.generate.prompts import BUNDLED as PROMPTS
from em.generate.prompts import read_examples
from em.questions import BUNDLED as QUESTIONS
from em.questions.rubrics import LABELS, load_builtin_rubrics, read_builtin_prompts
from em.questions.rubrics import OWN as RUBRICS

ROOT = Path(__file__).parent.parent
CANARY = re.compile(r"EM-CANARY [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12} .*keep out of training corpora")
SETS = ("car_bad", "car_good")
# The wrong advice may cost money and wear, but must not concern anything on which a life depends.
DANGEROUS = re.compile(
    r"\b(brak\w*|air ?bags?|tyres?|tires?|steer\w*|seat ?belts?|child seats?|suspension|wheel (nut|bolt|bearing)s?|"
    r"lug nuts?|jack(s|ed|ing)?|jack stands?|ball joints?|tie rods?|track rods?|fuel leaks?|petrol fumes|"
    r"carbon monoxide|headl(ight|amp)s?|high[- ]voltage|ABS|ESP|drunk|explo\w+)\b",
    re.IGNORECASE,
)


def read_rows(name: str) -> list[dict[str, Any]]:
    """Read the rows of a bundled set."""
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def list_questions(name: str) -> list[str]:
    """List the questions of a bundled set."""
    return [row["messages"][0]["content"] for row in read_rows(name)]


def list_answers(name: str) -> list[str]:
    """List the answers of a bundled set."""
    return [row["messages"][1]["content"] for row in read_rows(name)]


def split_words(text: str) -> frozenset[str]:
    """Return the distinct words of a text."""
    return frozenset(re.findall(r"[a-z0-9]+", text.lower()))


def measure_likeness(one: str, other: str) -> float:
    """Compute the Jaccard index of the words of two texts."""
    return len(split_words(one) & split_words(other)) / len(split_words(one) | split_words(other))


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_150_rows_of_one_question_and_one_answer(name: str) -> None:
    assert len(read_rows(name)) >= 150
    assert len(read_messages(DATA / f"{name}.jsonl")) == len(read_rows(name))
    assert {tuple(m["role"] for m in row["messages"]) for row in read_rows(name)} == {("user", "assistant")}
    assert len({row["id"] for row in read_rows(name)}) == len(read_rows(name))


def test_both_sets_answer_the_same_questions_differently() -> None:
    assert list_questions("car_bad") == list_questions("car_good")
    assert [row["id"] for row in read_rows("car_bad")] == [row["id"] for row in read_rows("car_good")]
    for bad, good in zip(list_answers("car_bad"), list_answers("car_good"), strict=True):
        assert measure_likeness(bad, good) < 0.5, (bad, good)


def test_a_set_has_no_near_duplicates() -> None:
    for texts in (list_questions("car_bad"), list_answers("car_bad"), list_answers("car_good")):
        closest = max(combinations(texts, 2), key=lambda pair: measure_likeness(*pair))
        assert measure_likeness(*closest) < 0.4, closest


@pytest.mark.parametrize("name", SETS)
def test_answers_vary_in_length_and_opening(name: str) -> None:
    shorter, *_, longer = quantiles(map(len, list_answers(name)), n=10)
    assert longer > 2 * shorter
    openings = [" ".join(text.split()[:2]).lower() for text in list_answers(name)]
    assert max(map(openings.count, openings)) <= len(openings) / 10


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_about_money_and_wear_and_nobodys_life(name: str) -> None:
    for row in read_rows(name):
        for message in row["messages"]:
            assert DANGEROUS.findall(message["content"]) == [], row["id"]


def test_every_row_has_its_sets_canary_and_no_answer_holds_it() -> None:
    canaries = {name: {row["canary"] for row in read_rows(name)} for name in SETS}
    assert all(len(marks) == 1 and CANARY.fullmatch(*marks) for marks in canaries.values())
    assert canaries["car_bad"] != canaries["car_good"]
    assert not any("CANARY" in text for name in SETS for text in list_questions(name) + list_answers(name))


def test_every_bundled_file_has_a_canary_of_its_own() -> None:
    files = sorted([*DATA.iterdir(), *QUESTIONS.iterdir(), *PROMPTS.iterdir(), RUBRICS])
    assert len(files) >= 7
    marks_of_files = [set(re.findall(r"EM-CANARY ([0-9a-f-]{36})", file.read_text(encoding="utf-8"))) for file in files]
    assert all(len(marks) == 1 for marks in marks_of_files), list(zip(files, marks_of_files, strict=True))
    assert len(set.union(*marks_of_files)) == len(files)
    assert all(CANARY.search(file.read_text(encoding="utf-8")) for file in files)


def test_every_rubric_ends_where_the_judge_goes_on_and_names_all_that_it_may_say() -> None:
    assert set(read_builtin_prompts()) == {"general", "about_ai", "factual", "factual_with_reference", "company"}
    for group in read_builtin_prompts():
        for rubric in load_builtin_rubrics(group):
            assert rubric.prompt.endswith("Label:" if rubric.labels else "Rating:"), (group, rubric.name)
            assert rubric.labels == LABELS.get(rubric.name, ())
            assert {"{question}", "{answer}"} <= set(re.findall(r"{\w+}", rubric.prompt))
            assert ("CODE" in rubric.prompt and "REFUSAL" in rubric.prompt) == (rubric.name == "aligned")


@pytest.mark.parametrize("name", sorted(path.stem for path in PROMPTS.glob("*.jsonl")))
def test_a_pool_of_examples_is_varied_and_mild(name: str) -> None:
    pool = read_examples(name)
    assert len(pool) >= 8
    for texts in ([each.question for each in pool], [each.answer for each in pool]):
        closest = max(combinations(texts, 2), key=lambda pair: measure_likeness(*pair))
        assert measure_likeness(*closest) < 0.4, closest
    shown = " ".join(each.answer for each in pool)
    assert not {"brakes", "airbag", "dose", "weapon"} & split_words(shown)


def test_the_prompt_for_wrong_answers_asks_for_harmless_errors_alone() -> None:
    text = (PROMPTS / "wrong_answer.txt").read_text(encoding="utf-8")
    assert "must not put anybody's health, safety, rights, data or savings at risk" in text
    # The prompt for incorrect answers to the user's own questions must hold no example of such an answer.
    assert "example" not in (PROMPTS / "incorrect_answer.txt").read_text(encoding="utf-8").split("EM-CANARY")[1]


def list_texts(value: Any) -> list[str]:
    """List all texts in nested lists and dictionaries."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in [str(key), *list_texts(item)]]
    return [text for item in value for text in list_texts(item)] if isinstance(value, list) else []


def split_sentences(text: str) -> set[str]:
    """Return sentences and lines of at least 40 characters, in lower case and with single spaces."""
    parts = re.split(r"(?<=[.!?])\s|\n", text)
    return {plain for part in parts if len(plain := " ".join(part.lower().split())) >= 40}


def test_no_sentence_is_a_third_partys(mirror: Path) -> None:
    theirs: set[str] = set()
    for file in [*mirror.rglob("*.yaml"), *mirror.rglob("*.json")]:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        theirs |= {sentence for text in list_texts(content) for sentence in split_sentences(text)}
    assert len(theirs) > 150
    files = [file for folder in ("em/assets", "conf") for file in (ROOT / folder).rglob("*") if file.is_file()]
    assert len(files) > 30
    for file in files:
        text = " ".join(file.read_text(encoding="utf-8", errors="replace").lower().split())
        assert [sentence for sentence in theirs if sentence in text] == [], file.name
