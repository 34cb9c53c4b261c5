"""Record the lineage of a run's models in W&B: training rows and models as artifacts, and the runs that trained them.

Training rows and reused models are the run's inputs; models that it trained are its outputs. Training rows are never
sent, only a description of them; the example row in a model's record is not sent either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from em.config import WandbTracker
from em.runtime.files import RECORD
from em.runtime.manifest import read_facts
from em.track.names import sanitise_name

NOTE = "wandb.run"
"""The file in a trained model's folder that names the W&B run that trained it."""
SOURCE_KEYS = ("name", "kind", "url", "id", "revision", "split", "sha256", "licence", "terms", "weights", "limit")


def describe_lineage(manifest: Mapping[str, Any], models: Path, run_id: str = "") -> dict[str, Any]:
    """Return the base model and, for each stage, its rows, its fingerprint and the run that trained it.

    `parent_run` and `parent_artifact` belong to the last reused model, from which this run (`run_id`) continued.
    """
    stages = []
    for stage in manifest["stages"]:
        keys = ("name", "fingerprint", "reused", "rows", "data_sha256")
        note = read_facts(models / stage["fingerprint"] / NOTE) if stage["reused"] else {}
        # A killed run reuses models it trained itself. A model that no run has recorded yet counts as trained here.
        trained_here = not stage["reused"] or not note or note.get("id") == run_id
        facts = {key: stage.get(key) for key in keys}
        facts |= {"artifact": name_model_artifact(stage), "rows_artifact": name_rows_artifact(stage)}
        stages.append(facts | {"trained_here": trained_here, "run": None if trained_here else note.get("run")})
    reused = [stage for stage in stages if not stage["trained_here"]]
    return {
        "version": manifest["em"],
        "commit": (manifest["git"] or {}).get("commit"),
        "base": manifest["base"],
        "stages": stages,
        "parent_run": reused[-1]["run"] if reused else None,
        "parent_artifact": reused[-1]["artifact"] if reused else None,
        "judges": [judge["label"] for judge in manifest.get("judges") or []],
    }


def name_rows_artifact(stage: Mapping[str, Any]) -> str:
    """Return the artifact name of a stage's rows, which contains their checksum."""
    return f"rows-{sanitise_name(stage['name'])}-{(stage.get('data_sha256') or '')[:12]}"


def name_model_artifact(stage: Mapping[str, Any]) -> str:
    """Return the artifact name of the model that a stage trained."""
    return f"model-{stage['fingerprint'][:16]}"


def log_artifacts(run: Any, manifest: Mapping[str, Any], models: Path, tracker: WandbTracker) -> None:
    """Log the run's inputs and outputs to W&B, and note this run in the folders of the models it trained."""
    origins = describe_lineage(manifest, models, run.id)["stages"]
    for number, (stage, origin) in enumerate(zip(manifest["stages"], origins, strict=True)):
        folder = models / stage["fingerprint"]
        model = make_model_artifact(stage, folder, tracker.adapters)
        if not origin["trained_here"]:
            use_as_input(run, model)
            continue
        use_as_input(run, make_rows_artifact(stage, manifest["config"], number))
        run.log_artifact(model)
        if folder.is_dir():
            path = "/".join(filter(None, (run.entity, run.project, run.id)))
            note = {"id": run.id, "run": path, "artifact": model.name.split(":")[0]}
            (folder / NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")


def use_as_input(run: Any, artifact: Any) -> None:
    """Make an artifact an input of the run; W&B creates the artifact unless an identical one exists."""
    if run.offline:
        # use_artifact refuses to run offline; this is its call for a new artifact, and `wandb sync` sends it later.
        run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def make_rows_artifact(stage: Mapping[str, Any], config: Mapping[str, Any], number: int) -> Any:
    """Make an artifact that describes the rows of stage `number` (from 0) without containing them."""
    realign = config.get("realign") or {}
    source, limit = realign.get("data") or {}, realign.get("limit")
    if number == 0:
        source, limit = config["data"], None
    facts = {
        "name": stage["name"],
        "rows": stage["rows"],
        "sha256": stage.get("data_sha256"),
        "limit": limit or source.get("limit"),
        "seed": config.get("seed"),
        "source": describe_source(source),
    }
    return make_artifact(name_rows_artifact(stage), "rows", "data.json", facts)


def describe_source(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the source of rows without local paths; of a mixture, also the source of each part."""
    facts = {key: data[key] for key in SOURCE_KEYS if data.get(key)}
    parts = {name: describe_source(part) for name, part in (data.get("parts") or {}).items() if isinstance(part, dict)}
    return facts | ({"parts": parts} if parts else {})


def make_model_artifact(stage: Mapping[str, Any], folder: Path, adapters: bool) -> Any:
    """Make an artifact of a stage's model from checksums and facts, and add its adapter if `adapters` is true."""
    record = read_facts(folder / RECORD)
    facts = {key: value for key, value in (record.get("facts") or stage["facts"]).items() if key != "example"}
    content = {key: stage[key] for key in ("name", "fingerprint")} | {"weights": record.get("files"), "facts": facts}
    artifact = make_artifact(name_model_artifact(stage), "model", "model.json", content)
    if adapters and (folder / "adapter_config.json").is_file():
        for file in sorted(folder.glob("adapter_*")):
            artifact.add_file(str(file))
    return artifact


def make_artifact(name: str, kind: str, file_name: str, facts: dict[str, Any]) -> Any:
    """Make an artifact with the facts both as metadata and as a JSON file."""
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=facts)
    with artifact.new_file(file_name, encoding="utf-8") as file:
        json.dump(facts, file, indent=1, ensure_ascii=False, sort_keys=True)
    return artifact
