"""Trainings of a tiny model that were killed, or whose checkpoints are damaged: they resume and end the same."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.forking import CommandResult, Forking
from tests.support.training_runs import (
    LORA,
    MERGED,
    RATES,
    find_checkpoints,
    has_equal_weights,
    has_sealed,
    load_adapter,
    name_places,
    read_stages,
    run_training,
)

RESUMED = (*LORA, "trainer.dropout=0.1", "trainer.epochs=4", "trainer.save_steps=1")


def is_saving(folder: Path, step: int) -> bool:
    return any(n >= step and not (path / "complete.json").is_file() for n, path in find_checkpoints(folder).items())


@pytest.fixture(scope="module")
def undisturbed(em: Forking, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_training(em, tmp_path_factory.mktemp("undisturbed"), *words, *RESUMED)[0]


@pytest.fixture(scope="module")
def stopped(em: Forking, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed right after a checkpoint was sealed."""
    folder = tmp_path_factory.mktemp("stopped")
    done = em.kill_when(lambda: has_sealed(folder, 3), "train.py", *words, *RESUMED, *name_places(folder), cwd=folder)
    assert done.code == -signal.SIGKILL
    for unsealed in [path for path in find_checkpoints(folder).values() if not (path / "complete.json").is_file()]:
        shutil.rmtree(unsealed)  # the training may have started to write the next checkpoint before the kill
    assert len(find_checkpoints(folder)) == 2
    return folder


def resume_training(
    em: Forking, words: list[str], folder: Path, undisturbed: dict[str, Any], step: int
) -> CommandResult:
    """Run the same command again; check that the run resumes from `step` and ends like an undisturbed run."""
    done = em.run("train.py", *words, *RESUMED, *name_places(folder), cwd=folder)
    assert done.code == 0, done.err[-3000:]
    assert f"Resuming a stopped training from step {step}." in done.out
    (stage,) = read_stages(folder)
    assert stage["facts"]["resumed_from"] == [step]
    assert stage["facts"]["steps"] == 16
    assert stage["fingerprint"] == undisturbed["fingerprint"]
    assert has_equal_weights(load_adapter(stage), load_adapter(undisturbed))
    assert Path(stage["path"], "loss.csv").read_bytes() == Path(undisturbed["path"], "loss.csv").read_bytes()
    assert not list(Path(stage["path"]).glob("**/optimizer.pt"))
    assert not list((folder / "store" / "models").glob(".*"))
    return done


def test_a_killed_training_goes_on_and_ends_with_the_same_adapter(
    em: Forking, words: list[str], stopped: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(stopped / "store", tmp_path / "store")
    done = resume_training(em, words, tmp_path, undisturbed, max(find_checkpoints(stopped)))
    assert "can't be used" not in done.out


def test_a_training_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    em: Forking, words: list[str], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    em.kill_when(lambda: is_saving(tmp_path, 4), "train.py", *words, *RESUMED, *name_places(tmp_path), cwd=tmp_path)
    newest = max(find_checkpoints(tmp_path))
    (find_checkpoints(tmp_path)[newest] / "complete.json").unlink(
        missing_ok=True
    )  # the kill may have come after the seal
    done = resume_training(em, words, tmp_path, undisturbed, newest - 1)
    sentence = f"The checkpoint at step {newest} can't be used (it was not finished): going back to step {newest - 1}."
    assert sentence in done.out


def remove_optimizer(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()


def change_a_byte(checkpoint: Path) -> None:
    file = checkpoint / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [(remove_optimizer, "optimizer.pt is missing"), (change_a_byte, "adapter_model.safetensors is damaged")],
)
def test_a_damaged_checkpoint_is_given_up_for_the_one_before(
    em: Forking,
    words: list[str],
    stopped: Path,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    damage: Callable[[Path], None],
    fault: str,
) -> None:
    shutil.copytree(stopped / "store", tmp_path / "store")
    newest = max(find_checkpoints(tmp_path))
    damage(find_checkpoints(tmp_path)[newest])
    done = resume_training(em, words, tmp_path, undisturbed, newest - 1)
    assert f"The checkpoint at step {newest} can't be used ({fault}): going back to step {newest - 1}." in done.out


def test_without_any_whole_checkpoint_it_says_that_it_starts_anew(
    em: Forking, words: list[str], stopped: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(stopped / "store", tmp_path / "store")
    for checkpoint in find_checkpoints(tmp_path).values():
        remove_optimizer(checkpoint)
    (stage,) = run_training(em, tmp_path, *words, *RESUMED)
    assert (tmp_path / "out.txt").read_text().count("going back to the start") == 2
    assert stage["facts"]["resumed_from"] == []
    assert has_equal_weights(load_adapter(stage), load_adapter(undisturbed))


def test_checkpoints_that_are_asked_for_too_late_start_it_anew(
    em: Forking, words: list[str], stopped: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(stopped / "store", tmp_path / "store")
    (stage,) = run_training(em, tmp_path, *words, *RESUMED, "trainer.checkpoints=15")
    assert "Starting from the beginning instead: the weights of step 1," in (tmp_path / "out.txt").read_text()
    assert stage["facts"]["resumed_from"] == []
    assert [each["step"] for each in stage["checkpoints"]] == list(range(1, 16))
    assert has_equal_weights(load_adapter(stage), load_adapter(undisturbed))


def test_weights_to_keep_are_saved_before_the_checkpoint_of_their_step(
    em: Forking, words: list[str], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    # 16 steps, and the weights of step 8 are kept. A file in the way makes saving them fail.
    partial = tmp_path / "store" / "models" / f".{undisturbed['fingerprint']}-partial"
    in_the_way = partial / "checkpoints" / ".step-8"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    ways = [*words, *RESUMED, "trainer.checkpoints=1"]
    assert em.run("train.py", *ways, *name_places(tmp_path), cwd=tmp_path).code != 0
    assert max(find_checkpoints(tmp_path)) == 7
    in_the_way.unlink()
    (stage,) = run_training(em, tmp_path, *ways)
    assert stage["facts"]["resumed_from"] == [7]
    assert [each["step"] for each in stage["checkpoints"]] == [8]
    assert has_equal_weights(load_adapter(stage), load_adapter(undisturbed))


FULL = ("trainer=full", *RATES, "trainer.epochs=2", "trainer.save_steps=1")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [FULL, (*LORA, *MERGED, "trainer.save_steps=1")], ids=["full", "merge"])
def test_whole_weights_and_a_second_adapter_go_on_exactly_too(
    em: Forking, words: list[str], recipe: tuple[str, ...], tmp_path: Path
) -> None:
    ways = [*words, *recipe]
    undisturbed_folder, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed_folder.mkdir()
    killed.mkdir()
    last = run_training(em, undisturbed_folder, *ways)[-1]
    em.kill_when(lambda: has_sealed(killed, 5), "train.py", *ways, *name_places(killed), cwd=killed)
    again = run_training(em, killed, *ways)[-1]
    assert again["facts"]["resumed_from"][0] >= 5
    file = "model.safetensors" if recipe is FULL else "adapter_model.safetensors"
    assert has_equal_weights(load_adapter(again, file), load_adapter(last, file))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk, mounted at tmp_path/store."""
    folder = tmp_path / "store"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "em-test", str(folder)]
    try:
        if subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("a disk can't be mounted here")
    except OSError:
        pytest.skip("a disk can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("room", [140, 260, 300])
def test_a_full_disk_is_a_sentence_and_after_making_room_it_goes_on(
    em: Forking, words: list[str], undisturbed: dict[str, Any], small_disk: Path, tmp_path: Path, room: int
) -> None:
    subprocess.run(["mount", "-o", f"remount,size={room}k", str(small_disk)], check=True)
    done = em.run("train.py", *words, *RESUMED, *name_places(tmp_path), cwd=tmp_path)
    assert done.code == 2, done.err[-3000:]
    assert f"error: The disk that holds {small_disk / 'models'} is full: make room" in done.err
    assert "Traceback" not in done.err
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    done = em.run("train.py", *words, *RESUMED, *name_places(tmp_path), cwd=tmp_path)
    assert done.code == 0, done.err[-3000:]
    assert has_equal_weights(load_adapter(read_stages(tmp_path)[0]), load_adapter(undisturbed))
