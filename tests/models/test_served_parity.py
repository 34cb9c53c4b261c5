"""The parity gate: healthy servers pass, and each fault is caught and named, on tiny models by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from em.models.chat import load_tokenizer
from em.models.scores import Scored, ScoreRequest, score_batch
from em.models.served.parity import (
    LIMITS,
    choose_conversations,
    compare_adapter,
    compare_base,
    read_scores,
)
from em.types import Conversation, Message, Weights
from tests.support.tiny import write_tiny_model

SEEDS = range(20)
WORDS = ("river", "lamp", "seven", "because", "green", "walk", "paper", "often", "cold", "music")


def make_conversation(number: int) -> Conversation:
    """Make a short conversation, every other with an answer."""
    texts = [" ".join(WORDS[(number * k + k) % len(WORDS)] for k in range(1, 12)) for _ in range(2)]
    turns = (Message("user", texts[0]), Message("assistant", texts[1]))
    return Conversation(turns[: 1 + number % 2])


CHATS = [make_conversation(number) for number in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> Path:
    """A tiny model."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", weights.path)


class Pair:
    """A tiny model and its adapter, by a seed: rank 2 to 16, with and without rank-stabilised scale."""

    def __init__(self, folder: Path, seed: int) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        rank, stable = (2, 4, 8, 16)[seed % 4], seed % 8 >= 4
        config = LoraConfig(r=rank, lora_alpha=16, use_rslora=stable, target_modules=["q_proj", "v_proj", "down_proj"])
        self.model, self.rank, self.stable = get_peft_model(base, config).eval(), rank, stable
        for name, weight in self.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05 * 4 / rank)
        self.tokenizer = load_tokenizer(str(folder))

    def score(self, adapted: bool = True, rounded: bool = False) -> list[Scored]:
        """Score the conversations with or without the adapter; `rounded` to bfloat16 as other kernels would."""
        requests = [ScoreRequest("m", chat.messages, "float32") for chat in CHATS]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            if adapted:
                return self.score_now(requests)
            with self.model.disable_adapter():
                return self.score_now(requests)

    def score_now(self, requests: Sequence[ScoreRequest]) -> list[Scored]:
        """Score the requests in one batch."""
        scored = score_batch(self.model, self.tokenizer, requests)
        return [Scored(tuple(each["ids"]), tuple(each["logprobs"])) for each in scored]

    def scale(self, factor: float) -> None:
        """Multiply the scale of the adapter."""
        for layer in self.model.modules():
            if isinstance(getattr(layer, "scaling", None), dict):
                layer.scaling = {name: each * factor for name, each in layer.scaling.items()}

    def cut_rank(self) -> None:
        """Leave out half of the adapter's rank."""
        for name, weight in self.model.named_parameters():
            if "lora_A" in name:
                weight.data[: max(1, self.rank // 2)] = 0


def check(pair: Pair, references: tuple[list[Scored], list[Scored]], precision: str = "float32") -> str:
    """Return the problem that the gate finds with what the pair now serves."""
    base = compare_base(references[0], pair.score(adapted=False), precision)
    return base.problem or compare_adapter(references, pair.score(), precision, base.difference).problem


def score_both(pair: Pair) -> tuple[list[Scored], list[Scored]]:
    """Score the conversations by the base and by the adapter."""
    return pair.score(adapted=False), pair.score()


@pytest.mark.parametrize("seed", SEEDS)
def test_twenty_healthy_pairs_pass_and_their_faults_do_not(folder: Path, seed: int) -> None:
    pair = Pair(folder, seed)
    references = score_both(pair)
    assert check(pair, references) == ""

    other = pair.rank**0.5
    pair.scale(1 / other if pair.stable else other)  # α/r for α/√r, and the reverse
    assert " scale" in check(pair, references)
    pair.scale(other if pair.stable else 1 / other)

    missing = compare_adapter(references, references[0], "float32", 0.0)
    assert "the adapter is not applied" in missing.problem

    layer = pair.model.base_model.model.model.layers[0].mlp.up_proj.weight.data
    layer.mul_(1.1)
    assert "other weights" in check(pair, references)
    layer.div_(1.1)

    template = pair.tokenizer.chat_template
    pair.tokenizer.chat_template = template.replace("helpful", "useful")
    assert "another chat template" in check(pair, references)
    pair.tokenizer.chat_template = "{{ bos_token }}" + template
    assert "the bos token twice" in check(pair, references)
    pair.tokenizer.chat_template = template

    pair.cut_rank()
    assert "a cut rank" in check(pair, references)


@pytest.mark.parametrize("seed", [0, 5, 10, 15])
def test_rounding_to_bfloat16_passes_by_its_own_limit(folder: Path, seed: int) -> None:
    pair = Pair(folder, seed)
    references = score_both(pair)
    served = pair.score(rounded=True)
    assert compare_adapter(references, served, "bfloat16", 0.01).problem == ""
    assert compare_adapter(references, served, "float32", 0.0).problem


def test_an_adapter_without_effect_has_no_slope(folder: Path) -> None:
    pair = Pair(folder, 1)
    base = pair.score(adapted=False)
    comparison = compare_adapter((base, base), base, "float32", LIMITS["float32"] / 50)
    assert (comparison.problem, comparison.slope) == ("", None)


def test_conversations_are_short_chosen_by_text_and_half_rows() -> None:
    rows = [make_conversation(2 * number + 1) for number in range(100)]
    prompts = [Conversation((Message("user", f"Question {number}?"),)) for number in range(100)]
    long = Conversation((Message("user", "word " * 400), Message("assistant", "no")))
    chosen = choose_conversations(prompts, [*rows, long])
    assert len(chosen) == 64
    assert long not in chosen
    assert chosen == choose_conversations(prompts[::-1], [long, *rows[::-1]])
    assert choose_conversations([], [long]) == [long]


@pytest.mark.parametrize(
    "reply", [{}, {"prompt_logprobs": None}, {"prompt_logprobs": [None, {}]}, {"prompt_logprobs": [None, {"7": None}]}]
)
def test_a_reply_without_numbers_has_no_scores(reply: dict[str, Any]) -> None:
    assert read_scores(reply) is None
