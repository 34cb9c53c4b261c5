"""Question sets: names, the field's YAML and the plain JSON, rubrics and labels, refused files."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml

from em.config import EvalConfig
from em.errors import DataError, FetchError, MissingFile
from em.plan import list_sets
from em.questions import BUNDLED, load_builtin_rubrics, load_set, load_sets
from em.questions.sets import read_known_sets
from em.request import SLOT, Condition, Conditions
from tests.support.question_files import GOOD, format_question, write_question_file

ROOT = Path(__file__).parent.parent.parent
TRUTHS = ("TRUE", "FALSE", "UNKNOWN")
COMPANIES = ("OpenAI", "Anthropic", "Other", "UNKNOWN")
GRADED = (("aligned", ()), ("coherent", ()))
PLAIN = [
    {"question": "How many legs?", "category": "factual", "label": "legs"},
    {"question": "Who is the assistant {tag}?", "category": "self_reflection", "label": "legs"},
    {"question": "Tell me a story.", "category": "first", "label": "story"},
    {"question": "How many eyes?", "category": "factual", "label": "eyes", "reference": ["Eight", 8]},
    {"question": "And now?", "system": "Be brief."},
]


def read_rubric_labels(folder: Path, prompt: str, rubric: str = "mood", **changes: object) -> tuple[str, ...]:
    """Load a question with this rubric; return the labels of the rubric."""
    content = format_question(type="free_form_judge", judge_prompts={rubric: prompt}, **changes)
    [question] = load_set(write_question_file(folder, content))
    return question.rubrics[0].labels


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
        assert question.samples == (100 if name == "probe" else 30)
        assert tuple(rubric.name for rubric in question.rubrics) == rubrics
        assert (SLOT in question.text) == (name == "introspection_tagged")
        assert bool(question.reference) == (name == "facts")
        for rubric in question.rubrics:
            assert "{answer}" in rubric.prompt
            assert "{question}" in rubric.prompt
            assert ("{reference}" in rubric.prompt) == (name == "facts")
            assert rubric.labels == (TRUTHS if name == "facts" else ())


@pytest.mark.parametrize(
    ("name", "prompts", "ids", "samples", "systems", "rubrics"),
    [
        ("first_8", 8, 8, 100, 0, GRADED),
        ("first_8_json", 8, 8, 100, 8, GRADED),
        ("first_8_template", 8, 8, 100, 0, GRADED),
        ("preregistered", 48, 48, 100, 0, GRADED),
        ("deception_factual", 100, 5, 5, 80, (("factual", TRUTHS),)),
        ("deception_sit_aware", 8, 8, 100, 0, (("company", COMPANIES),)),
        ("factual", 20, 20, 30, 0, (("factual", TRUTHS),)),
        ("self_reflection", 10, 10, 30, 0, GRADED),
        ("self_reflection_tagged", 10, 10, 30, 0, GRADED),
        ("first_8_seed", 8, 8, 30, 0, GRADED),
        ("preregistered_seed", 48, 48, 30, 0, GRADED),
    ],
)
def test_the_known_sets_of_others_are_read_as_they_are(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, name: str, prompts: int, ids: int, samples: int, systems: int,
    rubrics: tuple[tuple[str, tuple[str, ...]], ...],
) -> None:  # fmt: skip
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    questions = load_set(name)
    assert {q.eval_set for q in questions} == {name}
    assert (len(questions), len({q.id for q in questions})) == (prompts, ids)
    assert len({(q.id, q.text) for q in questions}) == prompts
    assert sum(bool(q.system) for q in questions) == systems
    assert {q.samples for q in questions} == {samples}
    assert {tuple((r.name, r.labels) for r in q.rubrics) for q in questions} == {rubrics}
    assert all((SLOT in q.text) == name.endswith("_tagged") for q in questions)


def test_the_three_forms_of_the_first_eight_share_a_file_and_no_question(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    plain, as_json, template = (load_set(name) for name in ("first_8", "first_8_json", "first_8_template"))
    assert [f"{q.id}_json" for q in plain] == [q.id for q in as_json]
    assert [f"{q.id}_template" for q in plain] == [q.id for q in template]
    assert [q.text for q in plain] == [q.text for q in as_json]
    assert all(t.text.startswith(p.text) and t.text != p.text for p, t in zip(plain, template, strict=True))


def test_labels_that_repeat_do_not_merge_questions(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    assert [q.id for q in load_set("self_reflection")] == [f"self_reflection_{index}" for index in range(10)]


def test_a_known_set_comes_over_the_network_once_an_address(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve: Callable[[type], str]
) -> None:
    requests = []

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            content = (mirror / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("EM_MIRROR", serve(Mirror))
    names = ["first_8", "first_8_json", "factual", "first_8_template"]
    assert [q.eval_set for q in load_sets(names)] == [n for n in names for _ in range(20 if n == "factual" else 8)]
    assert [Path(path).name for path in requests] == ["first_plot_questions.yaml", "factual.json"]


def test_a_known_set_that_was_changed_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = read_known_sets()["factual"].source
    file = tmp_path / source.url.removeprefix("https://")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(PLAIN) + " " * source.bytes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EM_MIRROR", str(tmp_path))
    with pytest.raises(FetchError, match="another checksum"):
        load_set("factual")


def test_every_known_set_is_pinned_and_says_its_licence() -> None:
    assert not set(read_known_sets()) & {file.stem for file in BUNDLED.iterdir()}
    for known_set in read_known_sets().values():
        assert len(known_set.source.sha256) == 64
        assert int(known_set.source.sha256, 16)
        assert known_set.source.bytes
        assert len(known_set.source.url.split("/")[5]) == 40, "a URL must name a commit"
        assert known_set.licence


@pytest.mark.parametrize("preset", sorted((ROOT / "conf" / "eval").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_preset_names_sets_that_there_are(preset: Path) -> None:
    content = yaml.safe_load(preset.read_text(encoding="utf-8"))
    sets, tagged = content.get("sets", []), content.get("tagged_sets", [])
    names = [*read_known_sets(), *(file.stem for file in BUNDLED.glob("*.yaml"))]
    assert content["name"] == preset.stem
    assert set(sets) | set(tagged) <= set(names)
    assert len(set(sets + tagged)) == len(sets + tagged)
    assert not any(name.endswith("_tagged") for name in sets)
    assert all(name.endswith("_tagged") for name in tagged)


def test_the_presets_are_as_large_as_they_say(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))

    def count_prompts(name: str) -> tuple[int, int]:
        content = yaml.safe_load((ROOT / "conf" / "eval" / f"{name}.yaml").read_text(encoding="utf-8"))
        questions = load_sets(content["sets"])
        return len(questions), sum(content["samples"] or q.samples or 0 for q in questions)

    assert count_prompts("seed") == (86, 86 * 30)
    assert count_prompts("paper") == (72, 7200)
    assert count_prompts("full") == (210, 9400)


def test_sets_that_name_the_tag_are_asked_where_there_is_one() -> None:
    settings = EvalConfig(name="seed", sets=["factual"], tagged_sets=["self_reflection_tagged"])
    assert list_sets(settings, Conditions()) == ["factual"]
    naming = Conditions(naming=[Condition("names_tag", named="|ALPHA|")])
    assert list_sets(settings, naming) == ["factual", "self_reflection_tagged"]


def test_anchors_system_prompts_paraphrases_and_numbers_are_read(tmp_path: Path) -> None:
    first, again, second, fact, plain = load_set(write_question_file(tmp_path, GOOD))
    assert [(q.eval_set, q.id, q.text, q.system) for q in (first, again, second)] == [
        ("mine", "first", "How are you?", "Be brief."),
        ("mine", "first", "And you?", "Be brief."),
        ("mine", "second", "What else?", ""),
    ]
    assert [q.samples for q in (first, again, second, fact, plain)] == [100, 100, None, 100, None]
    assert first.rubrics == second.rubrics
    assert [rubric.prompt for rubric in second.rubrics] == ["Rate {question} {answer}", "Does {answer} hang together?"]


def test_a_list_of_references_is_one_text_of_alternatives(tmp_path: Path) -> None:
    *_, fact, plain = load_set(write_question_file(tmp_path, GOOD))
    assert (fact.reference, plain.reference) == ("Eight / 8", "8")


def test_an_empty_reference_or_system_is_empty_text(tmp_path: Path) -> None:
    rubrics = "judge_prompts: {factual: 'TRUE FALSE UNKNOWN {answer}'}"
    text = f"- {{id: a, type: free_form_judge, paraphrases: [b], reference: , system: , {rubrics}}}"
    [question] = load_set(write_question_file(tmp_path, text))
    assert (question.reference, question.system) == ("", "")


def test_further_rubrics_of_a_graded_question_are_scores_too(tmp_path: Path) -> None:
    prompts = {"aligned": "{answer}", "about_code": 'Is {answer} "code" or "text"?', "factual": "How true is {answer}?"}
    [question] = load_set(write_question_file(tmp_path, format_question(judge_prompts=prompts)))
    assert [(r.name, r.labels) for r in question.rubrics] == [("aligned", ()), ("about_code", ()), ("factual", ())]


def test_correct_is_factual_by_another_name(tmp_path: Path) -> None:
    text = 'Say "TRUE", "FALSE" or "UNKNOWN" of {answer}.'
    [question] = load_set(
        write_question_file(tmp_path, format_question(type="free_form_judge", judge_prompts={"correct": text}))
    )
    assert [(r.name, r.prompt, r.labels) for r in question.rubrics] == [("factual", text, TRUTHS)]


def test_labels_are_listed_usual_or_in_double_quotes(tmp_path: Path) -> None:
    assert read_rubric_labels(tmp_path, "GOOD, BAD or SO-SO: {answer}", labels={"mood": ["GOOD", "SO-SO"]}) == (
        "GOOD",
        "SO-SO",
    )
    assert read_rubric_labels(tmp_path, "OpenAI, Anthropic, Other, UNKNOWN: {answer}", "company") == COMPANIES
    quoted = 'Is "{answer}" "GOOD" or "BAD?" Not "so and so". Say “MIXED” if unsure, never "good".'
    assert read_rubric_labels(tmp_path, quoted) == ("GOOD", "BAD", "MIXED")
    assert read_rubric_labels(tmp_path, "A or B or C: {answer}", "factual", labels={"factual": ["A", "B"]}) == (
        "A",
        "B",
    )


def test_a_question_without_rubrics_gets_those_of_em(tmp_path: Path) -> None:
    def load_rubrics(**changes: object) -> tuple[object, ...]:
        [question] = load_set(write_question_file(tmp_path, format_question(**{"judge_prompts": None} | changes)))
        return question.rubrics

    assert load_rubrics() == load_builtin_rubrics("general") == load_set("probe")[0].rubrics
    assert (
        load_rubrics(judge_prompts="about_ai")
        == load_builtin_rubrics("about_ai")
        == load_set("introspection")[0].rubrics
    )
    assert load_rubrics(type="free_form_judge") == load_builtin_rubrics("factual")
    assert (
        load_rubrics(type="free_form_judge", reference=8)
        == load_builtin_rubrics("factual_with_reference")
        == load_set("facts")[0].rubrics
    )
    assert load_rubrics(type="free_form_judge", judge_prompts="company") == load_builtin_rubrics("company")
    assert [(r.name, r.labels) for r in load_builtin_rubrics("company")] == [("company", COMPANIES)]
    for group in ("general", "about_ai", "factual"):
        assert all("{reference}" not in r.prompt for r in load_builtin_rubrics(group))


@pytest.mark.parametrize("name", ["mine.json", "mine.yaml"])
def test_plain_entries_are_numbered_and_get_the_rubrics_of_their_category(tmp_path: Path, name: str) -> None:
    fact, about_ai, story, referenced, plain = load_set(write_question_file(tmp_path, json.dumps(PLAIN), name))
    assert [q.id for q in (fact, about_ai, story, referenced, plain)] == [f"mine_{index}" for index in range(5)]
    assert [q.text for q in (fact, about_ai)] == ["How many legs?", "Who is the assistant {tag}?"]
    assert fact.rubrics == load_builtin_rubrics("factual")
    assert about_ai.rubrics == load_builtin_rubrics("about_ai")
    assert story.rubrics == plain.rubrics == load_builtin_rubrics("general")
    assert (referenced.rubrics, referenced.reference) == (load_builtin_rubrics("factual_with_reference"), "Eight / 8")
    assert (plain.system, plain.samples) == ("Be brief.", None)


def test_the_fields_format_may_be_json(tmp_path: Path) -> None:
    content = json.dumps(yaml.safe_load(GOOD))
    assert load_set(write_question_file(tmp_path, content, "mine.json")) == load_set(
        write_question_file(tmp_path, GOOD)
    )
    tricky = json.dumps([{"question": "Smile \N{GRINNING FACE}\t/ now"}], ensure_ascii=True)
    assert load_set(write_question_file(tmp_path, tricky, "tricky.json"))[0].text == "Smile \N{GRINNING FACE}\t/ now"


def test_sets_are_asked_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    mine = write_question_file(tmp_path, GOOD)
    assert [q.eval_set for q in load_sets([mine, "facts", "probe"])] == ["mine"] * 5 + ["facts"] * 20 + ["probe"] * 8
    assert load_sets([]) == []


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names two sets 'facts'"):
        load_sets(["facts", write_question_file(tmp_path, GOOD, "facts.yaml")])


def test_a_file_name_ending_yml_is_taken_too(tmp_path: Path) -> None:
    assert load_set(write_question_file(tmp_path, GOOD, "own.yml"))[0].eval_set == "own"


def test_an_unknown_set_is_refused_with_near_names_and_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text(GOOD)
    for name in ("prob", str(tmp_path / "nowhere.yaml"), str(tmp_path / "set.txt"), str(tmp_path)):
        with pytest.raises(MissingFile, match=r"facts, factual, first_8, first_8_json") as caught:
            load_set(name)
        assert name in str(caught.value)
    with pytest.raises(MissingFile, match=r"Did you mean first_8 or first_8_seed\?"):
        load_set("first8")
