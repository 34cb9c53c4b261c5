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
from em.runtime.manifest import read_facts
from em.track.names import name_of

NOTE = "wandb.run"
"""The file in a trained model's folder that names the W&B run which made it."""
TOLD = ("name", "kind", "url", "id", "revision", "split", "sha256", "licence", "terms", "weights", "limit")


def lineage(manifest: Mapping[str, Any], models: Path, run_id: str = "") -> dict[str, Any]:
    """From what the models came: base, and for each stage its rows, its fingerprint, and who made it.

    `parent_run` and `parent_artifact` are of the last model that was found, on which this run (`run_id`) went on.
    """
    stages = []
    for stage in manifest["stages"]:
        keys = ("name", "fingerprint", "reused", "rows", "data_sha256")
        maker = read_facts(models / stage["fingerprint"] / NOTE) if stage["reused"] else {}
        # A run that was killed finds what it has trained itself; what no run has told of, this one does.
        own = not stage["reused"] or not maker or maker.get("id") == run_id
        facts = {key: stage.get(key) for key in keys}
        facts |= {"artifact": model_name(stage), "rows_artifact": rows_name(stage)}
        stages.append(facts | {"trained_here": own, "run": None if own else maker.get("run")})
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


def rows_name(stage: Mapping[str, Any]) -> str:
    """The artifact of the rows of a stage: other rows have another name."""
    return f"rows-{name_of(stage['name'])}-{(stage.get('data_sha256') or '')[:12]}"


def model_name(stage: Mapping[str, Any]) -> str:
    """The artifact of the model that a stage ends with."""
    return f"model-{stage['fingerprint'][:16]}"


def log_artifacts(run: Any, manifest: Mapping[str, Any], models: Path, tracker: WandbTracker) -> None:
    """Tell W&B what the run used and what it made."""
    origins = lineage(manifest, models, run.id)["stages"]
    for number, (stage, origin) in enumerate(zip(manifest["stages"], origins, strict=True)):
        folder = models / stage["fingerprint"]
        model = model_artifact(stage, folder, tracker.adapters)
        if not origin["trained_here"]:
            use(run, model)
            continue
        use(run, rows_artifact(stage, manifest["config"], number))
        run.log_artifact(model)
        if folder.is_dir():
            path = "/".join(filter(None, (run.entity, run.project, run.id)))
            note = {"id": run.id, "run": path, "artifact": model.name.split(":")[0]}
            (folder / NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")


def use(run: Any, artifact: Any) -> None:
    """Make an artifact an input of the run: created if W&B doesn't know it, else that very one."""
    if run.offline:
        # What use_artifact does with a new artifact, which it refuses to do for `wandb sync` to send later.
        run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def rows_artifact(stage: Mapping[str, Any], config: Mapping[str, Any], number: int) -> Any:
    """Describe the rows that stage `number` (from 0) was trained on; the rows themselves stay here."""
    realign = config.get("realign") or {}
    source, limit = ((realign.get("data") or {}), realign.get("limit")) if number else (config["data"], None)
    facts = {
        "name": stage["name"],
        "rows": stage["rows"],
        "sha256": stage.get("data_sha256"),
        "limit": limit or source.get("limit"),
        "seed": config.get("seed"),
        "source": source_of(source),
    }
    return make_artifact(rows_name(stage), "rows", "data.json", facts)


def source_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Where rows come from, without places on this machine; of a mixture each part."""
    told = {key: data[key] for key in TOLD if data.get(key)}
    parts = {name: source_of(part) for name, part in (data.get("parts") or {}).items() if isinstance(part, dict)}
    return told | ({"parts": parts} if parts else {})


def model_artifact(stage: Mapping[str, Any], folder: Path, adapters: bool) -> Any:
    """Describe the model that a stage ends with by checksums and facts; add the adapter itself if it may be sent."""
    record = read_facts(folder / RECORD)
    facts = {key: value for key, value in (record.get("facts") or stage["facts"]).items() if key != "example"}
    told = {key: stage[key] for key in ("name", "fingerprint")} | {"weights": record.get("files"), "facts": facts}
    artifact = make_artifact(model_name(stage), "model", "model.json", told)
    if adapters and (folder / "adapter_config.json").is_file():
        for file in sorted(folder.glob("adapter_*")):
            artifact.add_file(str(file))
    return artifact


def make_artifact(name: str, kind: str, file_name: str, facts: dict[str, Any]) -> Any:
    """Make an artifact whose facts are its metadata and a file."""
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=facts)
    with artifact.new_file(file_name, encoding="utf-8") as file:
        json.dump(facts, file, indent=1, ensure_ascii=False, sort_keys=True)
    return artifact
