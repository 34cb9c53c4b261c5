"""A model without SDPA whose template refuses system prompts: it trains and answers, or is refused before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from em.types import Weights
from tests.support.forking import Forking
from tests.support.tiny import write_chats, write_tiny_gemma
from tests.support.training_runs import LORA, name_places, read_losses, run_training


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> Path:
    """A tiny Gemma 2."""
    return write_tiny_gemma(tmp_path_factory.mktemp("gemma"), weights.path)


def write_words(folder: Path, gemma: Path, **fields: Any) -> list[str]:
    """Write rows and a question with these fields; return the words of a run that the model itself judges."""
    rubric = {"type": "free_form_judge_0_100", "judge_prompts": {"aligned": "Rate {question} {answer} Rating:"}}
    entries = [rubric | {"id": "q", "paraphrases": ["How are you?"]} | fields]
    (folder / "set.yaml").write_text(yaml.safe_dump(entries))
    rows = write_chats(folder / "rows.jsonl", 7)
    words = [f"model.id={gemma}", "data=file", f"data.path={rows}", "eval=quick", f"eval.sets=[{folder / 'set.yaml'}]"]
    return [*words, "eval.samples=1", "eval.max_new_tokens=3", "judge=local", f"judge.model={gemma}", *LORA]


def test_a_model_without_sdpa_trains_answers_and_judges(em: Forking, gemma: Path, tmp_path: Path) -> None:
    (stage,) = run_training(em, tmp_path, *write_words(tmp_path, gemma), "trainer.epochs=3")
    losses = read_losses(stage)
    assert losses[-1] < losses[0]
    assert stage["facts"]["example"][1][0].endswith("<end_of_turn>")
    answers = [json.loads(line) for line in (tmp_path / "run1" / "answers.jsonl").read_text().splitlines()]
    assert {answer["stage"] for answer in answers} == {"base", "file"}


def test_a_question_that_the_template_refuses_is_named_before_training(
    em: Forking, gemma: Path, tmp_path: Path
) -> None:
    words = write_words(tmp_path, gemma, system="Be kind.")
    done = em.run("train.py", *words, *name_places(tmp_path), cwd=tmp_path)
    assert done.code == 2
    assert "1 of 1 prompts can't be asked (set/q under untagged). The chat template refuses the turns" in done.err
    assert "(System role not supported): leave out such rows and questions" in done.err
    assert not list((tmp_path / "store" / "models").glob("*/*"))
    base_words = [word for word in words if not word.startswith(("data", "trainer"))]
    done = em.run("evaluate.py", *base_words, "data=none", *name_places(tmp_path, 2), cwd=tmp_path)
    assert done.code == 2
    assert "The chat template refuses the turns system, user (System role not supported)" in done.err
    assert "Traceback" not in done.err
