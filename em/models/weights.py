"""Base weights: resolve a name of the config to files on this disk, with an identity that changes with the files.

A name is `embedded:smollm2` (downloaded and converted once, see `em.models.embedded`), a folder, or a hub id
(downloaded by huggingface_hub into its own cache). em never runs the code of a model's author: `trust_remote_code`
stays off, and only safetensors are downloaded, never pickles.
"""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

from em.errors import FetchError, MissingFile
from em.models.embedded import find_embedded_weights
from em.runtime.files import hash_file
from em.types import Weights

TOKENIZER_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
HUB_FILES = ["*.safetensors", *TOKENIZER_FILES]
SECOND_COPY = ["consolidated*"]  # Mistral's repositories hold all weights a second time in their own layout


def resolve_weights(model: str, revision: str | None = None) -> Weights:
    """Find the weights that `model` names; download or convert them if needed. Raises MissingFile or FetchError."""
    if model.startswith("embedded:"):
        return find_embedded_weights(model.removeprefix("embedded:"))
    if is_folder_name(model):
        return identify_folder_weights(Path(model))
    snapshot = fetch_hub_snapshot(model, revision)  # the folder's name is the commit
    return Weights(identity=f"hub:{model}@{snapshot.name}{name_date(snapshot)}", path=str(snapshot))


def locate_tokenizer(model: str, revision: str | None = None) -> str:
    """Return a folder with the tokenizer of `model`; download no weights. Raises as `resolve_weights` does."""
    if model.startswith("embedded:"):
        return find_embedded_weights(model.removeprefix("embedded:")).path
    if is_folder_name(model):
        return str(Path(model).expanduser())
    return str(fetch_hub_snapshot(model, revision, TOKENIZER_FILES))


def is_folder_name(name: str) -> bool:
    """Return whether a name means a folder: the folder exists, or no hub id has this form."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).is_dir()


def identify_folder_weights(folder: Path) -> Weights:
    """Describe weights in a user's folder; the identity is a checksum of its safetensors, JSON and jinja files."""
    folder = folder.expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise MissingFile(f"{folder} holds no model (no config.json): name a folder that save_pretrained wrote.")
    checksum = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.jinja")]):
        checksum.update(f"{file.name} {hash_file(file)}\n".encode())
    return Weights(identity=f"folder:sha256:{checksum.hexdigest()}{name_date(folder)}", path=str(folder))


def name_date(folder: Path) -> str:
    """Return a suffix for the identity of a model whose template asks for the date by `strftime_now` alone, else "".

    Earlier versions of em gave such a template the day of the run: their trained models and answers are not found.
    """
    files = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return "+dated" if any("strftime_now" in text and "date_string" not in text for text in texts) else ""


def fetch_hub_snapshot(name: str, revision: str | None, patterns: list[str] | None = None) -> Path:
    """Find a hub repository in the cache, or download it. Raises FetchError or MissingFile with one sentence."""
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
        allowed = patterns or HUB_FILES
        return Path(snapshot_download(name, revision=revision, allow_patterns=allowed, ignore_patterns=SECOND_COPY))
    except GatedRepoError as error:
        raise FetchError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then set HF_TOKEN to a token "
            "of that account and run the same command again."
        ) from error
    except RevisionNotFoundError as error:
        raise MissingFile(f"{name} has no revision {revision}: check the commit, tag or branch.") from error
    except RepositoryNotFoundError as error:
        raise MissingFile(
            f"The hub has no model {name} (if the model is private, set HF_TOKEN): check the id, or name a folder."
        ) from error
    except HFValidationError as error:
        raise MissingFile(f"{name} is neither a folder nor a hub id of the form owner/name.") from error
    except OSError as error:  # the hub's own errors are OSErrors too
        if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
            message = f"The hub refused {name} ({type(error).__name__}): check HF_TOKEN, or try later."
            raise FetchError(message) from error
        if error.errno == errno.ENOSPC:
            message = f"The disk is full: {name} could not be downloaded; set HF_HOME to a folder on another disk."
            raise FetchError(message) from error
        raise FetchError(
            f"The weights of {name} are not on this machine and the hub can't be reached: connect once and run the "
            f"same command again, or copy the model here and give its folder (model.id=FOLDER)."
        ) from error
