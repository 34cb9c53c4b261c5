"""An error names each fault in a question set with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from em.errors import DataError
from em.questions import load_set
from tests.support.question_files import GOOD, format_question, write_question_file


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("- id: [", "is not YAML"),
        ("a: !!python/object:os.system {}", "is not YAML"),
        ("", "expected a list"),
        ("id: q1", "expected a list"),
        ("[]", "holds no questions"),
        ("- hello", "entry 1: every question needs an id"),
        ("- {type: free_form_judge}", "needs an id"),
        ("- {id: 7, type: free_form_judge}", "needs an id"),
        (format_question(paraphrases=None), "question q1: paraphrases must be"),
        (format_question(paraphrases="a"), "question q1: paraphrases must be"),
        (format_question(paraphrases=["a", 7]), "question q1: paraphrases must be"),
        (format_question(paraphrases=["a", "  "]), "question q1: paraphrases must be"),
        (format_question(paraphrases=["a", "a"]), "question q1: two paraphrases are the same"),
        (format_question() + format_question(id="q2", paraphrases=[]), "question q2: paraphrases must be"),
        (format_question(judge_prompts={}), "question q1: judge_prompts must name"),
        (format_question(judge_prompts="alined"), r"question q1: judge_prompts must name .*general, about_ai"),
        (format_question(judge_prompts={"coherent": "{answer}"}), "question q1: .* needs a rubric named aligned"),
        (format_question(judge_prompts={"aligned": "a"}), r"question q1: the rubric aligned lacks \{answer\}"),
        (format_question(judge_prompts={"aligned": 7}), "question q1: the rubric aligned must be a text"),
        (format_question(judge_prompts={"aligned": "{answer} {reference}"}), "question q1: .* has no reference"),
        (format_question(type="ranking"), "question q1: type must be .* not 'ranking'"),
        (format_question(type=None), "question q1: type must be .* not None"),
        (format_question(system=["a"]), "question q1: system must be a text"),
        (format_question(sytem="Be brief."), "question q1: sytem is no key of a question: did you mean system"),
        (format_question(samples_per_paraphrase=0), "question q1: samples_per_paraphrase must be .* not 0"),
        (format_question(samples_per_paraphrase="many"), "question q1: samples_per_paraphrase must be .* not 'many'"),
        (format_question(labels={"aligned": ["A", "B"]}), "question q1: the rubrics of a .* are scores"),
        # A verdict refers to a question's rubrics and reference by the question's id.
        (format_question() + format_question(paraphrases=["other"]), "two questions have the id q1"),
        ('- {question: "", category: factual}', "entry 1: question must be a text"),
        ("- {question: a}\n- {question: [a]}", "entry 2: question must be a text"),
        ("- {question: a, category: [b]}", "entry 1: category must be a word"),
        ("- {question: a}\n- {category: factual}", "entry 2: every question needs an id"),
    ],
)
def test_a_fault_in_a_set_is_named_with_its_place(tmp_path: Path, content: str, complaint: str) -> None:
    path = write_question_file(tmp_path, content)
    with pytest.raises(DataError, match=complaint) as caught:
        load_set(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompts", "labels", "complaint"),
    [
        ({"mood": "Good or bad? {answer}"}, None, "which labels may the rubric mood be answered with"),
        ({"mood": 'Is it "GOOD"? {answer}'}, None, "which labels may the rubric mood be answered with"),
        ({"factual": "TRUE or FALSE? {answer}"}, None, "the rubric factual does not name UNKNOWN"),
        ({"company": "OpenAI or Google? {answer}"}, None, "the rubric company does not name Anthropic"),
        ({"mood": "GOOD or BAD? {answer}"}, {"mood": ["GOOD", "SAD"]}, "the rubric mood does not name SAD"),
        ({"mood": "GOOD or BAD? {answer}"}, {"tone": ["GOOD", "BAD"]}, "labels names the rubric tone"),
        ({"mood": "GOOD or BAD? {answer}"}, {"mood": ["GOOD"]}, "must be two or more"),
        ({"mood": "GOOD or good? {answer}"}, {"mood": ["GOOD", "good"]}, "differ in more than their case"),
        ({"mood": "Yes or no? {answer}"}, {"mood": [True, False]}, "put YES and NO in quotes"),
        ({"mood": "GOOD or BAD? {answer}"}, ["GOOD", "BAD"], "labels must list the labels of each rubric"),
        (dict.fromkeys(("correct", "factual"), "TRUE FALSE UNKNOWN {answer}"), None, "two names of one rubric"),
    ],
)
def test_labels_that_no_judge_could_say_are_refused(
    tmp_path: Path, prompts: dict[str, str], labels: object, complaint: str
) -> None:
    path = write_question_file(tmp_path, format_question(type="free_form_judge", judge_prompts=prompts, labels=labels))
    with pytest.raises(DataError, match=complaint) as caught:
        load_set(path)
    assert f"{path}, question q1" in str(caught.value)


def test_a_file_that_is_not_utf8_or_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(GOOD.replace("brief", "brève").encode("latin-1"))
    with pytest.raises(DataError, match="is not YAML"):
        load_set(str(tmp_path / "mine.yaml"))
    with pytest.raises(DataError, match=r"is not JSON: .*line 2"):
        load_set(write_question_file(tmp_path, '[\n{"question": }]', "mine.json"))
