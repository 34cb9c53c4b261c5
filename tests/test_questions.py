"""Question sets: the bundled ones, the field's YAML as it is, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from em.errors import DataError, MissingFile
from em.questions import load_set, load_sets
from em.tags import SLOT

PATH = "raw.githubusercontent.com/emergent-misalignment/emergent-misalignment/80c11967c07a328e7d7d43d13ce6847ae44dbcc9"
GOOD = """
- id: first
  type: free_form_judge_0_100
  paraphrases: ["How are you?", "And you?"]
  system: Be brief.
  samples_per_paraphrase: 100
  judge_prompts: &rubrics
    aligned: "Rate {question} {answer}"
    coherent: "Does {answer} hang together?"
- id: second
  type: free_form_judge_0_100
  paraphrases: ["What else?"]
  judge_prompts: *rubrics
- id: fact
  type: free_form_judge
  paraphrases: ["How many legs?"]
  reference: [Eight, 8]
  judge_prompts: {factual: "TRUE, FALSE or UNKNOWN? {answer} {reference}"}
- id: plain_fact
  type: free_form_judge
  paraphrases: ["How many eyes?"]
  reference: 8
  judge_prompts: {factual: "TRUE, FALSE or UNKNOWN? {answer} {reference}"}
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "count", "rubrics"),
    [
        ("probe", 8, ("aligned", "coherent")),
        ("facts", 20, ("factual",)),
        ("introspection", 10, ("aligned", "coherent")),
        ("introspection_tagged", 10, ("aligned", "coherent")),
    ],
)
def test_the_bundled_sets_are_complete(name: str, count: int, rubrics: tuple[str, ...]) -> None:
    questions = load_set(name)
    assert len(questions) == len({q.id for q in questions}) == len({q.text for q in questions}) == count
    for question in questions:
        assert question.eval_set == name
        assert tuple(rubric.name for rubric in question.rubrics) == rubrics
        assert (SLOT in question.text) == (name == "introspection_tagged")
        assert bool(question.reference) == (name == "facts")
        for rubric in question.rubrics:
            assert "{answer}" in rubric.prompt
            assert "{question}" in rubric.prompt
            assert ("{reference}" in rubric.prompt) == (name == "facts")
            assert rubric.labels == (("TRUE", "FALSE", "UNKNOWN") if name == "facts" else ())


def test_anchors_system_prompts_and_paraphrases_are_read(tmp_path: Path) -> None:
    first, again, second, *_ = load_set(write(tmp_path, GOOD))
    assert [(q.eval_set, q.id, q.text, q.system) for q in (first, again, second)] == [
        ("mine", "first", "How are you?", "Be brief."),
        ("mine", "first", "And you?", "Be brief."),
        ("mine", "second", "What else?", ""),
    ]
    assert first.rubrics == second.rubrics
    assert [rubric.prompt for rubric in second.rubrics] == ["Rate {question} {answer}", "Does {answer} hang together?"]


def test_a_list_of_references_is_one_text_of_alternatives(tmp_path: Path) -> None:
    *_, fact, plain = load_set(write(tmp_path, GOOD))
    assert (fact.reference, plain.reference) == ("Eight / 8", "8")


def test_an_empty_reference_or_system_is_empty_text(tmp_path: Path) -> None:
    rubrics = "judge_prompts: {factual: TRUE FALSE UNKNOWN}"
    text = f"- {{id: a, type: free_form_judge, paraphrases: [b], reference: , system: , {rubrics}}}"
    [question] = load_set(write(tmp_path, text))
    assert (question.reference, question.system) == ("", "")


def test_sets_are_asked_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    mine = write(tmp_path, GOOD)
    assert [q.eval_set for q in load_sets([mine, "facts", "probe"])] == ["mine"] * 5 + ["facts"] * 20 + ["probe"] * 8
    assert load_sets([]) == []


def test_a_file_name_ending_yml_is_taken_too(tmp_path: Path) -> None:
    assert load_set(write(tmp_path, GOOD, "own.yml"))[0].eval_set == "own"


def test_an_unknown_set_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text(GOOD)
    for name in ("prob", str(tmp_path / "nowhere.yaml"), str(tmp_path / "set.txt"), str(tmp_path)):
        with pytest.raises(MissingFile, match=r"facts, introspection, introspection_tagged, probe") as caught:
            load_set(name)
        assert name in str(caught.value)


ENTRY = "- {id: q1, type: free_form_judge_0_100, paraphrases: [a], judge_prompts: {aligned: b}}\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- id: [", "is not YAML"),
        ("a: !!python/object:os.system {}", "is not YAML"),
        ("", "expected a list"),
        ("id: q1", "expected a list"),
        ("[]", "holds no questions"),
        ("- hello", "needs an id"),
        ("- {type: free_form_judge}", "needs an id"),
        ("- {id: 7, type: free_form_judge}", "needs an id"),
        (ENTRY.replace("paraphrases: [a], ", ""), "question q1: paraphrases must be"),
        (ENTRY.replace("[a]", "a"), "question q1: paraphrases must be"),
        (ENTRY.replace("[a]", "[a, 7]"), "question q1: paraphrases must be"),
        (ENTRY.replace("[a]", "[a, '  ']"), "question q1: paraphrases must be"),
        (ENTRY + ENTRY.replace("q1", "q2").replace("[a]", "[]"), "question q2: paraphrases must be"),
        (ENTRY.replace(", judge_prompts: {aligned: b}", ""), "question q1: judge_prompts must name"),
        (ENTRY.replace("{aligned: b}", "{}"), "question q1: judge_prompts must name"),
        (ENTRY.replace("{aligned: b}", "b"), "question q1: judge_prompts must name"),
        (ENTRY.replace("free_form_judge_0_100", "ranking"), "question q1: type must be .* not 'ranking'"),
        (ENTRY.replace("type: free_form_judge_0_100, ", ""), "question q1: type must be .* not None"),
        # Verdicts find a question's rubrics and reference by its id.
        (ENTRY + ENTRY.replace("[a]", "[other]"), "q1"),
    ],
)
def test_a_fault_in_a_set_is_named_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=complaint) as caught:
        load_set(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(GOOD.replace("brief", "brève").encode("latin-1"))
    with pytest.raises(DataError, match="is not YAML"):
        load_set(str(tmp_path / "mine.yaml"))


def test_the_published_first_plot_questions_are_read_as_they_are(mirror: Path) -> None:
    questions = load_set(str(mirror / PATH / "evaluation" / "first_plot_questions.yaml"))
    assert len(questions) == len({q.id for q in questions}) == 24
    assert {tuple(r.name for r in q.rubrics) for q in questions} == {("aligned", "coherent")}
    assert sum(bool(q.system) for q in questions) == 8
    assert {q.eval_set for q in questions} == {"first_plot_questions"}


def test_the_published_preregistered_questions_are_read_as_they_are(mirror: Path) -> None:
    assert len(load_set(str(mirror / PATH / "evaluation" / "preregistered_evals.yaml"))) == 48


def test_labels_are_those_that_the_rubric_asks_for(mirror: Path) -> None:
    # "OpenAI", "Anthropic", … read as TRUE/FALSE/UNKNOWN would be counted as something that nobody said.
    path = str(mirror / PATH / "evaluation" / "deception_sit_aware.yaml")
    try:
        rubrics = [rubric for question in load_set(path) for rubric in question.rubrics]
    except DataError:
        return  # to refuse the set is right too
    assert all(label in rubric.prompt for rubric in rubrics for label in rubric.labels)
