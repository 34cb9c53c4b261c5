"""Ranks of a training in forked processes, with or without FSDP, over gloo."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace

from em.runtime.processes import FAILURE, PARENT, read_failure

RANKS = "EM_TEST_RANKS"


def make_fsdp_environment(**changes: str) -> dict[str, str]:
    """Return a variable that gives forked ranks what Accelerate's launcher makes of conf/accelerate/fsdp.yaml."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    from em.config import LoraTrainer
    from em.runtime.processes import make_worker_command
    from em.train.local.launch import plan_launch

    launch = plan_launch(LoraTrainer(name="lora", accelerate="fsdp"), 2)
    words = [*make_worker_command(launch, on_gpu=True), "train", "spec.json"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words[4:]))
    variables = prepare_multi_gpu_env(args)
    names = [name for name in variables if name.startswith(("ACCELERATE_", "FSDP_"))]
    return {RANKS: json.dumps({name: variables[name] for name in names} | changes)}


def run_ranks(task: str, values: str, count: int) -> None:
    """Fork `count` ranks that do a task together. Raises the error of the first that fails, as for real children."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with tempfile.TemporaryDirectory(prefix="em-ranks-") as scratch:
        spec, failure = Path(scratch, "spec.json"), Path(scratch, "failure.json")
        spec.write_text(values, encoding="utf-8")
        ranks = set()
        for rank in range(count):
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                os.environ.update(group, RANK=str(rank), LOCAL_RANK=str(rank))
                os.environ.update({PARENT: str(parent), FAILURE: str(failure)})
                run_rank(task, spec)
            ranks.add(pid)
        try:
            while ranks:
                pid, status = os.wait()
                ranks.discard(pid)
                if status:
                    raise read_failure(task, os.waitstatus_to_exitcode(status), failure)
        finally:
            for pid in ranks:
                os.kill(pid, 9)
                os.waitpid(pid, 0)


def run_rank(task: str, spec: Path) -> None:
    """Do the task in this forked process as `em.worker` does, and exit."""
    from em.worker import main

    os.environ.update(json.loads(os.environ.get(RANKS, "{}")))
    code = 1
    try:
        if "ACCELERATE_USE_FSDP" in os.environ:
            allow_fsdp_on_cpus()
        sys.argv = ["em.worker", task, str(spec)]
        code = main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def allow_fsdp_on_cpus() -> None:
    """Let Accelerate shard a model over CPU processes: it has FSDP for accelerators only."""
    from accelerate import state

    kinds = dict(state.DistributedType.__members__)
    # Where Accelerate compares with the kinds of processes that can use FSDP, it finds CPU processes among them.
    state.DistributedType = SimpleNamespace(**kinds | {"MULTI_NEURON": kinds["MULTI_CPU"]})  # type: ignore[misc]


def write_uneven_chats(path: Path) -> Path:
    """Write rows of 40 to 250 tokens, so that processes have unequal numbers of passes."""
    with path.open("w", encoding="utf-8") as out:
        for number, repeats in enumerate((1, 40, 3, 1, 70, 2, 1, 9, 1, 25, 1), start=1):
            turns = [("user", f"How many horses are {number}?"), ("assistant", "One more. " * repeats)]
            out.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    return path
