"""The command `em gpu-check`: its words, a whole run of tiny models, a failure, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from em.cli.gpu_check import main
from em.gpu_check.run import CHECKS
from tests.support.runs import ROOT, make_environment

NEED_A_GPU = {"worker_fsdp", "worker_qlora", "worker_oom"}


def run_program(program: str, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the words `em gpu-check --small …`, with its temporary folder in `cwd`."""
    command = [sys.executable, "-c", program, "--small", *words]
    env = make_environment(PYTHONPATH=str(ROOT), TMPDIR=str(cwd))
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


COMMAND = "import sys; from em.cli.gpu_check import main; sys.exit(main())"
ONE_SEED = f"from em.sample import local; local.derive_answer_seed = lambda request: 0; {COMMAND}"


def test_a_machine_without_a_gpu_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main([]) == 2
    assert capsys.readouterr().err == (
        "error: em gpu-check needs a GPU, and this machine shows none (nvidia-smi -L lists them): add --small to make "
        "the same checks with tiny models on the CPU.\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--only", "draws,los_head"], "error: --only=los_head is no check: did you mean loss_head?"),
        (["--only", "xyz"], "error: --only=xyz is no check: they are machine, loss_head, "),
        (["--out", "/dev/null/check.json"], "error: /dev/null can't be written"),
    ],
)
def test_words_that_can_t_be_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--small"]) == 2
    assert capsys.readouterr().err.startswith(sentence)


def test_the_help_names_every_check_and_says_that_no_gpu_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name in CHECKS:
        assert f"\n  {name} " in text
    assert len(CHECKS) == 17
    assert "None of this has run on a GPU yet" in text


@pytest.mark.slow
def test_all_checks_pass_on_tiny_models_in_minutes(tmp_path: Path) -> None:
    begun = time.monotonic()
    done = run_program(COMMAND, tmp_path, "--out", "check.json")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert time.monotonic() - begun < 240
    facts = json.loads((tmp_path / "check.json").read_text())
    states = {check["name"]: check["state"] for check in facts["checks"]}
    assert states == {name: "skipped" if name in NEED_A_GPU else "passed" for name in CHECKS}
    _, *lines, last = done.stdout.splitlines()
    assert sorted(line.split()[1] for line in lines) == sorted(CHECKS)
    versions = [f"{name} {version}" for name, version in facts["versions"].items()]
    assert last.startswith(", ".join(versions))
    assert last.endswith(
        "tiny models on the CPU; 14 passed, 0 failed, 3 skipped (worker_fsdp, worker_qlora, worker_oom)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["check.json"]


@pytest.mark.slow
def test_a_failure_is_named_and_ends_with_exit_code_1(tmp_path: Path) -> None:
    done = run_program(ONE_SEED, tmp_path, "--only", "machine,draws")
    assert (done.returncode, done.stderr) == (1, "")
    assert "\nfailed  draws " in done.stdout
    assert "\ndraws: 4,000 draws have χ² = " in done.stdout
    assert done.stdout.endswith("; tiny models on the CPU; 1 passed, 1 failed (draws), 0 skipped\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_ends_children_and_removes_the_temporary_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMMAND, "--small", "--only", "worker_lora"]
    env = make_environment(PYTHONPATH=str(ROOT), TMPDIR=str(tmp_path))
    # A shell that starts tests in the background lets them ignore Ctrl-C.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=env, text=True, preexec_fn=listen, **pipes)
    while not list(tmp_path.glob("*/em-train-*")):  # the task of the child process
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.startswith("error: Interrupted.")
    assert list(tmp_path.iterdir()) == []
