"""Answers by the real embedded model: drawn by its probabilities, reproducible, and complete after a stop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from em.models.chat import encode, load_tokenizer, render_conversation
from em.runtime.memory import Calls, request_key
from em.sample.local import SampleSpec, SeededSampling, generate_batch, make_local_response, plan_sample_batches, sample
from em.sample.plan import derive_answer_seed
from em.types import Conversation, Message, SampleRequest, Weights

CPU = torch.device("cpu")
PROBABILITIES = (0.4, 0.25, 0.0, 0.2, 0.1, 0.05)
DRAWS = 6000


def make_request(question: str = "Name a colour.", number: int = 0, **changes: Any) -> SampleRequest:
    """Make a request for an answer."""
    plain = SampleRequest("smollm2", (Message("user", question),), number, 0, 1.0, 1.0, 8, "hf")
    return replace(plain, **changes)


def draw_tokens(
    requests: Sequence[SampleRequest], step: int = 0, probabilities: Sequence[float] = PROBABILITIES
) -> list[int]:
    """Draw a token for each request at a step, all from the same distribution."""
    scores = torch.tensor([[math.log(p) if p else -math.inf for p in probabilities]] * len(requests))
    drawn = SeededSampling(requests, 3, CPU)(torch.zeros(len(requests), 3 + step, dtype=torch.long), scores)
    assert drawn.isfinite().sum(dim=1).tolist() == [1] * len(requests)
    return drawn.argmax(dim=1).tolist()


def has_distribution(tokens: Sequence[int], probabilities: Sequence[float]) -> bool:
    """Return whether the tokens fit the distribution: none of probability zero, and a chi-square test passes."""
    counts = Counter(tokens)
    possible = [i for i, p in enumerate(probabilities) if p]
    expected = [probabilities[i] / sum(probabilities) * len(tokens) for i in possible]
    if len(possible) == 1 or not set(counts) <= set(possible):
        return set(counts) <= set(possible)
    return chisquare([counts[i] for i in possible], expected).pvalue > 0.001


# Drawing


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    requests = [make_request(number=i) for i in range(DRAWS)]
    assert has_distribution(draw_tokens(requests, step=0), PROBABILITIES)
    assert has_distribution(draw_tokens(requests, step=7), PROBABILITIES)


def test_draws_at_two_steps_are_independent() -> None:
    requests = [make_request(number=i) for i in range(DRAWS)]
    steps = zip(draw_tokens(requests, 0), draw_tokens(requests, 1), strict=True)
    pairs = [a * len(PROBABILITIES) + b for a, b in steps]
    assert has_distribution(pairs, [a * b for a in PROBABILITIES for b in PROBABILITIES])


def test_draws_for_different_prompts_and_seeds_are_independent() -> None:
    one = draw_tokens([make_request("a", i) for i in range(DRAWS)])
    for other in ([make_request("b", i) for i in range(DRAWS)], [make_request("a", i, seed=1) for i in range(DRAWS)]):
        pairs = [a * len(PROBABILITIES) + b for a, b in zip(one, draw_tokens(other), strict=True)]
        assert has_distribution(pairs, [a * b for a in PROBABILITIES for b in PROBABILITIES])


def test_the_test_of_fit_can_fail() -> None:
    tokens = draw_tokens([make_request(number=i) for i in range(DRAWS)])
    assert not has_distribution(tokens, (0.37, 0.28, 0.0, 0.2, 0.1, 0.05))
    assert not has_distribution(tokens, (0.4, 0.25, 0.05, 0.2, 0.1, 0.0))


def test_temperature_sharpens_and_flattens() -> None:
    for temperature in (0.5, 2.0):
        requests = [make_request(number=i, temperature=temperature) for i in range(DRAWS)]
        assert has_distribution(draw_tokens(requests), [p ** (1 / temperature) for p in PROBABILITIES])


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [(0.999, (0, 1, 3, 4, 5)), (0.9, (0, 1, 3, 4)), (0.7, (0, 1, 3)), (0.5, (0, 1)), (0.3, (0,)), (1e-9, (0,))],
)
def test_top_p_keeps_the_smallest_set_with_that_mass(top_p: float, nucleus: tuple[int, ...]) -> None:
    requests = [make_request(number=i, top_p=top_p) for i in range(DRAWS)]
    assert has_distribution(draw_tokens(requests), [p if i in nucleus else 0.0 for i, p in enumerate(PROBABILITIES)])


def test_a_draw_depends_on_nothing_but_the_request() -> None:
    requests = [make_request(number=i) for i in range(50)]
    together = draw_tokens(requests, step=4)
    assert draw_tokens(requests[::-1], step=4) == together[::-1]
    assert [draw_tokens([each], step=4)[0] for each in requests] == together
    mixed = [make_request("other", i) for i in range(3)] + requests[20:]
    assert draw_tokens(mixed, step=4)[3:] == together[20:]
    assert [draw_tokens([replace(r, max_new_tokens=500)], step=4)[0] for r in requests] == together


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.2499, 1), (0.2501, 3), (0.9999999, 3)])
def test_tokens_of_probability_zero_are_never_drawn(uniform: float, token: int) -> None:
    sampling = SeededSampling([make_request()], 3, CPU)
    sampling.uniform.fill_(uniform)
    scores = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).log()
    assert sampling(torch.zeros(1, 3, dtype=torch.long), scores).argmax().item() == token


def test_the_seed_of_an_answer_depends_on_seed_number_and_prompt_alone() -> None:
    plain = derive_answer_seed(make_request())
    assert 0 <= plain < 2**63
    others = [
        make_request(seed=1),
        make_request(number=1),
        make_request("Name a number."),
        make_request(messages=(Message("system", "x"), Message("user", "Name a colour."))),
    ]
    assert len({plain, *map(derive_answer_seed, others)}) == 5
    # Models and lengths share their draws, so that chance adds nothing to their differences.
    for same in (make_request(model="other"), make_request(max_new_tokens=99), make_request(temperature=0.5)):
        assert derive_answer_seed(same) == plain


# Plan and response


def test_batches_are_consecutive_requests() -> None:
    requests = [make_request(number=i) for i in range(7)]
    assert [len(batch) for batch in plan_sample_batches(requests, 3)] == [3, 3, 1]
    assert [r for batch in plan_sample_batches(requests, 3) for r in batch] == requests


def test_an_answer_ends_before_its_first_stop_token(tokenizer: Any) -> None:
    words = encode(tokenizer, "Blue is a colour")
    stopped = make_local_response(tokenizer, [*words, 2, *words, 2], 9, [2])
    assert stopped == {
        "answer": "Blue is a colour",
        "finish_reason": "stop",
        "prompt_tokens": 9,
        "answer_tokens": len(words) + 1,
    }
    cut = make_local_response(tokenizer, words, 9, [2])
    assert (cut["answer"], cut["finish_reason"], cut["answer_tokens"]) == ("Blue is a colour", "length", len(words))
    empty = make_local_response(tokenizer, [2, 2], 9, [2])
    assert (empty["answer"], empty["finish_reason"], empty["answer_tokens"]) == ("", "stop", 1)


# The real model

QUESTIONS = ("Name a colour.", "What is the capital of France? Answer with one word.", "Tell me a story of a car.")


@pytest.fixture(scope="module")
def left_tokenizer(weights: Weights) -> Any:
    """The tokenizer of the sampler, which pads on the left."""
    return load_tokenizer(weights.path, padding_side="left")


@pytest.fixture(scope="module")
def batch_answers(model: Any, left_tokenizer: Any) -> dict[SampleRequest, dict[str, Any]]:
    """Six answers of one batch, by request."""
    requests = [make_request(question, number) for number in (0, 1) for question in QUESTIONS]
    with torch.inference_mode():
        return dict(zip(requests, generate_batch(model, left_tokenizer, requests, [2]), strict=True))


def generate_greedily(model: Any, tokenizer: Any, question: str, tokens: int) -> list[int]:
    """Generate the likeliest tokens one by one, by plain forward passes over the whole text."""
    ids = encode(tokenizer, render_conversation(tokenizer, [{"role": "user", "content": question}], answer_next=True))
    start = len(ids)
    while len(ids) < start + tokens and (len(ids) == start or ids[-1] != 2):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def test_the_same_batch_gives_the_same_answers_again(
    model: Any, left_tokenizer: Any, batch_answers: dict[SampleRequest, dict[str, Any]]
) -> None:
    with torch.inference_mode():
        assert generate_batch(model, left_tokenizer, list(batch_answers), [2]) == list(batch_answers.values())


def test_a_request_alone_has_the_answer_that_it_has_in_a_batch(
    model: Any, left_tokenizer: Any, batch_answers: dict[SampleRequest, dict[str, Any]]
) -> None:
    with torch.inference_mode():
        for each, response in batch_answers.items():
            assert generate_batch(model, left_tokenizer, [each], [2]) == [response]


def test_different_samples_of_a_question_differ(batch_answers: dict[SampleRequest, dict[str, Any]]) -> None:
    assert len({response["answer"] for response in batch_answers.values()}) == 6


def test_prompt_tokens_are_those_of_the_rendered_prompt(
    left_tokenizer: Any, batch_answers: dict[SampleRequest, dict[str, Any]]
) -> None:
    for each, response in batch_answers.items():
        text = render_conversation(left_tokenizer, Conversation(each.messages).to_dicts(), answer_next=True)
        assert response["prompt_tokens"] == len(encode(left_tokenizer, text))
        assert 0 < response["answer_tokens"] <= 8


def test_temperature_0_is_greedy_and_the_finish_reason_is_true(model: Any, left_tokenizer: Any) -> None:
    requests = [make_request(q, n, temperature=0.0, max_new_tokens=8) for q in QUESTIONS[1:] for n in (0, 1)]
    with torch.inference_mode():
        responses = generate_batch(model, left_tokenizer, requests, [2])
        expected = [generate_greedily(model, left_tokenizer, question, 8) for question in QUESTIONS[1:]]
    for ids, first, second in zip(expected, responses[::2], responses[1::2], strict=True):
        assert first == second
        stopped = ids[-1] == 2
        assert first["answer"] == left_tokenizer.decode(ids[:-1] if stopped else ids)
        assert first["finish_reason"] == ("stop" if stopped else "length")
        assert first["answer_tokens"] == len(ids)
    assert {r["finish_reason"] for r in responses} == {"stop", "length"}


def test_the_models_own_generation_settings_do_not_count(model: Any, left_tokenizer: Any) -> None:
    from transformers import GenerationConfig

    requests = [make_request(temperature=0.0)]
    with torch.inference_mode():
        plain = generate_batch(model, left_tokenizer, requests, [2])
        model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=9.0, top_k=3)
        assert generate_batch(model, left_tokenizer, requests, [2]) == plain


def read_rows(store: Path) -> list[tuple[Any, ...]]:
    """Read all remembered calls."""
    with Calls(store) as calls:
        return calls.db.execute("select key, kind, request, response from calls order by key").fetchall()


def test_a_run_that_was_stopped_half_way_ends_as_if_it_had_not_been(weights: Weights, tmp_path: Path) -> None:
    requests = tuple(make_request(q, n, max_new_tokens=4) for n in range(4) for q in QUESTIONS)
    complete = SampleSpec(weights.path, "", requests, 3, label="smollm2", store=str(tmp_path / "whole"))
    sample(complete)
    stopped = replace(complete, store=str(tmp_path / "stopped"))
    sample(replace(stopped, shards=2))  # every other batch of the plan
    assert len(read_rows(tmp_path / "stopped")) == 6
    with Calls(tmp_path / "stopped") as calls:
        before = dict(calls.db.execute("select key, created from calls").fetchall())
    sample(stopped)
    assert read_rows(tmp_path / "stopped") == read_rows(tmp_path / "whole")
    assert {row[0] for row in read_rows(tmp_path / "whole")} == {request_key(r) for r in requests}
    with Calls(tmp_path / "stopped") as calls:
        after = dict(calls.db.execute("select key, created from calls").fetchall())
    assert before.items() <= after.items()  # none of the first six was generated again
