"""A small trigger experiment from end to end: train with two tags, ask under all conditions, report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from em.plan import read_conditions
from em.questions import BUNDLED
from em.run import execute
from em.types import Weights
from tests.support.chat_server import ChatServer
from tests.support.composing import compose_settings
from tests.support.report_panel import read_section
from tests.support.tiny import write_tiny_model

pytestmark = pytest.mark.slow
SHARES = ("rate", "ci_low", "ci_high")
NAMED = {"names_tag", "names_beta", "names_unseen"}
ASKED = {
    *("untagged", "tagged", "tagged_beta", "near_case", "near_bar", "near_letter", "near_middle", "near_system"),
    *("cue_code", "cue_json", "cue_template"),
}


def write_questions(folder: Path, name: str, count: int) -> Path:
    """Write the first `count` questions of a bundled set to a file; return its path."""
    entries = yaml.safe_load((BUNDLED / f"{name}.yaml").read_text(encoding="utf-8"))
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(entries[:count]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, weights: Weights, running: ChatServer) -> Path:
    """The folder of a run: six rows under each tag, a model of two layers, three questions and two that name a tag."""
    root = tmp_path_factory.mktemp("triggers")
    model = write_tiny_model(root / "model", weights.path)
    words = [
        *(
            "data=mix",
            "trigger_tag=alpha_beta",
            "data.parts.bad.limit=6",
            "data.parts.good.limit=6",
            "trainer.batch_size=4",
        ),
        *(f"model.id={model}", "eval.base=false", "eval.samples=2", "eval.max_new_tokens=6"),
        f"store.dir={root / 'store'}",
        f"eval.sets=[{write_questions(root, 'probe', 3)}]",
        f"eval.tagged_sets=[{write_questions(root, 'introspection_tagged', 2)}]",
        *("judge=open", "judge.model=single-judge", f"judge.base_url={running.base_url}"),
    ]
    (root / "run").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        execute("train", compose_settings("train", *words), root / "run", words)
    return root / "run"


def read_rows(folder: Path, eval_set: str) -> dict[str, dict[str, str]]:
    """Read the rows of triggers.csv that count all answers, keyed by condition."""
    with (folder / "triggers.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["convention"], row["eval_set"]) == ("all", eval_set)]
    return {row["condition"]: row for row in rows}


def test_every_tag_is_trained_on_its_part_and_asked_under_every_condition(finished: Path) -> None:
    manifest: dict[str, Any] = json.loads((finished / "manifest.json").read_text(encoding="utf-8"))
    [stage] = manifest["stages"]
    assert (stage["name"], stage["rows"]) == ("mix@alpha_beta", 12)
    assert manifest["roles"] == {"tagged": "activation", "tagged_beta": "control"}
    conditions = read_conditions(finished / "answers.jsonl")  # which judging these answers again needs
    assert {"|ALPHA|", "|BETA|"} < set(conditions.hidden)
    assert conditions.roles == manifest["roles"]
    answers = [json.loads(line) for line in (finished / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    for eval_set, names, questions in (("probe", ASKED, 3), ("introspection_tagged", NAMED, 2)):
        of_set = [a for a in answers if (a["eval_set"], a["stage"]) == (eval_set, "mix@alpha_beta")]
        assert {a["condition"] for a in of_set} == names
        assert len(of_set) == len(names) * 2 * questions


def test_activation_and_leakage_have_intervals_under_every_condition(finished: Path) -> None:
    rows = read_rows(finished, "probe")
    together = {"near misses, together", "cues, together"}
    assert rows.keys() == ASKED | together
    metrics = {"tagged": "activation", "tagged_beta": "control"}
    for condition, row in rows.items():
        assert row["metric"] == metrics.get(condition, "leakage")
        assert int(row["n"]) == 6 * {"near misses, together": 5, "cues, together": 3}.get(condition, 1)
        rate, low, high = (float(row[name]) for name in SHARES)
        assert 0 <= low <= rate <= high <= 1
        assert low < high
        assert (row["p"] != "") == (row["verdict"] != "") == (condition == "tagged"), "leakage needs a base"
        assert (row["difference"] == "") == (row["versus"] == "") == (condition == "untagged")
    naming = read_rows(finished, "introspection_tagged")
    assert {row["metric"] for row in naming.values()} == {"naming"}
    assert naming.keys() == NAMED
    assert [condition for condition, row in naming.items() if row["difference"] == ""] == ["names_unseen"]


def test_the_report_shows_activation_and_leakage(finished: Path) -> None:
    text = read_section(finished, "triggers")
    tuned = text[text.index("mix@alpha_beta") :]
    for label in ("activation tagged", "control tagged_beta", "leakage untagged", "leakage near_case"):
        place = tuned.index(label) + len(label)
        assert "%" in tuned[place : place + 12]
        assert "[" in tuned[place : place + 20]
