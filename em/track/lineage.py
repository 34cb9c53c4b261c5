"""From what a run's models came: rows and models as artifacts of W&B, and the run that made what was found here.

What a run trained on, and models that it found, are its inputs; models that it trained are its outputs. Training rows
themselves are never sent (so neither is the example that a model's record shows), only a description of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from em.config import WandbTracker
from em.runtime.files import RECORD
from em.track.names import name_of

NOTE = "wandb.run"
"""The file in a trained model's folder that names the W&B run which made it."""
TOLD = ("name", "kind", "url", "id", "revision", "split", "sha256", "licence", "terms", "weights", "limit")


def lineage(manifest: Mapping[str, Any], models: Path, run_id: str = "") -> dict[str, Any]:
    """From what the models came: base, and for each stage its rows, its fingerprint, and who made it.

    `parent_run` and `parent_artifact` are of the last model that was found, on which this run went on.

    Args:
        models: the folder of trained models.
        run_id: of this run, which is not its own parent.
    """
    stages = []
    for stage in manifest["stages"]:
        keys = ("name", "fingerprint", "reused", "rows", "data_sha256")
        maker = read_json(models / stage["fingerprint"] / NOTE) if stage["reused"] else {}
        # A run that was killed finds what it has trained itself; what no run has told of, this one does.
        own = not stage["reused"] or not maker or maker.get("id") == run_id
        told = {key: stage.get(key) for key in keys} | {
            "artifact": model_name(stage),
            "rows_artifact": rows_name(stage),
        }
        stages.append(told | {"trained_here": own, "run": None if own else maker.get("run")})
    found = [stage for stage in stages if not stage["trained_here"]]
    return {
        "version": manifest["em"],
        "commit": (manifest["git"] or {}).get("commit"),
        "base": manifest["base"],
        "stages": stages,
        "parent_run": found[-1]["run"] if found else None,
        "parent_artifact": found[-1]["artifact"] if found else None,
        "judges": [judge["label"] for judge in manifest.get("judges") or []],
    }


def read_json(path: Path) -> dict[str, Any]:
    """Read the note or the record in a trained model's folder; empty where there is none, as behind a server."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def note_maker(folder: Path, run: Any, artifact: str) -> None:
    """Write into a trained model's folder which W&B run made it."""
    if folder.is_dir():
        path = "/".join(filter(None, (run.entity, run.project, run.id)))
        said = {"id": run.id, "run": path, "artifact": artifact}
        (folder / NOTE).write_text(json.dumps(said) + "\n", encoding="utf-8")


def rows_name(stage: Mapping[str, Any]) -> str:
    """The artifact of the rows of a stage: other rows have another name."""
    return f"rows-{name_of(stage['name'])}-{(stage.get('data_sha256') or '')[:12]}"


def model_name(stage: Mapping[str, Any]) -> str:
    """The artifact of the model that a stage ends with."""
    return f"model-{stage['fingerprint'][:16]}"


def log_artifacts(run: Any, manifest: Mapping[str, Any], models: Path, tracker: WandbTracker) -> None:
    """Tell W&B what the run used and what it made."""
    told = lineage(manifest, models, run.id)["stages"]
    for number, (stage, known) in enumerate(zip(manifest["stages"], told, strict=True)):
        model = model_artifact(stage, models / stage["fingerprint"], tracker.adapters)
        if known["trained_here"]:
            use(run, rows_artifact(stage, manifest["config"], number))
            run.log_artifact(model)
            note_maker(models / stage["fingerprint"], run, model.name.split(":")[0])
        else:
            use(run, model)


def use(run: Any, artifact: Any) -> None:
    """Make an artifact an input of the run: created if W&B doesn't know it, else that very one."""
    if run.offline:
        # What use_artifact does with a new artifact, which it refuses to do for `wandb sync` to send later.
        run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def rows_artifact(stage: Mapping[str, Any], config: Mapping[str, Any], number: int) -> Any:
    """A description of the rows that stage `number` (from 0) was trained on; the rows themselves stay here."""
    import wandb

    realign = config.get("realign") or {}
    source, limit = ((realign.get("data") or {}), realign.get("limit")) if number else (config["data"], None)
    told = {
        "name": stage["name"],
        "rows": stage["rows"],
        "sha256": stage.get("data_sha256"),
        "limit": limit or source.get("limit"),
        "seed": config.get("seed"),
        "source": source_of(source),
    }
    artifact = wandb.Artifact(rows_name(stage), type="rows", metadata=told)
    add_json(artifact, "data.json", told)
    return artifact


def source_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Where rows come from, without places on this machine; of a mixture each part."""
    told = {key: data[key] for key in TOLD if data.get(key)}
    parts = {name: source_of(part) for name, part in (data.get("parts") or {}).items() if isinstance(part, dict)}
    return told | ({"parts": parts} if parts else {})


def model_artifact(stage: Mapping[str, Any], folder: Path, adapters: bool) -> Any:
    """The model that a stage ends with: checksums and facts, and the adapter itself if it may be sent."""
    import wandb

    record = read_json(folder / RECORD)
    facts = {key: value for key, value in (record.get("facts") or stage["facts"]).items() if key != "example"}
    told = {key: stage[key] for key in ("name", "fingerprint")} | {"weights": record.get("files"), "facts": facts}
    artifact = wandb.Artifact(model_name(stage), type="model", metadata=told)
    add_json(artifact, "model.json", told)
    if adapters and (folder / "adapter_config.json").is_file():
        for file in sorted(folder.glob("adapter_*")):
            artifact.add_file(str(file))
    return artifact


def add_json(artifact: Any, name: str, content: Mapping[str, Any]) -> None:
    """Put a file into an artifact."""
    with artifact.new_file(name, encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False, sort_keys=True)
