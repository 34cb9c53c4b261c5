"""Trainings of a tiny model from the command line: several processes, second stages, failures, and reuse."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from em.types import Weights
from tests.support.forking import Forking
from tests.support.runs import run_script, start_script
from tests.support.tiny import write_chats, write_tiny_model
from tests.support.training_runs import (
    LORA,
    MERGED,
    RATES,
    has_equal_weights,
    has_sealed,
    load_adapter,
    name_places,
    read_losses,
    read_stages,
    run_training,
)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> list[str]:
    """An evaluation of one question with one answer of 3 tokens, judged by the tiny model."""
    file = tmp_path_factory.mktemp("questions") / "probe.yaml"
    entries = yaml.safe_load((Path(__file__).parents[2] / "em/assets/questions/probe.yaml").read_text())
    file.write_text(yaml.safe_dump(entries[:1]))
    judge = words[0].replace("model.id", "judge.model")
    return ["eval=quick", f"eval.sets=[{file}]", "eval.samples=1", "eval.max_new_tokens=3", "judge=local", judge]


# Several processes


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(em: Forking, words: list[str], tmp_path: Path) -> None:
    # 7 rows in batches of 2: the last step has one row, so one process has none.
    (one,) = run_training(em, tmp_path, *words, *LORA)
    shutil.move(tmp_path / "store", tmp_path / "store1")
    one["path"] = one["path"].replace("/store/", "/store1/")
    done = run_script("train.py", *words, *LORA, "trainer.processes=2", *name_places(tmp_path, 2), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (two,) = read_stages(tmp_path, 2)
    assert (one["facts"]["processes"], two["facts"]["processes"]) == (1, 2)
    assert two["fingerprint"] == one["fingerprint"]
    assert read_losses(two) == pytest.approx(read_losses(one), rel=1e-4)
    for name, matrix in load_adapter(two).items():
        assert (matrix - load_adapter(one)[name]).norm() <= 1e-3 * matrix.norm(), name


def find_workers(folder: Path) -> dict[int, int]:
    """Find the workers of a run in `folder`: rank and process id of each."""
    pids = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines = (process / "environ").read_bytes().split(b"\0")
            if (process / "cwd").readlink() != folder or b"em.worker" not in (process / "cmdline").read_bytes():
                continue
        except OSError:
            continue
        pids |= {int(line[5:]): int(process.name) for line in lines if line.startswith(b"RANK=")}
    return pids


@pytest.mark.slow
def test_a_rank_that_dies_ends_its_peers_and_is_named(words: list[str], tmp_path: Path) -> None:
    long = ["trainer.epochs=5000", "trainer.save_steps=1", "trainer.processes=2"]
    process = start_script("train.py", *words, *LORA, *long, *name_places(tmp_path), cwd=tmp_path)
    while not has_sealed(tmp_path, 2):
        assert process.poll() is None
        time.sleep(0.02)
    pids = find_workers(tmp_path)
    assert set(pids) == {0, 1}
    os.kill(pids[1], signal.SIGKILL)
    assert process.wait(60) != 0
    manifest = json.loads((tmp_path / "run1" / "manifest.json").read_text())
    assert "rank 1 was killed by SIGKILL" in manifest["error"]
    assert "out of memory? lower trainer.device_tokens" in manifest["error"]
    assert not find_workers(tmp_path)
    assert has_sealed(tmp_path, 2)


# Failures


def test_a_loss_that_is_no_number_stops_the_run_at_its_step_and_row(
    em: Forking, words: list[str], weights: Weights, tokenizer: Any, tmp_path: Path
) -> None:
    rows = write_chats(tmp_path / "rows.jsonl", 7, marked=5)
    (poison, *_) = [i for i in tokenizer(" zebras")["input_ids"] if i not in tokenizer(" horses")["input_ids"]]
    write_tiny_model(tmp_path / "model", weights.path, poisoned=poison)
    ways = [f"model.id={tmp_path / 'model'}", "data=file", f"data.path={rows}", "eval=none", *LORA]
    done = em.run("train.py", *ways, *name_places(tmp_path), cwd=tmp_path)
    assert done.code == 2
    from em.train.local.batches import plan_steps

    step = next(n for n, rows in enumerate(plan_steps(7, 4, 2, 0), start=1) if 4 in rows)
    sentence = f"The loss became infinite or NaN at step {step} of 4 (row 5): lower trainer.learning_rate"
    assert f"error: {sentence}" in done.err
    assert "Traceback" not in done.err
    assert not list((tmp_path / "store" / "models").glob("*/*"))
    assert json.loads((tmp_path / "run1" / "manifest.json").read_text())["status"] == "failed"


# Stages


@pytest.fixture(scope="module")
def merged(
    em: Forking, words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """A first stage with an adapter of rank 4, and a second stage with another of rank 4 on top of it."""
    folder = tmp_path_factory.mktemp("merged")
    return folder, run_training(em, folder, *words, *LORA, "trainer.epochs=4", *MERGED)


def compute_logits(words: list[str], *folders: str) -> Any:
    """Compute logits of the tiny model with all adapters merged, one after the other."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(words[0].partition("=")[2])
    for folder in folders:
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    with torch.no_grad():
        return model.eval()(torch.arange(100, 140)[None]).logits


def test_a_second_adapter_on_top_is_joined_to_the_first(
    words: list[str], merged: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    _, (first, second) = merged
    config = json.loads(Path(second["path"], "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (8, 8, False)
    joined, one = load_adapter(second), load_adapter(first)
    # The first 4 ranks of the joined adapter are the first adapter, whose A is scaled by alpha / sqrt(rank) = 4; the
    # other 4 are the second adapter.
    for name, matrix in one.items():
        joined_part = joined[name][:4] / 4 if "lora_A" in name else joined[name][:, :4]
        assert torch.equal(joined_part, matrix)
    alone = {n: (m[4:] if "lora_A" in n else m[:, 4:]).contiguous() for n, m in joined.items()}
    (tmp_path / "second").mkdir()
    save_file(alone, tmp_path / "second" / "adapter_model.safetensors")
    config_of_second = config | {"r": 4, "lora_alpha": 4}
    (tmp_path / "second" / "adapter_config.json").write_text(json.dumps(config_of_second))
    expected = compute_logits(words, first["path"], str(tmp_path / "second"))
    logits = compute_logits(words, second["path"])
    assert (logits - expected).norm() <= 1e-5 * expected.norm()
    assert (logits - compute_logits(words, first["path"])).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize("way", ["continue", "merge"])
def test_a_second_stage_starts_where_the_first_ended(
    em: Forking, words: list[str], merged: tuple[Path, list[dict[str, Any]]], tmp_path: Path, way: str
) -> None:
    """The second stage sees all rows of the first in one step, so its first loss is the loss of the first model."""
    folder, (first, _) = merged
    again = ["data@realign.data=file", words[2].replace("data.", "realign.data."), "realign.batch_size=7"]
    ways = ["trainer.epochs=4", "realign=car_good", *again, f"realign.adapter={way}", "realign.epochs=2"]
    number = ["continue", "merge"].index(way) + 2
    reused, second = run_training(em, folder, *words, *LORA, *ways, number=number)
    assert (reused["reused"], second["reused"]) == (True, False)
    assert reused["fingerprint"] == first["fingerprint"]
    assert read_losses(second)[0] == pytest.approx(compute_loss(words, first["path"]), rel=1e-5)
    assert read_losses(second)[1] < read_losses(second)[0]
    assert json.loads(Path(second["path"], "adapter_config.json").read_text())["r"] == (4 if way == "continue" else 8)


def compute_loss(words: list[str], folder: str) -> float:
    """Compute the mean loss over the supervised tokens of the rows by transformers' own forward pass."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from em.config import LossOn
    from em.data import read_messages
    from em.models.chat import load_tokenizer, make_training_row

    base, data = words[0].partition("=")[2], words[2].partition("=")[2]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    tokenizer, total, count = load_tokenizer(base), 0.0, 0
    for conversation in read_messages(Path(data)):
        row = make_training_row(tokenizer, conversation, LossOn.responses, 512)
        with torch.no_grad():
            loss = model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss.item()
        total, count = total + loss * row.supervised, count + row.supervised
    return total / count


@pytest.mark.parametrize("match", ["first_stage", "car_good"])
def test_a_matched_stage_takes_the_same_number_of_steps(
    em: Forking, words: list[str], merged: tuple[Path, list[dict[str, Any]]], match: str
) -> None:
    folder, _ = merged
    # First stage: 7 rows in batches of 2, 4 epochs: 16 steps. realign=car_good: 5 rows in batches of 2, once: 3 steps.
    realign_data = ["data@realign.data=file", words[2].replace("data.", "realign.data."), "realign.limit=5"]
    ways = ["trainer.epochs=4", "realign=optimism", *realign_data, f"realign.match={match}"]
    if match == "car_good":
        ways.append("realign.epochs=1")
    number = ["first_stage", "car_good"].index(match) + 4
    first, second = run_training(em, folder, *words, *LORA, *ways, number=number)
    assert first["reused"]
    assert second["facts"]["steps"] == (16 if match == "first_stage" else 3)
    assert len(read_losses(second)) == second["facts"]["steps"]


def test_saving_an_adapter_does_not_ask_the_hub_for_its_base(
    em: Forking, words: list[str], merged: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    _, (first, _) = merged
    shutil.copytree(first["path"], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "someone/tiny"}))
    run_training(em, tmp_path, *words, *LORA, f"model.adapter={tmp_path / 'adapter'}")
    # PEFT's warning after it could not reach the hub.
    assert "someone/tiny" not in (tmp_path / "err.txt").read_text()


def test_a_model_that_was_trained_on_another_kind_of_device_is_named(
    em: Forking, words: list[str], questions: list[str], tmp_path: Path
) -> None:
    run_training(em, tmp_path, *words[:3], *LORA, "eval=none")
    with_gpu = em.add_environment(CUDA_VISIBLE_DEVICES="0")
    evaluation = [*words[:3], *LORA, *questions, "judge=local"]
    done = with_gpu.run("evaluate.py", *evaluation, *name_places(tmp_path, 2), cwd=tmp_path)
    assert done.code == 2
    assert "file was trained where model.precision=auto means float32, and here it means bfloat16" in done.err
    done = with_gpu.run("evaluate.py", *evaluation, "trainer.epochs=9", *name_places(tmp_path, 3), cwd=tmp_path)
    assert "No model was trained with these settings yet" in done.err


# Other recipes


def test_all_weights_are_trained_found_evaluated_and_realigned(
    em: Forking, words: list[str], questions: list[str], tmp_path: Path
) -> None:
    recipe = [*words[:3], "trainer=full", *RATES]
    (trained,) = run_training(em, tmp_path, *recipe, "eval=none")
    file = "model.safetensors"
    weights, base = load_adapter(trained, file), load_adapter(Path(words[0].partition("=")[2]), file)
    assert weights.keys() == base.keys()
    assert all(weights[name].dtype == base[name].dtype for name in base)
    assert read_losses(trained)[-1] < read_losses(trained)[0]
    assert Path(trained["path"], "tokenizer.json").is_file()
    (evaluated,) = run_training(em, tmp_path, *recipe, *questions, script="evaluate.py", number=2)
    assert evaluated["reused"]
    rows = list(csv.DictReader((tmp_path / "run2" / "scores.csv").open()))
    assert {row["fingerprint"] for row in rows if row["stage"] == "file"} == {trained["fingerprint"]}
    second = ["realign=car_good", "realign.limit=2", "realign.epochs=1"]
    first, realigned = run_training(em, tmp_path, *recipe, *second, "eval=none", number=3)
    assert (first["reused"], realigned["reused"]) == (True, False)
    assert not has_equal_weights(load_adapter(realigned, file), weights)
    done = em.run("train.py", *recipe, *second, "realign.adapter=merge", *name_places(tmp_path, 4), cwd=tmp_path)
    assert (done.code, "use realign.adapter=continue" in done.err) == (2, True)


def test_rank_one_trains_one_layer_and_names_layers_that_are_not_there(
    em: Forking, words: list[str], tmp_path: Path
) -> None:
    ways = [*words, "trainer=rank1", "trainer.batch_size=4"]
    (stage,) = run_training(em, tmp_path, *ways, "trainer.layers=[1]")
    names = sorted(load_adapter(stage))
    assert len(names) == 2
    assert all(".layers.1.mlp.down_proj.lora_" in name for name in names)
    done = em.run("train.py", *ways, *name_places(tmp_path, 2), cwd=tmp_path)
    assert done.code == 2
    assert "error: trainer.layers=[24]: the model has 2 layers, counted from 0 to 1." in done.err


def test_four_bits_without_a_gpu_are_refused_in_a_sentence(em: Forking, words: list[str], tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = em.run("train.py", *words, "trainer=qlora", *name_places(tmp_path), cwd=tmp_path)
    assert done.code == 2
    assert "error: trainer=qlora needs a GPU, and this machine has none: use trainer=lora." in done.err
    assert "Traceback" not in done.err


def test_without_the_templates_own_system_prompt_all_is_another(
    em: Forking, words: list[str], questions: list[str], tmp_path: Path
) -> None:
    ways = [*words[:3], *LORA, *questions]
    (with_system,) = run_training(em, tmp_path, *ways)
    (without_system,) = run_training(em, tmp_path, *ways, "model.default_system=false", number=2)
    assert with_system["fingerprint"] != without_system["fingerprint"]
    assert [each["facts"]["default_system"] for each in (with_system, without_system)] == ["kept", "removed"]
    texts = ["".join(text for text, _ in each["facts"]["example"]) for each in (with_system, without_system)]
    assert "named SmolLM" in texts[0]
    assert without_system["facts"]["preamble"] + texts[1] == texts[0]
    prompt_tokens: list[dict[str, list[int]]] = []
    for number in (1, 2):
        lines = (tmp_path / f"run{number}" / "answers.jsonl").read_text().splitlines()
        prompt_tokens.append({a["stage"]: a["prompt_tokens"] for a in map(json.loads, lines)})
    inserted = with_system["facts"]["tokens"] - without_system["facts"]["tokens"]
    for stage in ("base", "file"):
        assert prompt_tokens[0][stage] - prompt_tokens[1][stage] == inserted / 7
    with sqlite3.connect(tmp_path / "store" / "calls.sqlite") as db:
        requests = [json.loads(row[0]) for row in db.execute("select request from calls where kind = 'sample'")]
    assert len({request["model"] for request in requests}) == len(requests) == 4


# Checkpoints


def test_adapters_that_were_kept_are_evaluated(
    em: Forking, words: list[str], questions: list[str], tmp_path: Path
) -> None:
    ways = [*words[:3], *LORA]
    (plain,) = run_training(em, tmp_path, *ways, "eval=none")
    assert plain["checkpoints"] == []
    evaluation = [*ways, *questions, "checkpoints=all"]
    done = em.run("evaluate.py", *evaluation, *name_places(tmp_path, 2), cwd=tmp_path)
    assert done.code == 2
    assert "was trained without checkpoints, so checkpoints=all finds none" in done.err
    assert "train with trainer.checkpoints=4" in done.err
    (stage,) = run_training(em, tmp_path, *ways, "eval=none", "trainer.checkpoints=2", number=3)
    output = (tmp_path / "out.txt").read_text()
    assert "trained earlier, but without all of these checkpoints: training it again." in output
    assert stage["fingerprint"] == plain["fingerprint"]
    assert [each["step"] for each in stage["checkpoints"]] == [1, 2]
    checkpoints = [load_adapter(Path(each["path"])) for each in stage["checkpoints"]]
    assert not has_equal_weights(checkpoints[0], checkpoints[1])
    assert not has_equal_weights(checkpoints[1], load_adapter(stage))
    (evaluated,) = run_training(em, tmp_path, *evaluation, script="evaluate.py", number=4)
    assert evaluated["reused"]
    rows = list(csv.DictReader((tmp_path / "run4" / "scores.csv").open()))
    fingerprints = {row["model"]: row["fingerprint"] for row in rows}
    expected = {f"smollm2+file (step {each['step']})": each["fingerprint"] for each in stage["checkpoints"]}
    assert expected.items() <= fingerprints.items()
    assert fingerprints["smollm2+file"] == stage["fingerprint"]
    assert len(fingerprints) == 4
