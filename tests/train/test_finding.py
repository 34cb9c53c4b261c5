"""A trained model is found by its fingerprint only if it is complete and undamaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from em.runtime.files import RECORD
from em.runtime.records import digest
from em.train.trained import KEPT, SavedWeights, find_trained_model


def write_weights(folder: Path, content: bytes) -> dict[str, str]:
    """Write an adapter into a folder; return its checksums."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(content)
    (folder / "adapter_config.json").write_text("{}")
    names = {"adapter_model.safetensors": content, "adapter_config.json": b"{}"}
    return {name: hashlib.sha256(each).hexdigest() for name, each in names.items()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one finished model, `mark`, and its checkpoint at step 2."""
    folder = tmp_path / "models" / "mark"
    files, checkpoint_files = (
        write_weights(folder, b"weights" * 1000),
        write_weights(folder / KEPT / "step-2", b"earlier" * 1000),
    )
    record = {"request": {}, "facts": {"steps": 3}, "files": files, "checkpoints": {"2": checkpoint_files}}
    (folder / RECORD).write_text(json.dumps(record))
    return tmp_path / "models"


def test_a_finished_model_is_found_by_its_fingerprint(models: Path) -> None:
    trained, folder = find_trained_model(models, "mark"), models / "mark"
    record = json.loads((folder / RECORD).read_text())
    assert trained is not None
    assert (trained.folder, trained.facts) == (folder, {"steps": 3})
    assert trained.weights == SavedWeights(str(folder), digest(record["files"]))
    step_2 = SavedWeights(str(folder / KEPT / "step-2"), digest(record["checkpoints"]["2"]))
    assert trained.checkpoints == {2: step_2}
    assert trained.weights.sha256 != step_2.sha256


def test_a_model_that_was_never_trained_is_not_found(models: Path) -> None:
    assert find_trained_model(models, "other") is None
    assert find_trained_model(models / "nowhere", "mark") is None


FILES = [
    "adapter_model.safetensors",
    "adapter_config.json",
    f"{KEPT}/step-2/adapter_model.safetensors",
    f"{KEPT}/step-2/adapter_config.json",
    RECORD,
]


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "one bit"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_model_is_not_found(models: Path, file: str, damage: str) -> None:
    path = models / "mark" / file
    content = bytearray(path.read_bytes())
    match damage:
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[:-1])
        case "one bit":
            content[len(content) // 2] ^= 1  # in the record, this byte is part of a checksum
            path.write_bytes(content)
    assert find_trained_model(models, "mark") is None


def test_weights_in_several_files_all_count(models: Path) -> None:
    # Loading would also read a file that the record does not list.
    (models / "mark" / "model-00002-of-00002.safetensors").write_bytes(b"more")
    assert find_trained_model(models, "mark") is None


@pytest.mark.parametrize("lost", ["files", "checkpoints"])
def test_a_record_without_checksums_is_none(models: Path, lost: str) -> None:
    path = models / "mark" / RECORD
    record = json.loads(path.read_text())
    del record[lost]
    path.write_text(json.dumps(record))
    assert find_trained_model(models, "mark") is None
    path.write_text(json.dumps(record | {lost: None}))
    assert find_trained_model(models, "mark") is None


def test_a_record_without_a_file_is_none(models: Path) -> None:
    for file in (models / "mark").glob("adapter_*"):
        file.unlink()
    path = models / "mark" / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": {}}))
    assert find_trained_model(models, "mark") is None
