"""Telling trackio of a run that has ended: a dashboard on this machine, without an account (`trackio show`).

Config, lineage, loss curves, scores and figures, under the names that W&B gets too (`em.track.names`). Transcripts are
not told: trackio shows texts as Markdown, and what models wrote is shown by the report, which lets none of it act.
"""

from __future__ import annotations

import io
import json
import os
import shlex
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config import TrackioTracker
from em.track.lineage import lineage
from em.track.names import cut, losses_of, points_of, summary_of
from em.track.wandb import read, run_id_of, sweep_of

ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")
"""Variables by which trackio would send what it is told to a server, by default a public one."""


@dataclass(frozen=True)
class BoardSpec:
    """The run's folder, the folder of trained models, and whether the run failed."""

    folder: str
    models: str
    tracker: TrackioTracker
    failed: bool


def track_locally(spec: BoardSpec) -> None:
    """Copy numbers and figures of a run's folder into trackio; what was told before of the same settings goes."""
    for name in ELSEWHERE:
        os.environ.pop(name, None)
    if spec.tracker.dir:
        os.environ["TRACKIO_DIR"] = str(Path(spec.tracker.dir).expanduser())
    folder = Path(spec.folder)
    with redirect_stdout(io.StringIO()):  # a screenful of it; what matters is how to look at it
        tell(folder, spec)
    where = f"TRACKIO_DIR={shlex.quote(spec.tracker.dir)} " if spec.tracker.dir else ""
    print(f"tracker: {where}trackio show --project {spec.tracker.project}", flush=True)


def tell(folder: Path, spec: BoardSpec) -> None:
    """The run as trackio keeps it, from its start to its end."""
    import trackio  # reads its folder from the environment when it is loaded

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    name = name_of_run(manifest)
    with suppress(ValueError):  # of a project that is not there yet
        for before in [run for run in trackio.Api().runs(spec.tracker.project) if run.name == name]:
            before.delete()
    told = lineage(manifest, Path(spec.models)) | {"failed": spec.failed}
    told |= {key: manifest[key] for key in ("run", "status", "error")}
    run = trackio.init(
        project=spec.tracker.project,
        name=name,
        group=sweep_of(folder),
        config=manifest["config"] | {"em": told},
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    rates = read(folder / "scores.csv")
    for point in [*losses_of(manifest, read(folder / "loss.csv")), *points_of(manifest, rates)]:
        run.log(point)
    costs = {"usd": manifest["costs"]["total_usd"]} if manifest.get("costs") else {}
    run.log(summary_of(manifest, rates) | costs)
    pictures = sorted((folder / "figures").glob("*.png"))
    if pictures:
        run.log({f"figures/{picture.stem}": trackio.Image(str(picture)) for picture in pictures})
    trackio.finish()


def name_of_run(manifest: Mapping[str, Any]) -> str:
    """What the run was asked for, and a mark that is the same whatever folder it is run in.

    trackio makes folders of the name: it has no slashes, nor words that say where things are kept.
    """
    words = [word for word in manifest["overrides"] if not word.startswith(("tracker", "store", "hydra"))]
    text = "".join("_" if c in "/\\" else c for c in " ".join(words)).lstrip(".")
    return f"{cut(text or str(manifest['run']))} · {run_id_of(manifest)[:8]}"
