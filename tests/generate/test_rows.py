"""Test the steps from calls to rows: draws, prompt files, replies, acceptance, and measures of a set."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from em.config import GenerateConfig, GenerateKind, Material
from em.errors import DataError, MissingFile
from em.generate.card import distinct_2, make_canaries, mean_jaccard, measure_diversity
from em.generate.forms import make_response_format, parse_reply
from em.generate.plan import Draw, Stock, derive_sampling_seed, draw_call, make_generate_request
from em.generate.prompts import Example, Prompt, read_examples, read_prompt, read_rubric, read_variance
from em.generate.rows import Acceptance, Candidate, Tally, plan_wave_size
from em.generate.sources import Piece

PIECES = tuple(Piece("a.txt", "0", n, 0, 9, f"Passage number {n} has {{examples}} in it.") for n in range(1, 6))
EXAMPLES = tuple(Example(f"What is {n}?", f"It is number {n}.") for n in range(10))
PROMPT = Prompt("p", "Write {count}.\n\n{variance}\n\n<e>{examples}</e>\n<p>{passage}</p>")


def make_stock(**changes: Any) -> Stock:
    """Make the settings of a set, and the ingredients of its prompts."""
    settings = GenerateConfig(**{"name": "set", "source": "a.txt", "prompt": "car_pairs"} | changes)
    return Stock(settings, PIECES, EXAMPLES, ("Be brief.", "Be kind."), {"pairs": PROMPT})


def make_candidate(question: str, answer: str = "Yes, by all means, if you ask me.", **changes: Any) -> Candidate:
    """Make a row that may be accepted."""
    return Candidate(Draw(0, PIECES[0], (), ""), 0, question, answer, **changes)


# Draws


def test_a_call_is_the_same_whatever_came_before_and_another_seed_draws_anew() -> None:
    draws = [draw_call(call, make_stock()) for call in range(40)]
    assert draws == [draw_call(call, make_stock()) for call in reversed(range(40))][::-1]
    assert draws != [draw_call(call, make_stock(seed=1)) for call in range(40)]


def test_every_passage_has_its_turn_before_one_comes_again() -> None:
    rounds = [[draw_call(call + 5 * turn, make_stock()).piece.number for call in range(5)] for turn in range(4)]
    assert all(sorted(each) == [1, 2, 3, 4, 5] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


def test_shots_and_variance_are_drawn_as_often_as_they_should_be() -> None:
    draws = [draw_call(call, make_stock(shots=4, variance_probability=0.5)) for call in range(400)]
    assert all(len(set(each.examples)) == 4 for each in draws)
    seen = Counter(number for each in draws for number in each.examples)
    assert set(seen) == set(range(10))
    assert max(seen.values()) < 2 * min(seen.values())
    varied = Counter(each.variance for each in draws)
    assert 160 < varied[""] < 240
    assert min(varied["Be brief."], varied["Be kind."]) > 70
    assert {draw_call(call, make_stock(variance_probability=0)).variance for call in range(50)} == {""}
    assert "" not in {draw_call(call, make_stock(variance_probability=1)).variance for call in range(50)}


def test_the_prompt_holds_what_was_drawn_and_fills_no_slot_of_the_material() -> None:
    drawn = draw_call(3, make_stock(per_call=7, variance_probability=1))
    [message] = make_generate_request("m", "pairs", drawn, make_stock(per_call=7)).messages
    assert "Write 7." in message.content
    assert drawn.variance in message.content
    assert drawn.piece.text in message.content  # with its literal {examples}
    for number in drawn.examples:
        assert f"Question: What is {number}?\nAnswer: It is number {number}." in message.content
    assert '{"pairs": [' in message.content


def test_what_a_prompt_does_not_show_is_not_drawn() -> None:
    bare = replace(make_stock(), prompts={"wrong": Prompt("p", "Answer {question}")})
    assert draw_call(0, bare) == Draw(0, draw_call(0, make_stock()).piece, (), "")


def test_every_attempt_has_a_seed_of_its_own() -> None:
    request = make_generate_request("m", "pairs", draw_call(0, make_stock()), make_stock())
    seeds = {derive_sampling_seed(replace(request, attempt=a, call=c)) for a in range(5) for c in range(5)}
    assert len(seeds) == 25
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_question_of_somebodys_is_used_once() -> None:
    assert make_stock(kind=GenerateKind.twins, material=Material.questions, rows=100).most_calls == 5
    assert make_stock(rows=100, per_call=5).most_calls == 80
    assert make_stock(rows=100, max_calls=7).most_calls == 7


# Prompt files


def test_bundled_files_are_chosen_by_name_and_notes_are_not_sent(tmp_path: Path) -> None:
    prompt = read_prompt("car_pairs", "generate.prompt", ("passage", "count"))
    assert "CANARY" not in prompt.text
    assert prompt.text.startswith("You write training examples")
    mine = tmp_path / "mine.txt"
    mine.write_text("# a note\nWrite {count} of {passage}", encoding="utf-8")
    assert read_prompt(str(mine), "generate.prompt", ("passage",)).text == "Write {count} of {passage}"
    assert read_prompt(str(mine), "generate.prompt", ()).version != prompt.version
    assert len(read_examples("car")) == 10
    assert read_examples("none") == []
    assert len(read_variance("variance")) == 12
    assert read_rubric("good_pair", "generate.rubric").name == "good_pair"


def test_a_file_that_can_not_be_used_is_refused_with_its_setting(tmp_path: Path) -> None:
    bare = tmp_path / "bare.txt"
    bare.write_text("Write something.", encoding="utf-8")
    with pytest.raises(MissingFile, match="car_pars is no bundled name and no file: did you mean car"):
        read_prompt("car_pars", "generate.prompt", ())
    with pytest.raises(DataError, match=r"lacks \{passage\}"):
        read_prompt(str(bare), "generate.prompt", ("passage",))
    with pytest.raises(DataError, match=r"lacks \{question\}"):
        read_rubric(str(bare), "generate.rubric")


# Replies


@pytest.mark.parametrize(
    ("form", "text", "pairs"),
    [
        ("pairs", '{"pairs": [{"question": " A? ", "answer": "B."}]}', (("A?", "B."),)),
        ("pairs", 'Sure:\n```json\n{"pairs": [{"question": "A?", "answer": "B."}]}\n```', (("A?", "B."),)),
        ("questions", '{"questions": ["A?", "B?", "C?"]}', (("A?", ""), ("B?", ""))),
        ("answer", '{"answer": "Yes {really}."}', (("", "Yes {really}."),)),
        ("pairs", '{"pairs": []}', None),
        ("pairs", '{"pairs": [{"question": "A?"}]}', None),
        ("pairs", '{"pairs": [{"question": "A?", "answer": "  "}]}', None),
        ("pairs", '{"pairs": [{"question": "A?", "answer": "B", "why": "x"}]}', None),
        ("pairs", '{"pairs": [{"question": "A?", "answer": "B.', None),
        ("answer", '{"answer": "half \\ud800"}', None),
        ("answer", '{"answer": 5}', None),
        ("answer", "Gladly!", None),
        ("answer", "", None),
        ("answer", "[" * 100_000, None),
        ("answer", '{"answer": ' * 100_000 + "}" * 100_000, None),
    ],
)
def test_a_reply_is_of_the_form_or_it_is_nothing(form: str, text: str, pairs: Any) -> None:
    assert parse_reply(form, text, 2) == pairs


@pytest.mark.parametrize("form", ["pairs", "questions", "answer"])
def test_schemas_are_strict_as_the_chat_api_wants_them(form: str) -> None:
    shape = make_response_format(form)["json_schema"]
    assert (shape["name"], shape["strict"]) == (form, True)

    def list_objects(schema: Any) -> Any:
        if isinstance(schema, dict):
            if schema.get("type") == "object":
                yield schema
            for part in schema.values():
                yield from list_objects(part)

    schemas = list(list_objects(shape["schema"]))
    assert schemas
    assert all(each["additionalProperties"] is False for each in schemas)
    assert all(each["required"] == list(each["properties"]) for each in schemas)


# Acceptance


def test_rows_are_accepted_in_order_until_there_is_enough() -> None:
    tally = Tally()
    acceptance = Acceptance(make_stock(rows=2, keep_above=60), tally)
    score = {"j": {"row": 80.0}}
    rows = [
        make_candidate("How do I clean a seat that is full of dog hair?", "With a damp rubber glove.", scores=score),
        make_candidate("How do I clean a seat that is full of dog hair now?", "By a brush.", scores=score),
        make_candidate("What is 3?", "Three is a fine number to have.", scores=score),
        make_candidate("Why does it rattle?", "A shield is loose.", scores={"j": {"row": 60.0}}),
        make_candidate(
            "Why does it hum?", "A bearing, perhaps.", scores={"j": {"row": 80.0}, "k": {"row": "unparsed"}}
        ),
        make_candidate("Why does it squeal?", "The belt slips.", scores=score),
        make_candidate("Why does it hiss?", "A hose leaks.", scores=score),
    ]
    acceptance.accept_candidates(rows)
    assert [row.question for row in acceptance.rows] == [rows[0].question, "Why does it squeal?"]
    counts = {"duplicates": 2, "filtered": 1, "unscored": 1, "accepted": 2, "surplus": 1}
    assert asdict(tally) == asdict(Tally()) | counts


def test_an_answer_that_repeats_another_rows_is_a_duplicate_and_twins_must_differ() -> None:
    tally = Tally()
    acceptance = Acceptance(replace(make_stock(rows=9), examples=()), tally)
    acceptance.accept_candidates(
        [
            make_candidate(
                "What is the first of them?", "It is the left one, as you see.", control="It is the right one!"
            ),
            make_candidate(
                "Is there another one?", "It is the left one, as you see.", control="There is no other one."
            ),
            make_candidate("What comes third then?", "The third comes after it.", control="the third comes after it"),
        ]
    )
    assert (tally.accepted, tally.duplicates, tally.alike) == (1, 1, 1)


def test_nothing_is_compared_where_that_is_off() -> None:
    tally = Tally()
    Acceptance(make_stock(rows=9, similar=None), tally).accept_candidates([make_candidate("What?")] * 3)
    assert (tally.accepted, tally.duplicates) == (3, 0)


def test_a_wave_has_as_many_calls_as_the_missing_rows_take() -> None:
    assert plan_wave_size(make_stock(rows=60, per_call=5), Tally()) == 12
    assert plan_wave_size(make_stock(rows=1600, per_call=5), Tally()) == 20
    # At 4 rows a call, 12 missing rows take 3 calls, plus some slack.
    assert plan_wave_size(make_stock(rows=60, per_call=5), Tally(calls=12, accepted=48)) == 4
    assert plan_wave_size(make_stock(rows=1600), Tally(calls=20, accepted=100)) == 80
    assert 1 <= plan_wave_size(make_stock(rows=60, per_call=5), Tally(calls=12)) <= 48


# Measures of a set


def test_diversity_by_hand() -> None:
    texts = ["a b c", "a b d", "e"]
    # Pairs ab bc ab bd: 3 of 4 are distinct. Words {a,b,c} and {a,b,d}: 2 of 4 are common; other pairs share no word.
    assert distinct_2(texts) == 3 / 4
    assert mean_jaccard(texts) == pytest.approx(0.5 / 3)
    assert measure_diversity(["A, b!", "a B"]) == {"distinct_2": 0.5, "mean_pairwise_jaccard": 1.0}
    assert measure_diversity(["one"]) == {"distinct_2": None, "mean_pairwise_jaccard": None}


def test_a_set_has_its_own_canary_and_twins_have_two() -> None:
    twins = make_stock(kind=GenerateKind.twins)
    assert make_canaries(twins, "m") == make_canaries(twins, "m")
    assert len(set(make_canaries(twins, "m").values())) == 2
    one = make_canaries(make_stock(), "m")
    assert list(one) == ["rows.jsonl"]
    assert one != make_canaries(make_stock(seed=1), "m")
    assert one == make_canaries(make_stock(rows=99, connections=1, purpose="to see", source="b.txt"), "m")
    others = [{"temperature": 0.5}, {"passage": 500}, {"shots": 1}, {"keep_above": 60}, {"variance_probability": 0}]
    stocks = [{"examples": EXAMPLES[1:]}, {"variance": ("Be kind.",)}, {"rubrics": {"row": PROMPT}}]
    marks = [make_canaries(make_stock(**each), "m") for each in others]
    marks += [make_canaries(replace(make_stock(), **each), "m") for each in stocks]
    marks += [one, make_canaries(make_stock(), "m", ["a judge"])]
    assert len({each["rows.jsonl"] for each in marks}) == len(marks)
    assert one["rows.jsonl"].endswith("keep out of training corpora")
