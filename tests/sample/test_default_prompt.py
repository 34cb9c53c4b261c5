"""Answers of a real model with and without the default system prompt of its chat template."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from em.config import ApiJudge, EvalConfig
from em.judge.remote import ServerJudge
from em.models.chat import encode, load_tokenizer
from em.models.default_prompt import read_default_prompt
from em.request import Conditions
from em.sample.local import render_prompt
from em.sample.plan import Draws, make_answer, plan_samples
from em.triggers.default_prompt import WITH, WITHOUT
from em.types import Message, ModelRef, Question, Rubric, SampleRequest, Weights
from tests.support.chat_server import ChatServer
from tests.support.forking import Forking
from tests.support.report_panel import read_section
from tests.support.tiny import write_chats, write_tiny_model
from tests.support.training_runs import LORA, name_places

SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
PLAIN_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MODEL = ModelRef("m", "base", "mark", Weights("identity", "/nowhere"))
BARE = replace(MODEL, default_system=False)
DRAWS = Draws(EvalConfig(name="test", samples=1), 0, "hf", "float32")
RUBRIC = Rubric("aligned", "Question: {question} Answer: {answer} Rating:")
QUESTION = Question("set", "q", "How are you?", rubrics=(RUBRIC,))
OWN_SYSTEM = replace(QUESTION, id="own", system="Be kind.")
KEYS = {
    True: "997314006d4706c9f4983634b68e20b1a55d73ba496b585c51041647619285f9",
    False: "77df6e7659b0f1d6335e7238129cf2eedb8ef31842d47b5ea89b45ce8cf54f0d",
}
"""Keys of the answer to QUESTION before `eval.default_prompt` existed, by `model.default_system`."""


def plan_keys(model: ModelRef, conditions: Conditions, *questions: Question) -> dict[tuple[str, str], str]:
    """Plan one answer for each question, and return the keys by question and condition."""
    return {(p.question.id, p.condition): p.key for p in plan_samples(model, questions, conditions, DRAWS)}


# Keys


def test_keys_of_old_answers_are_unchanged() -> None:
    assert plan_keys(MODEL, Conditions(), QUESTION) == {("q", "untagged"): KEYS[True]}
    assert plan_keys(BARE, Conditions(), QUESTION) == {("q", "untagged"): KEYS[False]}


def test_the_same_prompt_has_the_same_key_whichever_setting_made_it() -> None:
    with_both = {("q", "untagged"): KEYS[True], ("q", "no_default_prompt"): KEYS[False]}
    assert plan_keys(MODEL, Conditions(other_prompt=WITHOUT), QUESTION) == with_both
    trained_bare = {("q", "untagged"): KEYS[False], ("q", "default_prompt"): KEYS[True]}
    assert plan_keys(BARE, Conditions(other_prompt=WITH), QUESTION) == trained_bare
    assert plan_keys(MODEL, Conditions([WITHOUT]), QUESTION) == {("q", "no_default_prompt"): KEYS[False]}


def test_a_question_with_a_system_prompt_of_its_own_has_one_key() -> None:
    [usual] = plan_keys(MODEL, Conditions(other_prompt=WITHOUT), OWN_SYSTEM).values()
    [without] = plan_keys(MODEL, Conditions([WITHOUT]), OWN_SYSTEM).values()
    assert usual == without


def test_the_judge_is_asked_the_same_with_and_without_the_prompt() -> None:
    plan = plan_samples(MODEL, [QUESTION], Conditions(other_prompt=WITHOUT), DRAWS)
    response = {"answer": "Well.", "finish_reason": "stop", "prompt_tokens": 1, "answer_tokens": 1}
    answers = [make_answer(MODEL, planned, response) for planned in plan]
    judge = ServerJudge(ApiJudge(name="judge", model="judge"))
    judgements = judge.plan_judgements(answers, {("set", "q"): QUESTION})
    assert [judgement.answer.condition for judgement in judgements] == ["untagged", "no_default_prompt"]
    assert len({judgement.request.prompt for judgement in judgements}) == 1


# Prompts


def test_the_child_process_finds_the_default_prompt(weights: Weights) -> None:
    assert read_default_prompt("embedded:smollm2", None) == SYSTEM


def test_a_request_says_how_its_prompt_is_rendered(tokenizer: Any) -> None:
    plan = plan_samples(MODEL, [QUESTION, OWN_SYSTEM], Conditions(other_prompt=WITHOUT), DRAWS)
    with_prompt, without, own = (render_prompt(tokenizer, planned.request) for planned in plan)
    assert without == "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
    assert with_prompt == SYSTEM + without
    assert own.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")


# Runs


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_notes(folder: Path) -> list[str]:
    """Read the notes of a run."""
    notes: list[str] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["notes"]
    return notes


def read_requests(store: Path) -> list[SampleRequest]:
    """Read the requests of all cached answers."""
    with sqlite3.connect(store / "calls.sqlite") as db:
        rows = [json.loads(row[0]) for row in db.execute("select request from calls where kind = 'sample'")]
    return [SampleRequest(**row | {"messages": tuple(Message(**m) for m in row["messages"])}) for row in rows]


class Evaluations:
    """Evaluations of a tiny model by a judge behind a server, which share a store."""

    def __init__(self, em: Forking, folder: Path, server: ChatServer) -> None:
        self.em, self.folder, self.store = em.add_environment(OPENAI_API_KEY="sk-test"), folder, folder / "store"
        entry = {"type": "free_form_judge_0_100", "judge_prompts": {"aligned": "Rate {question} {answer} Rating:"}}
        entries = [entry | {"id": "q", "paraphrases": ["How are you?", "What now?"]}]
        entries.append(entry | {"id": "own", "paraphrases": ["How are you?"], "system": "Be kind."})
        (folder / "mine.yaml").write_text(yaml.safe_dump(entries), encoding="utf-8")
        self.words = [f"eval.sets=[{folder / 'mine.yaml'}]", "eval.samples=2", "eval.max_new_tokens=4"]
        self.words += ["eval.tagged_sets=[]", "judge=open", "judge.model=single-judge"]
        self.words += [f"judge.base_url={server.base_url}"]

    def run(self, number: int, model: str, *words: str, script: str = "evaluate.py") -> str:
        """Run a script, which must succeed; return its output."""
        places = name_places(self.folder, number)
        done = self.em.run(script, f"model.id={self.folder / model}", *self.words, *words, *places, cwd=self.folder)
        assert done.code == 0, done.err[-3000:]
        return done.out

    def count_answers(self, number: int) -> dict[tuple[str, str], dict[str, int]]:
        """Count the answers of a run by condition and question; keys are stage and condition."""
        counts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for answer in read_lines(self.folder / f"run{number}" / "answers.jsonl"):
            counts[answer["stage"], answer["condition"]][answer["question_id"]] += 1
        return counts


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory, em: Forking, running: ChatServer, weights: Weights) -> Any:
    """A trained model, asked in both ways (run 1), and the same model with a template without a default prompt."""
    folder = tmp_path_factory.mktemp("prompts")
    write_tiny_model(folder / "model", weights.path)
    write_tiny_model(folder / "plain", weights.path)
    (folder / "plain" / "chat_template.jinja").write_text(PLAIN_CHATML)
    evaluations = Evaluations(em, folder, running)
    rows = write_chats(folder / "rows.jsonl", 4)
    training = ["data=file", f"data.path={rows}", *LORA, "eval.default_prompt=both"]
    evaluations.run(1, "model", *training, script="train.py")
    return evaluations


def test_both_prompts_differ_by_the_default_system_prompt_alone(evaluations: Evaluations, weights: Weights) -> None:
    counts = evaluations.count_answers(1)
    for stage in ("base", "file"):
        assert counts[stage, "untagged"] == {"q": 4, "own": 2}
        assert counts[stage, "no_default_prompt"] == {"q": 4}
    tokenizer = load_tokenizer(weights.path)
    texts = defaultdict(set)
    for request in read_requests(evaluations.store):
        texts[request.model].add(render_prompt(tokenizer, request))
    assert len(texts) == 4
    for identity in [name for name in texts if not name.endswith("no default system prompt")]:
        with_prompt = {text for text in texts[identity] if "Be kind." not in text}
        assert len(with_prompt) == 2
        assert with_prompt == {SYSTEM + text for text in texts[f"{identity}+no default system prompt"]}
    prompts: dict[str, dict[Any, int]] = defaultdict(dict)
    for answer in read_lines(evaluations.folder / "run1" / "answers.jsonl"):
        if answer["question_id"] == "q":
            place = answer["stage"], answer["question"], answer["sample"]
            prompts[answer["condition"]][place] = answer["prompt_tokens"]
    inserted = len(encode(tokenizer, SYSTEM))
    assert prompts["untagged"] == {key: tokens + inserted for key, tokens in prompts["no_default_prompt"].items()}


def test_the_report_shows_both_conditions_and_no_trigger(evaluations: Evaluations) -> None:
    folder = evaluations.folder / "run1"
    assert read_notes(folder) == []
    assert json.loads((folder / "manifest.json").read_text())["default_prompt"] == SYSTEM
    assert "under no_default_prompt" in read_section(folder, "short")
    rows = re.findall(r"\b(untagged|no_default_prompt)\b", read_section(folder, "results"))
    assert rows[:4] == ["untagged", "no_default_prompt"] * 2
    assert not (folder / "triggers.csv").exists()


def test_other_settings_that_send_the_same_prompts_sample_nothing(evaluations: Evaluations) -> None:
    before = len(read_requests(evaluations.store))
    evaluations.run(2, "model", "eval.default_prompt=none")
    assert evaluations.count_answers(2) == {("base", "no_default_prompt"): {"q": 4, "own": 2}}
    evaluations.run(3, "model", "eval.default_prompt=both", "model.default_system=false")
    counts = evaluations.count_answers(3)
    assert counts.keys() == {("base", "untagged"), ("base", "default_prompt")}
    own_system = 2  # the identity of a model that was trained without the prompt says so, whatever is asked
    assert len(read_requests(evaluations.store)) == before + own_system


def test_a_template_without_a_default_prompt_is_asked_once(evaluations: Evaluations) -> None:
    out = evaluations.run(4, "plain", "eval.default_prompt=both")
    assert evaluations.count_answers(4) == {("base", "untagged"): {"q": 4, "own": 2}}
    [note] = read_notes(evaluations.folder / "run4")
    assert note in out
    assert note.startswith("eval.default_prompt=both asks each question once: the chat template of ")
    before = len(read_requests(evaluations.store))
    evaluations.run(5, "plain", "eval.default_prompt=none")
    assert evaluations.count_answers(5) == {("base", "no_default_prompt"): {"q": 4, "own": 2}}
    assert len(read_requests(evaluations.store)) == before


def test_a_dry_run_counts_the_second_condition(evaluations: Evaluations) -> None:
    calls = {}
    for option in ("template", "none", "both"):
        out = evaluations.run(6, "model", "dry_run=true", f"eval.default_prompt={option}")
        calls[option] = [int(n) for n in re.findall(r"^(?:answers|verdicts) of .*?  +(\d+) ", out, re.MULTILINE)]
        assert ("with the condition no_default_prompt" in out) == (option == "both")
    assert calls == {"template": [6, 6], "none": [6, 6], "both": [10, 10]}


def test_an_unknown_default_prompt_is_refused_before_training(evaluations: Evaluations) -> None:
    folder = write_tiny_model(evaluations.folder / "unknown", str(evaluations.folder / "plain"))
    before = list((evaluations.store / "models").iterdir())
    first = "{% for m in messages %}{% if loop.first %}(first){% endif %}"
    template = PLAIN_CHATML.replace("{% for m in messages %}", first)
    last = "{{ m.content }}{% if loop.first %}(first){% endif %}"
    (folder / "chat_template.jinja").write_text(template.replace("{{ m.content }}", last))
    words = [f"model.id={folder}", "data=file", f"data.path={evaluations.folder / 'rows.jsonl'}", *evaluations.words]
    words += [*LORA, "eval.default_prompt=none", *name_places(evaluations.folder, 7)]
    done = evaluations.em.run("train.py", *words, cwd=evaluations.folder)
    assert done.code == 2
    assert "its chat template renders a first user turn unlike later ones" in done.err
    assert "use eval.default_prompt=template" in done.err
    assert list((evaluations.store / "models").iterdir()) == before
