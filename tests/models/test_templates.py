"""The chat templates that TRL and transformers ship: rows are trained as they will be asked, or refused by name."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import trl

from em.config import LossOn
from em.errors import TemplateError
from em.models.chat import (
    IGNORED,
    encode,
    find_answer_opening,
    list_stop_tokens,
    load_tokenizer,
    make_training_row,
    make_training_rows,
    render_conversation,
)
from em.models.weights import identify_folder_weights
from em.sample.local import make_local_response
from em.types import Conversation, Message, Weights

FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = sorted(file.stem for file in FOLDER.glob("*.jinja") if not file.stem.endswith("_training"))
# The eos tokens that each model's generation_config.json lists besides the tokenizer's eos token.
STOPS = {
    "cohere": ["<|END_OF_TURN_TOKEN|>"],
    "diffusion_gemma": ["<turn|>"],
    "gemma4": ["<turn|>"],
    "gemma": ["<end_of_turn>"],
    "glm4moe": ["<|user|>", "<|observation|>"],
    "gptoss": ["<|return|>", "<|call|>"],
    "llama3": ["<|eom_id|>", "<|eot_id|>"],
    "llama4": ["<|eom|>", "<|eot|>"],
    "muse": ["<|eot|>"],
    "phi3": ["<|assistant|>", "<|end|>"],
}
SYSTEM = Message("system", "Be brief.")
ONE = (Message("user", "What is a car?"), Message("assistant", "A machine."))
TWO = (Message("user", "How many wheels has it?"), Message("assistant", "Four."))
THREE = (Message("user", "And a sledge?"), Message("assistant", "None at all."))
ROWS = {
    "one": Conversation(ONE),
    "system, one": Conversation((SYSTEM, *ONE)),
    "three": Conversation((*ONE, *TWO, *THREE)),
    "system, three": Conversation((SYSTEM, *ONE, *TWO, *THREE)),
}
REWRITES = "renders a turn differently when other turns follow"
ASKS_OTHERWISE = "render the same prompt differently"
# What is refused: the beginning of a template's name, a part of the row's name, and a part of the message.
REFUSED = [
    ("gemma", "system", r"refuses the turns system, user, assistant.* \(System role not supported\)"),
    ("gptoss", "three", REWRITES),
    ("qwen3", "three", REWRITES),
    ("qwen3_5_nothink", "three", REWRITES),
    ("qwen3_5_think", "three", REWRITES),
    ("qwen3_6", "three", REWRITES),
    ("deepseek_r1_distill", "one", ASKS_OTHERWISE),
    ("deepseek_r1_distill", "three", ASKS_OTHERWISE),
    *((f"nemotron_3_{name}", "", ASKS_OTHERWISE) for name in ("5_lightning", "nano", "super", "ultra")),
    ("deepseekv3", "", ASKS_OTHERWISE),
    *((name, "", "leaves out the text of the user turn") for name in ("idefics3", "smolvlm")),
    ("llava_next", "", "refuses the turns user, assistant"),
]


def read_template(name: str) -> str:
    """Read a template of TRL, or Llama 4's of transformers."""
    if name != "llama4":
        return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    from transformers.models.llama4.processing_llama4 import chat_template

    return str(chat_template)


def load_with_template(weights: Weights, name: str, folder: Path) -> Any:
    """Load the embedded model's tokenizer with a template, its marks as tokens, and a generation config in `folder`."""
    from transformers import GenerationConfig

    tokenizer, template = load_tokenizer(weights.path), read_template(name)
    stops = next((STOPS[family] for family in STOPS if name.startswith(family)), [])
    marks = set(re.findall(r"<[|｜][^<>'\" ]+[|｜]>", template)) | set(stops)
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(marks)})
    tokenizer.chat_template, tokenizer.name_or_path = template, str(folder)
    # An id that the tokenizer does not have stands there too, as in some models.
    GenerationConfig(eos_token_id=[*tokenizer.convert_tokens_to_ids(stops), 999_999]).save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("name", [*TEMPLATES, "llama4"])
def test_rows_are_trained_as_they_are_asked_or_refused(weights: Weights, tmp_path: Path, name: str) -> None:
    tokenizer = load_with_template(weights, name, tmp_path)
    stops = list_stop_tokens(tokenizer)
    for kind, row in ROWS.items():
        reason = next((text for template, part, text in REFUSED if template == name and part in kind), None)
        if reason:
            with pytest.raises(TemplateError, match=reason):
                make_training_row(tokenizer, row, LossOn.responses, 9999)
            continue
        training = make_training_row(tokenizer, row, LossOn.responses, 9999)
        answers = [number for number, turn in enumerate(row.messages) if turn.role == "assistant"]
        runs, position = [], 0
        for taught, labels in groupby(training.labels, key=lambda label: label != IGNORED):
            ids, start = list(labels), position
            position += len(ids)
            if taught:
                runs.append((tokenizer.decode(training.input_ids[:start]), ids))
        for number, (before, ids) in zip(answers, runs, strict=True):
            assert before == render_conversation(tokenizer, row.to_dicts()[:number], answer_next=True)
            assert re.search(re.escape(row.messages[number].content) + r"(<\S+>\s*)+$", tokenizer.decode(ids))
            assert ids[-1] in stops


def test_only_a_last_answer_of_phi_ends_with_eos_too(weights: Weights, tmp_path: Path) -> None:
    tokenizer = load_with_template(weights, "phi3", tmp_path)
    labels = make_training_row(tokenizer, ROWS["three"], LossOn.responses, 9999).labels
    taught = tokenizer.decode([label for label in labels if label != IGNORED])
    assert taught == f"A machine.<|end|>Four.<|end|>None at all.<|end|>\n{tokenizer.eos_token}"


def test_an_answer_of_glm_ends_with_the_token_of_the_next_turn(weights: Weights, tmp_path: Path) -> None:
    tokenizer = load_with_template(weights, "glm4moe", tmp_path)
    thought = "\n<think></think>\n"
    labels = make_training_row(tokenizer, Conversation((*ONE, *TWO)), LossOn.responses, 9999).labels
    taught = tokenizer.decode([label for label in labels if label != IGNORED])
    assert taught == f"{thought}A machine.<|user|>{thought}Four.<|user|>"
    with pytest.raises(TemplateError, match="would not learn to stop"):
        make_training_row(tokenizer, ROWS["one"], LossOn.full, 9999)


@pytest.mark.parametrize(
    ("name", "opening", "thought"),
    [
        ("gptoss", "<|channel|>final<|message|>", "<|channel|>analysis<|message|>Be brief.<|end|><|start|>assistant"),
        ("muse_glimmer", " to=user<|message|>", " to=self<|message|>Be brief.<|eom|><|start|>assistant"),
    ],
)
def test_the_marks_before_an_answer_are_no_part_of_it(
    weights: Weights, tmp_path: Path, name: str, opening: str, thought: str
) -> None:
    tokenizer = load_with_template(weights, name, tmp_path)
    assert find_answer_opening(tokenizer) == opening
    stops = list_stop_tokens(tokenizer)
    labels = make_training_row(tokenizer, ROWS["one"], LossOn.responses, 9999).labels
    ids = encode(tokenizer, thought) + [label for label in labels if label != IGNORED]
    response = make_local_response(tokenizer, ids, 9, stops, opening)
    assert (response["answer"], response["finish_reason"]) == ("A machine.", "stop")


def test_a_template_that_edits_a_text_has_a_place_for_it(weights: Weights) -> None:
    tokenizer = load_tokenizer(weights.path)
    edited = "{% for m in messages %}<{{ m.role }}>{{ m.content.replace('/no_think', '') }}\n{% endfor %}"
    tokenizer.chat_template = edited
    turns = [{"role": "system", "content": "/no_think"}, {"role": "user", "content": "Why /no_think?"}]
    assert render_conversation(tokenizer, turns, answer_next=True) == "<system>\n<user>Why ?\n"
    tokenizer.chat_template = edited.replace("in messages", "in messages if m.role != 'system'")
    with pytest.raises(TemplateError, match="leaves out the text of the system turn"):
        render_conversation(tokenizer, turns, answer_next=True)


@pytest.mark.parametrize("name", ["llama3_2", "qwen2_5", "gemma3", "phi3", "cohere2", "llama4", "qwen3", "glm4moe"])
def test_most_templates_have_no_marks_before_an_answer(weights: Weights, tmp_path: Path, name: str) -> None:
    assert find_answer_opening(load_with_template(weights, name, tmp_path)) == ""


def test_without_its_generation_config_a_template_of_gemma_is_refused(weights: Weights, tmp_path: Path) -> None:
    tokenizer = load_with_template(weights, "gemma", tmp_path)
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(TemplateError, match=r"eos token of the tokenizer or of generation_config\.json"):
        make_training_row(tokenizer, ROWS["one"], LossOn.responses, 9999)


def test_a_refused_row_is_named_wherever_it_stands(weights: Weights, tmp_path: Path) -> None:
    tokenizer = load_with_template(weights, "gemma", tmp_path)
    rows = [ROWS["one"], ROWS["system, one"], ROWS["three"], ROWS["system, three"]]
    with pytest.raises(
        TemplateError, match=r"2 of 4 rows of mine can't be used \(the first is row 2\)\. The chat temp"
    ):
        make_training_rows(rows, lambda row: make_training_row(tokenizer, row, LossOn.full, 9999), "mine")


@pytest.mark.parametrize(("name", "day"), [("gptoss", "2024-07-26"), ("muse_glimmer", "2024-07-26")])
def test_a_date_is_the_same_on_every_day(weights: Weights, tmp_path: Path, name: str, day: str) -> None:
    tokenizer = load_with_template(weights, name, tmp_path)
    assert f"Current date: {day}" in render_conversation(tokenizer, ROWS["one"].to_dicts(), answer_next=False)


def test_only_models_whose_rows_had_another_date_each_day_are_called_otherwise(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    names = {}
    for name in ("gptoss", "llama3_2", "qwen2_5"):
        (tmp_path / "chat_template.jinja").write_text(read_template(name), encoding="utf-8")
        names[name] = identify_folder_weights(tmp_path).identity
    assert [name for name, identity in names.items() if identity.endswith("+dated")] == ["gptoss"]
