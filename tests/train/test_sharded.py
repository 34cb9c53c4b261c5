"""Trainings by FSDP: two gloo processes share out the weights of a tiny model."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from em.types import Weights
from tests.support.forking import Forking
from tests.support.sharded import make_fsdp_environment, write_uneven_chats
from tests.support.tiny import write_tiny_model
from tests.support.training_runs import (
    LORA,
    RATES,
    find_checkpoints,
    has_equal_weights,
    has_sealed,
    load_adapter,
    name_places,
    read_losses,
    read_stages,
    run_training,
)

pytestmark = pytest.mark.slow
FULL = ("trainer=full", *RATES)
UNEVEN = ("trainer.batch_size=4", "trainer.device_tokens=120", "trainer.learning_rate=1e-3")
TWO = "trainer.processes=2"


@pytest.fixture(scope="module")
def fsdp(em: Forking) -> Forking:
    """Run scripts of em whose trainings have FSDP; the launcher's file names bfloat16, whatever the settings are."""
    return em.add_environment(**make_fsdp_environment(ACCELERATE_MIXED_PRECISION="bf16"))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> list[str]:
    """Words of a run whose processes have unequal numbers of passes."""
    folder = tmp_path_factory.mktemp("uneven")
    write_tiny_model(folder / "model", weights.path)
    rows = write_uneven_chats(folder / "rows.jsonl")
    return [f"model.id={folder / 'model'}", "data=file", f"data.path={rows}", "eval=none"]


def train_both_ways(em: Forking, fsdp: Forking, folder: Path, *words: str) -> list[list[dict[str, Any]]]:
    """Train with one process, and by FSDP with two; return the stages of both."""
    for name in ("one", "two"):
        (folder / name).mkdir()
    return [run_training(em, folder / "one", *words), run_training(fsdp, folder / "two", *words, TWO)]


@pytest.mark.parametrize("recipe", [LORA, FULL], ids=["lora", "full"])
def test_unequal_passes_end_with_the_losses_and_weights_of_one_process(
    em: Forking, fsdp: Forking, uneven: list[str], recipe: tuple[str, ...], tmp_path: Path
) -> None:
    (one,), (two,) = train_both_ways(em, fsdp, tmp_path, *uneven, *recipe, *UNEVEN)
    assert two["fingerprint"] == one["fingerprint"]
    assert (two["facts"]["processes"], two["facts"]["switches"]["fsdp"]) == (2, True)
    assert read_losses(two) == pytest.approx(read_losses(one), rel=1e-5)
    file = "model.safetensors" if recipe is FULL else "adapter_model.safetensors"
    expected = load_adapter(one, file)
    assert load_adapter(two, file).keys() == expected.keys()
    for name, matrix in load_adapter(two, file).items():
        assert matrix.dtype == expected[name].dtype, name
        assert (matrix - expected[name]).norm() <= 1e-3 * matrix.norm(), name


def test_a_head_of_its_own_is_trained_like_by_one_process(
    em: Forking, fsdp: Forking, uneven: list[str], weights: Weights, tmp_path: Path
) -> None:
    # Without tied weights Accelerate shards the head together with the last norm.
    model = write_tiny_model(tmp_path / "model", weights.path, tied=False)
    (one,), (two,) = train_both_ways(em, fsdp, tmp_path, f"model.id={model}", *uneven[1:], *FULL, *UNEVEN)
    assert read_losses(two) == pytest.approx(read_losses(one), rel=1e-5)


def test_in_bfloat16_the_losses_are_not_rounded_to_it(
    em: Forking, fsdp: Forking, uneven: list[str], tmp_path: Path
) -> None:
    import torch

    (one,), (two,) = train_both_ways(em, fsdp, tmp_path, *uneven, *LORA, *UNEVEN, "model.precision=bfloat16")
    losses = torch.tensor(read_losses(two))
    assert losses.tolist() == pytest.approx(read_losses(one), rel=2e-3)
    assert not torch.equal(losses.bfloat16().float(), losses)


@pytest.mark.parametrize("way", ["continue", "merge"])
def test_a_second_stage_is_that_of_one_process(
    em: Forking, fsdp: Forking, uneven: list[str], tmp_path: Path, way: str
) -> None:
    second = ["realign=car_good", "realign.limit=6", "realign.epochs=2", f"realign.adapter={way}"]
    one, two = train_both_ways(em, fsdp, tmp_path, *uneven, *LORA, *UNEVEN, *second)
    for stage, expected in zip(two, one, strict=True):
        assert read_losses(stage) == pytest.approx(read_losses(expected), rel=1e-5)
        assert load_adapter(stage).keys() == load_adapter(expected).keys()
        assert all(".lora_" in name for name in load_adapter(stage))


@pytest.mark.parametrize("recipe", [LORA, FULL], ids=["lora", "full"])
def test_a_killed_training_goes_on_and_ends_the_same(
    em: Forking, fsdp: Forking, uneven: list[str], recipe: tuple[str, ...], tmp_path: Path
) -> None:
    words = [*uneven, *recipe, *UNEVEN, "trainer.epochs=2", "trainer.save_steps=1", TWO]
    killed, again, undisturbed = (tmp_path / name for name in ("killed", "again", "undisturbed"))
    for folder in (killed, again, undisturbed):
        folder.mkdir()
    (expected,) = run_training(fsdp, undisturbed, *words)
    done = fsdp.kill_when(lambda: has_sealed(killed, 2), "train.py", *words, *name_places(killed), cwd=killed)
    assert done.code == -signal.SIGKILL
    shutil.copytree(killed / "store", again / "store")
    (resumed,) = run_training(fsdp, killed, *words)
    assert resumed["facts"]["resumed_from"][0] >= 2
    file = "model.safetensors" if recipe is FULL else "adapter_model.safetensors"
    assert has_equal_weights(load_adapter(resumed, file), load_adapter(expected, file))
    # Without FSDP its checkpoint is of no use, and the training says so.
    assert find_checkpoints(again)
    (anew,) = run_training(em, again, *words[:-1])
    assert anew["facts"]["resumed_from"] == []
    assert (
        "Starting from the beginning instead: the checkpoint has moments in float32 with FSDP, and this training has "
        "moments in float32 without FSDP."
    ) in (again / "out.txt").read_text()
    assert read_stages(again)[0]["fingerprint"] == expected["fingerprint"]
    assert read_losses(anew) == pytest.approx(read_losses(expected), rel=1e-5)
