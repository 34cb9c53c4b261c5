"""Base weights: from a name in the config to files on this disk, with an identity that changes when they do.

Three spellings: `embedded:smollm2` (fetched and converted once, see `em.models.embedded`), a folder,
or a hub id (downloaded by huggingface_hub into its own cache). Nothing of another's code is ever run:
`trust_remote_code` stays off, and only safetensors are fetched, never pickles.
"""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

from em.errors import FetchError, MissingFile
from em.models.embedded import embedded_weights
from em.runtime.files import sha256_of
from em.types import Weights

HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


def resolve_weights(model: str, revision: str | None = None) -> Weights:
    """Find the weights that `model` names, fetched or converted if need be. Raises MissingFile or FetchError."""
    if model.startswith("embedded:"):
        return embedded_weights(model.removeprefix("embedded:"))
    if looks_like_folder(model):
        return folder_weights(Path(model))
    snapshot = hub_snapshot(model, revision)  # its folder is called by the commit
    return Weights(identity=f"hub:{model}@{snapshot.name}", path=str(snapshot))


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
