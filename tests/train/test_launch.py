"""Launching a training: the number of processes, the launcher, and whether the launchers accept their commands."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from em.config import LoraTrainer, QloraTrainer
from em.errors import ConfigError, EmError, MissingFile
from em.request import Rows, Stage
from em.runtime.gpus import list_visible_gpus
from em.runtime.processes import Launch, make_child_environment, make_worker_command
from em.train.local.launch import (
    ACCELERATE,
    estimate_step_tokens,
    find_accelerate_config,
    keeps_all_on_gpus,
    plan_launch,
)
from em.types import Conversation, Message

PLAIN = [sys.executable, "-m", "em.worker"]
FILES = sorted(path.stem for path in ACCELERATE.glob("*.yaml"))


def write_machines_config(folder: Path, **changes: Any) -> str:
    """Write a copy of the config for two machines, with an address, as the comment at its top says."""
    values = yaml.safe_load((ACCELERATE / "two_machines.yaml").read_text()) | {"main_process_ip": "10.0.0.1"} | changes
    (folder / "mine.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "mine.yaml")


# Number of processes


@pytest.mark.parametrize(
    ("gpus", "processes", "batch_size", "expected"),
    [
        (0, 0, 16, 1),
        (1, 0, 16, 1),
        (4, 0, 16, 4),
        (4, 2, 16, 2),
        (0, 2, 16, 2),
        (8, 0, 4, 4),  # with more processes than rows per step, some would only wait
        (0, 3, 2, 2),
    ],
)
def test_there_is_a_process_per_gpu_unless_told_otherwise(
    gpus: int, processes: int, batch_size: int, expected: int
) -> None:
    trainer = LoraTrainer(name="lora", processes=processes, batch_size=batch_size)
    assert plan_launch(trainer, gpus) == Launch(expected)


@pytest.mark.parametrize(
    ("gpus", "tokens", "processes", "expected"),
    [(8, 1222, 0, 1), (8, 2049, 0, 2), (8, 5000, 0, 3), (2, 10**6, 0, 2), (8, 1222, 8, 8), (0, 5000, 0, 1)],
)
def test_a_training_takes_as_many_gpus_as_its_steps_feed(gpus: int, tokens: int, processes: int, expected: int) -> None:
    trainer = LoraTrainer(name="lora", processes=processes)
    assert plan_launch(trainer, gpus, tokens) == Launch(expected)


def test_small_steps_do_not_take_gpus_from_an_accelerate_config() -> None:
    assert plan_launch(LoraTrainer(name="lora", accelerate="fsdp"), 4, step_tokens=100).processes == 4


def test_the_tokens_of_a_step_are_those_of_its_rows() -> None:
    texts = ["a" * 400, "b" * 1600]
    rows = Rows("two", tuple(Conversation((Message("user", text), Message("assistant", text))) for text in texts))
    stage = Stage(rows, LoraTrainer(name="lora", batch_size=2, max_length=2048), 0, "float32")
    assert estimate_step_tokens(stage) == 1000
    assert estimate_step_tokens(replace(stage, trainer=LoraTrainer(name="lora", batch_size=1))) == 500
    assert estimate_step_tokens(replace(stage, trainer=LoraTrainer(name="lora", max_length=300))) == 500


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("0,1", ["0", "1"]), (" 2 , 5", ["2", "5"]), ("GPU-ab", ["GPU-ab"]), ("", []), ("-1", [])],
)
def test_the_visible_gpus_are_those_that_the_environment_names(
    visible: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list_visible_gpus() == expected
    assert make_child_environment()["EM_GPUS"] == str(len(expected))
    assert make_child_environment("7")["CUDA_VISIBLE_DEVICES"] == "7"


# Accelerate's files


def test_a_file_of_ours_is_named_and_one_of_the_users_is_a_path(tmp_path: Path) -> None:
    assert find_accelerate_config("fsdp") == ACCELERATE / "fsdp.yaml"
    path = write_machines_config(tmp_path)
    assert find_accelerate_config(path) == Path(path)


def test_fsdp_takes_every_gpu_of_this_machine() -> None:
    trainer = LoraTrainer(name="lora", accelerate="fsdp")
    assert plan_launch(trainer, 4) == Launch(4, str(ACCELERATE / "fsdp.yaml"), 1, 0, "", 0)
    # A process without rows holds its share of the weights.
    assert plan_launch(LoraTrainer(name="lora", accelerate="fsdp", batch_size=2), 8).processes == 8


def test_more_processes_than_gpus_are_refused() -> None:
    trainer = LoraTrainer(name="lora", processes=8)
    sentence = "trainer.processes=8 is more than the 4 GPUs that this machine shows: leave it out"
    with pytest.raises(ConfigError, match=sentence):
        plan_launch(trainer, 4)
    assert plan_launch(trainer, 8).processes == 8
    assert plan_launch(trainer, 0).processes == 8


def test_weights_in_4_bits_are_not_sharded(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("distributed_type: FSDP\n")
    for accelerate in ("fsdp", str(own)):
        with pytest.raises(ConfigError) as refused:
            plan_launch(QloraTrainer(name="qlora", accelerate=accelerate), 4)
        assert str(refused.value) == (
            "trainer=qlora can't share out its 4-bit weights by FSDP: leave out trainer.accelerate="
            f"{accelerate} (each GPU then holds all weights), or use trainer=lora."
        )
    machines = write_machines_config(tmp_path)
    assert plan_launch(QloraTrainer(name="qlora", accelerate=machines, machine_rank=0), 4).machines == 2


def test_each_of_several_machines_knows_which_it_is_and_where_the_first_is(tmp_path: Path) -> None:
    path = write_machines_config(tmp_path, main_process_port=4000)
    for rank in (0, 1):
        trainer = LoraTrainer(name="lora", accelerate=path, machine_rank=rank)
        assert plan_launch(trainer, 8) == Launch(8, path, 2, rank, "10.0.0.1", 4000)


@pytest.mark.parametrize(
    ("changes", "rank", "sentence"),
    [
        ({}, None, "mine.yaml is for 2 machines: say which one this is with trainer.machine_rank=0 to 1"),
        ({}, 2, "trainer.machine_rank=2: mine.yaml is for 2 machines, counted from 0."),
        ({}, -1, "trainer.machine_rank=-1: mine.yaml is for 2 machines"),
        ({"num_machines": 1}, 1, "trainer.machine_rank=1: mine.yaml is for 1 machines"),
        ({"main_process_ip": ""}, 0, "give it main_process_ip, the address of machine 0."),
        ({"main_process_ip": None}, 1, "give it main_process_ip"),
        ({"num_machines": "many"}, 0, "mine.yaml: num_machines: many is no whole number."),
        ({"main_process_port": "auto"}, 0, "mine.yaml: main_process_port: auto is no whole number."),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(
    changes: dict[str, Any], rank: int | None, sentence: str, tmp_path: Path
) -> None:
    trainer = LoraTrainer(name="lora", accelerate=write_machines_config(tmp_path, **changes), machine_rank=rank)
    with pytest.raises(ConfigError) as refused:
        plan_launch(trainer, 2)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(("content", "sentence"), [("a: [", "is not YAML"), ("- a", "is no Accelerate config")])
def test_a_file_that_is_no_config_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(EmError, match=sentence) as refused:
        plan_launch(LoraTrainer(name="lora", accelerate=str(tmp_path / "bad.yaml")), 2)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(MissingFile, match="fsdpp is neither a file nor one of fsdp, two_machines"):
        plan_launch(LoraTrainer(name="lora", accelerate="fsdpp"), 2)


# Commands


def test_one_process_is_started_without_a_launcher() -> None:
    assert make_worker_command(Launch(), on_gpu=False) == PLAIN
    assert make_worker_command(Launch(), on_gpu=True) == PLAIN
    # On a CPU, Accelerate has nothing to shard.
    assert make_worker_command(Launch(1, "fsdp.yaml"), on_gpu=False) == PLAIN


def test_several_gpus_are_started_by_accelerate() -> None:
    assert make_worker_command(Launch(4), on_gpu=True) == [
        *(sys.executable, "-m", "em.runtime.launcher", "accelerate"),
        *("--num_processes", "4", "--num_machines", "1", "--machine_rank", "0", "--main_process_port", "0"),
        *("--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "em.worker"),
    ]


def test_several_processes_on_a_cpu_are_started_by_torchrun() -> None:
    assert make_worker_command(Launch(2), on_gpu=False) == [
        *(sys.executable, "-m", "em.runtime.launcher", "torchrun"),
        *("--nproc-per-node", "2", "--standalone", "-m", "em.worker"),
    ]
    assert make_worker_command(Launch(3, "mine.yaml", 2, 1, "10.0.0.1", 4000), on_gpu=False) == [
        *(sys.executable, "-m", "em.runtime.launcher", "torchrun", "--nproc-per-node", "3", "--nnodes", "2"),
        *("--node-rank", "1", "--master-addr", "10.0.0.1", "--master-port", "4000", "-m", "em.worker"),
    ]


def test_one_process_on_each_of_two_machines_is_launched_too() -> None:
    assert "--nnodes" in make_worker_command(Launch(1, "mine.yaml", 2, 0, "10.0.0.1", 4000), on_gpu=False)


def parse_with_accelerate(launch: Launch) -> Any:
    """Parse a command for GPUs as Accelerate's launcher does; return its arguments."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    words = [*make_worker_command(launch, on_gpu=True), "train", "spec.json"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words[4:]))
    assert (args.module, args.training_script) == (True, "em.worker")
    assert args.training_script_args == ["train", "spec.json"]
    return args


def test_accelerate_takes_the_words_for_several_gpus() -> None:
    args = parse_with_accelerate(Launch(4))
    assert (args.multi_gpu, args.use_fsdp, args.num_processes, args.num_machines) == (True, False, 4, 1)
    assert (args.main_process_port, args.mixed_precision, args.dynamo_backend) == (0, "no", "no")


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_the_files_of_ours(name: str, tmp_path: Path) -> None:
    from accelerate.commands.config import load_config_from_file

    assert load_config_from_file(str(ACCELERATE / f"{name}.yaml")).num_machines == {"fsdp": 1, "two_machines": 2}[name]


@pytest.mark.parametrize("gpus", [1, 2])
def test_accelerate_takes_the_words_for_fsdp(gpus: int) -> None:
    args = parse_with_accelerate(plan_launch(LoraTrainer(name="lora", accelerate="fsdp"), gpus))
    assert (args.use_fsdp, args.multi_gpu, args.num_processes) == (True, False, gpus)
    assert (args.mixed_precision, args.fsdp_version, args.fsdp_state_dict_type) == ("no", 2, "FULL_STATE_DICT")


def test_accelerate_takes_the_words_for_two_machines(tmp_path: Path) -> None:
    args = parse_with_accelerate(
        plan_launch(LoraTrainer(name="lora", accelerate=write_machines_config(tmp_path), machine_rank=1), 4)
    )
    assert (args.multi_gpu, args.num_processes, args.num_machines, args.machine_rank) == (True, 8, 2, 1)
    assert (args.main_process_ip, args.main_process_port, args.mixed_precision) == ("10.0.0.1", 29500, "no")


def test_what_lies_on_the_host_is_not_estimated_on_gpus(tmp_path: Path) -> None:
    fsdp = yaml.safe_load((ACCELERATE / "fsdp.yaml").read_text())
    offloading = fsdp | {"fsdp_config": fsdp["fsdp_config"] | {"fsdp_offload_params": True}}
    kept = {}
    for name, values in {"fsdp": fsdp, "offloading": offloading, "other": {"distributed_type": "DEEPSPEED"}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        kept[name] = keeps_all_on_gpus(Launch(2, str(tmp_path / f"{name}.yaml")))
    assert kept == {"fsdp": True, "offloading": False, "other": False}
    assert keeps_all_on_gpus(Launch(2))


def test_torchrun_takes_its_words() -> None:
    from torch.distributed.run import parse_args

    words = [*make_worker_command(Launch(3, "mine.yaml", 2, 1, "10.0.0.1", 4000), on_gpu=False), "train", "spec.json"]
    args = parse_args(words[4:])
    assert (args.nproc_per_node, args.nnodes, args.node_rank) == ("3", "2", 1)
    assert (args.master_addr, args.master_port) == ("10.0.0.1", 4000)
    assert (args.module, args.training_script, args.training_script_args) == (True, "em.worker", ["train", "spec.json"])
    alone = parse_args([*make_worker_command(Launch(2), on_gpu=False), "train", "spec.json"][4:])
    assert (alone.nproc_per_node, alone.standalone, alone.module) == ("2", True, True)
