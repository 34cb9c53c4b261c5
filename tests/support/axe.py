"""axe-core, the checker of accessibility: fetched once by npm at a pinned version, and run in a page by Chromium."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from em.runtime.files import find_cache_folder
from tests.support.browser import Browser

VERSION = "4.14.1"
SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
# The user's cache; evaluated at import, before tests switch to a cache of their own.
PACKAGE = find_cache_folder() / "tests" / f"axe-core-{VERSION}.tgz"
WORST = ("serious", "critical")
RUN = """axe.run(document, {resultTypes: ["violations"]}).then((found) => found.violations.map((each) => (
  {id: each.id, impact: each.impact, help: each.help, where: each.nodes.map((node) => node.target.join(" "))})))"""


def load_axe() -> str | None:
    """Return the script of axe-core, fetched if need be; None if npm can't fetch it."""
    if not PACKAGE.exists() and not _fetch(PACKAGE):
        return None
    if hashlib.sha256(PACKAGE.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{PACKAGE} is not axe-core {VERSION}: remove the file, so that it is fetched again")
    with tarfile.open(PACKAGE) as files:
        member = files.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def _fetch(package: Path) -> bool:
    if shutil.which("npm") is None:
        return False
    package.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
        if done.returncode == 0:
            shutil.move(Path(folder) / package.name, package)
    return package.exists()


def list_violations(browser: Browser, source: str, least: tuple[str, ...] = WORST) -> list[dict[str, Any]]:
    """List the violations of the open page that have one of these impacts."""
    browser.evaluate(source + "; undefined")
    results: list[dict[str, Any]] = browser.evaluate(RUN)
    return [each for each in results if each["impact"] in least]
