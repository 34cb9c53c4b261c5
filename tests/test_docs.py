"""The documentation: every command composes, and docs/reference.md matches the schemas."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from em.config.help import render_reference
from tests.support.composing import compose_settings

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def list_commands() -> list[tuple[str, str]]:
    """List page and command of each call of em's scripts in fenced blocks, without comments."""
    page_commands = []
    for page in PAGES:
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.match(r"(?:EM_\w+=\S+ )?python (?:train|evaluate|generate)\.py\b[^#]*", line):
                    page_commands.append((page.name, match[0].strip()))
    return page_commands


def test_there_are_commands_to_check() -> None:
    assert len(list_commands()) > 25


@pytest.mark.parametrize(("page", "command"), list_commands())
def test_every_command_of_the_documentation_is_accepted(page: str, command: str) -> None:
    name, *words = shlex.split(command[command.index("python ") + 7 :])
    words = [word for word in words if word not in ("-m", "--help", "…") and not word.startswith("hydra")]
    words = [word.replace("…/", "some/") for word in words]
    # Take the first value of each axis of a sweep; a list in brackets is one value.
    chosen = [word if re.search(r"=\[|=.*\"", word) else re.sub(r"(=[^,]*),.*", r"\1", word) for word in words]
    compose_settings(name.removesuffix(".py"), *chosen)


def test_the_reference_is_that_of_the_schemas() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == render_reference(), "em reference > docs/reference.md"
