"""Telling W&B of a run that has ended, in a child of its own: everything that its folder holds.

Config, lineage, loss curves, scores as summary metrics and as a table, transcripts, figures; a failed run fails there
too, and the jobs of a sweep are one group. The same settings are the same W&B run, brought up to date when told again.
Without a key the run is kept offline in its folder; `wandb sync` sends it later.

The setting, `WANDB_MODE`, or whether there is a key for W&B's server decides if it is told now or later.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config import WandbMode, WandbTracker
from em.runtime.manifest import asked
from em.runtime.records import digest
from em.track.lineage import lineage, log_artifacts
from em.track.names import LONGEST_TAG, cut, losses_of, points_of, summary_of
from em.track.transcripts import MOST_ROWS, log_transcripts

SERVER = "https://api.wandb.ai"
OLD_WORDS = {"run": "online", "dryrun": "offline"}


@dataclass(frozen=True)
class TrackSpec:
    """The run's folder, the folder of trained models, and whether the run failed."""

    folder: str
    models: str
    tracker: WandbTracker
    failed: bool


def track(spec: TrackSpec) -> None:
    """Copy what a run's folder holds into a W&B run; a failed run ends with exit code 1 there too."""
    import wandb

    folder, models = Path(spec.folder), Path(spec.models)
    # Files of artifacts wait in the run's folder, where `wandb sync` finds them, and not in the user's home.
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb" / "data"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    run_id = os.environ.get("WANDB_RUN_ID") or run_id_of(manifest)
    how = mode(spec.tracker.mode, wandb.setup().settings.base_url)
    run = wandb.init(
        project=spec.tracker.project,
        entity=spec.tracker.entity,
        id=run_id,
        resume=None if how == "offline" else "allow",  # what is offline is resumed by `wandb sync`
        mode=how,  # type: ignore[arg-type]
        dir=spec.folder,
        group=sweep_of(folder),
        job_type=manifest["run"],
        name=cut(" ".join(manifest["overrides"])) or None,
        tags=[cut(stage["name"], LONGEST_TAG) for stage in manifest["stages"]] or None,
        config=manifest["config"] | {"em": lineage(manifest, models, run_id)},
        settings=wandb.Settings(
            console="off", silent=True, host="em", disable_git=True, x_disable_machine_info=True, x_disable_meta=True
        ),
    )
    log_curves(run, folder, manifest)
    log_scores(run, folder, manifest)
    run.summary.update({"status": manifest["status"], "error": manifest["error"]})
    if manifest.get("costs"):
        run.summary["usd"] = manifest["costs"]["total_usd"]
    log_artifacts(run, manifest, models, spec.tracker)
    log_transcripts(run, folder, manifest)
    for picture in sorted((folder / "figures").glob("*.png")):
        run.log({f"figures/{picture.stem}": wandb.Image(str(picture))})
    run.finish(exit_code=1 if spec.failed else 0)


def run_id_of(manifest: Mapping[str, Any]) -> str:
    """The W&B run of these settings, whatever folder they are run in, so that what is done again is not told twice."""
    return digest([manifest["run"], asked(manifest)])[:16]


def sweep_of(folder: Path) -> str | None:
    """The name of the sweep that a run belongs to: its date and time; None for a single run."""
    if not (folder.parent / "multirun.yaml").is_file():
        return None
    return cut(f"{folder.parent.parent.name} {folder.parent.name}")


def log_curves(run: Any, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Loss, and the rates of adapters kept on the way, over the steps of each stage; once for a run told again."""
    losses, rates = read(folder / "loss.csv"), read(folder / "scores.csv")
    points = [*losses_of(manifest, losses), *points_of(manifest, rates)]
    mark = digest(points)[:16]
    if run.resumed and run.summary.get("curves") == mark:
        return
    for number in range(1, len(manifest["stages"]) + 1):
        run.define_metric(f"stage_{number}/step", hidden=True)
        run.define_metric(f"stage_{number}/*", step_metric=f"stage_{number}/step")
    for point in points:
        run.log(point)
    run.summary["curves"] = mark


def log_scores(run: Any, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Rates of whole sets as summary metrics, and the table of scores, those of whole sets first."""
    import wandb

    rows = read(folder / "scores.csv")
    run.summary.update(summary_of(manifest, rows))
    if rows:
        columns, ordered = list(rows[0]), sorted(rows, key=lambda row: row["question"] != "*")
        run.log({"scores": wandb.Table(columns=columns, data=[list(row.values()) for row in ordered[:MOST_ROWS]])})
        run.summary["scores/left_out"] = max(0, len(rows) - MOST_ROWS)


def read(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none when it isn't there."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def mode(wanted: WandbMode, server: str = SERVER) -> str:
    """What `wandb.init` is told: online, offline, or another word of `WANDB_MODE`.

    Args:
        server: the address that W&B's own settings give, where there is no `WANDB_BASE_URL`.
    """
    from requests.utils import get_netrc_auth

    if wanted is not WandbMode.auto:
        return str(wanted.value)
    if said := os.environ.get("WANDB_MODE"):
        return str(OLD_WORDS.get(said, said))
    has_key = (
        os.environ.get("WANDB_API_KEY")
        or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
        or get_netrc_auth(os.environ.get("WANDB_BASE_URL") or server)
    )
    return "online" if has_key else "offline"
