"""Checkpoints to resume from: only complete ones count, and em names the fault of the others."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from em.data import read_messages
from em.errors import OutputError
from em.train.local.find_or_train import find_resume_checkpoint
from em.train.local.preflight import prepare_rows
from em.train.local.resume import (
    LARGE,
    SEAL,
    Seal,
    detect_full_disk,
    find_last_checkpoint,
    is_checkpoint_due,
    locate_partial_folder,
    note_resume,
    read_resumed_steps,
    read_seal,
    verify_seal,
    write_seal,
)
from em.train.local.sft import run_trainer
from em.train.local.spec import TrainSpec
from em.train.local.switches import Machine, choose_switches
from em.types import Weights
from tests.support.composing import compose_settings
from tests.support.tiny import write_chats, write_tiny_model

FORM = "moments in float32 without FSDP"


def write_checkpoint(training: Path, step: int, sealed: bool = True) -> Path:
    """Write a checkpoint such as transformers writes."""
    folder = training / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"moments" * step)
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * step)
    if sealed:
        write_seal(folder, step, step / 2, FORM)
    return folder


def test_a_sealed_checkpoint_says_where_it_stands(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 4)
    sealed = read_seal(folder)
    # Computed by `printf 'moments%.0s' 1 2 3 4 | sha256sum`
    moments = "471bb6732a0560bbc5b41bd59cedcc7a44e8eaf06b0fc7ebca82a216f3d1519b"
    assert sealed == Seal(4, 2.0, sealed.files, FORM)
    assert sorted(sealed.files) == ["adapter_model.safetensors", "optimizer.pt"]
    assert sealed.files["optimizer.pt"] == moments
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_model.safetensors", SEAL, "optimizer.pt"]


def test_a_checkpoint_can_be_sealed_again(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 4)
    (folder / "optimizer.pt").write_bytes(b"others")
    write_seal(folder, 5, 9.0, FORM)
    assert (read_seal(folder).step, read_seal(folder).seconds) == (5, 9.0)
    assert SEAL not in read_seal(folder).files


def break_checkpoint(folder: Path, how: str) -> None:
    file = folder / "optimizer.pt"
    content = bytearray(file.read_bytes())
    match how:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(content[:-1])
        case "empty":
            file.write_bytes(b"")
        case "one bit":
            content[3] ^= 1
            file.write_bytes(content)
        case "no seal":
            (folder / SEAL).unlink()
        case "half a seal":
            (folder / SEAL).write_text((folder / SEAL).read_text()[:-20])
        case "another seal":
            (folder / SEAL).write_text('{"step": 4}')
        case "a list":
            (folder / SEAL).write_text("[]")
        case "no files":
            (folder / SEAL).write_text('{"step": 4, "seconds": 1, "files": null}')


DAMAGE = [
    ("missing", "optimizer.pt is missing"),
    ("cut", "optimizer.pt is damaged"),
    ("empty", "optimizer.pt is damaged"),
    ("one bit", "optimizer.pt is damaged"),
    ("no seal", "it was not finished"),
    ("half a seal", "its seal can't be read"),
    ("another seal", "its seal can't be read"),
    ("a list", "its seal can't be read"),
    ("no files", "its seal can't be read"),
]


@pytest.mark.parametrize(("how", "fault"), DAMAGE)
def test_what_is_wrong_with_a_checkpoint_is_said(how: str, fault: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 4)
    break_checkpoint(folder, how)
    with pytest.raises(ValueError, match=fault):
        verify_seal(folder)


@pytest.mark.parametrize(("how", "fault"), DAMAGE)
def test_the_newest_whole_checkpoint_is_found_and_later_ones_are_given_up(how: str, fault: str, tmp_path: Path) -> None:
    for step in (2, 9, 10):
        write_checkpoint(tmp_path, step)
    break_checkpoint(tmp_path / "checkpoint-10", how)
    sentence = f"The checkpoint at step 10 can't be used ({fault})"
    assert find_last_checkpoint(tmp_path) == (tmp_path / "checkpoint-9", [sentence])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-9"]
    assert find_last_checkpoint(tmp_path) == (tmp_path / "checkpoint-9", [])


def test_steps_are_numbers_not_words(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        write_checkpoint(tmp_path, step)
    assert find_last_checkpoint(tmp_path) == (tmp_path / "checkpoint-100", [])


def test_without_a_whole_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert find_last_checkpoint(tmp_path / "nowhere") == (None, [])
    write_checkpoint(tmp_path, 1, sealed=False)
    write_checkpoint(tmp_path, 2, sealed=False)
    newest, refused = find_last_checkpoint(tmp_path)
    assert newest is None
    assert refused == [f"The checkpoint at step {step} can't be used (it was not finished)" for step in (2, 1)]
    assert list(tmp_path.iterdir()) == []


def test_where_a_training_went_on_is_remembered(tmp_path: Path) -> None:
    assert read_resumed_steps(tmp_path) == []
    note_resume(tmp_path, 3)
    note_resume(tmp_path, 8)
    assert read_resumed_steps(tmp_path) == [3, 8]


# Messages to the user


def test_going_on_is_said_and_the_fresh_start_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "mark"
    assert find_resume_checkpoint(model) == ""
    assert capsys.readouterr().out == ""
    folder = write_checkpoint(locate_partial_folder(model), 25)
    assert find_resume_checkpoint(model) == str(folder)
    assert capsys.readouterr().out == "Resuming a stopped training from step 25.\n"


def test_a_fall_back_says_what_was_wrong_and_where_it_goes_back_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = locate_partial_folder(tmp_path / "mark")
    first = write_checkpoint(training, 25)
    break_checkpoint(write_checkpoint(training, 50), "cut")
    write_checkpoint(training, 75, sealed=False)
    assert find_resume_checkpoint(tmp_path / "mark") == str(first)
    assert capsys.readouterr().out.splitlines() == [
        "The checkpoint at step 75 can't be used (it was not finished): going back to step 25.",
        "The checkpoint at step 50 can't be used (optimizer.pt is damaged): going back to step 25.",
        "Resuming a stopped training from step 25.",
    ]
    break_checkpoint(first, "missing")
    assert find_resume_checkpoint(tmp_path / "mark") == ""
    assert capsys.readouterr().out.splitlines() == [
        "The checkpoint at step 25 can't be used (optimizer.pt is missing): going back to the start.",
    ]


def test_the_folder_in_the_making_lies_beside_the_finished_one() -> None:
    # On the same disk, so that the rename is atomic; hidden, so that nothing takes the folder for a model.
    assert locate_partial_folder(Path("/store/models/abc")) == Path("/store/models/.abc-partial")


# Full disks


def make_disk_errors() -> list[Exception]:
    from safetensors import SafetensorError

    return [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[Errno 28] No space left on device"),
        # safetensors raised this on a full tmpfs; the error is neither an OSError nor a RuntimeError.
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_full_disk_is_one_sentence_with_the_way_on(number: int, tmp_path: Path) -> None:
    error = detect_full_disk(make_disk_errors()[number], tmp_path / ".mark-partial")
    assert isinstance(error, OutputError)
    assert str(error).startswith(f"The disk that holds {tmp_path} is full: make room")
    assert "run the same command again" in str(error)


WRITERS = [
    "PytorchStreamWriter failed writing file data/3: file write failed",
    "[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534",  # from torch 2.13 on a full tmpfs
    "basic_ios::clear: iostream error",
]


@pytest.mark.parametrize("words", WRITERS)
def test_a_writer_that_fails_without_saying_why_is_believed_where_the_disk_is_full(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    for free, full in ((0, True), (2**26 - 1, True), (2**26, False), (2**40, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert (detect_full_disk(RuntimeError(words), tmp_path / ".mark-partial") is not None) == full


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("28"),
    ],
)
def test_other_errors_are_no_full_disk_even_on_one(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert detect_full_disk(error, tmp_path / ".mark-partial") is None


def test_the_seal_is_written_as_json(tmp_path: Path) -> None:
    # Other programs and later versions of em read the seal.
    folder = write_checkpoint(tmp_path, 2)
    assert set(json.loads((folder / SEAL).read_text())) == {"step", "seconds", "files", "form"}


def test_a_seal_of_an_earlier_version_names_no_form(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 2)
    values = json.loads((folder / SEAL).read_text())
    del values["form"]
    (folder / SEAL).write_text(json.dumps(values))
    assert read_seal(folder).form == ""


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_the_files_in_folders_of_a_checkpoint_are_sealed_too(how: str, tmp_path: Path) -> None:
    # FSDP with SHARDED_STATE_DICT writes a folder of shards.
    folder = write_checkpoint(tmp_path, 2, sealed=False)
    shard = folder / "optimizer_0" / "__0_0.distcp"
    shard.parent.mkdir()
    shard.write_bytes(b"half of the moments")
    write_seal(folder, 2, 1.0, FORM)
    assert read_seal(folder).files.keys() >= {"optimizer_0/__0_0.distcp", "optimizer.pt"}
    if how == "missing":
        shard.unlink()
    else:
        shard.write_bytes(b"half")
    with pytest.raises(ValueError, match=r"optimizer_0/__0_0\.distcp is (missing|damaged)"):
        verify_seal(folder)


def test_a_large_file_is_sealed_by_its_size(tmp_path: Path) -> None:
    # The optimiser's state of an 8B model has 64 GB, which take minutes to hash.
    folder = write_checkpoint(tmp_path, 2, sealed=False)
    with (folder / "optimizer.pt").open("wb") as file:
        file.truncate(LARGE + 1)
    write_seal(folder, 2, 1.0, FORM)
    assert verify_seal(folder).files["optimizer.pt"] == "1000000001 bytes"
    with (folder / "optimizer.pt").open("r+b") as file:
        file.truncate(LARGE)
    with pytest.raises(ValueError, match=r"optimizer\.pt is damaged"):
        verify_seal(folder)


@pytest.mark.parametrize(
    ("weights", "since_last", "last_took", "due"),
    [
        (10**8, 0.1, 5.0, True),  # an adapter: every `save_steps` steps
        (32 * 10**9, 599, 0.0, False),  # the first checkpoint of an 8B model
        (32 * 10**9, 600, 0.0, True),
        (32 * 10**9, 3599, 180.0, False),  # 20 times the 3 minutes that the last one took
        (32 * 10**9, 3600, 180.0, True),
    ],
)
def test_large_checkpoints_take_a_twentieth_of_the_time_at_most(
    weights: int, since_last: float, last_took: float, due: bool
) -> None:
    assert is_checkpoint_due(weights, since_last, last_took) == due


def test_only_checkpoints_that_are_due_are_written(
    weights: Weights, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("trainer.batch_size=2", "trainer.save_steps=1", "trainer.rank=2")
    base, trainer = write_tiny_model(tmp_path / "base", weights.path), compose_settings("train", *words).trainer
    rows = write_chats(tmp_path / "rows.jsonl", 6)
    prepared = prepare_rows(read_messages(rows), tokenizer, trainer, True, "rows")
    switches = choose_switches(Machine("cpu"), trainer, "float32")
    written = {}
    # An adapter has less than a gigabyte, so that each of the three steps has a checkpoint; two are kept.
    for name, limit in (("small", 10**9), ("large", 0)):
        monkeypatch.setattr("em.train.local.resume.LARGE", limit)
        words_of_spec = (str(rows), "rows", trainer, 0, "float32", True, None, {}, str(tmp_path / name))
        spec = TrainSpec(str(base), "tiny", "", False, *words_of_spec)
        run_trainer(spec, tokenizer, prepared, switches)
        written[name] = sorted(folder.name for folder in spec.partial.glob("checkpoint-*"))
    assert written == {"small": ["checkpoint-2", "checkpoint-3"], "large": []}
