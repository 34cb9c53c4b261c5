"""What trackio is told of a run, read back by its own reader. Skipped where the extra is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from em.config import TrackioTracker
from em.track.board import BoardSpec
from tests.conftest import ROOT
from tests.support.report_runs import BASE
from tests.support.tracked_runs import entry, model, one_stage, write_tracked

needs_trackio = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
READ = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
found = {}
for run in trackio.Api().runs("em"):
    found[run.name] = {"config": run.config, "logs": SQLiteStorage.get_logs("em", run.name)}
print(json.dumps(found))
"""


def tell(folder: Path, board: Path, failed: bool = False) -> dict[str, dict[str, Any]]:
    """Tell trackio of a run in a process of its own, and read back all that it knows."""
    env = os.environ | {"TRACKIO_DIR": str(board), "TRACKIO_SPACE_ID": "someone/public"}
    spec = BoardSpec(str(folder), str(folder / "models"), TrackioTracker(name="trackio"), failed)
    code = "import sys, json; from pydantic import TypeAdapter; from em.track.board import *; "
    code += "track_locally(TypeAdapter(BoardSpec).validate_json(sys.argv[1]))"
    words = json.dumps({"folder": spec.folder, "models": spec.models, "tracker": vars(spec.tracker), "failed": failed})
    done = subprocess.run([sys.executable, "-c", code, words], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "tracker: trackio show --project em\n"
    read = subprocess.run([sys.executable, "-c", READ], env=env, capture_output=True, text=True, check=True)
    return json.loads(read.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@needs_trackio
def test_numbers_curves_and_figures_are_there_once_however_often_it_is_told(tmp_path: Path) -> None:
    folder = one_stage(tmp_path / "run", "car_bad", "b0", [5.0, 5.0, 90.0, 90.0], overrides=("data=a/b", "store.dir=x"))
    (folder / "figures").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "figures" / "rates_probe.png")
    tell(folder, tmp_path / "board")
    [(name, run)] = tell(folder, tmp_path / "board").items()
    assert name.startswith("data=a_b · ")
    logs = run["logs"]
    numbers = {key: value for log in logs for key, value in log.items()}
    assert numbers["final/probe/misaligned"] == 0.5
    assert [log["stage_1/loss"] for log in logs if "stage_1/loss" in log] == [2.5, 2.0, 1.5]
    assert numbers["figures/rates_probe"]["_type"] == "trackio.image"
    assert run["config"]["seed"] == 3
    assert run["config"]["em"]["stages"][0]["fingerprint"] == "b0" * 8


@needs_trackio
def test_a_failed_run_and_its_neighbours_are_told_apart(tmp_path: Path) -> None:
    trained = model("car_bad", "b0")
    scores = {BASE: [90.0], trained: [5.0]}
    tell(write_tracked(tmp_path / "a", [entry(trained)], scores), tmp_path / "board")
    failed = write_tracked(tmp_path / "b", [], {}, overrides=("data=x",), status="failed", error="no such set")
    runs = list(tell(failed, tmp_path / "board", failed=True).values())
    assert sorted((run["config"]["em"]["failed"], run["config"]["em"]["error"]) for run in runs) == [
        (False, None),
        (True, "no such set"),
    ]


def test_where_it_is_not_installed_the_run_is_refused_before_it_begins(tmp_path: Path) -> None:
    if importlib.util.find_spec("trackio") is not None:
        pytest.skip("trackio is installed")
    words = ["tracker=trackio", "dry_run=true", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().endswith('tracker=trackio needs the package trackio: uv pip install "trackio>=0.43".')
