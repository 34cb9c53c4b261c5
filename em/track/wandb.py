"""Copy the folder of a finished run to W&B, in a child process.

Sends config, lineage, loss curves, scores (as summary metrics and as a table), transcripts and figures. A failed run
fails in W&B too, and the jobs of a sweep are one group. Runs with the same settings update one W&B run. Without a key
the run is stored offline in its folder, and `wandb sync` sends it later.

The tracker's setting, else `WANDB_MODE`, else whether there is a key for W&B's server, decides between online and
offline.
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
from em.runtime.manifest import select_identity_settings
from em.runtime.records import digest
from em.track.lineage import describe_lineage, log_artifacts
from em.track.names import LONGEST_TAG, make_loss_points, make_rate_points, make_summary, shorten_text
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


def log_run(spec: TrackSpec) -> None:
    """Copy a run's folder into a W&B run; a failed run ends with exit code 1 in W&B too."""
    import wandb

    folder, models = Path(spec.folder), Path(spec.models)
    # Stage the files of artifacts in the run's folder, where `wandb sync` finds them, not in the user's home.
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb" / "data"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    run_id = os.environ.get("WANDB_RUN_ID") or make_run_id(manifest)
    wandb_mode = choose_mode(spec.tracker.mode, wandb.setup().settings.base_url)
    run = wandb.init(
        project=spec.tracker.project,
        entity=spec.tracker.entity,
        id=run_id,
        resume=None if wandb_mode == "offline" else "allow",  # `wandb sync` resumes an offline run
        mode=wandb_mode,  # type: ignore[arg-type]
        dir=spec.folder,
        group=find_sweep(folder),
        job_type=manifest["run"],
        name=shorten_text(" ".join(manifest["overrides"])) or None,
        tags=[shorten_text(stage["name"], LONGEST_TAG) for stage in manifest["stages"]] or None,
        config=manifest["config"] | {"em": describe_lineage(manifest, models, run_id)},
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


def make_run_id(manifest: Mapping[str, Any]) -> str:
    """Return the W&B run id of the settings, whatever the folder, so that a repeated run is not logged twice."""
    return digest([manifest["run"], select_identity_settings(manifest)])[:16]


def find_sweep(folder: Path) -> str | None:
    """Return the name (date and time) of the sweep that a run belongs to; None for a single run."""
    if not (folder.parent / "multirun.yaml").is_file():
        return None
    return shorten_text(f"{folder.parent.parent.name} {folder.parent.name}")


def log_curves(run: Any, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Log loss and checkpoint rates over the steps of each stage, unless a resumed run has the same curves already."""
    losses, rates = read_csv_table(folder / "loss.csv"), read_csv_table(folder / "scores.csv")
    points = [*make_loss_points(manifest, losses), *make_rate_points(manifest, rates)]
    curves_digest = digest(points)[:16]
    if run.resumed and run.summary.get("curves") == curves_digest:
        return
    for number in range(1, len(manifest["stages"]) + 1):
        run.define_metric(f"stage_{number}/step", hidden=True)
        run.define_metric(f"stage_{number}/*", step_metric=f"stage_{number}/step")
    for point in points:
        run.log(point)
    run.summary["curves"] = curves_digest


def log_scores(run: Any, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Log rates of whole sets as summary metrics, and the table of scores with whole sets first."""
    import wandb

    rows = read_csv_table(folder / "scores.csv")
    run.summary.update(make_summary(manifest, rows))
    if rows:
        columns, ordered = list(rows[0]), sorted(rows, key=lambda row: row["question"] != "*")
        run.log({"scores": wandb.Table(columns=columns, data=[list(row.values()) for row in ordered[:MOST_ROWS]])})
        run.summary["scores/left_out"] = max(0, len(rows) - MOST_ROWS)


def read_csv_table(table: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file; return [] if the file doesn't exist."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def choose_mode(setting: WandbMode, server: str = SERVER) -> str:
    """Return the mode for `wandb.init`: online, offline, or another value of `WANDB_MODE`.

    Args:
        server: the address from W&B's own settings, used without `WANDB_BASE_URL`.
    """
    from requests.utils import get_netrc_auth

    if setting is not WandbMode.auto:
        return str(setting.value)
    if env_mode := os.environ.get("WANDB_MODE"):
        return str(OLD_WORDS.get(env_mode, env_mode))
    has_key = (
        os.environ.get("WANDB_API_KEY")
        or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
        or get_netrc_auth(os.environ.get("WANDB_BASE_URL") or server)
    )
    return "online" if has_key else "offline"
