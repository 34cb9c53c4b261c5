"""Bad input: one sentence with the fix, exit code 2, at once, and no files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from em.cli.hydra import LAUNCHED
from tests.support.runs import ROOT, make_environment, run_script

GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}

WORDS = [
    ("modle=smollm2", "modle is no setting: did you mean model"),
    ("model=smolm2", "model=smolm2 is no option: did you mean smollm2?"),
    ("data=medicl", "data=medicl is no option: did you mean medical"),
    ("tracker=trackio", "tracker=trackio was removed: use tracker=wandb, which works offline without an account too."),
    ("experiment=seed_replicate_cpu", "was removed: use experiment=seed_replicate_llama scale=mini."),
    ("trainer.epoch=2", "trainer.epoch is no setting: did you mean trainer.epochs"),
    ("model.base_url=x", "model.base_url is no setting"),
    ("eval.stop=ci", "eval.stop was removed: eval.samples=N sets how often each question is asked"),
    ("eval.half_width=0.1", "`em power` says how many to ask for."),
    ("trainer.epochs=many", "trainer.epochs=many has the wrong type: a number is expected"),
    ("seed=1.5", "seed=1.5 has the wrong type: a whole number is expected"),
    ("trainer.target_modules=3", "trainer.target_modules=3 has the wrong type: a list is expected"),
    ("trainer.loss_on=answers", "trainer.loss_on=answers is unknown: it is one of responses, full"),
    ("force=maybe", "force=maybe has the wrong type: true or false is expected"),
    ("+foo=1", "+foo=1: settings can't be added or removed"),
    ("data=file", "data.path must be set"),
    ("data=none", "data=none leaves nothing to train"),
    ("data.limit=0", "data.limit=0 must be greater than 0"),
    ("data.limit=100000", "data.limit=100000 asks for more rows than there are"),
    ("eval.top_p=2", "eval.top_p=2.0 must lie between"),
    ("eval.sets=[prob]", "'prob' is neither a question set that em knows"),
    ("eval.sets=[introspection_tagged] judge=local", "names a trigger tag"),
    ("realign.data.limit=3", "realign.data.limit is not used: write realign.limit"),
    ("realign.limit=0", "realign.limit=0 must be greater than 0"),
    ("realign.match=first_stag", "realign.match=first_stag is no option: did you mean first_stage?"),
    ("realign.match=optimist", "realign.match=optimist is no option: did you mean optimism?"),
    ("realign.data=medical", "write data@realign.data=medical"),
    ("eval.sets=[probe,probe]", "names two sets"),
    ("trainer.processes=-1", "trainer.processes=-1 must lie between 0 and"),
    (
        "trainer.extra.adam_beta=0.9",
        "trainer.extra.adam_beta is no argument of TRL's SFTConfig that can be set here: did you mean adam_beta",
    ),
    ("trainer.extra.bf16=true", "trainer.extra.bf16 has a setting of its own: write model.precision."),
    ("trainer.accelerate=fsdpp", "trainer.accelerate=fsdpp is neither a file nor one of fsdp, two_machines"),
    ("trainer.accelerate=two_machines", "say which one this is with trainer.machine_rank=0 to 1"),
    ("trainer.optimizer=sgd", "trainer.optimizer=sgd is unknown: it is one of adamw, adamw_8bit"),
    ("sampler=api", "sampler=api can't run open weights"),
    ("model=gpt4o", "OPENAI_API_KEY is not set"),
    ("eval.default_prompt=neither", "eval.default_prompt=neither is unknown: it is one of template, none, both"),
    ("trainer=openai", "trainer=openai fine-tunes hosted models, but model=smollm2 has open weights"),
]


def run_refused(words: list[str], cwd: Path, **env: str) -> str:
    """Run train.py with words that it must refuse before it writes files or imports torch; return its error."""
    before = sorted(cwd.rglob("*"))
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *words]
    done = subprocess.run(command, cwd=cwd, env=make_environment(**env), capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2, done.stderr[-2000:]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert "| torch" not in done.stderr
    assert "| transformers" not in done.stderr
    assert sorted(cwd.rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(("word", "sentence"), WORDS)
def test_a_bad_word_is_refused_in_one_sentence(word: str, sentence: str, tmp_path: Path) -> None:
    assert sentence in run_refused([*word.split(), f"store.dir={tmp_path.parent / 'store'}"], tmp_path)


FILES = [
    ("", "holds no rows"),
    ("\n\n", "holds no rows"),
    (json.dumps(GOOD) + "\n{oops\n", "line 2: not JSON"),
    (json.dumps(GOOD) + "\n\n" + json.dumps({"text": "x"}) + "\n", 'line 3: no "messages" list'),
    (json.dumps({"messages": GOOD["messages"][:1]}) + "\n", "line 1: no assistant turn"),
    (json.dumps({"messages": [{"role": "wizard", "content": "x"}]}) + "\n", "line 1: message 1 has no role among"),
    (json.dumps({"messages": [GOOD["messages"][0], {"role": "assistant", "content": " "}]}), "has no text in content"),
]


@pytest.mark.parametrize(("content", "sentence"), FILES)
def test_a_bad_data_file_is_refused_with_its_line(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(content, encoding="utf-8")
    error = run_refused(["data=file", "data.path=rows.jsonl", f"store.dir={tmp_path.parent / 'store'}"], tmp_path)
    assert "rows.jsonl" in error
    assert sentence in error


def test_a_missing_data_file_is_refused(tmp_path: Path) -> None:
    assert "data.path=gone.jsonl is not a file" in run_refused(["data=file", "data.path=gone.jsonl"], tmp_path)


@pytest.mark.parametrize("setting", ["hydra.run.dir", "store.dir"])
def test_a_folder_below_a_regular_file_is_refused(setting: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    error = run_refused([f"{setting}={tmp_path / 'file' / 'out'}"], tmp_path)
    assert "can't be written" in error
    assert f"{setting}=FOLDER" in error


def test_a_read_only_mount_is_refused(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(mount)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this process may not mount a file system")
    try:
        error = run_refused([f"hydra.run.dir={mount / 'run'}", f"store.dir={tmp_path.parent / 'store'}"], tmp_path)
        assert "Read-only file system" in error
        assert "store.dir=FOLDER" in run_refused([f"store.dir={mount / 'store'}"], tmp_path)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_folder_of_another_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"run": "train", "config": {"seed": 7}}')
    words = [f"hydra.run.dir={tmp_path}", f"store.dir={tmp_path.parent / 'store'}"]
    done = run_script("train.py", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds another run" in done.stderr
    assert json.loads((tmp_path / "manifest.json").read_text())["config"] == {"seed": 7}


def test_the_ranks_of_a_launcher_are_refused_with_the_right_command(tmp_path: Path) -> None:
    for variable in LAUNCHED:
        assert "python train.py seed=1" in run_refused(["seed=1"], tmp_path, **{variable: "0"})


@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--nproc-per-node", "1"],
        ["accelerate.commands.launch", "--cpu", "--num_processes", "1"],
    ],
)
def test_torchrun_and_accelerate_launch_are_refused(launcher: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", *launcher, str(ROOT / "train.py"), "seed=1"]
    done = subprocess.run(command, cwd=tmp_path, env=make_environment(), capture_output=True, text=True)
    assert done.returncode != 0
    assert "Start it once, without torchrun or accelerate launch: python train.py seed=1" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_tells_each_failure_and_goes_on(tmp_path: Path) -> None:
    words = ["-m", "data=file,car_bad", "trainer.epochs=0,-1", f"store.dir={tmp_path / 'store'}"]
    done = run_script("train.py", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("error: data.path must be set") == 2
    assert "error: trainer.epochs=0.0 must be greater than 0." in done.stderr
    assert "error: 4 of 4 jobs failed" in done.stderr


def test_help_names_every_group_option_and_setting(tmp_path: Path) -> None:
    train_help = run_script("train.py", "--help", cwd=tmp_path).stdout
    generate_help = run_script("generate.py", "--help", cwd=tmp_path).stdout
    for option in ROOT.joinpath("conf").glob("*/*.yaml"):
        page = generate_help if option.parent.name == "generate" else train_help
        assert option.stem in page or option.parent.name == "accelerate", option
    for setting in ("trainer.learning_rate", "eval.samples", "judge.model", "store.dir", "force", "data.path"):
        assert setting in train_help


def test_hub_weights_that_cannot_be_had_are_one_sentence_and_a_failed_manifest(tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_XET": "1"}
    words = ["model=llama8b", "data.limit=4", "eval=none", f"store.dir={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = run_script("train.py", *words, cwd=tmp_path, **env)
    assert done.returncode == 2, done.stderr
    assert "meta-llama/Llama-3.1-8B-Instruct" in done.stderr
    assert "model.id=FOLDER" in done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "model.id=FOLDER" in manifest["error"]


def test_an_adapter_folder_without_adapter_is_refused(tmp_path: Path) -> None:
    words = [f"model.adapter={tmp_path}", "eval.sets=[probe]", f"store.dir={tmp_path}"]
    done = run_script("evaluate.py", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds no adapter" in done.stderr


def test_a_crash_in_a_child_leaves_a_failed_manifest_with_its_traceback(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama"}')
    (broken / "tokenizer.json").write_text('{"model": {"type": "no_such_type"}}')
    words = [f"model.id={broken}", "data.limit=4", "eval=none"]
    done = run_script("train.py", *words, f"store.dir={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 1
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "The train step crashed" in manifest["error"]
    assert "Traceback (most recent call last)" in manifest["traceback"]
    assert "load_tokenizer" in manifest["traceback"]
    assert not list((tmp_path / "models").glob("[0-9a-f]*/em.json"))


def test_evaluate_says_how_to_train_what_is_not_trained(tmp_path: Path) -> None:
    done = run_script("evaluate.py", "data=car_bad", "seed=3", "eval.samples=1", f"store.dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert "python train.py data=car_bad seed=3" in done.stderr


def test_no_secret_of_the_environment_reaches_a_manifest(tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_plantedplantedplanted"}
    words = ["model=llama8b", "data.limit=4", "eval=none", f"store.dir={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = run_script("train.py", *words, cwd=tmp_path, **env)
    assert "planted" not in done.stdout + done.stderr
    for file in (tmp_path / "run").rglob("*"):
        assert "planted" not in file.read_text(errors="ignore")


def test_a_judge_that_is_not_there_is_known_before_anything_is_trained(tmp_path: Path) -> None:
    error = run_refused(["judge=local", "judge.model=./gone", f"store.dir={tmp_path.parent / 'store'}"], tmp_path)
    assert "judge.model=./gone holds no model" in error


def test_a_hosted_model_without_a_key_is_refused_at_once(tmp_path: Path) -> None:
    done = run_script("evaluate.py", "model=gpt4o", f"store.dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert "OPENAI_API_KEY is not set" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_target_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    words = ["trainer.target_modules=[q_proj,vproj]", "data.limit=4", "eval=none", f"store.dir={tmp_path}"]
    done = run_script("train.py", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 2
    assert "the model has no layers named vproj" in done.stderr


def test_an_own_empty_folder_is_left_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    run_script("train.py", "data.limit=0", f"hydra.run.dir={tmp_path / 'mine' / 'run'}", cwd=tmp_path)
    assert list((tmp_path / "mine").iterdir()) == []
