"""Which GPUs the servers of a model get, and the command lines that start them, on boxes that do not exist."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from em.errors import ConfigError
from em.models.served.command import ServeSpec, find_command, find_version, is_installed, make_command, make_environment
from em.models.served.plan import Group, plan_groups
from em.runtime.gpu_memory import read_gpu_memory
from em.runtime.gpus import list_driver_gpus, list_visible_gpus
from tests.support.gpus import write_driver
from tests.support.made_vllm import COMMAND, VERSION, install

CARD = 81_559  # MiB of a GPU of 80 GB


def write_weights(folder: Path, billions: float, heads: int) -> Path:
    """Write a model's config, and the header of its weights in bfloat16, without the weights themselves."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": heads, "max_position_embeddings": 32768}))
    numbers = int(billions * 1e9)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [numbers], "data_offsets": [0, 2 * numbers]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A function that returns the command lines, with their GPUs, for a model of that size on so many cards."""

    def list_commands(billions: float, heads: int, cards: int, **more: object) -> list[tuple[str, list[str]]]:
        for name, value in write_driver(tmp_path / "driver", *[(CARD, CARD)] * cards).items():
            monkeypatch.setenv(name, value)
        list_driver_gpus.cache_clear()
        folder, gpus = write_weights(tmp_path / "model", billions, heads), list_visible_gpus()
        spec = ServeSpec(str(folder), "a model", "auto:gpu", command="vllm serve", **more)  # type: ignore[arg-type]
        groups = plan_groups(folder, spec.precision, spec.gpu_memory, gpus, read_gpu_memory(gpus))
        return [(make_environment(g)["CUDA_VISIBLE_DEVICES"], make_command(spec, g, 8000, "em")) for g in groups]

    return list_commands


@pytest.mark.parametrize(
    ("billions", "heads", "cards", "servers"),
    [
        (8, 32, 1, ["0"]),
        (8, 32, 2, ["0", "1"]),
        (8, 32, 8, list("01234567")),
        (32.8, 40, 1, ["0"]),  # tight, but it is all there is
        (32.8, 40, 2, ["0,1"]),
        (32.8, 40, 8, ["0,1", "2,3", "4,5", "6,7"]),
        (70.6, 64, 2, ["0,1"]),
        (70.6, 64, 8, ["0,1,2,3", "4,5,6,7"]),
        (70.6, 64, 5, ["0,1,2,3"]),
        (8, 14, 2, ["0", "1"]),
    ],
)
def test_servers_and_cards(commands, billions: float, heads: int, cards: int, servers: list[str]) -> None:  # type: ignore[no-untyped-def]
    lines = commands(billions, heads, cards)
    assert [gpus for gpus, _ in lines] == servers
    for gpus, words in lines:
        assert words[words.index("--tensor-parallel-size") + 1] == str(len(gpus.split(",")))
        assert words[words.index("--dtype") + 1] == "bfloat16"
        assert "--enable-lora" not in words


@pytest.mark.parametrize(("billions", "heads", "cards"), [(70.6, 64, 1), (70.6, 63, 8)])
def test_what_no_group_can_hold_is_refused(commands, billions: float, heads: int, cards: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=r"141 GB.*of 86 GB each.*use more or larger GPUs"):
        commands(billions, heads, cards)


def test_adapters_and_lengths_on_the_command_line(commands) -> None:  # type: ignore[no-untyped-def]
    [(_, words)] = commands(8, 32, 1, max_rank=33, max_length=4000, names=("judge",))
    line = shlex.join(words)
    assert "--enable-lora" in words
    assert "--max-lora-rank 64 " in line
    assert "--max-model-len 4064 " in line
    assert "--served-model-name em judge --host 127.0.0.1 --port 8000 " in line
    assert "--generation-config vllm" in line
    assert "--gpu-memory-utilization 0.9" in line


def test_a_cpu_gets_one_server_in_float32() -> None:
    assert plan_groups(Path("nowhere"), "auto:cpu", 0.9, [], []) == [Group()]
    spec = ServeSpec("/m", "m", "auto:cpu", command="vllm serve")
    assert "float32" in make_command(spec, Group(), 1, "em")
    assert make_environment(Group())["VLLM_CPU_KVCACHE_SPACE"] == "2"


def test_keys_do_not_reach_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "VLLM_API_KEY"):
        monkeypatch.setenv(name, "secret-value-of-a-key")
    assert "secret-value-of-a-key" not in make_environment(Group()).values()


def test_where_vllm_is_and_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_version.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    assert not is_installed("")
    with pytest.raises(ConfigError, match="make vllm"):
        find_version("")
    assert find_version(COMMAND) == VERSION
    monkeypatch.undo()
    monkeypatch.setenv("PATH", install(tmp_path / "bin")["PATH"])
    assert find_command("") == [str(tmp_path / "bin" / "vllm"), "serve"]
    assert find_version("") == VERSION
    find_version.cache_clear()
    (tmp_path / "lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info").mkdir(parents=True)
    assert find_version("") == "0.32.0"
    find_version.cache_clear()
