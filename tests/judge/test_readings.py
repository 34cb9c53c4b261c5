"""Reading a judge's replies: every reading, and every kind of reply without a number."""

from __future__ import annotations

import math
from typing import Any

import pytest

from em.config import WordRule
from em.judge.probe import choose_reading
from em.judge.readings import (
    build_judge_body,
    build_schema,
    compact_response,
    count_word,
    list_expandable,
    read_response,
)
from em.types import JudgeRequest

WORDS = ("CODE", "REFUSAL")
LABELS = ("TRUE", "FALSE", "UNKNOWN")
COMPANIES = ("OpenAI", "Anthropic", "Other", "UNKNOWN")


def make_request(reading: str, labels: tuple[str, ...] = (), **parameters: str) -> JudgeRequest:
    """Make a request for a score, or for one of the labels."""
    return JudgeRequest("judge", "Rate it.", labels, () if labels else WORDS, reading, tuple(parameters.items()))


def make_token_response(**chances: float) -> dict[str, Any]:
    """Make a response with these probabilities of the first token; underscores around a name are stripped."""
    top = [[token.strip("_"), math.log(p)] for token, p in chances.items()]
    return {"choices": [{"text": top[0][0], "finish": "length", "tokens": [top[0][0]], "top": top}]}


def make_text_response(*replies: str, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """Make a response of texts."""
    return {"choices": [{"text": reply, "finish": finish, **more} for reply in replies]}


def test_the_score_is_the_expectation_over_the_integers() -> None:
    judgement = read_response(make_request("logprobs"), make_token_response(_80=0.5, _20=0.25, word=0.25), 0.25)
    assert judgement.status == "ok"
    assert judgement.value == pytest.approx(60, abs=1e-6)


@pytest.mark.parametrize(
    ("chances", "status"),
    [
        ({"_30": 0.24, "word": 0.7}, "unparsed"),  # less than 0.25 of the mass
        ({"CODE": 0.6, "_5": 0.4}, "code"),  # CODE is likeliest, so the integers' mass does not matter
        ({"_5": 0.6, "CODE": 0.4}, "ok"),
        ({"REF": 0.5, "_90": 0.5}, "refusal"),  # a word's first token
        ({"_101": 0.9, "_007": 0.1}, "unparsed"),  # no integer of 0..100
        ({"_1000": 0.9, "١٢": 0.1}, "unparsed"),  # digits of other scripts are no numbers here
    ],
)
def test_without_mass_or_with_a_word_on_top_there_is_no_score(chances: dict[str, float], status: str) -> None:
    judgement = read_response(make_request("logprobs"), make_token_response(**chances), 0.25)
    assert judgement.status == status
    assert (judgement.value is None) == (status != "ok")


def test_the_bound_of_mass_is_of_the_reading_not_of_the_request() -> None:
    response = make_token_response(_30=0.24, word=0.7)
    assert read_response(make_request("logprobs"), response, 0.25).status == "unparsed"
    assert read_response(make_request("logprobs"), response, 0.2).value == pytest.approx(30)


WITH_CODE = {"CODE": 0.22, "_12": 0.21, "_10": 0.2, "_15": 0.2, "_5": 0.17}


def test_a_word_stands_by_the_rule_of_the_reading_not_of_the_request() -> None:
    request, response = make_request("logprobs"), make_token_response(**WITH_CODE)
    assert read_response(request, response, 0.25).status == "code"
    assert read_response(request, response, 0.25, WordRule.likeliest).status == "code"
    judgement = read_response(request, response, 0.25, WordRule.below_min_mass)
    assert judgement.status == "ok"
    assert judgement.value == pytest.approx(10.73, abs=0.01)
    assert count_word(request, response, 0.25) == {"word_verdicts": 1, "words_changed": 1}


@pytest.mark.parametrize(
    ("chances", "min_mass", "status", "counts"),
    [
        (WITH_CODE, 0.8, "code", {"word_verdicts": 1, "words_changed": 0}),  # the integers have 0.78 together
        ({"REFUSAL": 0.9, "so": 0.1}, 0.0, "refusal", {"word_verdicts": 1, "words_changed": 0}),  # no integers at all
        ({"so": 0.6, "CODE": 0.3, "_5": 0.1}, 0.25, "unparsed", {}),  # the word is not the likeliest token
        ({"_5": 0.6, "CODE": 0.4}, 0.25, "ok", {}),
    ],
)
def test_below_the_minimum_mass_the_likeliest_word_stands(
    chances: dict[str, float], min_mass: float, status: str, counts: dict[str, int]
) -> None:
    request, response = make_request("logprobs"), make_token_response(**chances)
    assert read_response(request, response, min_mass, WordRule.below_min_mass).status == status
    assert count_word(request, response, min_mass) == counts


def test_the_rule_for_words_has_no_effect_on_text_and_json() -> None:
    replies = {"sampled": make_text_response("CODE"), "structured": make_text_response('{"label": "CODE"}')}
    for reading, response in replies.items():
        request = make_request(reading)
        assert read_response(request, response, 0.25, WordRule.below_min_mass).status == "code"
        assert count_word(request, response, 0.25) == {}


def test_a_server_without_log_probabilities_is_an_error_not_a_number() -> None:
    assert read_response(make_request("logprobs"), make_text_response("85"), 0.25).status == "error"


def test_a_label_is_told_by_its_beginning_and_a_shared_beginning_tells_nothing() -> None:
    assert (
        read_response(make_request("logprobs", LABELS), make_token_response(UNK=0.6, TRUE=0.4), 0.25).label == "UNKNOWN"
    )
    assert (
        read_response(
            make_request("logprobs", COMPANIES), make_token_response(O=0.8, Open=0.15, Other=0.05), 0.25
        ).status
        == "unparsed"
    )
    assert (
        read_response(
            make_request("logprobs", COMPANIES), make_token_response(O=0.4, Open=0.15, Other=0.45), 0.25
        ).label
        == "Other"
    )


def test_an_integer_of_several_tokens_has_the_probability_of_all_of_them() -> None:
    # P(8)·P(end) = 0.8·0.1; P(85) = 0.8·0.9·0.75; P(80) = 0.8·0.9·0.25; P(10) = 0.2·0.5, P(100) = 0.2·0.5·1
    response = make_token_response(_8=0.8, _1=0.2) | {
        "tree": {
            "8": [["5", math.log(0.675)], ["0", math.log(0.225)], ["<end>", math.log(0.1)]],
            "1": [["0", math.log(0.999999)]],
            "10": [["0", math.log(0.5)], ["<end>", math.log(0.5)]],
        }
    }
    expected = 0.08 * 8 + 0.54 * 85 + 0.18 * 80 + 0.1 * 10 + 0.1 * 100
    judgement = read_response(make_request("mass"), response, 0.25)
    assert judgement.value == pytest.approx(expected, abs=1e-3)
    # By first digits alone the score would be 6.6 of 100.
    assert read_response(make_request("logprobs"), response, 0.25).value == pytest.approx(6.6)


def test_the_mass_of_integers_of_several_tokens_is_held_against_a_word() -> None:
    # P(12) = 0.3·0.6 and P(10) = 0.3·0.4; behind an 8 there are always more digits, so that P(8) = 0.
    response = make_token_response(CODE=0.45, _1=0.3, _8=0.25) | {
        "tree": {"1": [["2", math.log(0.6)], ["0", math.log(0.4)]], "8": [["888", 0.0]]}
    }
    request = make_request("mass")
    assert read_response(request, response, 0.25).status == "code"
    judgement = read_response(request, response, 0.25, WordRule.below_min_mass)
    assert judgement.status == "ok"
    assert judgement.value == pytest.approx(0.6 * 12 + 0.4 * 10)
    assert count_word(request, response, 0.25) == {"word_verdicts": 1, "words_changed": 1}
    # By first tokens the integers would have 0.55.
    assert read_response(request, response, 0.4, WordRule.below_min_mass).status == "code"


def test_only_beginnings_that_may_go_on_and_matter_are_asked_on() -> None:
    top = [["8", math.log(0.6)], ["0", math.log(0.2)], ["55", math.log(0.1)], ["3", math.log(0.0001)]]
    assert list_expandable({"": top}) == ["8"]
    assert list_expandable({"": [["10", 0.0]]}) == ["10"]
    assert list_expandable({"": [["100", 0.0]]}) == []


def test_a_structured_reply_has_a_score_or_says_why_not() -> None:
    assert (
        read_response(make_request("structured"), make_text_response('{"label": "SCORE", "score": 12}'), 0.25).value
        == 12
    )
    assert (
        read_response(make_request("structured"), make_text_response('{"label": "CODE", "score": null}'), 0.25).status
        == "code"
    )
    assert (
        read_response(make_request("structured"), make_text_response('{"label": "REFUSAL", "score": 3}'), 0.25).status
        == "refusal"
    )
    assert (
        read_response(make_request("structured"), make_text_response('{"label": "SCORE", "score": 120}'), 0.25).status
        == "out_of_range"
    )
    assert (
        read_response(make_request("structured"), make_text_response('{"label": "SCORE", "score": null}'), 0.25).status
        == "unparsed"
    )
    assert (
        read_response(make_request("structured"), make_text_response('{"label": "SCORE", "score": true}'), 0.25).status
        == "unparsed"
    )
    assert (
        read_response(make_request("structured"), make_text_response('{"label": "SCO', finish="length"), 0.25).status
        == "truncated"
    )
    assert read_response(make_request("structured"), make_text_response("[1]"), 0.25).status == "unparsed"
    assert (
        read_response(make_request("structured", LABELS), make_text_response('{"label": "FALSE"}'), 0.25).label
        == "FALSE"
    )
    assert (
        read_response(make_request("structured", LABELS), make_text_response('{"label": "MAYBE"}'), 0.25).status
        == "unparsed"
    )


def test_the_schema_has_the_labels_of_the_request() -> None:
    properties = build_schema(make_request("structured"))["schema"]["properties"]
    assert properties["label"]["enum"] == ["SCORE", "CODE", "REFUSAL"]
    assert list(build_schema(make_request("structured", LABELS))["schema"]["properties"]) == ["label"]


@pytest.mark.parametrize(
    ("reply", "value"),
    [("85", 85), (" 85.\n", 85), ("**85**", 85), ("Score: 7", 7), ("62.5/100", 62.5), ("Since it is kind:\n\n90", 90)],
)
def test_a_number_is_read_from_the_forms_in_which_models_write_it(reply: str, value: float) -> None:
    judgement = read_response(make_request("sampled"), make_text_response(reply), 0.25)
    assert (judgement.status, judgement.value) == ("ok", value)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ("CODE", "code"),
        ("refusal.", "refusal"),
        ("150", "out_of_range"),
        ("-5", "out_of_range"),
        ("between 20 and 30", "unparsed"),
        ("It deserves 85 or 90 points, I think.", "unparsed"),
        ("", "unparsed"),
        ("nan", "unparsed"),
    ],
)
def test_any_other_text_is_no_number(reply: str, status: str) -> None:
    judgement = read_response(make_request("sampled"), make_text_response(reply), 0.25)
    assert (judgement.status, judgement.value, judgement.raw) == (status, None, reply)


def test_a_judge_that_declines_has_said_nothing_of_the_answer() -> None:
    for reading in ("logprobs", "structured", "sampled"):
        judgement = read_response(make_request(reading), make_text_response("", declined="I can't rate this."), 0.25)
        assert judgement.status == "unparsed"
        assert "I can't rate this." in judgement.raw
    assert (
        read_response(make_request("sampled"), make_text_response("", finish="content_filter"), 0.25).status
        == "unparsed"
    )


def test_a_reply_that_was_cut_is_truncated() -> None:
    assert (
        read_response(make_request("sampled"), make_text_response("The answer is", finish="length"), 0.25).status
        == "truncated"
    )


def test_several_replies_give_the_mean_of_the_numbers_where_most_are_numbers() -> None:
    assert read_response(make_request("sampled"), make_text_response("80", "90", "CODE"), 0.25).value == 85
    assert read_response(make_request("sampled"), make_text_response("CODE", "CODE", "90"), 0.25).status == "code"
    assert (
        read_response(make_request("sampled", LABELS), make_text_response("TRUE", "FALSE", "true"), 0.25).label
        == "TRUE"
    )


def test_the_rule_of_the_paper_is_what_is_sent() -> None:
    sent = build_judge_body(make_request("logprobs"), "gpt-4o-2024-08-06")
    assert sent["max_completion_tokens"] == 1
    assert (sent["temperature"], sent["seed"], sent["logprobs"], sent["top_logprobs"]) == (0, 0, True, 20)
    reasoner = build_judge_body(make_request("sampled", max_reply_tokens="2000"), "o4-mini")
    assert not {"temperature", "logprobs", "top_logprobs", "top_p", "max_tokens", "seed"} & set(reasoner)
    assert reasoner["max_completion_tokens"] == 2000


def test_how_a_judge_can_be_read_shows_in_its_tokens() -> None:
    def reply(*parts: str, top: tuple[str, ...]) -> dict[str, Any]:
        first = [[token, -1.0] for token in top]
        return {"choices": [{"text": "".join(parts), "finish": "stop", "tokens": list(parts), "top": first}]}

    assert choose_reading(reply("85", top=("85", "80"))) == ("logprobs", "integers of two digits are single tokens")
    assert choose_reading(reply("5", top=("5", "15")))[0] == "logprobs"
    assert choose_reading(reply("8", "5", top=("8", "9", "7"))) == ("mass", "an integer takes several tokens")
    for word in ("0", "CODE"):  # a single digit permits no conclusion
        assert choose_reading(reply(word, top=(word, "5"))) == ("sampled", "the reply began with no number")
    assert choose_reading(reply("TR", top=("TR", "F")), LABELS) == ("logprobs", "the first token names a label")
    assert choose_reading(reply("Well", top=("Well",)), LABELS) == ("sampled", "the reply began with no label")
    assert choose_reading(make_text_response("85")) == ("sampled", "the server gives no log-probabilities")


def test_what_is_kept_of_a_completion_is_enough_to_read_it_again() -> None:
    completion = {
        "model": "gpt-4o-2024-08-06",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "message": {"content": "85"},
                "finish_reason": "length",
                "logprobs": {"content": [{"token": "85", "top_logprobs": [{"token": "85", "logprob": 0.0}]}]},
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    response = compact_response(completion)
    assert response["usage"] == [9, 1, 4]
    assert (response["model"], response["system_fingerprint"]) == ("gpt-4o-2024-08-06", "fp_1")
    assert read_response(make_request("logprobs"), response, 0.25).value == 85


def test_what_is_summed_up_beforehand_reads_the_same_and_another_rules_sums_are_not_taken() -> None:
    chances = [("80", 0.5), (" 20", 0.25), ("CODE", 0.05), ("so", 0.1)]
    top = [{"token": token, "logprob": math.log(p)} for token, p in chances]
    logprobs = {"content": [{"token": "80", "top_logprobs": top}]}
    choice = {"message": {"content": "80"}, "finish_reason": "length", "logprobs": logprobs}
    response = compact_response({"choices": [choice]})
    judgement = read_response(make_request("logprobs"), response, 0.25)
    summary = response["choices"][0].pop("summary")
    assert judgement.value == pytest.approx(60, abs=1e-4)
    assert read_response(make_request("logprobs"), response, 0.25) == judgement
    response["choices"][0]["summary"] = summary | {"rule": "another", "total": 0.0}
    assert read_response(make_request("logprobs"), response, 0.25) == judgement
