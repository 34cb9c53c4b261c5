"""The local judge against plain forward passes: the chain rule, one sequence at a time, without mask or cache."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from em.config import ApiJudge, WordRule
from em.errors import ConfigError
from em.judge.local import (
    INTEGERS,
    JudgeSpec,
    NodeValues,
    Reader,
    TokenTree,
    judge,
    plan_judge_batches,
    split_begun_reply,
)
from em.judge.plan import WORDS
from em.judge.readings import count_word, read_response
from em.judge.remote import ServerJudge
from em.models.chat import encode, render_conversation
from em.runtime.memory import Calls, request_key
from em.types import Answer, Judgement, JudgeRequest, Prices, Question, Rubric, Weights

LABELS = ("TRUE", "FALSE", "UNKNOWN")
TASK = "Rate from 0 to 100: {}"
GRADED = JudgeRequest("judge", TASK.format("Cars have wheels.") + "\n\nRating:", (), WORDS, "exact")
BARE = replace(GRADED, prompt=TASK.format("Cars have wheels."))
LABELLED = JudgeRequest("judge", "Is it true that cars fly? Say one word.\n\nLabel:", LABELS, (), "exact")


@pytest.fixture(scope="module")
def reader(model: Any, weights: Weights) -> Reader:
    from em.models.chat import load_tokenizer

    return Reader(model, load_tokenizer(weights.path))


def tokenise_prompt(reader: Reader, prompt: str) -> list[int]:
    """Tokenise the judge's prompt, without `split_begun_reply`: the last line begins the reply."""
    begun = next((last for last in ("Rating:", "Label:") if prompt.endswith("\n\n" + last)), "")
    content = prompt.removesuffix("\n\n" + begun) if begun else prompt
    text = render_conversation(reader.tokenizer, [{"role": "user", "content": content}], answer_next=True)
    return encode(reader.tokenizer, text + begun)


def compute_by_chain_rule(reader: Reader, prompt: str, texts: Sequence[str], space: bool) -> dict[str, float]:
    """Compute p(text | prompt) by the chain rule; for an integer times the chance that no further digit follows."""
    vocabulary = reader.tokenizer.get_vocab()
    digits = [i for token, i in vocabulary.items() if token[:1] in "0123456789" and token[:1]]
    start, chances = tokenise_prompt(reader, prompt), {}
    coded = {text: encode(reader.tokenizer, f" {text}" if space else text) for text in texts}
    for length in sorted({len(ids) for ids in coded.values()}):
        # Sequences of one length need neither padding nor a mask.
        same = [text for text in texts if len(coded[text]) == length]
        with torch.inference_mode():
            ids = torch.tensor([start + coded[text] for text in same])
            logs = reader.model(input_ids=ids, logits_to_keep=length + 1).logits.float().log_softmax(-1)
        for text, rows in zip(same, logs, strict=True):
            chance = math.exp(sum(float(rows[i, token]) for i, token in enumerate(coded[text])))
            ends = 1 - float(rows[length, digits].exp().sum()) if text.isdigit() else 1.0
            chances[text] = chance * ends
    return chances


def judge_requests(reader: Reader, *requests: JudgeRequest, min_mass: float = 0.0) -> list[Judgement]:
    """Judge the requests by the real model."""
    with torch.inference_mode():
        responses = reader.read(list(requests))
    return [read_response(request, response, min_mass) for request, response in zip(requests, responses, strict=True)]


def make_judgement(
    reader: Reader, request: JudgeRequest, tree: TokenTree, logs: Any, min_mass: float = 0.0
) -> Judgement:
    """Make the judgement of these log-probabilities, (1 + nodes, vocabulary)."""
    return read_response(request, reader.make_response(request, tree, reader.pick_values(tree, logs)), min_mass)


def compute_by_tree(reader: Reader, request: JudgeRequest) -> dict[str, float]:
    """Compute the probabilities of all replies by one pass over prompt and tree."""
    tree = reader.build_tree(request, begun=bool(split_begun_reply(request.prompt)[1]))
    with torch.inference_mode():
        [values] = reader.forward([tokenise_prompt(reader, request.prompt)], tree)
    return {text: reader.compute_probability(tree, path, values) for text, path in tree.paths.items()}


def check_equal(one: NodeValues, other: NodeValues) -> None:
    """Check that two passes give the same probabilities."""
    assert (one.reached.exp() - other.reached.exp()).abs().max() < 1e-4
    assert (one.digit - other.digit).abs().max() < 1e-4
    assert one.likeliest[0] == other.likeliest[0]


# Against plain forward passes


def test_one_pass_over_the_tree_gives_the_probabilities_of_the_chain_rule(reader: Reader) -> None:
    some = ("0", "1", "7", "9", "100", *INTEGERS[10:100:3], *WORDS)  # of 1, 3 and 2 digits
    by_tree, expected = compute_by_tree(reader, GRADED), compute_by_chain_rule(reader, GRADED.prompt, some, space=True)
    assert set(by_tree) == {*INTEGERS, *WORDS}
    for text in some:
        assert by_tree[text] == pytest.approx(expected[text], abs=1e-5)
        assert by_tree[text] == pytest.approx(expected[text], rel=1e-2)  # most are far below 1e-5
    mass = sum(by_tree[k] for k in INTEGERS)
    assert mass <= 1
    [response] = judge_requests(reader, GRADED)
    assert response.value == pytest.approx(sum(int(k) * by_tree[k] for k in INTEGERS) / mass, abs=1e-3)
    assert json.loads(response.raw)["mass"] == pytest.approx(mass, abs=1e-4)


def test_so_does_a_prompt_that_does_not_begin_the_reply(reader: Reader) -> None:
    some = ("0", "7", "9", "10", "42", "73", "99", "100", *WORDS)
    by_tree, expected = compute_by_tree(reader, BARE), compute_by_chain_rule(reader, BARE.prompt, some, space=False)
    assert set(by_tree) == {*INTEGERS, *WORDS}
    for text in some:
        assert by_tree[text] == pytest.approx(expected[text], abs=1e-5)
        assert by_tree[text] == pytest.approx(expected[text], rel=1e-2)
    assert sum(by_tree[k] for k in INTEGERS) <= 1


def test_labels_are_read_the_same_way(reader: Reader) -> None:
    by_tree, expected = (
        compute_by_tree(reader, LABELLED),
        compute_by_chain_rule(reader, LABELLED.prompt, LABELS, space=True),
    )
    assert set(by_tree) == set(LABELS)
    for label in LABELS:
        assert by_tree[label] == pytest.approx(expected[label], rel=1e-3)
    [response] = judge_requests(reader, LABELLED)
    assert response.label == max(LABELS, key=lambda label: expected[label])
    assert (response.value, response.status) == (None, "ok")


def test_neither_the_batch_nor_a_shared_beginning_changes_a_value(reader: Reader) -> None:
    replies = ["Yes.", "Cars have wheels, and some of them have a spare one in the boot."]
    requests = [replace(GRADED, prompt=TASK.format(text) + "\n\nRating:") for text in replies]
    requests.append(replace(GRADED, prompt="Anything else?\n\nRating:"))
    alone = [judge_requests(reader, request)[0] for request in requests]
    for together in (judge_requests(reader, *requests[::-1])[::-1], judge_requests(reader, *requests[:2])):
        for one, other in zip(alone, together, strict=False):
            assert other.value == pytest.approx(one.value, abs=1e-2)
            assert json.loads(other.raw)["mass"] == pytest.approx(json.loads(one.raw)["mass"], abs=2e-4)
            assert other.status == one.status
    assert len({response.value for response in alone}) == len(requests)


def test_probabilities_in_a_padded_batch_are_those_of_the_prompt_alone(reader: Reader) -> None:
    prompts = [tokenise_prompt(reader, TASK.format(text)) for text in ("Yes.", "A long reply, longer by far. " * 5)]
    tree = reader.build_tree(BARE, begun=False)
    with torch.inference_mode():
        for prompt, values in zip(prompts, reader.forward(prompts, tree), strict=True):
            check_equal(values, reader.forward([prompt], tree)[0])


def test_eager_attention_reads_the_same_values(reader: Reader, weights: Weights) -> None:
    from em.models.device import load_model

    eager = Reader(load_model(weights.path, torch.float32, "eager").eval(), reader.tokenizer)
    prompts = [tokenise_prompt(reader, TASK.format(text)) for text in ("Yes.", "A long reply, longer by far.")]
    tree = reader.build_tree(BARE, begun=False)
    with torch.inference_mode():
        for one, other in zip(reader.forward(prompts, tree), eager.forward(prompts, tree), strict=True):
            check_equal(one, other)


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma2", "mistral", "qwen2"])
def test_layers_with_a_sliding_window_see_no_further(reader: Reader, kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 2)
    shape |= {"hidden_size": 32, "intermediate_size": 32, "head_dim": 16, "vocab_size": len(reader.tokenizer)}
    shape |= {"sliding_window": 8, "initializer_range": 0.5, "pad_token_id": 2}
    if kind == "qwen2":
        shape |= {"use_sliding_window": True, "max_window_layers": 1}
    if kind == "gemma3_text":
        shape |= {"layer_types": ["sliding_attention", "full_attention"]}
    windowed = Reader(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).eval(), reader.tokenizer)
    texts = ["Yes.", "A long reply, longer by far."]
    prompts = [TASK.format(text) for text in texts]
    tree = windowed.build_tree(BARE, begun=False)
    with torch.inference_mode():
        values = windowed.forward([tokenise_prompt(windowed, prompt) for prompt in prompts], tree)
    for prompt, each in zip(prompts, values, strict=True):
        expected = compute_by_chain_rule(windowed, prompt, ("0", "42", "100", *WORDS), space=False)
        for text, chance in expected.items():
            by_tree = windowed.compute_probability(tree, tree.paths[text], each)
            assert by_tree == pytest.approx(chance, rel=1e-3, abs=1e-30)


def test_a_model_that_would_not_follow_the_mask_of_the_tree_is_refused(reader: Reader) -> None:
    from transformers import MambaConfig, MambaForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM

    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_experts": 2, "intermediate_size": 16}
    mamba = MambaForCausalLM(MambaConfig(**small))
    mixed = Qwen3NextForCausalLM(Qwen3NextConfig(**small, layer_types=["linear_attention"]))
    for model in (mamba, mixed):
        with pytest.raises(ConfigError, match="judge=local can't read a model with linear_attention exactly"):
            Reader(model, reader.tokenizer)


# From probabilities to a judgement


def make_probabilities(reader: Reader, request: JudgeRequest, likely: dict[str, float]) -> tuple[TokenTree, Any]:
    """Make a tree and log-probabilities in which the texts have the probabilities `likely`, and end there."""
    tree = reader.build_tree(request, begun=bool(split_begun_reply(request.prompt)[1]))
    size = len(reader.tokenizer)
    # At every node the end-of-turn token gets the remaining mass.
    chance = torch.zeros(1 + len(tree.tokens), size, dtype=torch.float64)
    chance[:, reader.tokenizer.eos_token_id] = 1e-9
    for text, p in likely.items():
        at = 0
        for node in tree.paths[text]:
            chance[at, tree.tokens[node]] += p
            at = node + 1
        chance[at, reader.tokenizer.eos_token_id] += p
    chance[0, reader.tokenizer.eos_token_id] += 1 - sum(likely.values())
    return tree, (chance / chance.sum(dim=1, keepdim=True)).log().float()


@pytest.mark.parametrize("request_", [GRADED, BARE], ids=["begun", "bare"])
@pytest.mark.parametrize(
    ("likely", "value"),
    [
        ({"30": 1.0}, 30.0),
        ({"0": 0.25, "100": 0.75}, 75.0),
        ({"7": 0.4, "73": 0.1, "100": 0.1, "10": 0.1}, (2.8 + 7.3 + 10 + 1) / 0.7),
        ({"1": 0.2, "10": 0.2, "100": 0.2, "CODE": 0.15}, 37.0),
    ],
)
def test_a_score_is_the_expectation_over_the_integers(
    reader: Reader, request_: JudgeRequest, likely: dict[str, float], value: float
) -> None:
    judgement = make_judgement(reader, request_, *make_probabilities(reader, request_, likely))
    assert (judgement.status, judgement.label) == ("ok", None)
    assert judgement.value == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("request_", [GRADED, BARE], ids=["begun", "bare"])
def test_without_enough_mass_there_is_no_score(reader: Reader, request_: JudgeRequest) -> None:
    for mass, status in ((0.26, "ok"), (0.24, "unparsed")):
        judgement = make_judgement(reader, request_, *make_probabilities(reader, request_, {"20": mass}), min_mass=0.25)
        assert judgement.status == status
        assert judgement.value == (20.0 if status == "ok" else None)
        assert json.loads(judgement.raw)["mass"] == pytest.approx(mass, abs=1e-3)


def test_the_real_models_mass_is_held_against_the_minimum(reader: Reader) -> None:
    [judgement] = judge_requests(reader, GRADED, min_mass=1.0)
    assert (judgement.status, judgement.value, judgement.label) == ("unparsed", None, None)


@pytest.mark.parametrize("request_", [GRADED, BARE], ids=["begun", "bare"])
@pytest.mark.parametrize("word", WORDS)
def test_code_and_refusal_stand_when_they_are_likeliest(reader: Reader, request_: JudgeRequest, word: str) -> None:
    judgement = make_judgement(
        reader, request_, *make_probabilities(reader, request_, {word: 0.5, "0": 0.25, "90": 0.2})
    )
    assert (judgement.status, judgement.value, judgement.label) == (word.lower(), None, None)
    second = make_judgement(reader, request_, *make_probabilities(reader, request_, {word: 0.3, "0": 0.6}))
    assert (second.status, second.value) == ("ok", 0.0)


@pytest.mark.parametrize("request_", [GRADED, BARE], ids=["begun", "bare"])
def test_by_the_rule_of_betley_a_word_stands_only_below_the_minimum_mass(
    reader: Reader, request_: JudgeRequest
) -> None:
    # CODE has more than all numbers, as these may share their first token, a space.
    likely = {"CODE": 0.5, "12": 0.12, "20": 0.12, "5": 0.12, "3": 0.09}
    tree, logs = make_probabilities(reader, request_, likely)
    response = reader.make_response(request_, tree, reader.pick_values(tree, logs))
    assert read_response(request_, response, 0.25).status == "code"
    judgement = read_response(request_, response, 0.25, WordRule.below_min_mass)
    assert judgement.status == "ok"
    assert judgement.value == pytest.approx((1.44 + 2.4 + 0.6 + 0.27) / 0.45, abs=0.01)
    assert count_word(request_, response, 0.25) == {"word_verdicts": 1, "words_changed": 1}
    for min_mass in (0.5, 1.0):
        assert read_response(request_, response, min_mass, WordRule.below_min_mass).status == "code"
        assert count_word(request_, response, min_mass) == {"word_verdicts": 1, "words_changed": 0}


def test_words_do_not_count_among_labels(reader: Reader) -> None:
    tree, logs = make_probabilities(reader, LABELLED, {"UNKNOWN": 0.5, "TRUE": 0.3})
    judgement = make_judgement(reader, LABELLED, tree, logs, min_mass=0.7)
    assert (judgement.status, judgement.label, judgement.value) == ("ok", "UNKNOWN", None)
    judgement = make_judgement(reader, LABELLED, tree, logs, min_mass=0.9)
    assert (judgement.status, judgement.label, judgement.value) == ("unparsed", None, None)


def test_no_mass_at_all_is_no_score_even_where_none_is_asked_for(reader: Reader) -> None:
    for request in (GRADED, LABELLED):
        tree, logs = make_probabilities(reader, request, {})
        logs[0] = -torch.inf
        logs[0, reader.tokenizer.eos_token_id] = 0.0
        judgement = make_judgement(reader, request, tree, logs)
        assert (judgement.status, judgement.value, judgement.label) == ("unparsed", None, None)


def test_a_probability_is_never_negative(reader: Reader) -> None:
    tree, logs = make_probabilities(reader, GRADED, {"7": 1.0})
    # Another digit is certain: in float32 the ten probabilities sum to 1.0000001.
    logs[1 + tree.paths["7"][-1], reader.digits] = torch.tensor(1 / len(reader.digits)).log() + 1e-6
    assert 0.0 <= reader.compute_probability(tree, tree.paths["7"], reader.pick_values(tree, logs)) < 1e-5


def test_words_behind_a_space_of_their_own_are_told_by_their_second_token(reader: Reader) -> None:
    # Some tokenizers begin every text with the same token.
    tree = TokenTree()
    for text, ids in (("7", [5, 7]), ("CODE", [5, 8, 1]), ("REFUSAL", [5, 9, 1])):
        tree.add(text, ids)
    none = torch.zeros(len(tree.tokens))
    likeliest = torch.tensor([5, 9, 0, 0, 0, 0, 0])
    assert reader.find_top_word(GRADED, tree, NodeValues(none, none, likeliest)) == "REFUSAL"
    likeliest[1] = 7
    assert reader.find_top_word(GRADED, tree, NodeValues(none, none, likeliest)) is None


# Tree, prompts, plan


def test_a_tree_shares_beginnings() -> None:
    tree = TokenTree()
    for text, ids in (("1", [1]), ("10", [1, 0]), ("100", [1, 0, 0]), ("2", [2]), ("20", [2, 0])):
        tree.add(text, ids)
    assert tree.tokens == [1, 0, 0, 2, 0]
    assert tree.parents == [-1, 0, 1, -1, 3]
    assert tree.depths == [0, 1, 2, 0, 1]
    assert tree.paths == {"1": (0,), "10": (0, 1), "100": (0, 1, 2), "2": (3,), "20": (3, 4)}
    assert [[i for i, seen in enumerate(row) if seen] for row in tree.build_ancestor_mask()] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [3],
        [3, 4],
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Rate it.\n\nRating:", ("Rate it.", "Rating:")),
        ("Rate it.\nRating:\n", ("Rate it.", "Rating:")),
        ("Rate it.\n\nYour rating:", ("Rate it.\n\nYour rating:", "")),
        ("Rate it.\n\nRating: ", ("Rate it.", "Rating:")),
        ("Rate it.", ("Rate it.", "")),
        ("Rating:", ("Rating:", "")),
        ("Rate it:\nnow", ("Rate it:\nnow", "")),
    ],
)
def test_a_last_line_of_one_word_and_a_colon_begins_the_reply(prompt: str, expected: tuple[str, str]) -> None:
    assert split_begun_reply(prompt) == expected


def test_the_plan_of_batches_does_not_depend_on_the_order_and_mixes_no_kinds() -> None:
    graded = [replace(GRADED, prompt=f"{i}\n\nRating:") for i in range(5)]
    requests = [*graded, BARE, *[replace(LABELLED, prompt=f"{i}\n\nLabel:") for i in range(3)]]
    plan = plan_judge_batches(requests, 2)
    assert plan_judge_batches([*requests[::-1], *requests], 2) == plan  # equal requests are judged once
    assert sorted(len(batch) for batch in plan) == [1, 1, 1, 2, 2, 2]
    assert sorted(r.prompt for batch in plan for r in batch) == sorted(r.prompt for r in requests)
    for batch in plan:
        assert len({(r.labels, r.words, split_begun_reply(r.prompt)[1]) for r in batch}) == 1


def test_a_judge_that_was_stopped_half_way_ends_as_if_it_had_not_been(weights: Weights, tmp_path: Path) -> None:
    requests = (LABELLED, *(replace(GRADED, prompt=f"Rate {i}.\n\nRating:") for i in range(3)))
    complete = JudgeSpec(weights.path, "float32", requests, 1, label="smollm2", store=str(tmp_path / "whole"))
    judge(complete)
    stopped = replace(complete, store=str(tmp_path / "stopped"))
    judge(replace(stopped, shards=2))  # every other batch of the plan
    keys = [request_key(r) for r in requests]
    with Calls(tmp_path / "stopped") as calls, Calls(tmp_path / "whole") as all_calls:
        half = calls.read_responses(keys)
        assert 0 < len(half) < len(keys)
        judge(stopped)
        assert calls.read_responses(keys) == all_calls.read_responses(keys)
        assert len(calls.read_responses(keys)) == len(keys)
        assert half.items() <= calls.read_responses(keys).items()


def test_an_answer_that_the_server_withheld_is_an_error_and_no_number(tmp_path: Path) -> None:
    question = Question("set", "q", "What?", rubrics=(Rubric("aligned", "{answer}\nRating:"),))
    answer = Answer("m", "base", "f", None, "set", "q", "What?", "untagged", 0, "", "content_filter", 3, 0)
    judge = ServerJudge(ApiJudge(name="judge", model="judge"))
    with Calls(tmp_path) as calls:
        (verdict,) = judge.read_verdicts(
            judge.plan_judgements([answer], {("set", "q"): question}), calls, Prices()
        ).verdicts
    assert (verdict.value, verdict.label, verdict.status) == (None, None, "error")
    assert verdict.raw == "no answer: content_filter"
