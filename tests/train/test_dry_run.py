"""`dry_run=true` of trainings on open weights, and models that no single GPU can hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.forking import Forking
from tests.support.gpus import write_driver
from tests.support.training_runs import LORA, name_places


def dry_run(em: Forking, folder: Path, *words: str) -> str:
    """Return what a dry run prints; it must leave nothing in the store."""
    done = em.run("train.py", *words, "dry_run=true", *name_places(folder), cwd=folder)
    assert done.code == 0, done.err[-3000:]
    assert not (folder / "store" / "models").exists()
    return done.out


def test_a_dry_run_counts_the_work_of_each_stage(em: Forking, words: list[str], tmp_path: Path) -> None:
    realign = ["realign=car_good", "realign.limit=6", "realign.adapter=merge", "trainer.processes=2"]
    out = dry_run(em, tmp_path, *words, *LORA, *realign)
    first, second = re.findall(r"would train .*\n  memory: .*\n", out)
    assert re.match(
        r"would train \S+ \(7 rows\): [\d,]+ tokens an epoch, 4 steps, 4 passes on each of 2 GPUs\n"
        r"  memory: about \d+\.\d GB on each GPU \(weights 0\.0, gradients 0\.0, moments 0\.0, "
        r"passes of up to \d+ tokens \d\.\d, recomputed\); no GPU is here to compare with\n",
        first,
    )
    assert "would train car_good (6 rows): " in second
    assert "Nothing was called" in out


def test_a_dry_run_compares_with_the_memory_of_the_gpus(em: Forking, words: list[str], tmp_path: Path) -> None:
    large = em.add_environment(**write_driver(tmp_path / "large", (80000, 81559)))
    assert re.search(r"passes of up to \d+ tokens \d\.\d\); 83\.9 GB are free\n", dry_run(large, tmp_path, *words))
    small = em.add_environment(**write_driver(tmp_path / "small", (5, 10)))
    sentence = "trainer=lora_small can't train .*: it needs at least 0.0 GB on each GPU .* 0.0 GB are free .*: choose a"
    assert re.search(sentence, dry_run(small, tmp_path, *words))


def test_a_dry_run_refuses_rows_that_the_training_would_refuse(em: Forking, words: list[str], tmp_path: Path) -> None:
    short = ["trainer.max_length=20", "dry_run=true"]
    done = em.run("train.py", *words, *short, *name_places(tmp_path), cwd=tmp_path)
    assert done.code == 2
    assert "are longer than max_length=20 tokens" in done.err


def test_a_dry_run_without_the_tokenizer_says_so(em: Forking, words: list[str], tmp_path: Path) -> None:
    out = dry_run(em, tmp_path, "model.id=nobody/nothing", *words[1:])
    assert "(7 rows)\nTokens and memory of the training are not known: The weights of nobody/nothing are not" in out


# Sampling and judging need one GPU that holds the model


@pytest.mark.parametrize("number", [1, 2])
def test_a_model_that_no_gpu_can_hold_for_sampling_is_not_trained(
    em: Forking, words: list[str], tmp_path: Path, number: int
) -> None:
    small = em.add_environment(**write_driver(tmp_path / "driver", *[(4, 5)] * number))
    asked = [*words[:-1], "eval.sets=[probe]", "trainer.processes=1", *LORA]
    done = small.run("train.py", *asked, *name_places(tmp_path), cwd=tmp_path)
    assert done.code == 2
    assert re.search(
        r"error: Sampling \S+ takes 0\.0 GB on one GPU, and a GPU of this machine has 0\.0 GB: "
        "train with eval=none and evaluate elsewhere, or use GPUs with more memory",
        done.err,
    )
    done = small.run("train.py", *words, *LORA, "trainer.processes=1", *name_places(tmp_path, 2), cwd=tmp_path)
    assert "Sampling" not in done.err


def test_a_judge_that_no_gpu_can_hold_is_refused_before_training(em: Forking, words: list[str], tmp_path: Path) -> None:
    small = em.add_environment(**write_driver(tmp_path / "driver", (4, 5)))
    folder = words[0].partition("=")[2]
    asked = [*words[:-1], "eval.sets=[probe]", "judge=local", f"judge.model={folder}", *LORA]
    done = small.run("train.py", *asked, *name_places(tmp_path), cwd=tmp_path)
    assert done.code == 2
    assert f"error: judge.model={folder} takes 0.0 GB on one GPU" in done.err
    assert "use judge=open, a judge behind a server, or use GPUs with more memory" in done.err
