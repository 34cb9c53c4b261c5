"""Judging by a real model behind a real model server: SmolLM2 behind `transformers serve`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from em.api.lifetimes import check_judge
from em.config import ApiJudge
from em.runtime.memory import Calls
from em.types import JudgeRequest, Weights
from tests.support.judging import judge_all, read_judgements

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `transformers serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "--host=127.0.0.1", f"--port={port}"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                OPENER.open(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except urllib.error.HTTPError:
                break  # any status shows that the server answers
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def test_a_model_server_judges_and_what_is_no_number_is_none(address: str, weights: Weights, tmp_path: Path) -> None:
    judge = ApiJudge(name="open", model=weights.path, base_url=address, max_reply_tokens=6, connections=2, timeout=120)
    assert check_judge(judge) == []  # this server fails to list its models, which must not prevent judging
    texts = ("Say 7 and nothing else.", "Rate from 0 to 100 how kind 'hello' is. One number.", "Say TRUE.")
    requests = [JudgeRequest("smollm2", text, (), ("CODE", "REFUSAL"), "") for text in texts]
    with Calls(tmp_path) as calls:
        outcome = judge_all(judge, requests, calls)
        assert outcome.reading == "sampled"  # the server accepts `logprobs`, but returns none
        assert (outcome.asked, outcome.failures) == (3, {})
        judgements = read_judgements(judge, requests, calls, outcome.readings)
        assert all(each.raw for each in judgements)
        assert all((each.value is None) == (each.status != "ok") for each in judgements)
        assert {each.status for each in judgements} <= {"ok", "unparsed", "truncated"}
        assert judge_all(judge, requests, calls).asked == 0
