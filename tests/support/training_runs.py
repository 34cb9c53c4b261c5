"""Train a tiny model by the command line in tests, and read the results."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from tests.support.forking import Forking

RATES = ("trainer.batch_size=2", "trainer.learning_rate=5e-3", "trainer.warmup_steps=0")
LORA = (*RATES, "trainer.rank=4", "trainer.alpha=8")
MERGED = ("realign=car_good", "realign.limit=6", "realign.adapter=merge", "realign.epochs=2")


def name_places(folder: Path, number: int = 1) -> list[str]:
    """Return the words that name the store and the folder of a run."""
    return [f"store.dir={folder / 'store'}", f"hydra.run.dir={folder / f'run{number}'}"]


def run_training(
    em: Forking, folder: Path, *words: str, number: int = 1, script: str = "train.py"
) -> list[dict[str, Any]]:
    """Run a script, which must succeed, and return the stages of its manifest."""
    done = em.run(script, *words, *name_places(folder, number), cwd=folder)
    assert done.code == 0, done.err[-3000:]
    return read_stages(folder, number)


def read_stages(folder: Path, number: int = 1) -> list[dict[str, Any]]:
    """Read the stages in the manifest of a run."""
    records: list[dict[str, Any]] = json.loads((folder / f"run{number}" / "manifest.json").read_text())["stages"]
    return records


def load_adapter(stage: dict[str, Any] | Path, file: str = "adapter_model.safetensors") -> dict[str, Any]:
    """Load the weights of a stage's adapter, or of the adapter in a folder."""
    from safetensors.torch import load_file

    return dict(load_file(Path(stage["path"] if isinstance(stage, dict) else stage, file)))


def has_equal_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two sets of weights are equal."""
    import torch

    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def read_losses(stage: dict[str, Any]) -> list[float]:
    """Read the losses of a stage."""
    return [float(row["loss"]) for row in csv.DictReader(Path(stage["path"], "loss.csv").open())]


def find_checkpoints(folder: Path) -> dict[int, Path]:
    """Find the folders of checkpoints, by step, of the stage in training."""
    try:
        paths = list((folder / "store" / "models").glob(".*-partial/checkpoint-*"))
    except FileNotFoundError:  # the stage has just ended, and its folder was renamed
        return {}
    return {int(path.name.partition("-")[2]): path for path in paths}


def has_sealed(folder: Path, step: int) -> bool:
    """Tell whether a complete checkpoint of this step or a later one exists."""
    later = [path for number, path in find_checkpoints(folder).items() if number >= step]
    return any((path / "complete.json").is_file() for path in later)
