"""A stand-in for `vllm serve` in tests: its command line, log, LoRA API and chat endpoint, with real numbers.

Answers and log-probabilities come from transformers and PEFT on a CPU, so it is for tiny models. The variable `FAULT`
chooses what goes wrong; `prepare` puts it on the PATH.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

FAULT = "EM_MADE_VLLM"
VERSION = "0.99.1"
COMMAND = f"{sys.executable} -m tests.support.made_vllm serve"


def install(folder: Path) -> dict[str, str]:
    """Write a script called vllm into a folder; return the PATH on which it is found first."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "vllm"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.support.made_vllm "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
