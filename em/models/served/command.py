"""The command line and the environment of a vLLM server, and where vLLM is installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from em.config.paths import CHECKOUT
from em.errors import ConfigError
from em.models.served.plan import Group

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for the highest rank of its adapters."""
HOST = "127.0.0.1"
SECRETS = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
INSTALL = "install it by `make vllm`, or name the command that starts it (sampler.command)"
OVERHEAD = 64  # tokens that a chat template may add to a prompt, beyond what was counted


@dataclass(frozen=True)
class ServeSpec:
    """What a server serves.

    base: the folder of the weights. label: their name in messages. names: further names to serve them under.
    precision: the number format, as in `precision_key`. max_rank: the highest rank of adapters to come, 0 for none.
    max_length: tokens of prompt and answer together; None for what the model allows.
    command: the words that start vLLM, empty for the installed one. base_url: a running server to use instead.
    """

    base: str
    label: str
    precision: str
    max_rank: int = 0
    max_length: int | None = None
    names: tuple[str, ...] = ()
    command: str = ""
    base_url: str | None = None
    gpu_memory: float = 0.9


def find_command(command: str) -> list[str]:
    """Return the words that start vLLM: the user's, or those of `.venv-vllm`, or of the PATH; none if there is none."""
    if command:
        return shlex.split(command)
    own = Path(CHECKOUT or "", ".venv-vllm", "bin", "vllm")
    place = str(own) if CHECKOUT and own.is_file() else shutil.which("vllm")
    return [place, "serve"] if place else []


def is_installed(command: str) -> bool:
    """Return whether vLLM can be started."""
    words = find_command(command)
    return bool(words) and shutil.which(words[0]) is not None


@cache
def find_version(command: str) -> str:
    """Return the version of the vLLM that would be started. Raises ConfigError if there is none. Cached.

    The name of its package's folder tells it at once; otherwise the command is asked, which takes some ten seconds.
    """
    if not is_installed(command):
        raise ConfigError(f"vLLM is not installed: {INSTALL}.")
    words = find_command(command)
    folders = (
        Path(shutil.which(words[0]) or "").resolve().parent.parent.glob("lib/python*/site-packages/vllm-*.dist-info")
    )
    if words[1:] == ["serve"] and (folder := next(folders, None)):
        return folder.name.removeprefix("vllm-").removesuffix(".dist-info").partition("+")[0]
    words = [*words[:-1], "--version"] if words[-1] == "serve" else [*words, "--version"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=make_environment(Group()))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"`{shlex.join(words)}` failed ({type(error).__name__}): {INSTALL}.") from None
    if not (number := re.search(r"\d+\.\d+(\.\w+)*", done.stdout)):
        raise ConfigError(f"`{shlex.join(words)}` printed no version: {INSTALL}.")
    return number.group()


def make_command(spec: ServeSpec, group: Group, port: int, name: str) -> list[str]:
    """Return the command line of a server. `name`: the name under which it must serve the weights."""
    options: dict[str, object] = {"host": HOST, "port": port, "generation-config": "vllm"}
    options["dtype"] = "bfloat16" if spec.precision in ("bfloat16", "auto:gpu") else "float32"
    options["tensor-parallel-size"] = group.degree
    if group.gpus:
        options["gpu-memory-utilization"] = spec.gpu_memory
    if spec.max_length:
        options["max-model-len"] = spec.max_length + OVERHEAD
    if spec.max_rank:
        options["max-lora-rank"] = next(rank for rank in RANKS if rank >= spec.max_rank)
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    switches = [*(["--enable-lora"] if spec.max_rank else []), "--disable-uvicorn-access-log"]
    return [*find_command(spec.command), spec.base, "--served-model-name", name, *spec.names, *words, *switches]


def make_environment(group: Group) -> dict[str, str]:
    """Return the environment of a server: without keys, offline, with its GPUs alone."""
    env = {name: value for name, value in os.environ.items() if not SECRETS.search(name)}
    env |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    env |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if group.gpus:
        return env | {"CUDA_VISIBLE_DEVICES": ",".join(group.gpus)}
    env.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GB; by default vLLM takes nearly all memory
    return env


def find_length(folder: Path, wanted: int) -> int | None:
    """Return how many tokens a server shall take: as many as wanted, at most as many as the model was made for."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    most = config.get("text_config", config).get("max_position_embeddings")
    return wanted if isinstance(most, int) and most > wanted + 64 else None
