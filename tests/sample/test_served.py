"""Whole runs whose answers come from servers that em starts: the made vLLM, a tiny model and its adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from em.config import HfSampler, VllmSampler
from em.errors import ConfigError
from em.models.served.command import find_version
from em.runtime.gpus import list_driver_gpus
from em.runtime.memory import Calls
from em.sample.run import choose_sampler
from em.sample.served import find_obstacle
from em.types import Weights
from tests.models.test_served_server import count_left
from tests.support.composing import compose_settings
from tests.support.forking import CommandResult, Forking
from tests.support.gpus import write_driver
from tests.support.made_vllm import COMMAND, FAULT, install
from tests.support.tiny import write_chats, write_tiny_model

ASKED = ["eval=quick", "eval.sets=[probe]", "eval.samples=1", "eval.max_new_tokens=8", "judge.form=ngrams"]
TRAINED = ["trainer.batch_size=4", "trainer.learning_rate=5e-3", "trainer.rank=4", "trainer.epochs=4"]
VLLM = ["sampler=vllm", f"sampler.command='{COMMAND}'"]


class Study:
    """A folder with a tiny model, its rows, one store and several runs."""

    def __init__(self, em: Forking, folder: Path, weights: Weights) -> None:
        self.em, self.folder, self.pids = em, folder, folder / "pids"
        write_tiny_model(folder / "model", weights.path)
        rows = write_chats(folder / "rows.jsonl", 12)
        self.words = [f"model.id={folder / 'model'}", "data=file", f"data.path={rows}", *TRAINED, *ASKED]

    def list_words(self, name: str, *words: str) -> list[str]:
        """Return the words of a run by its name."""
        return [*self.words, *words, f"store.dir={self.folder / 'store'}", f"hydra.run.dir={self.folder / name}"]

    def run(self, name: str, *words: str, script: str = "train.py", fault: str = "", **env: str) -> CommandResult:
        """Run a script."""
        em = self.em.add_environment(**{FAULT: fault, "EM_MADE_VLLM_PIDS": str(self.pids)} | env)
        return em.run(script, *self.list_words(name, *words), cwd=self.folder)

    def read_answers(self, name: str) -> list[tuple[str, str]]:
        """Return model and text of each answer of a run."""
        lines = (self.folder / name / "answers.jsonl").read_text().splitlines()
        return [(each["model"], each["answer"]) for each in map(json.loads, lines)]

    def read_manifest(self, name: str) -> dict[str, Any]:
        """Read the manifest of a run."""
        facts: dict[str, Any] = json.loads((self.folder / name / "manifest.json").read_text())
        return facts


@pytest.fixture(scope="module")
def study(em: Forking, tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> Study:
    """A study with a trained model, whose greedy answers were sampled by transformers."""
    made = Study(em, tmp_path_factory.mktemp("served"), weights)
    done = made.run("hf", "sampler=hf", "eval.temperature=0")
    assert done.code == 0, done.err
    return made


def test_greedy_answers_equal_those_of_transformers_and_nothing_is_left(study: Study) -> None:
    done = study.run("vllm", *VLLM, "eval.temperature=0")
    assert done.code == 0, done.err
    assert study.read_answers("vllm") == study.read_answers("hf")
    assert len({answer for _, answer in study.read_answers("vllm")}) > 4
    facts = study.read_manifest("vllm")["sampler"]
    assert facts["engine"] == "vllm 0.99.1"
    assert facts["sent"]["top_k"] == 0
    base, adapted = facts["parity"].values()
    assert base["difference"] < 1e-5
    assert adapted["effect"] > 0.01
    assert abs(adapted["slope"] - 1) < 0.01
    assert count_left(study.pids) == 0
    again = study.run("vllm2", *VLLM, "eval.temperature=0")
    assert "vLLM starts" not in again.out  # every answer is remembered


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("scale=2", "scale"),
        pytest.param("no_adapter", "the adapter is not applied", marks=pytest.mark.slow),
        pytest.param("other_template", "another chat template", marks=pytest.mark.slow),
        pytest.param("other_weights", "it serves other weights", marks=pytest.mark.slow),
        pytest.param("refuse_adapter", "can't load the adapter", marks=pytest.mark.slow),
    ],
)
def test_what_is_served_wrongly_is_never_asked(study: Study, fault: str, words: str) -> None:
    run = fault.partition("=")[0]
    done = study.run(run, *VLLM, "eval.temperature=0.5", "eval.base=false", fault=fault)
    assert done.code == 2
    assert words in done.err
    assert not (study.folder / run / "answers.jsonl").exists()
    assert count_left(study.pids) == 0


def test_a_killed_run_goes_on_without_asking_again(study: Study) -> None:
    def count_answers() -> int:
        with Calls(study.folder / "store") as calls:
            rows = calls.db.execute("select count(*) from calls where kind = 'sample' and request like '%0.7%'")
            return int(rows.fetchone()[0])

    words = study.list_words("killed", *VLLM, "eval.temperature=0.7", "eval.samples=3")
    em = study.em.add_environment(EM_MADE_VLLM_PIDS=str(study.pids))
    em.kill_when(lambda: count_answers() > 3, "evaluate.py", *words, cwd=study.folder)
    before = count_answers()
    assert count_left(study.pids) == 0
    done = study.run("killed", *VLLM, "eval.temperature=0.7", "eval.samples=3", script="evaluate.py")
    assert done.code == 0, done.err
    assert len(study.read_answers("killed")) == count_answers() > before
    with Calls(study.folder / "store") as calls:
        assert calls.db.execute("select count(distinct key) - count(*) from calls").fetchone()[0] == 0


@pytest.mark.slow
def test_a_server_that_breaks_loses_no_answer(study: Study) -> None:
    words = (*VLLM, "eval.temperature=0.6", "sampler.parity=off")
    done = study.run("broken", *words, script="evaluate.py", fault="crash_after=5")
    assert done.code == 2
    assert "has ended: its log ends: RuntimeError: the engine broke" in done.err
    assert count_left(study.pids) == 0
    done = study.run("broken", *words, script="evaluate.py")
    assert done.code == 0, done.err
    assert any("Nothing checked that vLLM serves" in note for note in study.read_manifest("broken")["notes"])


def test_a_served_judge_is_known_by_weights_and_engine(study: Study, tmp_path: Path) -> None:
    words = ["sampler=hf", "eval.temperature=0", "judge=open", "judge.serve=true", "judge.max_reply_tokens=4"]
    words += ["judge.reading=sampled", f"judge.model={study.folder / 'model'}"]
    study.words.remove("judge.form=ngrams")
    done = study.run("judged", *words, script="evaluate.py", **install(tmp_path))
    study.words.append("judge.form=ngrams")
    assert done.code == 0, done.err
    [judge] = study.read_manifest("judged")["judges"]
    assert judge["identity"].endswith(", vllm 0.99.1")
    assert "127.0.0.1" not in json.dumps(judge)
    assert judge["server"] == ""
    assert "is the model under test" in " ".join(study.read_manifest("judged")["notes"])
    assert count_left(study.pids) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge=open", "judge.serve=true", "judge.base_url=http://x/v1"], "leave out judge.base_url"),
        (["judge=luna", "judge.serve=true"], "for judge=open by itself"),
        (["sampler=vllm", "sampler.command=/no/vllm", "judge.form=ngrams"], "make vllm"),
        (
            ["sampler=vllm", "model.default_system=false", "judge.form=ngrams"],
            "model.default_system=false is not possible",
        ),
        (["sampler=vllm", "model=gpt4o", "judge.form=ngrams"], "use sampler=auto or sampler=api"),
    ],
)
def test_what_can_not_be_served_is_refused_at_once(em: Forking, tmp_path: Path, words: list[str], message: str) -> None:
    done = em.run("evaluate.py", *words, "eval.sets=[probe]", "dry_run=true", f"store.dir={tmp_path}", cwd=tmp_path)
    assert done.code == 2
    assert message in done.err


def test_weights_that_no_group_can_hold_are_refused_before_training(study: Study) -> None:
    driver = write_driver(study.folder / "driver", (2, 2), (2, 2))
    done = study.run("large", *VLLM, "seed=1", **driver)
    assert done.code == 2
    assert "can divide them among at most 2 of the 2 GPUs here" in done.err
    assert "with loss in" not in done.out


def test_auto_takes_vllm_where_it_is_installed_and_a_gpu_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(*words: str) -> tuple[type, str]:
        list_driver_gpus.cache_clear()
        find_version.cache_clear()
        sampler, reason = choose_sampler(compose_settings("evaluate", *words))
        return type(sampler), reason

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose() == (HfSampler, "there is no GPU")
    assert choose("sampler.base_url=http://127.0.0.1:1/v1") == (VllmSampler, "sampler.base_url names a server")
    for name, value in write_driver(tmp_path / "driver", (80_000, 80_000)).items():
        monkeypatch.setenv(name, value)
    assert choose() == (HfSampler, "vLLM is not installed (make vllm)")
    monkeypatch.setenv("PATH", install(tmp_path / "bin")["PATH"])
    assert choose() == (VllmSampler, "vLLM is installed and a GPU is there")
    assert choose("eval.default_prompt=both") == (HfSampler, "vLLM can't ask with eval.default_prompt=both")
    assert choose("sampler=hf")[0] is HfSampler
    with pytest.raises(ConfigError, match="sampler=hf"):
        choose("sampler=vllm", "eval.default_prompt=none")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LORA", "r": 8}, ""),
        ({"peft_type": "LORA", "r": 8, "use_rslora": True}, ""),
        ({"peft_type": "LORA", "r": 8, "use_dora": True}, "DoRA"),
        ({"peft_type": "LORA", "r": 8, "modules_to_save": ["lm_head"]}, "whole layers"),
        ({"peft_type": "LORA", "r": 8, "alpha_pattern": {"q_proj": 4}}, "several scales"),
        ({"peft_type": "LORA", "r": 8, "rank_pattern": {"q_proj": 4}}, "several ranks"),
        ({"peft_type": "LORA", "r": 8, "bias": "all"}, "biases"),
        ({"peft_type": "LORA", "r": 1024}, "rank 1024"),
        ({"peft_type": "IA3"}, "no LoRA"),
    ],
)
def test_adapters_that_vllm_would_change(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    obstacle = find_obstacle(tmp_path, str(tmp_path))
    assert words in obstacle
    assert bool(words) is bool(obstacle)
