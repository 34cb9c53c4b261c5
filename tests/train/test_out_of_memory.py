"""A step that runs out of memory is made again in smaller passes, and ends with the same losses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from em.types import Weights
from tests.support.forking import Forking
from tests.support.gpus import FULL_AFTER
from tests.support.sharded import make_fsdp_environment
from tests.support.tiny import write_chats, write_tiny_model
from tests.support.training_runs import LORA, RATES, name_places, read_losses, run_training

WORDS = ("trainer.batch_size=8", "trainer.device_tokens=600", "trainer.learning_rate=1e-3", "trainer.save_steps=1")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> list[str]:
    """Words of a run on 24 rows of about 50 tokens."""
    folder = tmp_path_factory.mktemp("rows")
    write_tiny_model(folder / "model", weights.path)
    chats = write_chats(folder / "rows.jsonl", 24)
    return [f"model.id={folder / 'model'}", "data=file", f"data.path={chats}", "eval=none", *LORA, *WORDS]


@pytest.fixture(scope="module")
def expected(em: Forking, rows: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run with enough memory."""
    (stage,) = run_training(em, tmp_path_factory.mktemp("whole"), *rows)
    assert stage["facts"]["switches"]["device_tokens"] == 600
    return read_losses(stage)


def test_one_process_makes_the_step_again_in_smaller_passes(
    em: Forking, rows: list[str], expected: list[float], tmp_path: Path
) -> None:
    (stage,) = run_training(em.add_environment(**{FULL_AFTER: "120,0"}), tmp_path, *rows)
    out = (tmp_path / "out.txt").read_text()
    lines = re.findall(r"Out of memory at step (\d) of 3: making it again in passes of at most (\d+) tokens\.", out)
    assert lines
    assert stage["facts"]["switches"]["device_tokens"] == int(lines[-1][1]) <= 120
    assert read_losses(stage) == pytest.approx(expected, rel=1e-5)
    assert stage["facts"]["resumed_from"] == []


def test_a_pass_of_one_row_is_the_smallest(em: Forking, rows: list[str], tmp_path: Path) -> None:
    done = em.add_environment(**{FULL_AFTER: "20,0"}).run("train.py", *rows, *name_places(tmp_path), cwd=tmp_path)
    assert done.code != 0
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate" in done.err
    assert "making it again in passes of at most" in done.out
    assert "set trainer.gradient_checkpointing=true, which needs less. Starting again with it" in done.out


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["DDP", "FSDP"])
def test_several_processes_start_again_with_smaller_passes(
    em: Forking, rows: list[str], expected: list[float], fsdp: bool, tmp_path: Path
) -> None:
    sharded = make_fsdp_environment() if fsdp else {}
    full = em.add_environment(**sharded, **{FULL_AFTER: "120,2"})
    (stage,) = run_training(full, tmp_path, *rows, "trainer.processes=2")
    out = (tmp_path / "out.txt").read_text()
    assert re.search(
        r"rank \d: Out of memory at step 3 of 3: set trainer\.device_tokens=(\d+), which needs less\. "
        "Starting again with it",
        out,
    )
    assert "Resuming a stopped training from step 2." in out
    assert stage["facts"]["resumed_from"] == [2]
    assert stage["facts"]["switches"]["device_tokens"] <= 120
    assert stage["facts"]["switches"]["fsdp"] == fsdp
    assert read_losses(stage) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_all_weights_learn_the_same_in_smaller_passes(em: Forking, rows: list[str], tmp_path: Path) -> None:
    words = [word for word in rows if word not in LORA or word in RATES]
    (tmp_path / "one").mkdir()
    (one,) = run_training(em, tmp_path / "one", *words, "trainer=full")
    (stage,) = run_training(em.add_environment(**{FULL_AFTER: "120,0"}), tmp_path, *words, "trainer=full")
    assert "making it again in passes of at most" in (tmp_path / "out.txt").read_text()
    assert read_losses(stage) == pytest.approx(read_losses(one), rel=1e-5)
