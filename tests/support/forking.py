"""Run em's command line in processes that start fast: forked from a server that has already imported the libraries.

Importing takes over ten seconds, training a tiny model a tenth of a second. Each command has its own process, which
also does the tasks of its child processes, so tests can kill it. Ranks of a training are forked, without a launcher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.gpus import limit_memory
from tests.support.runs import ROOT, make_environment
from tests.support.sharded import run_ranks


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


class Forking:
    """The process to fork from, a context manager. One process serves all test files (fixture `em`)."""

    def __init__(self) -> None:
        env = make_environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}", TOKENIZERS_PARALLELISM="false")
        self.env: dict[str, str] = {}
        pipe = subprocess.PIPE
        self.server = subprocess.Popen([sys.executable, __file__], env=env, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Forking:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()

    def add_environment(self, **env: str) -> Forking:
        """Return a copy whose commands have these environment variables."""
        other = copy(self)
        other.env = self.env | env
        return other

    def send_order(self, **order: Any) -> int:
        """Send an order to the server process, and return the number that it replies with."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, script: str, *words: str, cwd: Path) -> int:
        """Start `train.py` or `evaluate.py` with words in `cwd`, and return the process id."""
        return self.send_order(script=script, words=words, cwd=str(cwd), env=self.env)

    def wait_for(self, pid: int, cwd: Path) -> CommandResult:
        """Wait for the process to end, and return its exit code and output."""
        code = self.send_order(wait=pid)
        return CommandResult(code, (cwd / "out.txt").read_text(), (cwd / "err.txt").read_text())

    def run(self, script: str, *words: str, cwd: Path) -> CommandResult:
        """Run a command to its end."""
        return self.wait_for(self.start(script, *words, cwd=cwd), cwd)

    def kill_when(self, reached: Callable[[], Any], script: str, *words: str, cwd: Path) -> CommandResult:
        """Run a command and SIGKILL it as soon as `reached()`."""
        pid = self.start(script, *words, cwd=cwd)
        deadline = time.monotonic() + 240
        while not reached():
            assert time.monotonic() < deadline, (cwd / "err.txt").read_text()[-2000:]
        os.kill(pid, 9)
        return self.wait_for(pid, cwd)


def serve() -> None:
    """Import the libraries, then fork for each order from stdin. Don't use torch here: threads don't survive forks."""
    import matplotlib.backends.backend_agg
    import openai
    import peft
    import pydantic
    import transformers
    import trl

    import em.judge.local
    import em.report
    import em.run
    import em.sample.local
    import em.train.local.arguments
    import em.train.local.fit
    import em.train.local.progress
    import em.train.local.sft
    import em.train.local.trainer  # noqa: F401

    # These packages import names lazily: load them before the fork.
    packages = (transformers.LlamaForCausalLM, trl.SFTTrainer, peft.PeftModel, pydantic.TypeAdapter)
    for lazy in (*packages, openai.AsyncOpenAI, matplotlib.backends.backend_agg.FigureCanvasAgg):
        assert lazy
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            code = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            # Truncate the files before the fork, so that no test reads the output of an earlier command.
            files = [open(Path(order["cwd"], name), "w") for name in ("out.txt", "err.txt")]  # noqa: PTH123, SIM115
            code = os.fork()
            if code == 0:
                for number, file in enumerate(files, start=1):
                    os.dup2(file.fileno(), number)
                os.environ.update(order["env"])
                run_and_exit(order["script"], order["words"], order["cwd"])
            for file in files:
                file.close()
        answers.write(f"{code}\n")
        answers.flush()


def run_and_exit(script: str, words: list[str], cwd: str) -> None:
    """Run the command in this process, and exit with its exit code."""
    import traceback

    from em.cli import hydra as cli
    from em.models import default_prompt
    from em.runtime import shards
    from em.train.local import dry_run
    from em.train.local import find_or_train as obtain

    limit_memory()
    os.chdir(cwd)
    sys.argv = [str(ROOT / script), *words]
    obtain.run_child = default_prompt.run_child = dry_run.run_child = do_task  # type: ignore[assignment]
    shards.run_children = do_tasks  # type: ignore[assignment]
    code: Any = 0
    try:
        code = cli.main(script.removesuffix(".py"))
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def do_task(task: str, spec: Any, launch: Any = None) -> None:
    """Do the task of a child process in this process; fork a process for each rank if there are several."""
    from em.runtime.records import to_jsonable
    from em.worker import run_task

    values = json.dumps(to_jsonable(spec), ensure_ascii=False)
    if launch is None or launch.processes == 1:
        run_task(task, values)
    else:
        run_ranks(task, values, launch.processes)


def do_tasks(task: str, specs: list[Any], **_: Any) -> None:
    """Do the tasks of child processes one after another."""
    for spec in specs:
        do_task(task, spec)


if __name__ == "__main__":
    serve()
