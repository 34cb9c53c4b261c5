"""Run the stand-in: `python -m tests.support.made_vllm serve FOLDER --served-model-name NAME … --port N …`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.made_vllm import FAULT, VERSION

MARK = "(EngineCore pid=1) ERROR 11-30 23:57:30 [core.py:1512] "


def fail(line: str) -> None:
    """Write an error as vLLM does, and end."""
    print(f'{MARK}Traceback (most recent call last):\n{MARK}  File "x.py", line 1\n{MARK}{line}', flush=True)
    sys.exit(1)


def main() -> None:
    """Parse the command line, act out a fault of the start, and serve."""
    if "--version" in sys.argv:
        print(VERSION)
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("model")
    parser.add_argument("--served-model-name", nargs="+", required=True)
    for option in ("host", "generation-config", "dtype", "chat-template"):
        parser.add_argument(f"--{option}")
    for option in ("port", "tensor-parallel-size", "max-model-len", "max-lora-rank"):
        parser.add_argument(f"--{option}", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    for switch in ("enable-lora", "disable-uvicorn-access-log"):
        parser.add_argument(f"--{switch}", action="store_true")
    options = parser.parse_args()
    fault, _, value = os.environ.get(FAULT, "").partition("=")
    print("(APIServer pid=1) INFO 11-30 23:15:04 [x.py:1] version " + VERSION, flush=True)
    # vLLM's work is done by a child, which must not outlive it.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # made vllm worker"])
    with Path(os.environ.get("EM_MADE_VLLM_PIDS", os.devnull)).open("a") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    match fault:
        case "crash_start":
            fail("ValueError: Model architectures ['Odd'] are not supported for now.")
        case "oom":
            fail("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        case "port" if not Path(value).exists():
            Path(value).touch()
            fail("OSError: [Errno 98] Address already in use")
        case "slow":
            for share in (0, 50, 100):
                print(f"Loading safetensors checkpoint shards: {share:3}% Completed", flush=True)
                time.sleep(float(value))
    from tests.support.made_vllm.server import serve

    serve(options, fault, value)


if __name__ == "__main__":
    main()
