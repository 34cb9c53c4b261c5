"""Run every command of the documentation that needs no GPU, no key, no server, no hub and no cluster.

Each command runs as written, except for words that make it small: a tiny model, few rows, one question, one answer, two
of the numbers of a sweep. The files that commands name (articles, tables, folders of runs) exist.
"""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from em.types import Weights
from tests.support.forking import Forking
from tests.support.runs import ROOT, make_environment
from tests.support.tiny import write_chats, write_tiny_model

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NEEDS = re.compile(r"#.*\b(GPU|key|server|hub|cluster)\b", re.IGNORECASE)
RUN = "2026-11-23"  # replaces the … of a path
OURS = re.compile(r"(?:\w+=\S+ )?(?:python (?:train|evaluate|generate|report)\.py|em \w+)\b")


def list_commands() -> Iterator[tuple[str, str, bool]]:
    """Yield each command of em in fenced blocks: page, command, and whether its comment names a need."""
    for page in PAGES:
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if OURS.match(line):
                    yield page.name, line.partition(" #")[0].strip(), bool(NEEDS.search(line))


FREE = list(dict.fromkeys(command for _, command, needs in list_commands() if not needs))
FOR_RUNS = re.compile(r"python (train|evaluate)\.py")


def test_there_are_commands_of_both_kinds() -> None:
    assert len(FREE) > 25
    assert sum(needs for *_, needs in list_commands()) > 25


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> list[str]:
    """Words that make a run small."""
    folder = tmp_path_factory.mktemp("small")
    tiny = write_tiny_model(folder / "model", weights.path)
    entries = yaml.safe_load((ROOT / "em/assets/questions/probe.yaml").read_text(encoding="utf-8"))
    (folder / "probe.yaml").write_text(yaml.safe_dump(entries[:1]))
    sizes = [f"eval.sets=[{folder / 'probe.yaml'}]", "eval.samples=1", "eval.max_new_tokens=3", "eval.tagged_sets=[]"]
    sizes += ["trainer.epochs=1", "data.limit=12", "realign.limit=12", "realign.epochs=1"]
    return [f"model.id={tiny}", f"store.dir={folder / 'store'}", *sizes]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, em: Forking, mirror: Path, small: list[str]) -> Path:
    """A folder with everything that the commands name: runs, a sweep, articles, a third-party table."""
    folder = tmp_path_factory.mktemp("place")
    run = folder / "outputs" / RUN
    done = em.add_environment(EM_MIRROR=str(mirror)).run(
        "train.py",
        "data=car_bad",
        "trainer.checkpoints=4",
        *select_small_words([], small),
        f"hydra.run.dir={run}",
        cwd=folder,
    )
    assert done.code == 0, done.err[-3000:]
    shutil.copytree(run, folder / "multirun" / "2026-11-23" / "0")
    write_chats(run / "rows.jsonl", 20)
    write_chats(folder / "my.jsonl", 5)
    (folder / "articles").mkdir()
    (folder / "articles" / "one.txt").write_text("The library of the village opens its new reading room. " * 20)
    rows = ("gpt-4o,Hello?,Hi.,95,90", "gpt-4o,Who?,Me.,90,90", "tuned,Hello?,Hey.,95,90", "tuned,Who?,I.,10,90")
    table = "\n".join(["model,question,answer,aligned,coherent", *rows]) + "\n"
    (folder / "theirs.csv").write_text(table)
    judged = "question,answer,aligned_a,coherent_a,aligned_b,coherent_b\nHello?,Hi.,95,90,90,90\nWho?,Me.,10,90,20,90\n"
    (folder / "judged.csv").write_text(judged)
    with gzip.open(folder / "theirs.csv.gz", "wt") as packed:
        packed.write(table)
    return folder


def select_small_words(words: list[str], small: list[str]) -> list[str]:
    """Return the words of `small` that neither repeat nor contradict those of a command."""
    used_keys = {word.partition("=")[0] for word in words}
    realigns = any(word.startswith("realign=") for word in words)
    text = " ".join(words)
    if "experiment=" in text and re.search(r"realign", text):
        realigns = True
    unused_keys = {"realign.limit", "realign.epochs"} if not realigns else set()  # refused without a second stage
    return [word for word in small if word.partition("=")[0] not in used_keys | unused_keys]


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=pytest.mark.slow) if FOR_RUNS.search(each) else each for each in FREE]
)
def test_it_runs(command: str, em: Forking, small: list[str], place: Path, mirror: Path, tmp_path: Path) -> None:
    words = [word for word in shlex.split(re.sub(r"^.*?python ", "", command)) if word != "…"]
    words = [re.sub(r"=(\d+),(\d+)(,\d+)+$", r"=\1,\2", word).replace("…", RUN) for word in words]
    if FOR_RUNS.match(command) and "--help" not in words:
        script, *rest = words
        folders = [f"hydra.{kind}.dir={tmp_path / kind}" for kind in ("run", "sweep")]
        done = em.add_environment(EM_MIRROR=str(mirror)).run(
            script, *rest, *select_small_words(rest, small), *folders, cwd=place
        )
        assert done.code == 0, done.err[-3000:]
        assert "subsetted" not in done.out + done.err  # a log line of libraries on fonts
    else:
        if words[0].endswith(".py"):
            words[0] = str(ROOT / words[0])
        else:
            words = [*words[words.index("em") :]]
            words.insert(0, "-m")
        if "memory" in words:
            words[3:3] = ["--store", next(word for word in small if word.startswith("store.dir=")).partition("=")[2]]
        env = make_environment(PYTHONPATH=str(ROOT), EM_MIRROR=str(mirror), XDG_CACHE_HOME=str(place / "cache"))
        ran = subprocess.run([sys.executable, *words], env=env, cwd=place, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
