"""The command `em`: its commands, its errors for unknown commands, and the wheel that installs it."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from em import RENAMED, __version__
from em.cli.main import REMOVED, RUNS, TOOLS, import_tool
from tests.support.runs import ROOT, make_environment


def run_em(*words: str, cwd: Path = ROOT, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python -m em` with `words`, in `cwd`, from the package in `path`."""
    env = make_environment(PYTHONPATH=str(path))
    return subprocess.run([sys.executable, "-m", "em", *words], cwd=cwd, env=env, capture_output=True, text=True)


def test_help_names_every_command() -> None:
    done = run_em("--help")
    assert done.returncode == 0
    for name in ("train", "evaluate", "generate", "report", "data", "judge", "jobs", "memory", "power", "gpu-check"):
        assert f"  em {name} " in done.stdout
    assert run_em().stdout == done.stdout
    assert run_em("--version").stdout == f"em {__version__}\n"


def test_help_is_instant() -> None:
    begun = time.monotonic()
    code = "import sys; from em.cli.main import main; sys.argv = ['em', '--help']; main(); print(len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 300
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("name", [*RUNS, *TOOLS])
def test_every_command_has_help_of_its_own(name: str) -> None:
    done = run_em(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 4


def test_the_scripts_are_the_commands() -> None:
    for name in (*RUNS, "report"):
        assert len((ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 6
        script = subprocess.run(
            [sys.executable, f"{name}.py", "--help"], cwd=ROOT, env=make_environment(), capture_output=True, text=True
        )
        assert script.stdout == run_em(name, "--help").stdout


def test_a_misspelt_command_is_one_sentence() -> None:
    done = run_em("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: em trian is no command: did you mean train?\n"
    assert run_em("xyz").stderr == "error: em xyz is no command: em --help lists the commands.\n"


def test_a_removed_command_names_what_to_do_instead() -> None:
    assert run_em("dashboard", "team/em").stderr == f"error: em dashboard was removed: {REMOVED['dashboard']}.\n"


def test_the_exit_code_is_that_of_the_tool() -> None:
    done = run_em("data", "show", "no_such_set")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no_such_set is neither a set that em knows nor a file")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_spellings_name_the_new_one(old: str, new: str) -> None:
    assert new in REMOVED or callable(import_tool(new))
    for words in (["-m", old, "list"], [f"-m{old}"], [f"-um{old}", "x"], ["-X", "utf8", "-m", old, "em.worker"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=make_environment(), capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr == f"error: python -m {old} is called em {new} now (or python -m em {new}).\n"


def test_words_that_are_called_like_an_old_command_are_words() -> None:
    assert run_em("data", "show", "em.data").stderr.startswith(
        "error: em.data is neither a set that em knows nor a file"
    )
    assert run_em("report", "em.data").stderr.startswith("error: There is no")
    command = [sys.executable, "-m", "json.tool", "em.data"]
    assert "em.data" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel; return a folder with its files, as in site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, env=make_environment(), check=True, capture_output=True)
    [wheel] = folder.glob("em_misalignment-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_brings_options_assets_and_the_command(installed: Path) -> None:
    for folder, place in (("em", "em"), ("conf", "em/conf"), ("hydra_plugins", "hydra_plugins")):
        tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in tracked.stdout.splitlines():
            assert (installed / place / Path(name).relative_to(folder)).is_file(), name
    [info] = installed.glob("*.dist-info")
    assert (info / "entry_points.txt").read_text().split() == ["[console_scripts]", "em", "=", "em.cli.main:main"]
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    assert "Name: em-misalignment\n" in metadata
    assert "Requires-Dist: llm" not in metadata
    assert (info / "licenses" / "LICENSE").is_file()
    assert sorted(path.name for path in installed.iterdir()) == ["em", info.name, "hydra_plugins"]


def test_the_wheel_runs_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    listing = run_em("data", "list", cwd=tmp_path, path=installed)
    assert (listing.returncode, listing.stderr) == (0, "")
    assert "car_bad" in listing.stdout
    words = ["experiment=demo", "dry_run=true", f"store.dir={tmp_path / 'store'}"]
    assert "Nothing was called" in run_em("train", *words, cwd=tmp_path, path=installed).stdout
    assert "usage: em train " in run_em("train", "--help", cwd=tmp_path, path=installed).stdout


def test_an_installed_em_has_no_commit_of_the_repository_around_it(installed: Path) -> None:
    code = "from em.runtime.manifest import read_git_state; print(read_git_state())"
    subprocess.run(["git", "init", "-q", str(installed)], check=True)
    git = ["git", "-C", str(installed), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "of others"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed,
        env=make_environment(PYTHONPATH=str(installed)),
        capture_output=True,
    )
    assert done.stdout == b"{'commit': None, 'dirty': None}\n"
